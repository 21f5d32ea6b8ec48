"""Settings of a training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fflux_py.errors import InputError
from fflux_py.gp.covariance import AZIMUTHS, Azimuth
from fflux_py.gp.features import FeatureKind, feature_form
from fflux_py.gp.prior_mean import POLYNOMIALS, check_name, prior_mean
from fflux_py.gp.radial_kernel import radial_kernel
from fflux_py.training.hyperparameters import Criterion, check_criterion
from fflux_py.training.joint import SymmetryChoice, check_symmetry_choice
from fflux_py.training.joint_solver import Solver, SolverSettings


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
        Gigabytes (1e9 bytes) that the solution of the joint fit may take.
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
    symmetry: SymmetryChoice = "auto"
    workers: int = 1
    threads_per_worker: int = 1
    solver: Solver = "auto"
    memory: float = 14.0

    def __post_init__(self) -> None:
        feature_form(self.features)
        check_name(self.prior_mean)
        if self.forces and self.prior_mean in POLYNOMIALS:
            prior_mean(self.prior_mean, np.zeros(1))
        check_criterion(self.criterion)
        check_symmetry_choice(self.symmetry)
        SolverSettings(self.solver, self.memory)
        radial_kernel(self.kernel)
        if self.azimuth not in AZIMUTHS:
            raise InputError("azimuth", f"one of {', '.join(AZIMUTHS)}", repr(self.azimuth))
        if self.azimuth == "rbf-cyclic":
            raise InputError(
                "azimuth", "'periodic' or 'rbf'", "'rbf-cyclic'", "it is not positive semidefinite: for old models only"
            )
        for name in ("n_train", "max_iterations", "subset", "workers", "threads_per_worker"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise InputError(name, "a positive number", str(count))
