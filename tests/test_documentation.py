"""The pages say what is there: the picture and the list of rooms, modules and files that they name, the version."""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import fflux_py
from tests.support.paths import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))])
# What is made when the documentation is built, what links inside the documentation are relative to, and the files of
# the recipes in docs/extending.md that are only examples.
NOT_IN_THE_REPOSITORY = (
    "docs/_build/",
    "notebooks/",
    "fflux_py/exchange/NAME.py",
    "fflux_py/exchange/orca.py",
    "tests/exchange/test_NAME.py",
)
EXAMPLES = {"fflux_py.exchange.orca"}


def _contracts() -> list[dict[str, Any]]:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    return list(settings["tool"]["importlinter"]["contracts"])


@pytest.fixture(scope="module")
def drawing() -> ModuleType:
    specification = importlib.util.spec_from_file_location("draw_architecture", DOCS / "draw_architecture.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    return module


def test_picture_of_the_architecture_is_that_of_the_contracts(tmp_path: Path) -> None:
    """If this fails: python docs/draw_architecture.py, and look at the picture."""
    drawn = tmp_path / "architecture.svg"
    command = [sys.executable, str(DOCS / "draw_architecture.py"), "-o", str(drawn)]
    subprocess.run(command, check=True, cwd=tmp_path)
    assert drawn.read_bytes() == (DOCS / "figures" / "architecture.svg").read_bytes()


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (lambda contracts: contracts[0]["layers"].insert(3, "telepathy"), ">telepathy<"),
        (lambda contracts: contracts[0]["layers"].append("(dowsing)"), ">dowsing<"),
        (lambda contracts: contracts[-1]["ignore_imports"].append("fflux_py.gp -> abacus"), ">abacus<"),
        (
            lambda contracts: contracts.append(
                {"type": "layers", "containers": ["fflux_py.iqa"], "layers": ["campaign", "seance | scf"]}
            ),
            ">seance<",
        ),
    ],
    ids=["layer", "room-that-need-not-exist", "optional-package", "layers-inside-a-room"],
)
def test_change_of_the_contracts_changes_the_picture(drawing: ModuleType, change: Any, shown: str) -> None:
    contracts = _contracts()
    before = drawing.draw(contracts)
    change(contracts)
    after = drawing.draw(contracts)
    assert shown not in before
    assert shown in after


def test_arrow_stands_between_rooms_that_may_import_each_other(drawing: ModuleType) -> None:
    arrows = [
        drawing.draw([{"type": "layers", "containers": ["fflux_py"], "layers": [layer]}]).count("<path")
        for layer in ("a | b | c", "a : b : c")
    ]
    assert arrows[1] == arrows[0] + 2


def test_every_room_of_the_contract_has_a_paragraph(drawing: ModuleType) -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    described = re.findall(r"^\*\*`(\w+)`\*\*", page, re.MULTILINE)
    rooms = [room for layer in drawing.read_stacks(_contracts())[0].layers for room in layer.rooms]
    assert sorted(described) == sorted(rooms)


def _exists(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        module = ".".join(parts[:length])
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(error.name):
                raise
            continue
        for part in parts[length:]:
            if not hasattr(found, part) and part not in getattr(found, "__dataclass_fields__", {}):
                return False
            found = getattr(found, part, None)
        return True
    return False


@pytest.mark.parametrize("name", ["fflux_py.gp.covariance.Covariance.theta", "fflux_py.units", "fflux_py.dynamics.run"])
def test_name_that_exists_is_found(name: str) -> None:
    assert _exists(name)


@pytest.mark.parametrize(
    "name", ["fflux_py.covariance", "fflux_py.units.FURLONG", "fflux_py.gp.covariance.Covariance.x"]
)
def test_name_that_does_not_exist_is_not_found(name: str) -> None:
    assert not _exists(name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    if page.name == "CHANGELOG.md":  # the first column holds the names of before
        text = re.sub(r"^ *\|[^|]*\|", "|", text, flags=re.MULTILINE)
    named = {name for name in re.findall(r"\bfflux_py(?:\.[A-Za-z_]\w*)+", text) if not name.endswith(".py")}
    assert not {name for name in named - EXAMPLES if not _exists(name)}


def _places(path: str) -> tuple[Path, ...]:
    """Where a file that a page names may be; ``data.extxyz`` stands for a compressed ``data.extxyz.xz`` too."""
    return REPOSITORY / path, REPOSITORY / f"{path}.xz", DOCS / path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    folders = "fflux_py|tests|benchmarks|campaigns|training_data|docs|notebooks"
    named = {path for path in re.findall(rf"(?<![\w/])(?:{folders})/[\w./-]*\w(?![\w*])", text)}
    missing = {path for path in named if not any(place.exists() for place in _places(path))}
    assert not {path for path in missing if not path.startswith(NOT_IN_THE_REPOSITORY)}


def test_version_is_the_same_everywhere() -> None:
    changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    citation = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[?(\d+\.\d+\.\d+)\]?", changelog, re.MULTILINE)
    assert versions[0] == fflux_py.__version__
    assert re.findall(r"^version: (\S+)$", citation, re.MULTILINE) == [fflux_py.__version__]


def test_glossary_defines_every_term_once() -> None:
    text = (DOCS / "glossary.md").read_text(encoding="utf-8")
    terms: list[str] = []
    for block in re.findall(r"^```\{glossary\}\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        terms += re.findall(r"^(\S.*)$", block, re.MULTILINE)
    assert len(terms) > 50
    assert sorted(terms) == sorted(set(terms))
