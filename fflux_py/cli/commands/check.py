"""``fflux check``: whether a molecule can be sampled, labelled and trained on, before any of it is paid for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from fflux_py.cli._command import Outcome, command
from fflux_py.cli._options import JsonOption
from fflux_py.cli._paths import reading
from fflux_py.errors import FFLUXError

if TYPE_CHECKING:
    from rich.table import Table

    from fflux_py.iqa.scf.level_of_theory import BasisFunctions


@command(interrupted="nothing was written")
def check(
    geometry: Annotated[Path, typer.Argument(metavar="FILE", help="A geometry, or a file of them: the first counts.")],
    method: Annotated[str, typer.Option(help="Functional of the labels.")] = "b3lyp",
    basis: Annotated[str, typer.Option(help="Orbital basis of the labels.")] = "6-31+g(d,p)",
    basis_functions: Annotated[
        str, typer.Option(metavar="auto|spherical|cartesian", help="Kind of d functions and higher ones.")
    ] = "auto",
    charge: Annotated[
        int | None, typer.Option(help="Net charge. Without it: the key total_charge of the XYZ file, or 0.")
    ] = None,
    json_output: JsonOption = False,
) -> Outcome:
    """Check a molecule before it is sampled and labelled: pieces, electrons, local frames, symmetry, basis set.

    Sampling and labelling make the same checks and stop at the first that fails; here all are shown. Without PySCF the
    level of theory is not checked.
    """
    from rich.table import Table

    from fflux_py.molecules.extended_xyz import read_molecule
    from fflux_py.molecules.preflight import CHECKS

    with reading(geometry):
        molecule = read_molecule(geometry, charge)
    checks: dict[str, Callable[[], str]] = {name: partial(function, molecule) for name, function in CHECKS.items()}

    def level_of_theory() -> str:
        from fflux_py.iqa.scf.level_of_theory import LevelOfTheory
        from fflux_py.iqa.scf.preflight import check_level

        level = LevelOfTheory(method=method, basis=basis, basis_functions=cast("BasisFunctions", basis_functions))
        return check_level(molecule, level)

    checks["level of theory"] = level_of_theory
    table: Table = Table("check", "result", title=None)
    results: dict[str, dict[str, object]] = {}
    first: FFLUXError | None = None
    for name, function in checks.items():
        try:
            line, passed = function(), True
        except FFLUXError as error:
            line, passed, first = str(error), False, first or error
        results[name] = {"passed": passed, "result": line}
        table.add_row(name, line if passed else f"FAILED: {line}")
    figures = {
        "input": str(geometry),
        "formula": molecule.formula,
        "n_atoms": molecule.n_atoms,
        "charge": molecule.charge,
        "passed": first is None,
        "checks": results,
    }
    return Outcome(figures, [f"{molecule.name} ({molecule.formula}, charge {molecule.charge})", table], first)
