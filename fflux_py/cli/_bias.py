"""The metadynamics that options of the command line ask for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from fflux_py.errors import InputError

if TYPE_CHECKING:
    from fflux_py.bias.plumed_input import PlumedInput
    from fflux_py.molecules.molecule import Molecule

_PACE_FS: Final = 50.0
_PRINT_FS: Final = 10.0


def bias_of(
    bias: str | None,
    torsions: str | None,
    parallel: bool | None,
    molecule: Molecule,
    temperature: float,
    timestep: float,
) -> PlumedInput | None:
    """The metadynamics that the options ask for."""
    from fflux_py.bias.plumed_input import parse_plumed_input, read_plumed_input

    if bias is None and torsions is None:
        if parallel is not None:
            raise InputError("--parallel or --joint", "--bias torsions", "no bias", "leave it out")
        return None
    if bias in (None, "torsions"):
        return parse_plumed_input(
            _torsion_input(torsions, parallel, molecule, temperature, timestep), "--bias torsions"
        )
    if torsions is not None or parallel is not None:
        name = "--torsions" if torsions is not None else "--parallel or --joint"
        raise InputError(name, "--bias torsions", f"--bias {bias}", "leave one of them out")
    path = Path(str(bias))
    if not path.is_file():
        raise InputError("--bias", "'torsions' or a PLUMED input file", repr(bias))
    return read_plumed_input(path)


def _torsion_input(
    torsions: str | None, parallel: bool | None, molecule: Molecule, temperature: float, timestep: float
) -> str:
    """PLUMED input of a bias on torsions: 0.25 kcal/mol, 0.3 rad, bias factor 8, one hill in 50 fs."""
    from fflux_py.bias import BiasSettings, CollectiveVariable, HillParameters
    from fflux_py.bias.plumed_writer import plumed_text
    from fflux_py.cli.commands.sample import parse_torsions
    from fflux_py.units import KCAL_MOL

    chosen = molecule.torsions(methyl=False) if torsions is None else parse_torsions(torsions, molecule)
    if not chosen:
        raise InputError("--bias torsions", "a molecule with rotatable single bonds", f"none in {molecule.formula}",
                         "name torsions with --torsions")  # fmt: skip
    variables = tuple(CollectiveVariable("torsion", atoms, f"t{k}") for k, atoms in enumerate(chosen, start=1))
    hills = HillParameters(0.25 / KCAL_MOL, 0.3, 8.0, max(1, round(_PACE_FS / timestep)))
    settings = BiasSettings(variables, hills, len(variables) > 2 if parallel is None else parallel)
    return plumed_text(settings, temperature, max(1, round(_PRINT_FS / timestep)))
