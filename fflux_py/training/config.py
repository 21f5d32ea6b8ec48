"""Settings of a training: they travel whole from :func:`fflux_py.train` down to the solver.

This module imports nothing of the training itself; all of its modules may import this one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np

from fflux_py.errors import InputError
from fflux_py.gp.covariance import AZIMUTHS, Azimuth
from fflux_py.gp.features import FeatureKind, feature_form
from fflux_py.gp.prior_mean import POLYNOMIALS, check_name, prior_mean
from fflux_py.gp.radial_kernel import radial_kernel

Locality = Literal["none", "powers", "near"]
"""How length scales follow from few hyperparameters (:mod:`fflux_py.training.length_scale_law`).

``"none"``: by the spread of a feature alone; ``"powers"``: by powers of its spread and of its atom's distance;
``"near"``: likewise, and a second kernel of the atoms at most two bonds away is added.
"""
LOCALITIES: Final[tuple[str, ...]] = get_args(Locality)
SymmetryChoice = Literal["auto", "none", "rotors", "full"]
SYMMETRY_CHOICES: Final[tuple[str, ...]] = get_args(SymmetryChoice)
Solver = Literal["auto", "direct", "cg"]
SOLVERS: Final[tuple[str, ...]] = get_args(Solver)
Criterion = Literal["likelihood", "holdout"]
CRITERIA: Final[tuple[str, ...]] = get_args(Criterion)


@dataclass(frozen=True)
class SolverSettings:
    """How the linear system of a joint fit is solved.

    Parameters
    ----------
    solver
        ``"direct"``, ``"cg"`` (preconditioned conjugate gradients), or ``"auto"``: direct if it fits into ``memory``.
    memory
        Gigabytes (1e9 bytes) that the solution may take.  None: three fifths of what is free when it begins.
    threads
        Threads over the geometries in products with the covariance; the linear algebra has its own.

    Raises
    ------
    InputError
        A solver that does not exist, or a memory that is not positive.
    """

    solver: Solver = "auto"
    memory: float | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        _check_choice("solver", self.solver, SOLVERS)
        if self.memory is not None and not 0.0 < self.memory < np.inf:
            raise InputError("memory", "a positive number of gigabytes", str(self.memory))


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of a training.

    Parameters
    ----------
    n_train
        Number of training geometries, the first of the set's ``train`` part; None: all of them.
    forces
        Fit atomic energies, total energies and forces jointly (derivative basis); False: atomic energies only, as the
        published models.
    features
        One of :data:`fflux_py.gp.features.FEATURE_KINDS`.
    prior_mean
        Name of the prior mean (:mod:`fflux_py.gp.prior_mean`).
    kernel, azimuth
        Name of the radial kernel (:data:`fflux_py.gp.radial_kernel.KERNELS`), and what happens to azimuths
        (:class:`fflux_py.gp.covariance.Covariance`).
    criterion
        What the hyperparameters of an energy-only fit are chosen by: ``"likelihood"``, or ``"holdout"``, the field's
        root mean square error on an internal validation set (:mod:`fflux_py.training.hyperparameters`).
    max_iterations
        Most evaluations of the criterion of one atom (energies only), or most iterations of the
        search for class length scales (joint fit).
    subset
        Geometries on which the class length scales of the joint fit are found.
    locality
        How the length scales of the joint fit depend on the spread of a feature and on the distance of its atom, one of
        :data:`LOCALITIES`.
    symmetry
        Permutations of equivalent atoms in the joint fit: ``"auto"``, ``"full"``, ``"rotors"`` or ``"none"``
        (:func:`fflux_py.training.chosen_symmetry`).
    workers
        Processes, each with a part of the atoms (energies only).  The joint fit uses the threads of the linear algebra.
    threads_per_worker
        Threads of each.
    solver
        Of the joint fit's linear system: ``"direct"``, ``"cg"`` (preconditioned conjugate gradients), or ``"auto"``:
        direct where it fits into ``memory``.
    memory
        Gigabytes (1e9 bytes) that the solution of the joint fit may take.  None: three fifths of what is free when it
        begins.
    seed
        Draw the training geometries at random by this seed; None: the first ones.

    Raises
    ------
    InputError
        A value that does not exist, or a number that is not positive.
    """

    n_train: int | None = None
    forces: bool = True
    features: FeatureKind = "unit-vector"
    prior_mean: str = "MF2"
    kernel: str = "squared-exponential"
    azimuth: Azimuth = "periodic"
    criterion: Criterion = "likelihood"
    max_iterations: int = 60
    subset: int = 40
    locality: Locality = "powers"
    symmetry: SymmetryChoice = "auto"
    workers: int = 1
    threads_per_worker: int = 1
    solver: Solver = "auto"
    memory: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        feature_form(self.features)
        check_name(self.prior_mean)
        if self.forces and self.prior_mean in POLYNOMIALS:
            prior_mean(self.prior_mean, np.zeros(1))
        _check_choice("criterion", self.criterion, CRITERIA)
        _check_choice("locality", self.locality, LOCALITIES)
        _check_choice("symmetry", self.symmetry, SYMMETRY_CHOICES)
        radial_kernel(self.kernel)
        _check_choice("azimuth", self.azimuth, AZIMUTHS)
        if self.azimuth == "rbf-cyclic":
            raise InputError(
                "azimuth", "'periodic' or 'rbf'", "'rbf-cyclic'", "it is not positive semidefinite: for old models only"
            )
        for name in ("n_train", "max_iterations", "subset", "workers", "threads_per_worker"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise InputError(name, "a positive number", str(count))
        if self.seed is not None and self.seed < 0:
            raise InputError("seed", "a number that is not negative", str(self.seed))
        _ = self.solver_settings  # checks solver and memory

    @property
    def solver_settings(self) -> SolverSettings:
        """Of the joint fit's linear system."""
        return SolverSettings(self.solver, self.memory, self.threads_per_worker)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a choice that does not exist."""
    if value not in choices:
        raise InputError(name, f"one of {', '.join(choices)}", repr(value))
