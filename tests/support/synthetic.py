"""A small molecule with an analytic potential of its own, and force fields genuinely fitted to it.

Methanol: Morse bonds, angles harmonic in their cosine, a threefold torsion and a soft repulsion between the hydroxyl
and the methyl hydrogens.  The energy is the sum of atomic energies: every atom carries its isolated energy and its
share of each term (a bond: one half for each end; an angle: half for the middle, a quarter for each end; a torsion:
a quarter each; a repulsion: one half each).  Everything is computed from these formulas, in atomic units; nothing is
read.  Not a model of real methanol, but its frequencies, distances and barriers have the right size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from fflux_py.forcefield import ForceField
from fflux_py.gp.atomic_model import AtomicModel, fit_weights
from fflux_py.gp.covariance import Azimuth, Covariance
from fflux_py.gp.features import FeatureKind, FeatureSet, features
from fflux_py.gp.prior_mean import prior_mean
from fflux_py.gp.radial_kernel import KERNELS
from fflux_py.gp.weights import PlainWeights
from fflux_py.molecules.dataset import Dataset, GeometrySet
from fflux_py.molecules.local_frame import LocalFrame, cip_local_frames
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM, BOLTZMANN

ISOLATED = {"C": -37.80, "O": -75.02, "H": -0.50}
"""Energies of the isolated atoms, hartree: the limit in which all Morse bonds are broken."""

_SYMBOLS = ("C", "O", "H", "H", "H", "H")
# C, O, then the methyl hydrogens (the first anti to the hydroxyl hydrogen), then the hydroxyl hydrogen; angstrom.
_START = (
    (-0.0646, 0.6657, 0.0000),
    (-0.0374, -0.7551, 0.0000),
    (-1.1030, 1.0079, 0.0000),
    (0.4410, 1.0436, 0.8933),
    (0.4410, 1.0436, -0.8933),
    (0.8802, -1.0446, 0.0000),
)


@dataclass(frozen=True)
class MethanolPotential:
    """The analytic potential; satisfies :class:`fflux_py.molecules.potential.PotentialEnergy`.

    Parameters
    ----------
    barrier
        Barrier of the methyl rotation, hartree.
    """

    barrier: float = 0.004
    # (i, j, depth, exponent, length)
    bonds: tuple[tuple[int, int, float, float, float], ...] = (
        (0, 1, 0.140, 1.07, 2.682),
        *((0, h, 0.165, 0.99, 2.066) for h in (2, 3, 4)),
        (1, 5, 0.172, 1.18, 1.817),
    )
    # (end, middle, end, constant, cosine at the minimum)
    angles: tuple[tuple[int, int, int, float, float], ...] = (
        *((1, 0, h, 0.20, -0.33) for h in (2, 3, 4)),
        *((g, 0, h, 0.15, -0.33) for g, h in ((2, 3), (2, 4), (3, 4))),
        (0, 1, 5, 0.20, -0.31),
    )
    torsions: tuple[tuple[int, int, int, int], ...] = ((2, 0, 1, 5), (3, 0, 1, 5), (4, 0, 1, 5))
    repulsions: tuple[tuple[int, int], ...] = ((2, 5), (3, 5), (4, 5))
    symbols: tuple[str, ...] = _SYMBOLS
    isolated: dict[str, float] = field(default_factory=lambda: dict(ISOLATED))

    def atomic_energies(self, positions: FloatArray) -> FloatArray:
        """Atomic energies in hartree, shape ``(..., 6)``, at positions in bohr, shape ``(..., 6, 3)``."""
        return self._evaluate(positions)[0]

    def energy_and_forces(self, positions: FloatArray) -> tuple[float, FloatArray]:
        """Energy (hartree) and forces (hartree/bohr) of one geometry (bohr)."""
        energies, gradient = self._evaluate(positions)
        return float(energies.sum()), -gradient

    def compute(self, positions: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Energies and forces of any number of geometries."""
        energies, gradient = self._evaluate(positions)
        return energies.sum(-1), -gradient

    def _evaluate(self, positions: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Atomic energies and the gradient of their sum."""
        r = np.asarray(positions, dtype=np.float64)
        energies = np.zeros(r.shape[:-1]) + np.array([self.isolated[s] for s in self.symbols])
        gradient = np.zeros_like(r)
        for i, j, depth, exponent, length in self.bonds:
            d, unit = _distance(r, i, j)
            decay = np.exp(-exponent * (d - length))
            _share(energies, depth * ((1.0 - decay) ** 2 - 1.0), {i: 0.5, j: 0.5})
            _pull(gradient, unit, 2.0 * depth * exponent * (1.0 - decay) * decay, i, j)
        for i, j in self.repulsions:
            d, unit = _distance(r, i, j)
            value = 1.2 * np.exp(-1.9 * d)
            _share(energies, value, {i: 0.5, j: 0.5})
            _pull(gradient, unit, -1.9 * value, i, j)
        for i, j, k, constant, at_minimum in self.angles:
            (ri, ui), (rk, uk) = _distance(r, i, j), _distance(r, k, j)
            cosine = (ui * uk).sum(-1)
            _share(energies, 0.5 * constant * (cosine - at_minimum) ** 2, {i: 0.25, j: 0.5, k: 0.25})
            slope = (constant * (cosine - at_minimum))[..., None]
            pull_i = slope * (uk - cosine[..., None] * ui) / ri[..., None]
            pull_k = slope * (ui - cosine[..., None] * uk) / rk[..., None]
            gradient[..., i, :] += pull_i
            gradient[..., k, :] += pull_k
            gradient[..., j, :] -= pull_i + pull_k
        for torsion in self.torsions:
            cosine, by_positions = _torsion_cosine(r, torsion)
            scale = self.barrier / len(self.torsions) / 2.0
            value = scale * (1.0 + 4.0 * cosine**3 - 3.0 * cosine)  # (barrier / 2)(1 + cos 3 phi)
            _share(energies, value, dict.fromkeys(torsion, 0.25))
            slope = (scale * (12.0 * cosine**2 - 3.0))[..., None]
            for atom, derivative in zip(torsion, by_positions, strict=True):
                gradient[..., atom, :] += slope * derivative
        return energies, gradient


def _distance(r: FloatArray, i: int, j: int) -> tuple[FloatArray, FloatArray]:
    """Length and unit vector of R_i - R_j."""
    d = r[..., i, :] - r[..., j, :]
    length = np.linalg.norm(d, axis=-1)
    return length, d / length[..., None]


def _share(energies: FloatArray, value: FloatArray, shares: dict[int, float]) -> None:
    for atom, share in shares.items():
        energies[..., atom] += share * value


def _pull(gradient: FloatArray, unit: FloatArray, slope: FloatArray, i: int, j: int) -> None:
    gradient[..., i, :] += slope[..., None] * unit
    gradient[..., j, :] -= slope[..., None] * unit


def _torsion_cosine(r: FloatArray, torsion: Sequence[int]) -> tuple[FloatArray, tuple[FloatArray, ...]]:
    """Cosine of a dihedral angle and its derivatives by the four positions."""
    i, j, k, last = (r[..., atom, :] for atom in torsion)
    b1, b2, b3 = j - i, k - j, last - k
    m, n = np.cross(b1, b2), np.cross(b2, b3)
    length_m = np.linalg.norm(m, axis=-1, keepdims=True)
    length_n = np.linalg.norm(n, axis=-1, keepdims=True)
    cosine = (m * n).sum(-1, keepdims=True) / (length_m * length_n)
    by_m = (n / length_n - cosine * m / length_m) / length_m
    by_n = (m / length_m - cosine * n / length_n) / length_n
    by_b1, by_b2, by_b3 = np.cross(b2, by_m), np.cross(by_m, b1) + np.cross(b3, by_n), np.cross(by_n, b2)
    return cosine[..., 0], (-by_b1, by_b1 - by_b2, by_b2 - by_b3, by_b3)


def methanol() -> Molecule:
    """Methanol near the minimum of :class:`MethanolPotential`."""
    return Molecule(_SYMBOLS, np.array(_START) / ANGSTROM, name="methanol")


def malondialdehyde() -> Molecule:
    """Keto malondialdehyde, O=CH-CH2-CH=O, in a standard geometry: for connectivity, frames and torsions."""
    atoms = (
        ("O", (-2.299, -0.575, 0.000)),
        ("C", (-1.272, 0.044, 0.000)),
        ("C", (0.000, -0.786, 0.000)),
        ("C", (1.272, 0.044, 0.000)),
        ("O", (2.299, -0.575, 0.000)),
        ("H", (-1.248, 1.152, 0.000)),
        ("H", (0.000, -1.440, 0.880)),
        ("H", (0.000, -1.440, -0.880)),
        ("H", (1.248, 1.152, 0.000)),
    )
    positions = np.array([xyz for _, xyz in atoms]) / ANGSTROM
    return Molecule(tuple(symbol for symbol, _ in atoms), positions, name="malondialdehyde")


_WALKERS = 20


@cache
def _trajectories(n: int, temperature: float, seed: int) -> FloatArray:
    """BAOAB Langevin dynamics of twenty walkers side by side, a frame every 15 fs after 150 fs."""
    molecule, potential = methanol(), MethanolPotential()
    rng = np.random.default_rng(seed)
    masses = molecule.masses[:, None]
    step, friction, stride, equilibration = 30.0, 2e-3, 20, 200  # 0.73 fs; 1/(12 fs)
    damping = np.exp(-friction * step)
    kick = np.sqrt((1.0 - damping**2) * BOLTZMANN * temperature / masses)
    r = np.repeat(molecule.positions[None], _WALKERS, axis=0)
    v = np.sqrt(BOLTZMANN * temperature / masses) * rng.standard_normal(r.shape)
    forces = potential.compute(r)[1]
    frames: list[FloatArray] = []
    steps = 0
    while len(frames) * _WALKERS < n:
        v += 0.5 * step * forces / masses
        r = r + 0.5 * step * v
        v = damping * v + kick * rng.standard_normal(r.shape)
        r = r + 0.5 * step * v
        forces = potential.compute(r)[1]
        v += 0.5 * step * forces / masses
        steps += 1
        if steps > equilibration and steps % stride == 0:
            frames.append(r - r.mean(axis=1, keepdims=True))
    return np.concatenate(frames)[:n]


def sample(n: int, temperature: float = 500.0, seed: int = 1) -> FloatArray:
    """Positions (bohr, ``(n, 6, 3)``) of canonical geometries of the potential."""
    return _trajectories(n, temperature, seed).copy()


def label(
    positions: FloatArray, source: str = "nvt-500K-s1", split: str = "train", temperature: float = 500.0
) -> Dataset:
    """The data set of these geometries with the potential's own energies, forces and atomic energies."""
    m = len(positions)
    energies, forces = MethanolPotential().compute(positions)
    molecule = methanol()
    return Dataset(
        geometries=GeometrySet(molecule, positions, (source,) * m, np.full(m, temperature), (split,) * m, {"seed": 1}),
        energies=energies,
        forces=forces,
        atomic_energies=MethanolPotential().atomic_energies(positions),
        atomic_errors=np.zeros((m, molecule.n_atoms)),
        charges=np.zeros((m, molecule.n_atoms)),
        metadata={"method": "analytic", "basis": "none", "partition": "terms"},
        isolated_energies=ISOLATED,
    )


def fit(
    dataset: Dataset,
    kind: FeatureKind = "unit-vector",
    kernel: str = "squared-exponential",
    azimuth: Azimuth = "periodic",
    mean: str = "MF5",
    noise: float = 1e-10,
    inverse_width: float = 0.005,
    frames: Sequence[LocalFrame] | None = None,
) -> ForceField:
    """An exact Gaussian process for every atomic energy, with theta_h = ``inverse_width`` / variance(feature h).

    The widths come from this rule of thumb and not from a likelihood, so that the core is tested without the trainer.
    """
    molecule = dataset.molecule
    models = []
    for a, frame in enumerate(frames or cip_local_frames(molecule)):
        x = features(dataset.positions, frame, kind)
        y = dataset.atomic_energies[:, a]
        azimuths = FeatureSet(kind, molecule.n_atoms).azimuths
        variance = x.var(axis=0)
        variance[azimuths] = 1.0 - np.abs(np.exp(1j * x[:, azimuths]).mean(axis=0)) ** 2  # circular
        covariance = Covariance(inverse_width / variance, azimuths, KERNELS[kernel], azimuth)
        w_y, w_1, jitter = fit_weights(covariance, x, y, noise)
        value = prior_mean(mean, y, dataset.isolated_energies[molecule.symbols[a]], w_y, w_1)
        models.append(
            AtomicModel(
                frame=frame, feature_kind=kind, covariance=covariance, points=x, energies=y,
                weights=PlainWeights(w_y, w_1, float(y.mean())),
                mean_name=mean, mean=value, variance=float(y.var()), noise=noise + jitter, jitter=jitter,
            )
        )  # fmt: skip
    return ForceField(molecule, tuple(models), dataset.isolated_energies, {"data_digest": dataset.digest()})


@cache
def fitted(n_train: int = 240, kind: FeatureKind = "unit-vector", mean: str = "MF5") -> ForceField:
    """A force field good enough for dynamics at 300 K, fitted in a second; the same object at every call.

    Half of its training geometries are canonical at 500 K and half at 1000 K.
    """
    half = n_train // 2
    return fit(label(np.concatenate([sample(half), sample(n_train - half, 1000.0, seed=2)])), kind, mean=mean)
