"""Molecules, geometries and labels as atoms of the Atomic Simulation Environment (angstrom, eV), and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from fflux_py.errors import FileFormatError, InputError
from fflux_py.molecules.frame_meaning import interpret, tell
from fflux_py.molecules.molecule import Molecule
from fflux_py.units import ANGSTROM, EV, EV_ANGSTROM

if TYPE_CHECKING:
    from fflux_py.molecules.dataset import Dataset, GeometrySet

_COLUMNS: Final[tuple[str, ...]] = ("initial_charges", "initial_magmoms")


def atoms_of_molecule(molecule: Molecule) -> Atoms:
    """A molecule as atoms of ASE: positions in angstrom; name and charge in ``info``."""
    info = {"name": molecule.name, "total_charge": molecule.charge}
    return Atoms(molecule.symbols, molecule.positions * ANGSTROM, info=info)


def molecule_of_atoms(atoms: Atoms, charge: int | None = None, name: str | None = None) -> Molecule:
    """A molecule of atoms of ASE.

    Parameters
    ----------
    atoms
        One isolated molecule.
    charge
        Net charge; by default what ``info`` or the initial charges say
        (:func:`~fflux_py.molecules.frame_meaning.interpret`), or zero.
    name
        By default that of ``info``, or the formula.

    Raises
    ------
    InputError
        Periodic boundaries, an open shell, charges that do not agree, another unit of length.
    GeometryError
        Positions that are no numbers, or two atoms on one spot.

    Warns
    -----
    InputWarning
        Of what the atoms hold and is not used.
    """
    if atoms.pbc.any():
        raise InputError(
            "atoms.pbc", "no periodic boundaries (a molecule is isolated)", str(atoms.pbc), "set atoms.pbc = False"
        )
    symbols = tuple(atoms.symbols)
    columns = {key: atoms.arrays[key] for key in _COLUMNS if key in atoms.arrays}
    try:
        meaning = interpret(symbols, atoms.info, columns, "atoms", charge)
    except FileFormatError as error:
        raise InputError(error.where, error.expected, error.found, error.remedy) from None
    tell("atoms", meaning)
    chosen = name if name is not None else str(atoms.info.get("name", atoms.get_chemical_formula()))  # type: ignore[no-untyped-call]
    return Molecule(symbols, atoms.positions / ANGSTROM, meaning.charge or 0, chosen)


def atoms_of_geometries(geometries: GeometrySet) -> list[Atoms]:
    """Geometries as atoms of ASE; ``info`` has trajectory, temperature (K) and split of each."""
    images = []
    for k, positions in enumerate(geometries.positions):
        atoms = atoms_of_molecule(geometries.molecule.with_positions(positions))
        marks: dict[str, Any] = {"source": geometries.source[k], "split": geometries.split[k]}
        if np.isfinite(geometries.temperature[k]):
            marks["temperature"] = float(geometries.temperature[k])
        atoms.info.update(marks)
        images.append(atoms)
    return images


def atoms_of_dataset(dataset: Dataset) -> list[Atoms]:
    """Labelled geometries as atoms of ASE, each with a calculator that gives its labels.

    ``energy`` and, where there are some, ``forces`` and atomic ``energies`` are in eV and eV/angstrom.
    """
    images = atoms_of_geometries(dataset.geometries)
    for k, atoms in enumerate(images):
        results: dict[str, Any] = {"energy": float(dataset.energies[k]) * EV}
        if dataset.has_forces:
            results["forces"] = dataset.forces[k] * EV_ANGSTROM
        if dataset.has_atomic_energies[k]:
            results["energies"] = dataset.atomic_energies[k] * EV
        atoms.calc = SinglePointCalculator(atoms, **results)  # type: ignore[no-untyped-call]
    return images
