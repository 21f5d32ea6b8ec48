"""The force field: a sum of atomic Gaussian processes over one molecule."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from fflux_py._compiled import forces
from fflux_py._compiled.features import smallest_sine
from fflux_py._compiled.point_arrays import KernelArrays
from fflux_py.errors import GeometryError, InputError, ModelMismatchError, ReorderedAtomsWarning
from fflux_py.gp.atomic_model import AtomicModel
from fflux_py.gp.distance_ranges import believed_distances
from fflux_py.gp.features import needs_axes
from fflux_py.gp.joint_atoms import JointFrame, joint_atoms
from fflux_py.gp.joint_fit import JointFit
from fflux_py.gp.kernel_arrays import Precision, kernel_arrays
from fflux_py.gp.posterior import NEIGHBOURS, Posterior
from fflux_py.gp.taught_mean import TaughtMean, check_beside_taught_mean
from fflux_py.gp.weights import DerivativeWeights
from fflux_py.molecules.atom_order import AtomOrder
from fflux_py.molecules.extended_xyz import Value
from fflux_py.molecules.local_frame import LINEAR_SINE, check_local_frames
from fflux_py.molecules.matching import Matching
from fflux_py.molecules.molecule import Molecule, check_positions, check_same_molecule
from fflux_py.molecules.symmetry import Symmetry
from fflux_py.threads import get_threads
from fflux_py.typing import FloatArray

if TYPE_CHECKING:
    from fflux_py import FFLUXCalculator


@dataclass(frozen=True)
class ForceField:
    """Energy of a molecule as the sum of its atoms' energies, with analytic forces.

    Satisfies :class:`fflux_py.molecules.potential.PotentialEnergy`.

    Every function of positions matches them first: a geometry whose bonds, hands or distances fit the model in another
    order of its atoms, or as its mirror image, is evaluated in that one, with a
    :class:`~fflux_py.errors.ReorderedAtomsWarning`, and its results are in the order and hand given; one with other
    bonds is refused (:class:`~fflux_py.errors.ModelMismatchError`).  :attr:`unmatched` is for positions that are known
    to be in the order of the model, and for molecules that are pulled apart.

    Parameters
    ----------
    molecule
        The molecule, at the reference geometry of its training data.
    atoms
        The atoms' models, in the molecule's order, all on the same features and radial kernel: one for each atom, or
        several, whose sum is the atom's energy: with symmetry one for each of its frames, and one for each kernel of a
        frame.
    isolated_energies
        Energies of the isolated atoms by element, hartree, for MF5; may be empty.
    metadata
        Where the model comes from: data digest, level of theory, seed, versions.
    joint
        The solution of the joint fit of energies and forces; None for a model of atomic energies only.
    calibration
        Factors of the predictive standard deviations, ``"atomic"`` and ``"total"``, found on held-out data, and the
        number of ``"neighbours"`` that they belong to; empty if not calibrated (then the factors are one).
    precision
        In which training points are stored and products formed (:meth:`with_precision`).  Positions, features and
        predictive deviations are always double.
    matches
        Whether positions are matched before they are evaluated; not so in :attr:`unmatched`.
    taught_mean
        A prior mean of the total energy that is a function of all positions (:mod:`fflux_py.gp.taught_mean`); the
        atoms' models are then of what is left of the labels.  An atom's energy is its model's and its share of this
        mean.  None: there is none.
    """

    molecule: Molecule
    atoms: tuple[AtomicModel, ...]
    isolated_energies: Mapping[str, float] = field(default_factory=dict)
    metadata: Mapping[str, Value] = field(default_factory=dict)
    joint: JointFit | None = None
    calibration: Mapping[str, float] = field(default_factory=dict)
    precision: Precision = "double"
    matches: bool = True
    taught_mean: TaughtMean | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "atoms", tuple(self.atoms))
        owners = [model.frame.atom for model in self.atoms]
        if owners != sorted(owners) or sorted(set(owners)) != list(range(self.molecule.n_atoms)):
            raise InputError(
                "atoms",
                f"models of all of the {self.molecule.n_atoms} atoms, in order",
                f"{len(self.atoms)} models",
            )
        first = self.atoms[0]
        for model in self.atoms[1:]:
            same = (
                model.feature_kind == first.feature_kind
                and model.covariance.kernel == first.covariance.kernel
                and model.covariance.azimuth == first.covariance.azimuth
                and isinstance(model.weights, DerivativeWeights) == isinstance(first.weights, DerivativeWeights)
            )
            if not same:
                raise InputError(f"atom {model.frame.atom + 1}", "features and kernel as of atom 1", "others")
        if self.taught_mean is not None and self.taught_mean.n_atoms != self.molecule.n_atoms:
            found = f"one of {self.taught_mean.n_atoms}"
            raise InputError("taught_mean", f"a mean of {self.molecule.n_atoms} atoms", found)
        if self.precision not in get_args(Precision):
            raise InputError("precision", " or ".join(get_args(Precision)), repr(self.precision))

    def __repr__(self) -> str:
        level = f"{self.metadata['method']}/{self.metadata['basis']}, " if "method" in self.metadata else ""
        points = len(self.atoms[0].points) if self.joint is None else len(self.joint.positions)
        fit = "energies only" if self.joint is None else "energies and forces"
        return f"ForceField({self.molecule.name}, {self.molecule.formula}, {level}{points} geometries, {fit})"

    def calculator(self) -> FFLUXCalculator:
        """A new calculator of ASE (:class:`~fflux_py.interfaces.ase_calculator.FFLUXCalculator`)."""
        import fflux_py  # the front door: interfaces are above

        return fflux_py.FFLUXCalculator(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to one ``.npz`` file (:func:`fflux_py.model_file.save`)."""
        from fflux_py import model_file

        model_file.save(self, path)

    def match(self, molecule: Molecule) -> Matching:
        """How the atoms of a molecule must be reordered, and whether inverted, to be those of the model.

        Raises
        ------
        ModelMismatchError
            Other elements, charge, bonds or chirality than the model's.
        """
        return self._atom_order.match(molecule)

    def match_or_keep(self, molecule: Molecule) -> Matching:
        """The same, but a geometry of the same elements whose bonds say nothing keeps its order.

        Raises
        ------
        ModelMismatchError
            Other elements, in another order than the model's, or another charge.
        """
        try:
            return self.match(molecule)
        except ModelMismatchError:
            check_same_molecule(self.molecule, molecule)
            return Matching(np.arange(self.molecule.n_atoms))

    def check_molecule(self, molecule: Molecule) -> None:
        """Refuse another molecule, or its atoms in another order or hand than the model's.

        A geometry so distorted that its bonds say nothing is believed.

        Raises
        ------
        ModelMismatchError
            Naming what differs.
        """
        check_same_molecule(self.molecule, molecule)
        try:
            matching = self.match(molecule)
        except ModelMismatchError:
            return
        if not matching.identity:
            raise ModelMismatchError(
                f"molecule {molecule.name!r}", "atoms in the model's order and hand", f"another: {matching.describe()}",
                "reorder them by ForceField.match(molecule).to_reference(positions)",
            )  # fmt: skip

    def compute(self, positions: FloatArray, deriv: Literal[0, 1] = 1) -> tuple[FloatArray, FloatArray | None]:
        """Energies and, for ``deriv=1``, forces of any number of geometries.

        Groups of geometries are spread over the threads of :func:`fflux_py.threads.set_threads`; the result has the
        same bits for any number of them.

        Parameters
        ----------
        positions
            Bohr, shape ``(..., n_atoms, 3)``.
        deriv
            0: energies only, with the same bits, at about half of the cost; 1: energies and forces.

        Returns
        -------
        energies, forces
            Hartree, shape ``(...)``; hartree/bohr, shape ``(..., n_atoms, 3)``, or None.

        Raises
        ------
        GeometryError
            A frame whose three atoms stand on a line.
        ModelMismatchError
            Other bonds than the model's, or another stereoisomer: no order of atoms fits.
        """
        if not deriv:
            return np.asarray(self.atomic_energies(positions).sum(-1)), None
        energies, gradient = self._batch(positions)
        return np.asarray(energies.sum(-1)), -gradient

    def energy(self, positions: FloatArray) -> float:
        """Energy (hartree) of one geometry in bohr, shape ``(n_atoms, 3)``."""
        return float(self.atomic_energies(positions).sum())

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
        return self._energies(positions, self._arrays)

    def atomic_deviations(self, positions: FloatArray) -> FloatArray:
        """Predictive standard deviation of every atomic energy in hartree, shape ``(..., n_atoms)``.

        :meth:`predictive_deviations` says what it means.
        """
        return self.predictive_deviations(positions)[1]

    def deviations(self, positions: FloatArray) -> FloatArray:
        """Predictive standard deviation of the total energy in hartree, shape ``(...)``."""
        return self.predictive_deviations(positions)[0]

    def predictive_deviations(self, positions: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Predictive standard deviations of the total energy and of all atomic energies, at the cost of one of them.

        Without the noise of the labels, times the factors of ``calibration``.  In a joint fit they are conditioned on
        the energies and forces of the nearest training geometries, ``calibration["neighbours"]`` of them if it is
        there (:mod:`fflux_py.gp.posterior`).  In a model of atomic energies only, the atoms are independent, and the
        total variance is the sum of theirs.

        Returns
        -------
        total, atomic
            Hartree, shapes ``(...)`` and ``(..., n_atoms)``.
        """
        flat, matchings = self._checked(positions)
        if self._posterior is not None:
            total, atomic = self._posterior.variances(flat, int(self.calibration.get("neighbours", NEIGHBOURS)))
        else:
            atomic = np.zeros(flat.shape[:2])
            for model in self.atoms:
                atomic[:, model.frame.atom] += model.deviation(flat) ** 2
            total = atomic.sum(axis=1)
        for k, matching in matchings.items():
            atomic[k] = matching.numbers_from_reference(atomic[k])
        shape = np.shape(positions)[:-1]
        factors = self.calibration.get("total", 1.0), self.calibration.get("atomic", 1.0)
        return factors[0] * np.sqrt(total).reshape(shape[:-1]), factors[1] * np.sqrt(atomic).reshape(shape)

    def coverage(self, positions: FloatArray) -> FloatArray:
        """The sum rule's s = k^T w_1 of every atom, shape ``(..., n_atoms)``: one inside the data, zero far outside."""
        return self._energies(positions, self._unit_arrays)

    def with_prior_mean(self, name: str) -> ForceField:
        """The same model with another prior mean (:mod:`fflux_py.gp.prior_mean`), as if trained with it.

        Beside a taught mean it is the mean of what the atoms' models learn.

        Raises
        ------
        InputError
            The isolated atoms' energies (MF5) beside a taught mean: they are no energies of a difference.
        """
        if self.taught_mean is not None:
            check_beside_taught_mean(name)
        isolated = [self.isolated_energies.get(self.molecule.symbols[m.frame.atom]) for m in self.atoms]
        if self.joint is None:
            atoms = [model.with_prior_mean(name, e) for model, e in zip(self.atoms, isolated, strict=True)]
            return replace(self, atoms=tuple(atoms))
        frames = [JointFrame.of(model) for model in self.atoms]
        return replace(self, atoms=joint_atoms(self.joint, frames, name, isolated))

    def with_precision(self, precision: Precision) -> ForceField:
        """The same model with its training points in another precision.

        ``"double"``: all in float64.  ``"fixed"``: points are stored as whole numbers of 32 bits and all else is
        float64.  Energy and forces are those of a model whose points are rounded, by some 1e-10 of their range, and
        belong together exactly; half as much is read from memory.  ``"single"``: products and sums in float32 too, in
        half the time; forces are then no gradient, which models of large weights (fits to forces) do not survive in
        dynamics.

        The model file does not keep it.  Kernels whose azimuths wrap (``rbf-cyclic``) stay in double.
        """
        return replace(self, precision=precision)

    @property
    def prior_means(self) -> FloatArray:
        """Prior mean of every atom, hartree, shape ``(n_atoms,)``."""
        return np.array([model.mean for model in {m.frame.atom: m for m in self.atoms}.values()])

    @property
    def images_per_atom(self) -> float:
        """Training points of all frames over those without symmetry: what symmetry multiplies the cost by."""
        if self.joint is None:
            return 1.0
        points = {model.frame: len(model.points) for model in self.atoms}  # once for all kernels of a frame
        return sum(points.values()) / (self.molecule.n_atoms * len(self.joint.positions))

    def kernel_arrays(self) -> KernelArrays:
        """The arrays that the compiled kernels take."""
        return self._arrays

    @cached_property
    def unmatched(self) -> ForceField:
        """The same force field for positions that are known to stand in its order of atoms, for which it does not look.

        This is what dynamics, searches and everything else takes that has matched its start: a molecule that is pulled
        apart there goes on being evaluated.  Results are the same to the last bit.
        """
        if not self.matches:
            return self
        return replace(self, matches=False)

    @cached_property
    def _atom_order(self) -> AtomOrder:
        training = (None, None) if self.joint is None else (self.joint.positions, self.joint.operations)
        return AtomOrder(self.molecule, *believed_distances(self.atoms, self.joint), *training)

    @cached_property
    def _arrays(self) -> KernelArrays:
        if self.matches:  # both have one set of them
            return self.unmatched._arrays
        weights, slopes = [m.point_weights for m in self.atoms], [m.point_slopes for m in self.atoms]
        means = [m.share * m.mean for m in self.atoms]
        return kernel_arrays(
            self.atoms, self._symmetry, means, weights, slopes, self.precision, taught_mean=self.taught_mean
        )

    @property
    def _symmetry(self) -> Symmetry | None:
        return None if self.joint is None else self.joint.symmetry

    @cached_property
    def _unit_arrays(self) -> KernelArrays:
        """The arrays for which the kernels give the coverage in place of the energies."""
        if self.matches:
            return self.unmatched._unit_arrays
        weights, slopes = [m.weights.w_1 for m in self.atoms], [m.weights.unit_slopes for m in self.atoms]
        means = [0.0] * len(self.atoms)
        return kernel_arrays(self.atoms, self._symmetry, means, weights, slopes, polynomials=False)

    @cached_property
    def _posterior(self) -> Posterior | None:
        """Predictive variances of a joint fit; None for a model of atomic energies only."""
        if self.matches:
            return self.unmatched._posterior
        return None if self.joint is None else Posterior(self.joint, self.atoms)

    def _checked(self, positions: FloatArray) -> tuple[FloatArray, dict[int, Matching]]:
        """Geometries in the model's order and hand, and how those that were not had to be matched, by their index."""
        n = self.molecule.n_atoms
        array = np.asarray(positions, dtype=np.float64)
        if array.shape[-2:] != (n, 3):
            raise InputError("positions", f"shape (..., {n}, 3)", f"shape {array.shape}")
        flat = np.ascontiguousarray(array.reshape(-1, n, 3))
        if not flat.flags.writeable:  # for read-only arrays, numba would compile everything once more
            flat = flat.copy()
        if not np.isfinite(flat).all():
            raise GeometryError("positions", "finite numbers", "NaN or infinity", "the run before it went wrong")
        matchings = self._atom_order.match_positions(flat) if self.matches else {}
        if matchings:
            flat = flat.copy()
            for k, matching in matchings.items():
                flat[k] = matching.to_reference(flat[k])
            what = next(iter(matchings.values())).describe()
            if len(flat) > 1:
                what = f"{len(matchings)} of {len(flat)} geometries reordered or inverted (the first: {what})"
            text = f"positions: {what} to fit the model; results are in the order and hand given"
            warnings.warn(text, ReorderedAtomsWarning, stacklevel=4)
        axes = needs_axes(n, self.atoms[0].feature_kind)
        if axes and not smallest_sine(flat, self._arrays.frames) > LINEAR_SINE:
            check_local_frames(flat, [model.frame for model in self.atoms])
        return flat, matchings

    def _batch(self, positions: FloatArray) -> tuple[FloatArray, FloatArray]:
        flat, matchings = self._checked(positions)
        energies, gradient = np.empty(flat.shape[:2]), np.empty_like(flat)
        _compute_in_groups(forces.batch, flat, self._arrays, energies, gradient)
        self._check_results(gradient, flat)
        for k, matching in matchings.items():
            energies[k] = matching.numbers_from_reference(energies[k])
            gradient[k] = matching.from_reference(gradient[k])
        shape = np.shape(positions)
        return energies.reshape(shape[:-1]), gradient.reshape(shape)

    def _energies(self, positions: FloatArray, arrays: KernelArrays) -> FloatArray:
        """Atomic energies alone, or what the arrays give in their place."""
        flat, matchings = self._checked(positions)
        energies = np.empty(flat.shape[:2])
        _compute_in_groups(forces.batch_energies, flat, arrays, energies)
        self._check_results(energies, flat)
        for k, matching in matchings.items():
            energies[k] = matching.numbers_from_reference(energies[k])
        return energies.reshape(np.shape(positions)[:-1])

    def _check_results(self, results: FloatArray, positions: FloatArray) -> None:
        """Refuse geometries with two atoms on one spot, where the results are no finite numbers."""
        if not np.isfinite(results).all():
            for geometry in positions:
                check_positions(geometry, f"molecule {self.molecule.name!r}")


def _compute_in_groups(
    compute: Callable[..., None], positions: FloatArray, arrays: KernelArrays, *results: FloatArray
) -> None:
    """A compiled function of :mod:`fflux_py._compiled.forces` with groups of geometries on several threads."""
    n_groups = -(-len(positions) // forces.TOGETHER)
    threads = min(get_threads(), n_groups)
    if threads < 2:
        compute(positions, arrays, *results)
        return
    cuts = [slice(k * forces.TOGETHER, (k + 1) * forces.TOGETHER) for k in range(n_groups)]
    jobs = [_pool(threads).submit(compute, positions[c], arrays, *(result[c] for result in results)) for c in cuts]
    for job in jobs:
        job.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="forces")


os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork
