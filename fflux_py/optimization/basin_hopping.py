"""The minima of a force field, found by basin hopping.

From a minimum, some rotatable bonds turn by random angles, or all atoms are displaced at random; the geometry is moved
to where no pair of atoms is nearer or further than in the training data, and minimised.  The search goes on from the
new minimum by Metropolis' rule (Li and Scheraga, PNAS 84, 6611 (1987); Wales and Doye, J. Phys. Chem. A 101, 5111
(1997)).  A minimum where the model knows nothing (:mod:`fflux_py.optimization.known_region`) is none.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from fflux_py.errors import ConvergenceError, GeometryError, InputError
from fflux_py.forcefield import ForceField
from fflux_py.gp.distance_ranges import distances
from fflux_py.molecules.bond_rotation import rotate_about_bond
from fflux_py.molecules.molecule import Molecule
from fflux_py.optimization.known_region import KnownRegion, OutsideTrainingWarning
from fflux_py.optimization.search import OptimizationResult, optimize, optimize_to_minimum
from fflux_py.optimization.training_range import distance_ranges, move_into_ranges
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM, BOLTZMANN, EV_ANGSTROM, KCAL_MOL

Progress = Callable[[int, int], None]

SAME_ENERGY: Final = 0.02 / KCAL_MOL
"""Hartree: two minima further apart are two."""
SAME_DISTANCES: Final = 0.05 / ANGSTROM
"""Bohr: root mean square difference of the sorted distances of two copies of one minimum."""
_MOST_TURNS: Final = 3
# Of a molecule with rotatable bonds: how often all atoms are displaced instead, for rings and pyramids.
_DISPLACED_SHARE: Final = 0.2
_DISPLACEMENT: Final = 0.25 / ANGSTROM
# Factor of the threshold of forces for a minimum that is new: on a flat torsion two searches would stop at two places.
_TIGHTER: Final = 0.1


@dataclass(frozen=True)
class BasinHoppingConfig:
    """Settings of :func:`find_minima`.

    Parameters
    ----------
    n_searches
        Minimisations, each from another start.
    temperature
        Of Metropolis' rule, K.
    window
        Minima that are further above the lowest are left out, hartree.
    fmax
        Converged when the norm of the force on every atom is below this, hartree/bohr.
    seed
        Seed of the random numbers.
    """

    n_searches: int = 100
    temperature: float = 1000.0
    window: float = 20.0 / KCAL_MOL
    fmax: float = 0.005 / EV_ANGSTROM
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_searches < 1:
            raise InputError("n_searches", "at least 1", str(self.n_searches))
        for name in ("temperature", "window", "fmax"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0.0):
                raise InputError(name, "a positive number", f"{value:g}")


@dataclass(frozen=True)
class Minimum:
    """A minimum of a force field.

    Parameters
    ----------
    molecule
        The molecule there.
    energy
        Hartree.
    lowest_wavenumber
        Of its harmonic vibrations, 1/cm: positive.
    n_found
        How many searches ended there.
    """

    molecule: Molecule
    energy: float
    lowest_wavenumber: float
    n_found: int = 1


@dataclass(frozen=True)
class MinimaFound:
    """What basin hopping has found.

    Parameters
    ----------
    minima
        From the lowest upwards.
    n_searches
        Minimisations done, that of the start included.
    last_new
        Number of the search that found the last new minimum: long before the end, hardly any is missing.
    n_outside
        Searches that ended where the model knows nothing.
    n_failed
        Searches that did not converge, or on no minimum.
    """

    minima: tuple[Minimum, ...]
    n_searches: int
    last_new: int
    n_outside: int
    n_failed: int

    @property
    def relative_energies(self) -> FloatArray:
        """Energies above the lowest, hartree, shape ``(n,)``."""
        energies = np.array([each.energy for each in self.minima])
        above: FloatArray = energies - energies.min()
        return above


def find_minima(
    forcefield: ForceField,
    start: Molecule,
    config: BasinHoppingConfig | None = None,
    progress: Progress | None = None,
) -> MinimaFound:
    """Search the minima of a force field.

    Parameters
    ----------
    forcefield
        The model.
    start
        A geometry of the model's molecule.  Minima are in its order of atoms and its hand.
    config
        Settings.
    progress
        Called with (searches done, searches in all).

    Raises
    ------
    ConvergenceError
        Not even the search from the start ended in a minimum that the model knows.
    ModelMismatchError
        ``start`` is another molecule.
    """
    config = config or BasinHoppingConfig()
    matching = forcefield.match(start)
    hopping = _Hopping(forcefield.unmatched, config)
    total = config.n_searches + 1
    current = hopping.search(matching.reorder(start))
    if current is None:
        raise ConvergenceError(
            f"the search from {start.name!r}", "a minimum that the model knows", "none",
            "start from a geometry nearer to the training data",
        )  # fmt: skip
    for number in range(config.n_searches):
        if progress is not None:
            progress(number + 1, total)
        found = hopping.search(hopping.moved(current.molecule))
        if found is not None and hopping.accepts(found.energy - current.energy):
            current = found
    if progress is not None:
        progress(total, total)
    result, back = hopping.result(), matching.inverse
    return replace(result, minima=tuple(replace(each, molecule=back.reorder(each.molecule)) for each in result.minima))


def same_minimum(first: Molecule, first_energy: float, second: Molecule, second_energy: float) -> bool:
    """Whether two minima (energies in hartree) are one, whatever the order of like atoms, and whichever the hand."""
    if abs(first_energy - second_energy) > SAME_ENERGY:
        return False
    difference = _sorted_distances(first) - _sorted_distances(second)
    return float(np.sqrt(np.mean(difference**2))) < SAME_DISTANCES


def _sorted_distances(molecule: Molecule) -> FloatArray:
    """Distances of all pairs (bohr), sorted among those of the same two elements, shape ``(n_pairs,)``."""
    i, j = np.triu_indices(molecule.n_atoms, 1)
    lengths = distances(np.array(molecule.positions))[i, j]
    numbers = np.sort(np.stack([np.array(molecule.numbers)[i], np.array(molecule.numbers)[j]]), axis=0)
    return np.asarray(lengths[np.lexsort((lengths, numbers[1], numbers[0]))])


class _Hopping:
    """The minima so far, and the random numbers."""

    def __init__(self, forcefield: ForceField, config: BasinHoppingConfig) -> None:
        self.forcefield, self.config = forcefield, config
        self.region, self.ranges = KnownRegion(forcefield), distance_ranges(forcefield)
        self.bonds: Sequence[tuple[int, int]] = [(j, k) for _, j, k, _ in forcefield.molecule.torsions(methyl=False)]
        self.rng = np.random.default_rng(config.seed)
        self.minima: list[Minimum] = []
        self.n_searches = self.last_new = self.n_outside = self.n_failed = 0

    def moved(self, molecule: Molecule) -> Molecule:
        """A random geometry next to a minimum."""
        if self.bonds and self.rng.random() > _DISPLACED_SHARE:
            count = int(self.rng.integers(1, min(_MOST_TURNS, len(self.bonds)) + 1))
            for index in self.rng.choice(len(self.bonds), count, replace=False):
                angle = float(self.rng.uniform(-np.pi, np.pi))
                molecule = molecule.with_positions(rotate_about_bond(molecule, self.bonds[int(index)], angle))
            return molecule
        noise = self.rng.standard_normal((molecule.n_atoms, 3)) * _DISPLACEMENT
        return molecule.with_positions(molecule.positions + noise)

    def accepts(self, rise: float) -> bool:
        """Metropolis' rule for an energy that rises by ``rise`` (hartree)."""
        return bool(self.rng.random() < np.exp(-max(rise, 0.0) / (BOLTZMANN * self.config.temperature)))

    def search(self, start: Molecule) -> Minimum | None:
        """The minimum next to a geometry; None if there is none that the model knows."""
        self.n_searches += 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", OutsideTrainingWarning)  # such an end is counted here
                # Rotations can leave like atoms in another order than the model's: the search matches them again.
                begin = start.with_positions(move_into_ranges(start.positions, *self.ranges))
                return self._ended_in(optimize(self.forcefield, begin, self.config.fmax))
        except (ConvergenceError, GeometryError):
            self.n_failed += 1
            return None

    def _ended_in(self, result: OptimizationResult) -> Minimum | None:
        """The minimum where a search has ended, known or new."""
        if not result.converged:
            self.n_failed += 1
            return None
        if self._is_outside(result):
            self.n_outside += 1
            return None
        known = self._met_again(result.molecule, result.energy)
        if known is not None:
            return known
        # Only what is new is worth a tight search and normal modes; from a saddle point the search goes on.
        result, modes = optimize_to_minimum(self.forcefield, result.molecule, _TIGHTER * self.config.fmax)
        if modes is None or modes.wavenumbers[0] < 0.0:
            self.n_failed += 1
            return None
        if self._is_outside(result):
            self.n_outside += 1
            return None
        known = self._met_again(result.molecule, result.energy)
        if known is not None:
            return known
        self.last_new = self.n_searches
        self.minima.append(Minimum(result.molecule, result.energy, float(modes.wavenumbers[0])))
        return self.minima[-1]

    def _is_outside(self, result: OptimizationResult) -> bool:
        molecule = self.forcefield.match_or_keep(result.molecule).reorder(result.molecule)
        return bool(self.region.objections(np.array(molecule.positions), result.energy))

    def _met_again(self, molecule: Molecule, energy: float) -> Minimum | None:
        for index, each in enumerate(self.minima):
            if same_minimum(each.molecule, each.energy, molecule, energy):
                self.minima[index] = replace(each, n_found=each.n_found + 1)
                return self.minima[index]
        return None

    def result(self) -> MinimaFound:
        """All minima within the window, the lowest first."""
        ordered = sorted(self.minima, key=lambda each: each.energy)
        kept = tuple(each for each in ordered if each.energy - ordered[0].energy <= self.config.window)
        return MinimaFound(kept, self.n_searches, self.last_new, self.n_outside, self.n_failed)
