"""The force field: a sum of atomic Gaussian processes over one molecule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np

from fflux_py import _force_kernels as kernels
from fflux_py.atomic_model import AtomicModel
from fflux_py.errors import GeometryError, InputError
from fflux_py.extended_xyz import Value
from fflux_py.joint_fit import JointFit
from fflux_py.local_frame import check_frames, feature_jacobian, features
from fflux_py.molecule import Molecule, check_positions, check_same_molecule
from fflux_py.potential import FloatArray
from fflux_py.prior_mean import prior_mean


@dataclass(frozen=True)
class ForceField:
    """Energy of a molecule as the sum of its atoms' energies, with analytic forces.

    Satisfies :class:`fflux_py.potential.PotentialEnergy`.

    Parameters
    ----------
    molecule
        The molecule, at the reference geometry of its training data.
    atoms
        One model for each atom, in the molecule's order, all on the same features and kernel shape.
    isolated_energies
        Energies of the isolated atoms by element, hartree, for MF5; may be empty.
    metadata
        Where the model comes from: data digest, level of theory, seed, versions.
    joint
        The solution of the joint fit of energies and forces; None for a model of atomic energies only.
    """

    molecule: Molecule
    atoms: tuple[AtomicModel, ...]
    isolated_energies: Mapping[str, float] = field(default_factory=dict)
    metadata: Mapping[str, Value] = field(default_factory=dict)
    joint: JointFit | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "atoms", tuple(self.atoms))
        if [model.frame.atom for model in self.atoms] != list(range(self.molecule.n_atoms)):
            raise InputError(
                "atoms",
                f"one model for each of the {self.molecule.n_atoms} atoms, in order",
                f"{len(self.atoms)} models",
            )
        first = self.atoms[0]
        for model in self.atoms[1:]:
            same = (
                model.feature_kind == first.feature_kind
                and model.covariance.shape == first.covariance.shape
                and model.covariance.azimuth == first.covariance.azimuth
                and (model.u_y is None) == (first.u_y is None)
            )
            if not same:
                raise InputError(f"atom {model.frame.atom + 1}", "features and kernel as of atom 1", "others")

    def check_molecule(self, molecule: Molecule) -> None:
        """Refuse a molecule with other elements, another order of atoms, or another charge.

        Raises
        ------
        ModelMismatchError
            Naming the first atom that differs.
        """
        check_same_molecule(self.molecule, molecule)

    def compute(self, positions: FloatArray, deriv: Literal[0, 1] = 1) -> tuple[FloatArray, FloatArray | None]:
        """Energies and, for ``deriv=1``, forces of any number of geometries.

        Parameters
        ----------
        positions
            Bohr, shape ``(..., n_atoms, 3)``.
        deriv
            0: energies only; 1: energies and forces.

        Returns
        -------
        energies, forces
            Hartree, shape ``(...)``; hartree/bohr, shape ``(..., n_atoms, 3)``, or None.

        Raises
        ------
        GeometryError
            A frame whose three atoms stand on a line.
        """
        energies, gradient = self._batch(positions)
        return np.asarray(energies.sum(-1)), -gradient if deriv else None

    def energy_and_forces(self, positions: FloatArray) -> tuple[float, FloatArray]:
        """Energy (hartree) and forces (hartree/bohr) of one geometry in bohr, shape ``(n_atoms, 3)``."""
        energies, gradient = self._batch(positions)
        return float(energies.sum()), -gradient

    def atomic_energies_and_forces(self, positions: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Atomic energies (hartree, shape ``(..., n_atoms)``) and the forces of their sum (hartree/bohr)."""
        energies, gradient = self._batch(positions)
        return energies, -gradient

    def atomic_energies(self, positions: FloatArray) -> FloatArray:
        """Atomic energies in hartree, shape ``(..., n_atoms)``."""
        return self._batch(positions)[0]

    def atomic_deviations(self, positions: FloatArray) -> FloatArray:
        """Predictive standard deviation of every atomic energy in hartree, shape ``(..., n_atoms)``."""
        flat = self._checked(positions)
        deviations = np.stack([model.deviation(flat) for model in self.atoms], axis=-1)
        return deviations.reshape(np.shape(positions)[:-1])

    def coverage(self, positions: FloatArray) -> FloatArray:
        """The sum rule's s = k^T w_1 of every atom, shape ``(..., n_atoms)``: one inside the data, zero far outside."""
        flat = self._checked(positions)
        return np.stack([m.coverage(flat) for m in self.atoms], axis=-1).reshape(np.shape(positions)[:-1])

    def with_prior_mean(self, name: str) -> ForceField:
        """The same model with another prior mean (:mod:`fflux_py.prior_mean`), as if trained with it."""
        isolated = [self.isolated_energies.get(symbol) for symbol in self.molecule.symbols]
        if self.joint is None:
            atoms = [model.with_prior_mean(name, e) for model, e in zip(self.atoms, isolated, strict=True)]
            return replace(self, atoms=tuple(atoms))
        return replace(self, atoms=joint_atoms(self.joint, self.atoms, name, isolated))

    def kernel_arrays(self) -> kernels.KernelArrays:
        """The arrays that the compiled kernels take."""
        return self._arrays

    @cached_property
    def _arrays(self) -> kernels.KernelArrays:
        first = self.atoms[0]
        n_points = max(len(m.points) for m in self.atoms)
        n_embedded = first.covariance.n_embedded
        points = np.zeros((len(self.atoms), n_points, n_embedded))
        weights = np.zeros((len(self.atoms), n_points))
        for a, model in enumerate(self.atoms):
            points[a, : len(model.points)] = model.covariance.embed(model.points)
            weights[a, : len(model.points)] = model.weights
        slopes = np.zeros((len(self.atoms), n_points if first.slopes is not None else 0, n_embedded))
        for a, model in enumerate(self.atoms):
            if model.slopes is not None:
                slopes[a, : len(model.points)] = model.slopes
        periods = np.array([m.covariance.periods() for m in self.atoms])
        kind = kernels.SPHERICAL if first.feature_kind == "spherical" else kernels.UNIT_VECTOR
        squared = first.covariance.shape == "squared-exponential"
        shape = kernels.SQUARED_EXPONENTIAL if squared else kernels.MATERN52
        return kernels.KernelArrays(
            frames=np.array([[m.frame.atom, m.frame.x_axis, m.frame.xy_plane] for m in self.atoms], dtype=np.int64),
            points=points,
            weights=weights,
            slopes=slopes,
            means=np.array([m.mean for m in self.atoms]),
            scales=np.array([np.sqrt(m.covariance.theta) for m in self.atoms]),
            periods=periods,
            expanded=np.array(first.covariance.expanded, dtype=np.int64),
            options=np.array([kind, shape, int((periods > 0).any())], dtype=np.int64),
        )

    def _checked(self, positions: FloatArray) -> FloatArray:
        n = self.molecule.n_atoms
        array = np.asarray(positions, dtype=np.float64)
        if array.shape[-2:] != (n, 3):
            raise InputError("positions", f"shape (..., {n}, 3)", f"shape {array.shape}")
        flat = np.ascontiguousarray(array.reshape(-1, n, 3))
        if not np.isfinite(flat).all():
            raise GeometryError("positions", "finite numbers", "NaN or infinity", "the run before it went wrong")
        check_frames(flat, [model.frame for model in self.atoms])
        return flat

    def _batch(self, positions: FloatArray) -> tuple[FloatArray, FloatArray]:
        flat = self._checked(positions)
        energies, gradient = np.empty(flat.shape[:2]), np.empty_like(flat)
        kernels.batch(flat, self._arrays, energies, gradient)
        if not np.isfinite(gradient).all():
            for geometry in flat:
                check_positions(geometry, f"molecule {self.molecule.name!r}")
        shape = np.shape(positions)
        return energies.reshape(shape[:-1]), gradient.reshape(shape)


def joint_atoms(
    joint: JointFit, atoms: Sequence[AtomicModel], name: str, isolated: Sequence[float | None]
) -> tuple[AtomicModel, ...]:
    """The atoms of a joint fit with a prior mean; their frames, kernels and energies are those of ``atoms``.

    All means shift together: the weights of one atom depend on the means of all.

    Parameters
    ----------
    joint, atoms
        The solution, and models that hold frame, kernel and training energies of each atom.
    name, isolated
        The prior mean, and the isolated atoms' energies (hartree) for MF5.
    """
    if name == "gls":
        means = joint.gls_means()
    else:
        means = np.array([prior_mean(name, m.energies, e) for m, e in zip(atoms, isolated, strict=True)])
    coefficients = joint.shifted(means)
    shifted = []
    for a, model in enumerate(atoms):
        x = features(joint.positions, model.frame, model.feature_kind)
        jacobian = model.covariance.embed_jacobian(
            x, feature_jacobian(joint.positions, model.frame, model.feature_kind)
        )
        w_y, u_y = joint.atom_basis(a, coefficients, jacobian)
        w_1, u_1 = joint.atom_basis(a, joint.coefficients[:, 1 + a], jacobian)
        mean = float(means[a])
        basis = replace(model, points=x, w_y=w_y, w_1=w_1, u_y=u_y, u_1=u_1, mean_name=name, mean=mean, centre=mean)
        shifted.append(basis)
    return tuple(shifted)
