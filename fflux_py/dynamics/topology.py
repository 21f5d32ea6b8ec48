"""The topology of a trajectory as a PDB file, for the programs that read DCD files: mdtraj, MDAnalysis, VMD."""

from __future__ import annotations

from fflux_py.errors import InputError
from fflux_py.molecules.molecule import Molecule
from fflux_py.units import ANGSTROM

_RESIDUE = "MOL"
_LARGEST = 99999


def topology_pdb(molecule: Molecule) -> str:
    """Text of a PDB file: one residue of HETATM records named ``C1``, ``H2``, ..., and the bonds as CONECT records.

    Raises
    ------
    InputError
        More atoms than the format counts, or coordinates that do not fit its columns.
    """
    if molecule.n_atoms > _LARGEST:
        raise InputError("topology", f"at most {_LARGEST} atoms", str(molecule.n_atoms))
    lines = []
    for k, (symbol, position) in enumerate(zip(molecule.symbols, molecule.positions * ANGSTROM, strict=True), start=1):
        name = f"{symbol}{k}"
        padded = f" {name:<3}" if len(name) < 4 else name[:4]
        numbers = "".join(f"{x:8.3f}" for x in position)
        if len(numbers) != 24:
            raise InputError("topology", "coordinates below 1000 angstrom", numbers.strip(), "move the molecule")
        lines.append(
            f"HETATM{k:5d} {padded} {_RESIDUE:<3} A   1    {numbers}{1.0:6.2f}{0.0:6.2f}          {symbol:>2}  "
        )
    for i, neighbours in enumerate(molecule.neighbours, start=1):
        for start in range(0, len(neighbours), 4):
            lines.append(f"CONECT{i:5d}" + "".join(f"{j + 1:5d}" for j in neighbours[start : start + 4]))
    return "\n".join([*lines, "END"]) + "\n"
