"""A start geometry from a SMILES string, through RDKit (the only module that imports rdkit)."""

from __future__ import annotations

from typing import Any

from fflux_py.errors import ConvergenceError, InputError, MissingDependencyError
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
        If no geometry is found.
    MissingDependencyError
        If RDKit is not installed.
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
        parameters: Any = rdDistGeom.ETKDGv3()
        parameters.randomSeed = seed
        if rdDistGeom.EmbedMolecule(graph, parameters) != 0:
            raise ConvergenceError(f"SMILES {smiles!r}", "a geometry", "none by ETKDG", "try another seed")
        if rdForceFieldHelpers.MMFFHasAllMoleculeParams(graph):
            rdForceFieldHelpers.MMFFOptimizeMolecule(graph, maxIters=2000)
    return Molecule(
        symbols=tuple(atom.GetSymbol() for atom in graph.GetAtoms()),
        positions=graph.GetConformer().GetPositions() / ANGSTROM,
        charge=Chem.GetFormalCharge(graph),
        name=name or smiles,
    )
