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
from fflux_py._compiled.network import N_RADIAL, Network
from fflux_py._compiled.taught_mean import TaughtMeanArrays, taught_batch
from fflux_py.errors import InputError
from fflux_py.files import arrays_sha256
from fflux_py.gp.prior_mean import needs_isolated
from fflux_py.molecules.molecule import read_only
from fflux_py.typing import FloatArray

# Fields of the terms and of the network that are numbers of atoms, bonds or classes.
_INDICES = ("bonds", "angles", "planes", "pairs", "classes", "pair_classes")


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
        wrong = _wrong_shape(self.arrays) or _wrong_index(self.arrays)
        if wrong:
            raise InputError("taught mean", "arrays of one network and its terms", f"{wrong} that does not fit")

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


def _wrong_shape(arrays: TaughtMeanArrays) -> str:
    """Name of an array of another shape or type than the compiled code reads; empty if there is none."""
    terms, network = arrays.terms, arrays.network
    n, bonds, angles = len(network.classes), len(terms.bonds), len(terms.angles)
    planes, pairs = len(terms.planes), len(terms.pairs)
    of_terms = {
        "bonds": (bonds, 2), "bond_lengths": (bonds,), "bond_exponents": (bonds,), "bond_constants": (bonds, 2),
        "angles": (angles, 4), "angle_cosines": (angles,), "angle_constants": (angles, 2),
        "planes": (planes, 3), "plane_constants": (planes,),
        "pairs": (pairs, 2), "pair_factors": (pairs,), "pair_decays": (pairs,),
    }  # fmt: skip
    if (network.radial.ndim, network.last.ndim) != (3, 2) or network.last.shape[1] % 4:
        return f"a network with weights of shapes {network.radial.shape} and {network.last.shape}"
    if not 0 <= network.n_vectors <= network.radial.shape[2]:
        return f"a network with {network.n_vectors} vectors"
    width, (classes, hidden) = network.radial.shape[2], network.last.shape
    inputs = width - network.n_vectors + network.n_vectors * (network.n_vectors + 1) // 2
    of_network = {
        "classes": (n,), "pair_classes": (n, n), "means": (n, n), "inverse_widths": (n, n),
        "radial": (len(network.radial), N_RADIAL, width), "first": (classes, inputs + -inputs % 4, hidden),
        "first_bias": (classes, hidden), "second": (classes, hidden, hidden), "second_bias": (classes, hidden),
        "last": (classes, hidden),
    }  # fmt: skip
    for part, shapes in ((terms, of_terms), (network, of_network)):
        for name, shape in shapes.items():
            array = getattr(part, name)
            if array.shape != shape or array.dtype.kind != ("i" if name in _INDICES else "f"):
                return f"{name} of {array.dtype} and shape {array.shape}"
    return "" if arrays.constant.shape == (1,) else f"constant of shape {arrays.constant.shape}"


def _wrong_index(arrays: TaughtMeanArrays) -> str:
    """Name of an array with a number of an atom, bond or class that there is not; empty if there is none."""
    terms, network = arrays.terms, arrays.network
    n, bonds = len(network.classes), len(terms.bonds)
    tables = {
        "bonds": (terms.bonds, n),
        "pairs": (terms.pairs, n),
        "angles": (terms.angles[:, :2], bonds),
        "planes": (terms.planes, bonds),
        "classes": (network.classes, len(network.last)),
        "pair_classes": (network.pair_classes, len(network.radial)),
    }
    for name, (indices, count) in tables.items():
        if not ((indices >= 0) & (indices < count)).all():
            return f"{name} beyond the {count} that there are"
    return "angles without a direction" if (np.abs(terms.angles[:, 2:]) != 1).any() else ""
