"""The compiler's cache on disk: damage counts as nothing stored, a missing permission keeps nobody from working."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fflux_py._compiled import jit
from tests.support.paths import REPOSITORY

_PROGRAM = """
import numpy as np
from fflux_py._compiled import vectors
value = vectors.dot(np.array([1.0, 2.0, 3.0]), np.array([3.0, -1.0, 2.0]))
print(vectors.__file__)
print(value == 7.0, sum(vectors.dot.stats.cache_hits.values()), vectors.dot.stats.cache_path)
"""


@pytest.fixture(scope="module")
def warm_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the few modules that a compiled function needs, and with their compiled code."""
    source, target = REPOSITORY / "fflux_py", tmp_path_factory.mktemp("warm") / "fflux_py"
    (target / "_compiled").mkdir(parents=True)
    for name in ("__init__", "errors", "typing", "_compiled/__init__", "_compiled/jit", "_compiled/vectors"):
        shutil.copy(source / f"{name}.py", target / f"{name}.py")
    assert _run(target.parent)[:2] == (True, 0)
    right, hits, folder = _run(target.parent)
    assert (right, hits, folder) == (True, 1, target / "_compiled" / "__pycache__")
    return target.parent


@pytest.fixture
def package(warm_package: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(warm_package, tmp_path / "package"))


def _run(package: Path, **settings: str) -> tuple[bool, int, Path]:
    """Call a compiled function in a new process: whether its value is right, hits of the cache, and its folder."""
    environment = {k: v for k, v in os.environ.items() if k not in ("NUMBA_CACHE_DIR", "PYTHONPATH")}
    environment.update(PYTHONPATH=str(package), PYTHONDONTWRITEBYTECODE="1", NUMBA_DISABLE_JIT="0", **settings)
    result = subprocess.run(
        [sys.executable, "-c", _PROGRAM], env=environment, cwd=package, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, ""), result.stderr[-2000:]
    where, answer = result.stdout.splitlines()
    assert where.startswith(str(package))
    right, hits, folder = answer.split(maxsplit=2)
    return right == "True", int(hits), Path(folder)


@pytest.mark.parametrize(
    ("suffix", "damage"), [(".nbi", "empty"), (".nbc", "half"), (".nbc", "bit"), (".nbi", "unreadable")]
)
def test_a_damaged_cache_is_compiled_again_and_overwritten(package: Path, suffix: str, damage: str) -> None:
    folder = package / "fflux_py" / "_compiled" / "__pycache__"
    damaged = list(folder.glob(f"vectors.dot-*{suffix}"))
    assert damaged
    for path in damaged:
        content = path.read_bytes()
        middle = len(content) // 2
        if damage == "unreadable":
            path.unlink()
            path.mkdir()  # which nobody can read or replace as a file, whatever his rights
        else:
            changed = content[:middle] + bytes([content[middle] ^ 64]) + content[middle + 1 :]
            path.write_bytes({"empty": b"", "half": content[:middle], "bit": changed}[damage])
    assert _run(package)[:2] == (True, 0)
    assert _run(package)[:2] == (True, 0 if damage == "unreadable" else 1)


def test_without_a_writable_folder_code_is_kept_among_the_temporary_files(package: Path, tmp_path: Path) -> None:
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    temporary.mkdir()
    home.write_text("no folder")  # nor is __pycache__: nothing can be made in either, whatever the rights of the user
    cache = package / "fflux_py" / "_compiled" / "__pycache__"
    shutil.rmtree(cache)
    cache.write_text("no folder")
    settings = {"HOME": str(home), "XDG_CACHE_HOME": str(home), "TMPDIR": str(temporary)}
    folder = temporary / f"fflux_py-numba-{os.getuid()}"
    for hits in (0, 1):
        right, found, path = _run(package, **settings)
        assert (right, found, path.parent) == (True, hits, folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    # Another user may have made the folder before: code from there is not run, and nothing is kept.
    folder.chmod(0o777)
    assert _run(package, **settings) == (True, 0, Path("None"))


def test_a_link_in_place_of_the_temporary_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (tmp_path / f"fflux_py-numba-{os.getuid()}").symlink_to(elsewhere)
    with pytest.raises(PermissionError, match="this user alone"):
        jit.temporary_folder()


def test_all_modules_take_this_compiler() -> None:
    others = []
    for path in (REPOSITORY / "fflux_py").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "numba":
                others += [f"{path}: {alias.name}" for alias in node.names if "jit" in alias.name]
    assert others == []
