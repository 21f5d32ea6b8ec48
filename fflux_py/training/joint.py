"""The joint fit of energies and forces: from a data set to a force field."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final

import numpy as np

from fflux_py.errors import GeometryError
from fflux_py.files import sha256
from fflux_py.forcefield import ForceField
from fflux_py.gp.atomic_model import AtomicModel
from fflux_py.gp.joint_atoms import joint_atoms, joint_frames
from fflux_py.gp.joint_covariance import JointData, JointModel
from fflux_py.gp.joint_fit import JointFit, rotors_factorise
from fflux_py.gp.radial_kernel import radial_kernel
from fflux_py.gp.taught_mean import TaughtMean
from fflux_py.molecules.dataset import Dataset
from fflux_py.molecules.molecule import Molecule
from fflux_py.molecules.symmetry import (
    Symmetry,
    find_rotor_symmetry,
    find_subgroups,
    find_symmetry,
    no_symmetry,
    symmetric_local_frames,
)
from fflux_py.training._checkpoint import Checkpoint
from fflux_py.training._stages import stages
from fflux_py.training.config import TrainingConfig
from fflux_py.training.difference import LENGTHS_BY, NOISES, Noises, choose_noises, level_mean, subtract_level
from fflux_py.training.feature_statistics import feature_statistics
from fflux_py.training.joint_solver import solve_system
from fflux_py.training.joint_system import JointSystem, image_count, training_data
from fflux_py.training.length_scale_law import length_scale_law
from fflux_py.training.length_scales import search_hyperparameters
from fflux_py.typing import Progress

_MOST_IMAGES: Final = 8.0
# Of a likelihood with its gradient, over that of the likelihood alone.
_GRADIENT_COST: Final = 3.0


def chosen_symmetry(molecule: Molecule, config: TrainingConfig) -> Symmetry:
    """The symmetry of a molecule that a training uses.

    Parameters
    ----------
    molecule
        The molecule.
    config
        Its ``symmetry``: ``"none"``; ``"rotors"``, the cyclic permutations of methyl groups and the like; ``"full"``,
        all permutations of equivalent atoms, with the mirror image where it applies; ``"auto"``, all of them unless
        they multiply the training points (:func:`images_per_atom`) by more than eight, then the largest subgroup that
        does not, then the rotors, then none.  The cost depends on its features and kernel.
    """
    none = no_symmetry(molecule.n_atoms)
    if config.symmetry == "none":
        return none
    if config.symmetry != "auto":
        return find_symmetry(molecule) if config.symmetry == "full" else find_rotor_symmetry(molecule)
    fitting: list[tuple[int, float, Symmetry]] = []
    # every frame has an image by every operation: larger groups have too many
    for symmetry in [*find_subgroups(molecule, int(_MOST_IMAGES)), find_rotor_symmetry(molecule)]:
        if fitting and symmetry.order < fitting[0][0]:
            break
        with suppress(GeometryError):  # no frames that the symmetry maps to each other
            images = images_per_atom(molecule, symmetry, config)
            if images <= _MOST_IMAGES:
                fitting.append((symmetry.order, images, symmetry))
    return min(fitting, key=lambda entry: entry[1])[2] if fitting else none


def images_per_atom(molecule: Molecule, symmetry: Symmetry, config: TrainingConfig) -> float:
    """Training points of all frames over those without symmetry: the cost of an evaluation, and of the covariance.

    Features and kernel of ``config`` say whether the sum over a rotor's images is a product, which costs nothing more.
    """
    frames = symmetric_local_frames(molecule, symmetry)
    factorised = rotors_factorise(config.features, radial_kernel(config.kernel))
    return sum(len(symmetry.images(frame, factorised)[1]) for frame in frames) / molecule.n_atoms


def train_jointly(
    dataset: Dataset,
    indices: np.ndarray,
    config: TrainingConfig,
    progress: Progress | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    mean: TaughtMean | None = None,
) -> ForceField:
    """Fit atomic energies, total energies and forces of the geometries ``indices`` jointly.

    Parameters
    ----------
    dataset, indices
        A labelled data set, and the geometries that are learnt.
    config
        Settings of the training.
    progress
        Called with the parts of the estimated work that are done, and all.
    checkpoint
        File in which an interrupted fit is kept, and from which the same fit goes on; None: nothing is kept.
    mean
        A taught mean, of the same molecule: what is fitted is the difference to its level of theory.

    Returns
    -------
    ForceField
        Without metadata, which are the caller's.

    Raises
    ------
    InputError, FileFormatError
        A checkpoint of another training, or a damaged one.
    ConvergenceError
        Labels that are not numbers, or iterations that do not converge.
    """
    kept = Checkpoint(checkpoint, _training_key(dataset, indices, config, mean))
    data = training_data(dataset, indices)
    if mean is not None:
        data, labels = subtract_level(data, dataset.molecule, mean)
        mean = level_mean(mean, labels)
    symmetry = chosen_symmetry(dataset.molecule, config)
    frames = symmetric_local_frames(dataset.molecule, symmetry)
    model = JointModel(frames, config.features, radial_kernel(config.kernel), config.azimuth, symmetry)
    if mean is not None:
        model = replace(model, noises=NOISES[LENGTHS_BY])
    statistics, n_atoms = feature_statistics(model, data.positions), dataset.molecule.n_atoms
    part = data.subset(np.arange(min(config.subset, len(indices))))
    search_progress, solver_progress = stages(progress, _work(data, part, model, config))
    law = length_scale_law(model, statistics, dataset.molecule, float(np.var(part.energies)) / n_atoms, config.locality)
    hyperparameters = search_hyperparameters(part, law, config, search_progress, kept)
    search_progress(1, 1)
    system = JointSystem(data, law.model, law.kernels(hyperparameters), law.variances(hyperparameters))
    isolated = dataset.isolated_energies

    def force_error(noises: Noises, fitted: np.ndarray, judged: np.ndarray) -> float:
        part = replace(system, data=data.subset(fitted), model=replace(system.model, noises=noises))
        part_solution = solve_system(part, config.solver_settings)
        models = atomic_models(part, part_solution, dataset.molecule, isolated, config.prior_mean)
        _, forces = ForceField(dataset.molecule, models, isolated).atomic_energies_and_forces(data.positions[judged])
        return float(np.abs(forces - data.forces[judged]).mean())

    if mean is not None:
        system = replace(system, model=replace(system.model, noises=choose_noises(data, force_error)))
    solution = solve_system(system, config.solver_settings, solver_progress, kept)
    atoms = atomic_models(system, solution, dataset.molecule, isolated, config.prior_mean)
    return ForceField(dataset.molecule, atoms, isolated, {}, solution, taught_mean=mean)


def atomic_models(
    system: JointSystem, solution: JointFit, molecule: Molecule, isolated_energies: Mapping[str, float], prior_mean: str
) -> tuple[AtomicModel, ...]:
    """The models of all frames, from the solution of a joint system.

    Parameters
    ----------
    system, solution
        What was solved, and its solution.
    molecule, isolated_energies
        The molecule, and the energies of isolated atoms by their symbols, hartree.
    prior_mean
        Name of the prior mean (:mod:`fflux_py.gp.prior_mean`).
    """
    frames = joint_frames(solution, system.data, system.model, system.kernels, system.variance)
    isolated = [isolated_energies.get(molecule.symbols[part.frame.atom]) for part in frames]
    return joint_atoms(solution, frames, prior_mean, isolated)


def _training_key(dataset: Dataset, indices: np.ndarray, config: TrainingConfig, mean: TaughtMean | None) -> str:
    """Digest of the data and of all settings that change the course of a joint fit.

    The prior mean is chosen last; threads, memory and solver change how the same numbers are found.
    """
    settings = [
        f"{name}={value}"
        for name, value in (
            ("features", config.features), ("shape", config.kernel), ("azimuth", config.azimuth),
            ("max_iterations", config.max_iterations), ("subset", config.subset), ("symmetry", config.symmetry),
            ("locality", config.locality),
        )
    ]  # fmt: skip
    settings += [] if mean is None else [f"mean={mean.digest()}"]
    return sha256(" ".join([dataset.digest(), *settings, *map(str, indices.tolist())]).encode())


def _work(data: JointData, part: JointData, model: JointModel, config: TrainingConfig) -> tuple[float, float]:
    """Estimated multiplications of the search, at a third of its most iterations, and of the solution."""
    images = image_count(model)

    def once(of: JointData) -> float:
        n = of.observations.count
        return n**2 * (2.0 * images * model.unscaled(of.positions.shape[1]).n_embedded + n / 3.0)

    return 0.3 * config.max_iterations * _GRADIENT_COST * once(part), once(data)
