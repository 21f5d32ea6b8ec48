"""Regions of the Ramachandran map, and which molecules are achiral.

The regions (:data:`REGIONS`) are the nine squares of 120 degrees around the staggered torsions -60, 60 and 180 degrees
of both bonds: the topology of A. Perczel et al., J. Am. Chem. Soc. 113, 6256 (1991), whose conformers have one square
each.  They cover the whole map, and the mirror image of a region is a region.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from fflux_py.molecules.molecule import Molecule, Torsion, read_only
from fflux_py.molecules.symmetry import find_symmetry
from fflux_py.typing import FloatArray, IntArray

_THIRD: Final = 2.0 * np.pi / 3.0


@dataclass(frozen=True)
class Region:
    """A square of the map.

    Parameters
    ----------
    name
        Name for files and programs.
    label
        The usual name, for tables and pictures.
    topology
        Name in the nomenclature of Perczel et al.
    phi, psi
        Limits in degrees, the lower one included; 120 to 240 goes across 180.
    """

    name: str
    label: str
    topology: str
    phi: tuple[float, float]
    psi: tuple[float, float]

    @property
    def centre(self) -> tuple[float, float]:
        """Centre in degrees, 180 included."""
        return (self.phi[0] + self.phi[1]) / 2.0, (self.psi[0] + self.psi[1]) / 2.0


_PLUS, _ANTI, _MINUS = (0.0, 120.0), (120.0, 240.0), (-120.0, 0.0)

REGIONS: Final = (
    Region("C7eq", "C7eq", "gamma L", _MINUS, _PLUS),
    Region("C5", "C5", "beta L", _ANTI, _ANTI),
    Region("PII", "PII", "epsilon L", _MINUS, _ANTI),
    Region("alphaR", "αR", "alpha L", _MINUS, _MINUS),
    Region("beta2", "β2", "delta L", _ANTI, _PLUS),
    Region("C7ax", "C7ax", "gamma D", _PLUS, _MINUS),
    Region("PII-mirror", "PII′", "epsilon D", _PLUS, _ANTI),
    Region("alphaL", "αL", "alpha D", _PLUS, _PLUS),
    Region("alpha-prime", "α′", "delta D", _ANTI, _MINUS),
)
"""The nine regions."""

_THIRDS: Final = (_PLUS, _ANTI, _MINUS)
# Number of the region of every pair of thirds (0 to 120, 120 to 240, 240 to 360 degrees).
_NUMBER: Final = read_only(
    [[[(r.phi, r.psi) for r in REGIONS].index((a, b)) for b in _THIRDS] for a in _THIRDS], np.int64
)
MIRROR: Final = read_only([int(_NUMBER[2 - _THIRDS.index(r.phi), 2 - _THIRDS.index(r.psi)]) for r in REGIONS], np.int64)
"""Number of the mirror image of every region."""


def region_numbers(phi: FloatArray, psi: FloatArray) -> IntArray:
    """Index in :data:`REGIONS` of every pair of torsions (radian)."""
    thirds = [np.floor(np.mod(angle, 2.0 * np.pi) / _THIRD).astype(np.int64) % 3 for angle in (phi, psi)]
    return np.asarray(_NUMBER[thirds[0], thirds[1]])


def is_achiral(molecule: Molecule, pair: tuple[Torsion, Torsion]) -> bool:
    """Whether the molecule is its own mirror image with both torsions mapped onto themselves, as capped glycine is.

    Then (phi, psi) and (-phi, -psi) are equally likely.
    """
    operations = find_symmetry(molecule)
    atoms = np.array(sorted({atom for torsion in pair for atom in torsion}))
    return any(
        bool(mirror) and bool((permutation[atoms] == atoms).all())
        for permutation, mirror in zip(operations.permutations, operations.mirrors, strict=True)
    )


def populations_of_cells(probability: FloatArray) -> FloatArray:
    """Populations of the regions, ``(b, 9)``, from those of cells ``(b, n, m)``.

    A cell across a border counts by its parts.
    """
    phi, psi = (_shares_of_thirds(n) for n in probability.shape[1:])
    thirds = np.einsum("bnm,ni,mj->bij", probability, phi, psi)
    regions = np.zeros((len(probability), len(REGIONS)))
    regions[:, _NUMBER.ravel()] = thirds.reshape(len(probability), -1)
    return regions


def _shares_of_thirds(n: int) -> FloatArray:
    """What share of each of n cells lies in each third of the circle, ``(n, 3)``."""
    step = 2.0 * np.pi / n
    centres = np.mod(-np.pi + step * np.arange(n), 2.0 * np.pi)
    shares = np.zeros((n, 3))
    for third in range(3):
        for turn in (-1, 0, 1):
            low, high = _THIRD * third + 2.0 * np.pi * turn, _THIRD * (third + 1) + 2.0 * np.pi * turn
            inside = np.minimum(centres + 0.5 * step, high) - np.maximum(centres - 0.5 * step, low)
            shares[:, third] += np.maximum(inside, 0.0) / step
    return shares
