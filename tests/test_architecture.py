"""The layers hold, optional packages stay optional, and the packaging names what is there."""

from __future__ import annotations

import ast
import configparser
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fflux_py.errors import InputError
from fflux_py.files import stored_path
from fflux_py.molecules import shipped_data
from tests.support.paths import REPOSITORY

PACKAGE = REPOSITORY / "fflux_py"

# Optional package -> the one place that imports it; PyTorch has one for each of the three rooms that need it.
HOMES = {
    "e3nn": "fflux_py.propagators._torch",
    "geometric": "fflux_py.optimization.search",
    "gpytorch": "fflux_py.training",
    "matplotlib": "fflux_py.analysis.report",
    "parsl": "fflux_py.interfaces.executor",
    "openmm": "fflux_py.interfaces.openmm_force",
    "pyscf": "fflux_py.iqa.scf",
    "rdkit": "fflux_py.sampling.smiles",
    "rich": "fflux_py.cli",
    "safetensors": "fflux_py.propagators._torch",
    "tblite": "fflux_py.sampling.gfn2",
    "torch": "fflux_py.training fflux_py.propagators._torch fflux_py.teacher._torch",
    "typer": "fflux_py.cli",
}
# What must be usable with numpy, scipy, numba and ase alone.
CORE_MODULES = (
    "fflux_py",
    "fflux_py.interfaces.ase_calculator",
    "fflux_py.molecules.dataset",
    "fflux_py.dynamics",
    "fflux_py.forcefield",
    "fflux_py.interfaces.ipi_driver",
    "fflux_py.model_file",
    "fflux_py.interfaces.openmm_force",
    "fflux_py.optimization.search",
    "fflux_py.propagators.ase_dynamics",
    "fflux_py.propagators.config",
    "fflux_py.molecules.shipped_data",
)


def _imported_modules(tree: ast.AST) -> set[str]:
    """Names in import statements, and in calls of ``import_module`` with a literal."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function in ("import_module", "__import__"):
                names.add(str(node.args[0].value))
    return names


def test_import_linter_contracts_are_kept() -> None:
    pytest.importorskip("importlinter")
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    result = subprocess.run(
        [sys.executable, "-c", program, "--no-cache"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("package", sorted(HOMES))
def test_optional_package_is_imported_in_one_place(package: str) -> None:
    importers = set()
    for path in PACKAGE.rglob("*.py"):
        names = _imported_modules(ast.parse(path.read_text(encoding="utf-8")))
        if any(name.split(".")[0] == package for name in names):
            importers.add(".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"))
    homes = HOMES[package].split()
    outside = {name for name in importers if not any(name == h or name.startswith(h + ".") for h in homes)}
    assert not outside, f"{package} belongs to {homes}"
    assert importers, f"nothing imports {package}: is it still a dependency?"


def test_core_imports_no_optional_package() -> None:
    """One module after the other, in one process: what a module loads is found after it."""
    program = f"""
import importlib, json, sys
loaded = {{}}
for module in {CORE_MODULES}:
    importlib.import_module(module)
    loaded[module] = sorted({{name.split(".")[0] for name in sys.modules}})
print(json.dumps(loaded))
"""
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    loaded = json.loads(result.stdout)
    assert "numpy" not in loaded["fflux_py"]
    assert "numpy" in loaded["fflux_py.forcefield"]
    assert {module: set(names) & set(HOMES) for module, names in loaded.items()} == {key: set() for key in CORE_MODULES}


def test_core_imports_with_optional_packages_missing() -> None:
    """As on a machine where only numpy, scipy, numba and ase are installed."""
    program = f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {sorted(HOMES)}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
import {", ".join(CORE_MODULES)}
"""
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


# Size and names: what keeps the house in order.
MOST_PARAMETERS = 9
LONGEST_FUNCTION = 80
LONGEST_FILE = 450
MOST_AT_THE_TOP = 24
# Functions with more parameters, each with its reason; at most five.
MANY_PARAMETERS = {
    # Generators of machine code: one parameter for each register that the generated loop carries.
    "fflux_py._compiled.simd.add_weighted",
    "fflux_py._compiled.simd.begin",
    "fflux_py._compiled.simd.extend",
    "fflux_py._compiled.simd.radial",
}


def _modules() -> dict[str, str]:
    """Text of every module of the package, by its name."""
    return {
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): path.read_text(
            encoding="utf-8"
        )
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def _functions(text: str) -> list[ast.FunctionDef]:
    """All functions of a module, methods and nested ones included."""
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]


def _count_parameters(function: ast.FunctionDef) -> int:
    """Named parameters, ``self`` apart."""
    names = [a.arg for a in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def test_no_function_outside_of_the_commands_has_ten_parameters() -> None:
    assert len(MANY_PARAMETERS) <= 5
    crowded = {
        f"{module}.{function.name}"
        for module, text in _modules().items()
        if not module.startswith("fflux_py.cli.commands")
        for function in _functions(text)
        if _count_parameters(function) > MOST_PARAMETERS
    }
    too_many = sorted(crowded - MANY_PARAMETERS)
    assert not too_many, "bundle parameters that belong together in an object"
    obsolete = sorted(MANY_PARAMETERS - crowded)
    assert not obsolete, "these exceptions are not needed any more"


def test_functions_fit_on_a_page() -> None:
    long = {
        f"{module}.{function.name}": length
        for module, text in _modules().items()
        for function in _functions(text)
        if (length := (function.end_lineno or function.lineno) - function.lineno + 1) > LONGEST_FUNCTION
    }
    assert not long


def test_files_are_short() -> None:
    long = {module: n for module, text in _modules().items() if (n := text.count("\n")) > LONGEST_FILE}
    assert not long


def test_top_of_the_package_is_small() -> None:
    rooms = [
        path
        for path in PACKAGE.iterdir()
        if (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").is_file()
    ]
    assert 0 < len(rooms) <= MOST_AT_THE_TOP


def _exported_names(text: str) -> set[str]:
    """Names that a package's ``__init__`` defines or imports, those under ``TYPE_CHECKING`` included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names.update(target.id for target in targets if isinstance(target, ast.Name))
    return names


def test_no_export_hides_a_module() -> None:
    """After ``from fflux_py.training import train`` and ``import fflux_py.training.train`` both must mean one thing."""
    for init in PACKAGE.rglob("__init__.py"):
        folder = init.parent
        modules = {path.stem for path in folder.glob("*.py")} | {
            path.parent.name for path in folder.glob("*/__init__.py")
        }
        hidden = _exported_names(init.read_text(encoding="utf-8")) & modules
        assert not hidden, f"{folder.relative_to(REPOSITORY)} exports names of its own modules"


def _setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    return parser


def test_every_package_is_in_the_distribution() -> None:
    listed = set(_setup()["options"]["packages"].split())
    found = {".".join(p.parent.relative_to(REPOSITORY).parts) for p in PACKAGE.rglob("__init__.py")}
    assert listed == found | {"fflux_py.training_data"}


def test_every_public_module_is_in_the_reference() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in (REPOSITORY / "docs" / "api").glob("*.md"))
    documented = set(re.findall(r"automodule:: (\S+)", pages))
    modules = {".".join(p.relative_to(REPOSITORY).with_suffix("").parts) for p in PACKAGE.rglob("*.py")}
    public = {m for m in modules if "._" not in m and not m.startswith("fflux_py.cli")}  # "._" also marks __init__
    assert public <= documented
    assert documented <= {m.removesuffix(".__init__") for m in modules}


def test_extra_all_is_every_stage() -> None:
    extras = _setup()["options.extras_require"]
    stages = set(extras) - {"all", "test", "docs", "dev"}
    assert extras["all"].strip() == f"fflux_py[{','.join(s for s in extras if s in stages)}]"


def test_pinned_versions_are_in_the_constraints() -> None:
    """setup.cfg pins no library, so that the package goes into any environment; the README's commands pin PyTorch."""
    constraints = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    pins = dict(re.findall(r"^([\w.-]+) *==([\w.]+)$", constraints, re.MULTILINE))
    assert "torch" in pins
    extras = _setup()["options.extras_require"]
    requirements = [_setup()["options"]["install_requires"], *(extras[name] for name in extras)]
    assert "==" not in "".join(requirements)
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert pins["torch"] in readme
    commands = re.findall(r"pip install (.*?-e .*?) &&", readme)
    assert len(commands) == 2
    assert all("-c constraints.txt " in command for command in commands)


def test_readme_command_is_what_the_continuous_integration_runs(tmp_path: Path) -> None:
    """.ci/run, in a copy with a stand-in for the interpreter, starts with the README's second command."""
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    command = readme.split("<!-- tests -->\n```bash\n")[1].split("\n```")[0]
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "run").write_bytes((REPOSITORY / ".ci" / "run").read_bytes())
    (tmp_path / "README.md").write_text(readme, encoding="utf-8")
    fake = tmp_path / "bin" / "python3.11"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\necho "called: $*"\nexit 7\n')
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{fake.parent}:{os.environ['PATH']}"}
    result = subprocess.run(
        ["bash", ".ci/run"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.stdout == f"== {command}\ncalled: -m venv .venv-test\n"
    assert result.returncode == 7


def test_shipped_data_are_found() -> None:
    for molecule in shipped_data.molecules():
        assert stored_path(shipped_data.path(molecule) / shipped_data.DATA).is_file()


def test_unknown_shipped_molecule_names_the_known_ones() -> None:
    with pytest.raises(InputError) as caught:
        shipped_data.path("unobtainium")
    for molecule in shipped_data.molecules():
        assert molecule in str(caught.value)
