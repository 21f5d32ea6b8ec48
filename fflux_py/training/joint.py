"""The joint fit of energies and forces: from a data set to a force field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, get_args

import numpy as np

from fflux_py.errors import InputError
from fflux_py.forcefield import ForceField
from fflux_py.gp.covariance import Azimuth, Shape
from fflux_py.gp.features import FeatureKind, directional
from fflux_py.gp.joint_atoms import joint_atoms, joint_frames
from fflux_py.gp.joint_covariance import JointData, JointModel
from fflux_py.gp.joint_fit import n_observations
from fflux_py.molecules.dataset import Dataset
from fflux_py.molecules.molecule import Molecule
from fflux_py.molecules.symmetry import Symmetry, find_symmetry, no_symmetry, symmetric_frames
from fflux_py.training._checkpoint import Checkpoint
from fflux_py.training._stages import stages
from fflux_py.training.joint_solver import SolverSettings, solve_system
from fflux_py.training.length_scales import class_covariances, class_length_scales, feature_variances

SymmetryChoice = Literal["auto", "none", "rotors", "full"]
SYMMETRY_CHOICES: Final[tuple[str, ...]] = get_args(SymmetryChoice)
_MOST_IMAGES: Final = 8.0


def check_symmetry_choice(name: str) -> None:
    """Refuse a choice that does not exist."""
    if name not in SYMMETRY_CHOICES:
        raise InputError("symmetry", f"one of {', '.join(SYMMETRY_CHOICES)}", repr(name))


def chosen_symmetry(molecule: Molecule, choice: SymmetryChoice, kind: FeatureKind, shape: Shape) -> Symmetry:
    """The symmetry of a molecule that a training uses.

    Parameters
    ----------
    molecule
        The molecule.
    choice
        ``"none"``; ``"rotors"``, the cyclic permutations of methyl groups and the like; ``"full"``, all permutations
        of equivalent atoms, with the mirror image where it applies; ``"auto"``, all of them unless they multiply the
        training points (:func:`images_per_atom`) by more than eight, then the rotors, then none.
    kind, shape
        Features and kernel, on which the cost depends.
    """
    check_symmetry_choice(choice)
    none = no_symmetry(molecule.n_atoms)
    if choice == "none":
        return none
    full = find_symmetry(molecule)
    if choice != "auto":
        return full if choice == "full" else full.only_rotors()
    for symmetry in (full, full.only_rotors()):
        if images_per_atom(molecule, symmetry, kind, shape) <= _MOST_IMAGES:
            return symmetry
    return none


def images_per_atom(molecule: Molecule, symmetry: Symmetry, kind: FeatureKind, shape: Shape) -> float:
    """Training points of all frames over those without symmetry: the cost of an evaluation, and of the covariance."""
    frames = symmetric_frames(molecule, symmetry)
    factorised = directional(kind) and shape == "squared-exponential"
    return sum(len(symmetry.images(frame, factorised)[1]) for frame in frames) / molecule.n_atoms


def train_jointly(
    dataset: Dataset,
    indices: np.ndarray,
    choice: SymmetryChoice,
    kind: FeatureKind,
    shape: Shape,
    azimuth: Azimuth,
    prior_mean: str,
    subset: int,
    max_iterations: int,
    progress: Callable[[int, int], None] | None,
    settings: SolverSettings | None = None,
    checkpoint: Checkpoint | None = None,
) -> ForceField:
    """Fit atomic energies, total energies and forces of the geometries ``indices`` jointly.

    The arguments are those of :class:`fflux_py.training.TrainingConfig`; in ``checkpoint`` an interrupted training is
    found and kept.
    """
    fields = (dataset.positions, dataset.energies, dataset.forces, dataset.atomic_energies, dataset.atomic_errors)
    positions, total, forces, atomic, errors = (np.array(a[indices]) for a in fields)
    data = JointData(positions, total, forces, atomic, errors)
    symmetry = chosen_symmetry(dataset.molecule, choice, kind, shape)
    model = JointModel(symmetric_frames(dataset.molecule, symmetry), kind, shape, azimuth, symmetry)
    spreads = feature_variances(model, data.positions)
    part = data.subset(np.arange(min(subset, len(indices))))
    searching, solving = stages(progress, _work(data, part, model, max_iterations))
    factors, variance = class_length_scales(part, model, max_iterations, searching, spreads, checkpoint)
    searching(1, 1)
    kernels = class_covariances(spreads, dataset.molecule.n_atoms, model, factors)
    solution = solve_system(data, model, kernels, variance, settings, solving, checkpoint)
    symbols = dataset.molecule.symbols
    isolated = [dataset.isolated_energies.get(symbols[frame.atom]) for frame in model.frames]
    atoms = joint_atoms(solution, joint_frames(solution, data, model, kernels), prior_mean, isolated)
    return ForceField(dataset.molecule, atoms, dataset.isolated_energies, {}, solution)


def _work(data: JointData, part: JointData, model: JointModel, max_iterations: int) -> tuple[float, float]:
    """Estimated multiplications of the search, at a half of its most iterations, and of the solution."""
    images = sum(len(model.symmetry.images(frame)[1]) for frame in model.frames)

    def once(of: JointData) -> float:
        n = n_observations(of.partitioned, of.positions.shape[1])
        return n**2 * (2.0 * images * model.unscaled(of.positions.shape[1]).n_embedded + n / 3.0)

    return 0.5 * max_iterations * 7 * once(part), once(data)
