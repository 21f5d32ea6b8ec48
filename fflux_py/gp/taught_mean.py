"""A prior mean of the total energy that was taught by a cheap level of theory.

The prior means of :mod:`fflux_py.gp.prior_mean` are one number for each atom: far from the data nothing is left of the
molecule.  Here the mean is a function of all positions: classical terms and a small network
(:mod:`fflux_py._compiled.taught_mean`) that were fitted to many labels of, say, GFN2-xTB.  The Gaussian process learns
what is missing, from labels of both levels at the training geometries: not the error of the network, which is rough and
which few labels cannot learn.

An atom's energy is that of its Gaussian process and a share of the mean.  The shares add up to one.  They are a choice:
the cheap level has no atomic energies that mean the same as those of the labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from fflux_py._compiled.classical_terms import ClassicalTerms
from fflux_py._compiled.network import Network
from fflux_py._compiled.taught_mean import TaughtMeanArrays, taught_batch
from fflux_py.errors import InputError
from fflux_py.files import arrays_sha256
from fflux_py.gp.prior_mean import needs_isolated
from fflux_py.molecules.molecule import read_only
from fflux_py.typing import FloatArray


@dataclass(frozen=True)
class TaughtMean:
    """A taught mean.

    Parameters
    ----------
    arrays
        What it is computed from.
    level
        Level of theory that taught it, for example ``"GFN2-xTB"``.
    shares
        Share of every atom in the mean, shape ``(n_atoms,)``, adding up to one; None: equal shares.

    Raises
    ------
    InputError
        Shares that do not add up to one, or arrays that do not belong together.
    """

    arrays: TaughtMeanArrays
    level: str
    shares: FloatArray | None = None

    def __post_init__(self) -> None:
        network = self.arrays.network
        n = len(network.classes)
        shares = read_only(np.full(n, 1.0 / max(n, 1)) if self.shares is None else self.shares)
        object.__setattr__(self, "shares", shares)
        if shares.shape != (n,) or not abs(shares.sum() - 1.0) < 1e-9:
            raise InputError("shares", f"{n} numbers that add up to 1", f"{shares}")
        inputs = network.radial.shape[2] - network.n_vectors + network.n_vectors * (network.n_vectors + 1) // 2
        hidden = network.last.shape[1]
        classes = network.last.shape[0]
        fits = (
            network.pair_classes.shape == network.means.shape == network.inverse_widths.shape == (n, n)
            and network.first.shape == (classes, inputs + -inputs % 4, hidden)
            and network.second.shape == (classes, hidden, hidden)
            and network.first_bias.shape == network.second_bias.shape == (classes, hidden)
            and hidden % 4 == 0
            and 0 <= network.classes.min() <= network.classes.max() < classes
            and 0 <= network.pair_classes.min() <= network.pair_classes.max() < len(network.radial)
            and self.arrays.constant.shape == (1,)
        )
        indices = (self.arrays.terms.bonds, self.arrays.terms.pairs)
        of_bonds = (self.arrays.terms.angles[:, :2], self.arrays.terms.planes)
        fits = fits and all(_within(k, n) for k in indices)
        fits = fits and all(_within(k, len(self.arrays.terms.bonds)) for k in of_bonds)
        if not fits:
            raise InputError("taught mean", "arrays of one network and its terms", "shapes that do not fit together")

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.arrays.network.classes)

    def energies_and_forces(self, positions: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Energies (hartree, ``(m,)``) and forces (hartree/bohr) of geometries (bohr), shapes ``(m, n_atoms, 3)``."""
        geometries = np.array(positions, dtype=np.float64, order="C")
        energies, gradient = np.empty(len(geometries)), np.empty_like(geometries)
        taught_batch(geometries, self.arrays, energies, gradient)
        return energies, -gradient

    def energy_and_forces(self, positions: FloatArray) -> tuple[float, FloatArray]:
        """Energy (hartree) and forces (hartree/bohr) of one geometry (bohr), shape ``(n_atoms, 3)``."""
        energies, forces = self.energies_and_forces(np.asarray(positions)[None])
        return float(energies[0]), forces[0]

    def shifted(self, energy: float) -> TaughtMean:
        """The mean plus a constant (hartree)."""
        constant = self.arrays.constant + energy
        return replace(self, arrays=self.arrays._replace(constant=constant))

    def with_shares(self, shares: FloatArray) -> TaughtMean:
        """The same mean, divided among the atoms in another way."""
        return replace(self, shares=np.asarray(shares))

    def entries(self) -> dict[str, np.ndarray]:
        """All arrays by their names in files; :meth:`from_entries` is the way back."""
        arrays = {f"terms/{k}": v for k, v in self.arrays.terms._asdict().items()}
        arrays |= {f"network/{k}": np.asarray(v) for k, v in self.arrays.network._asdict().items()}
        return arrays | {"constant": self.arrays.constant, "shares": np.asarray(self.shares)}

    def digest(self) -> str:
        """SHA-256 of all arrays."""
        return arrays_sha256(self.entries())

    @classmethod
    def from_entries(cls, entries: Mapping[str, np.ndarray], level: str) -> TaughtMean:
        """The mean with these arrays.

        Raises
        ------
        KeyError
            An array is missing.
        InputError
            Arrays that do not belong together.
        """
        terms = ClassicalTerms(**{k: _array(entries[f"terms/{k}"]) for k in ClassicalTerms._fields})
        network = {k: _array(entries[f"network/{k}"]) for k in Network._fields if k != "n_vectors"}
        n_vectors = int(entries["network/n_vectors"])
        arrays = TaughtMeanArrays(terms, Network(**network, n_vectors=n_vectors), _array(entries["constant"]))
        return cls(arrays, level, _array(entries["shares"]))


def check_beside_taught_mean(name: str) -> None:
    """Refuse a prior mean of atoms that has no meaning beside a taught mean.

    Raises
    ------
    InputError
        MF5, the isolated atoms' energies: they are no energies of a difference.
    """
    if needs_isolated(name):
        raise InputError("prior mean", "one of the training data beside a taught mean, like MF2", name)


def _array(values: np.ndarray) -> np.ndarray:
    """A copy that can be written to (compiled code is then of one type), as whole numbers or as float64."""
    kind = np.int64 if values.dtype.kind in "iu" else np.float64
    return np.array(values, dtype=kind, order="C")


def _within(indices: np.ndarray, count: int) -> bool:
    return bool(((indices >= 0) & (indices < count)).all())
