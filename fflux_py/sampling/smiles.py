"""A start geometry from a SMILES string, through RDKit (the only module that imports rdkit)."""

from __future__ import annotations

import warnings
from typing import Any

from fflux_py.errors import ConvergenceError, InputError, InputWarning, MissingDependencyError
from fflux_py.molecules.molecule import Molecule
from fflux_py.units import ANGSTROM


def molecule_from_smiles(smiles: str, seed: int = 1, name: str | None = None) -> Molecule:
    """Build a molecule with all hydrogens and a three-dimensional geometry.

    ETKDGv3 distance geometry (Riniker, Landrum, J. Chem. Inf. Model. 55, 2562 (2015)), then MMFF94 where it has
    parameters.  The atoms come in the order of the SMILES string, the hydrogens after them.

    Parameters
    ----------
    smiles
        A SMILES string of one molecule, for example ``O=CCC=O``.
    seed
        Seed of the distance geometry.
    name
        Name of the molecule; the SMILES string if not given.

    Raises
    ------
    InputError
        If the string is not SMILES of one connected, closed-shell molecule without isotopes.
    ConvergenceError
        If no geometry is found, or none with the bonds of the string.
    MissingDependencyError
        If RDKit is not installed.

    Warns
    -----
    InputWarning
        The string leaves the stereochemistry open: the seed decides, and the stereoisomer taken is named.
    """
    try:
        from rdkit import Chem, rdBase
        from rdkit.Chem import rdDistGeom, rdForceFieldHelpers
    except ImportError as error:
        raise MissingDependencyError(
            f"SMILES {smiles!r}", "the package rdkit", "it is not installed", "pip install 'fflux_py[sample]'"
        ) from error
    with rdBase.BlockLogs():
        # RDKit's own type information denies that it returns None for a string that it cannot read.
        graph: Any = Chem.MolFromSmiles(smiles)
        if graph is None or graph.GetNumAtoms() == 0:
            raise InputError(f"SMILES {smiles!r}", "a valid SMILES string", "one that RDKit cannot read", "correct it")
        if len(Chem.GetMolFrags(graph)) != 1:
            raise InputError(f"SMILES {smiles!r}", "one molecule", f"{len(Chem.GetMolFrags(graph))} fragments")
        if any(atom.GetNumRadicalElectrons() for atom in graph.GetAtoms()):
            raise InputError(f"SMILES {smiles!r}", "a closed-shell molecule", "unpaired electrons")
        if any(atom.GetIsotope() for atom in graph.GetAtoms()):
            remedy = "isotopes are not supported, all masses are the standard ones: leave the mass numbers out"
            raise InputError(f"SMILES {smiles!r}", "atoms without mass numbers", "an isotope", remedy)
        graph = Chem.AddHs(graph)
        said = Chem.MolToSmiles(Chem.RemoveHs(graph))
        parameters: Any = rdDistGeom.ETKDGv3()
        parameters.randomSeed = seed
        if rdDistGeom.EmbedMolecule(graph, parameters) != 0:
            raise ConvergenceError(f"SMILES {smiles!r}", "a geometry", "none by ETKDG", "try another seed")
        if rdForceFieldHelpers.MMFFHasAllMoleculeParams(graph):
            rdForceFieldHelpers.MMFFOptimizeMolecule(graph, maxIters=2000)
        Chem.AssignStereochemistryFrom3D(graph)
        taken = Chem.MolToSmiles(Chem.RemoveHs(graph))
    if wrong := _wrong_bond(graph):
        remedy = "try another seed, or give a start geometry in a file"
        raise ConvergenceError(f"SMILES {smiles!r}", "a geometry with the bonds of the string", wrong, remedy)
    if taken != said:
        warnings.warn(
            f"SMILES {smiles!r} leaves the stereochemistry open: it is taken as {taken!r}, and another seed may take "
            "another stereoisomer",
            InputWarning,
            stacklevel=2,
        )
    return _molecule(graph, name or smiles)


def _molecule(graph: Any, name: str) -> Molecule:
    return Molecule(
        symbols=tuple(atom.GetSymbol() for atom in graph.GetAtoms()),
        positions=graph.GetConformer().GetPositions() / ANGSTROM,
        charge=sum(atom.GetFormalCharge() for atom in graph.GetAtoms()),
        name=name,
    )


def _wrong_bond(graph: Any) -> str:
    """A bond that the geometry has and the graph has not, or the other way round, in words; empty if there is none."""
    molecule = _molecule(graph, "")
    of_graph = {tuple(sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()))) for bond in graph.GetBonds()}
    different = sorted(of_graph ^ set(molecule.bonds))
    if not different:
        return ""
    i, j = different[0]
    has = "none" if (i, j) in of_graph else "a bond"
    return f"{has} between {molecule.symbols[i]}{i + 1} and {molecule.symbols[j]}{j + 1}"
