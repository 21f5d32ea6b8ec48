"""Minimisation of the energy of a molecule.

The optimiser sees a :class:`~fflux_py.molecules.potential.PotentialEnergy` and nothing of what is behind it.  Three
methods:

``newton``
    Newton steps within a trust radius, with second derivatives by differences of forces every fifth step
    (:mod:`fflux_py.optimization.newton`): for energy functions that give the forces of many geometries at little cost.
``internal``
    Quasi-Newton steps in translation-rotation-internal coordinates by geomeTRIC (Wang and Song, J. Chem. Phys. 144,
    214108 (2016)), an optional package, which this module alone imports.
``bfgs``
    Quasi-Newton steps in Cartesian coordinates by ASE, which is always there.

On GFN2-xTB and to 1e-4 hartree/bohr, ``internal`` needs 24-28 evaluations for malondialdehyde and 57-76 for alanine
dipeptide, ``bfgs`` 82-94 and 134-200.  ``auto`` takes ``newton`` for a force field (whatever has a method ``compute``
for many geometries), else ``internal`` where geomeTRIC is installed: a step of ``internal`` takes some 40 ms for 9
atoms, hundreds of times as long as a force field's forces (``benchmarks/speed/optimizers.py``).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, Final

import numpy as np

from fflux_py.errors import ConvergenceError, GeometryError, InputError, MissingDependencyError
from fflux_py.forcefield import ForceField
from fflux_py.molecules.matching import Matching
from fflux_py.molecules.molecule import Molecule, read_only
from fflux_py.molecules.normal_modes import NormalModes, hessian, normal_modes
from fflux_py.molecules.potential import PotentialEnergy, energy_of
from fflux_py.optimization.known_region import KnownRegion, OutsideTrainingWarning
from fflux_py.optimization.newton import newton_steps
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM, EV, EV_ANGSTROM

Progress = Callable[[int, int], None]

MOST_SADDLE_POINTS: Final = 3
"""Saddle points that :func:`optimize_to_minimum` leaves."""

_DISPLACEMENT: Final = 0.03
"""Bohr by which the atom that moves most is displaced off a saddle point."""

_TIGHTER: Final = 0.1
"""Factor of the threshold after a saddle point: on a flat one a search would stop again at once."""

METHODS: Final = ("auto", "newton", "internal", "bfgs")

# geomeTRIC's own criteria are switched off by zeros; ours decides.  The energy's is kept far below any chemistry, as
# geomeTRIC also uses it to tell noise from a rejected step.
_GEOMETRIC_CRITERIA: Final = {
    "convergence_energy": 1e-10,
    "convergence_grms": 0.0,
    "convergence_gmax": 0.0,
    "convergence_drms": 0.0,
    "convergence_dmax": 0.0,
    "tmin": 1e-4,
}


@dataclass(frozen=True)
class OptimizationResult:
    """A minimum, or how far the search for it came.

    Parameters
    ----------
    molecule
        The molecule at the final geometry: the last one if converged, else that of lowest energy.
    energy
        Its energy in hartree.
    largest_force
        The largest norm of the force on an atom there, hartree/bohr.
    converged
        Whether that is below the threshold.
    method
        ``"newton"``, ``"internal"`` or ``"bfgs"``.
    n_steps, n_evaluations
        Steps taken and energies computed.
    n_hessians
        Hessians computed, each from the forces of ``3 n_atoms + 1`` further geometries.
    positions, energies, largest_forces
        All evaluated geometries in their order: bohr, ``(k, n_atoms, 3)``; hartree, ``(k,)``; hartree/bohr, ``(k,)``.
    """

    molecule: Molecule
    energy: float
    largest_force: float
    converged: bool
    method: str
    n_steps: int
    n_evaluations: int
    n_hessians: int
    positions: FloatArray
    energies: FloatArray
    largest_forces: FloatArray

    def __post_init__(self) -> None:
        for name in ("positions", "energies", "largest_forces"):
            object.__setattr__(self, name, read_only(getattr(self, name)))

    def in_order_of(self, matching: Matching) -> OptimizationResult:
        """The same with all geometries in the order and hand that ``matching`` brought to those of the search."""
        if matching.identity:
            return self
        back = matching.inverse
        return replace(self, molecule=back.reorder(self.molecule), positions=back.to_reference(self.positions))

    def then(self, following: OptimizationResult) -> OptimizationResult:
        """Where another search ended that went on from this one, with the steps and geometries of both."""
        return replace(
            following,
            n_steps=self.n_steps + following.n_steps,
            n_evaluations=self.n_evaluations + following.n_evaluations,
            n_hessians=self.n_hessians + following.n_hessians,
            positions=np.concatenate([self.positions, following.positions]),
            energies=np.concatenate([self.energies, following.energies]),
            largest_forces=np.concatenate([self.largest_forces, following.largest_forces]),
        )


def optimize(
    potential: PotentialEnergy,
    start: Molecule,
    fmax: float = 1e-4,
    max_steps: int = 500,
    method: str = "auto",
    progress: Progress | None = None,
) -> OptimizationResult:
    """Search the minimum next to ``start``.

    Parameters
    ----------
    potential
        The energy function.  A force field matches the atoms of ``start`` with its own; results are in the order and
        hand of ``start``.
    start
        Start geometry, at least two atoms.
    fmax
        Converged when the norm of the force on every atom is below this (hartree/bohr; 1e-4 is 0.005 eV/angstrom).
        Ten times this stops the softest torsions half way.
    max_steps
        Largest number of steps.
    method
        ``"newton"``, ``"internal"``, ``"bfgs"``, or ``"auto"``: the first for a force field, else the second if
        geomeTRIC is installed, else the third.
    progress
        Called with (steps done, largest number of steps) after every step.

    Returns
    -------
    OptimizationResult
        With ``converged`` false if ``max_steps`` did not suffice.

    Warns
    -----
    OutsideTrainingWarning
        The search with a force field ended where the model knows nothing: that is no minimum.

    Raises
    ------
    ConvergenceError
        The energy or a force is not a finite number, or the search reached a geometry without an energy.
    MissingDependencyError
        ``method="internal"`` without geomeTRIC.
    """
    _check_settings(start, fmax, max_steps, method)
    forcefield, matching = None, None
    if isinstance(potential, ForceField):  # what the search does on its way is not looked at
        forcefield, matching = potential, potential.match_or_keep(start)
        potential, start = potential.unmatched, matching.reorder(start)
    if method == "auto":
        method = "internal" if find_spec("geometric") is not None else "bfgs"
        method = "newton" if hasattr(potential, "compute") else method
    record = _Record(potential, start)
    record(start.positions)
    if method == "newton":
        steps = newton_steps(start.positions, record, record.hessian)
    else:
        steps = _internal_steps(record) if method == "internal" else _cartesian_steps(record)
    n_steps = 0
    while n_steps < max_steps and record.largest_forces[-1] >= fmax:
        next(steps)
        n_steps += 1
        if progress is not None:
            progress(n_steps, max_steps)
    result = record.result(fmax, method, n_steps)
    if forcefield is None or matching is None:
        return result
    if result.converged:
        region = KnownRegion(forcefield)
        objections = region.objections(np.array(result.molecule.positions), result.energy, matching.order)
        if objections:
            text = f"the search ended outside of the model's training data: {'; '.join(objections)}"
            warnings.warn(text, OutsideTrainingWarning, stacklevel=2)
    return result.in_order_of(matching)


def optimize_to_minimum(
    potential: PotentialEnergy,
    start: Molecule,
    fmax: float = 1e-4,
    max_steps: int = 500,
    method: str = "auto",
    progress: Progress | None = None,
) -> tuple[OptimizationResult, NormalModes | None]:
    """Search a minimum, and go on from a saddle point: a search that begins near a ridge may end on it.

    As long as the lowest mode where a search has ended is imaginary, the next one begins a little along it, on the side
    where the energy is lower, and comes ten times closer; at most :data:`MOST_SADDLE_POINTS` times.  Arguments and
    errors are those of :func:`optimize`.

    Returns
    -------
    result, modes
        All searches as one, and the normal modes where it ended; None if the last did not converge.
    """
    result = optimize(potential, start, fmax, max_steps, method, progress)
    for left in range(MOST_SADDLE_POINTS, -1, -1):
        if not result.converged:
            return result, None
        molecule = result.molecule
        modes = normal_modes(potential, np.array(molecule.positions), molecule.masses)
        if modes.wavenumbers[0] >= 0.0 or not left:
            break
        along = modes.vectors[:, 0].reshape(-1, 3) / np.sqrt(molecule.masses)[:, None]
        along *= _DISPLACEMENT / np.abs(along).max()
        sides = [molecule.positions + along, molecule.positions - along]
        lower = min(sides, key=lambda positions: energy_of(potential, positions))
        fmax *= _TIGHTER
        following = optimize(potential, start.with_positions(lower), fmax, max_steps, method, progress)
        result = result.then(following)
    return result, modes


def _check_settings(start: Molecule, fmax: float, max_steps: int, method: str) -> None:
    if not np.isfinite(fmax) or fmax <= 0.0:
        raise InputError("fmax", "a positive force", f"{fmax:g}")
    if isinstance(max_steps, bool) or max_steps != int(max_steps) or max_steps < 0:
        raise InputError("max_steps", "a whole number of at least 0", repr(max_steps))
    if method not in METHODS:
        raise InputError("method", f"one of {', '.join(METHODS)}", repr(method))
    if start.n_atoms < 2:
        raise InputError("start geometry", "at least two atoms", str(start.n_atoms))


class _Record:
    """Calls the energy function and keeps what it gave."""

    def __init__(self, potential: PotentialEnergy, start: Molecule) -> None:
        self._potential = potential
        self.start = start
        self.positions: list[FloatArray] = []
        self.energies: list[float] = []
        self.forces: list[FloatArray] = []
        self.largest_forces: list[float] = []
        self.n_hessians = 0

    def __call__(self, positions: FloatArray) -> tuple[float, FloatArray]:
        """Energy and forces; the last geometry, also after a change of unit there and back, is not computed twice."""
        positions = np.array(positions, dtype=np.float64).reshape(-1, 3)
        if self.positions and np.abs(positions - self.positions[-1]).max() < 1e-12:
            return self.energies[-1], self.forces[-1]
        try:
            energy, forces = self._potential.energy_and_forces(positions)
        except GeometryError as error:
            if not self.energies:  # the start itself
                raise
            raise self._error(f"{error.where}: {error.expected}", error.found) from error
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            raise self._error("a finite energy and forces", "NaN or infinity")
        self.positions.append(positions)
        self.energies.append(float(energy))
        self.forces.append(np.asarray(forces))
        self.largest_forces.append(float(np.linalg.norm(forces, axis=1).max()))
        return self.energies[-1], self.forces[-1]

    def hessian(self, positions: FloatArray) -> FloatArray:
        """Second derivatives of the energy there."""
        try:
            second = hessian(self._potential, positions, central=False)
        except GeometryError as error:
            raise self._error(f"{error.where}: {error.expected}", error.found) from error
        if not np.isfinite(second).all():
            raise self._error("finite forces", "NaN or infinity")
        self.n_hessians += 1
        return second

    def _error(self, expected: str, found: str) -> ConvergenceError:
        where = f"optimisation of {self.start.name!r}, evaluation {len(self.energies) + 1}"
        remedy = "the search left what the energy function knows: start elsewhere or train on more geometries"
        return ConvergenceError(where, expected, found, remedy)

    def result(self, fmax: float, method: str, n_steps: int) -> OptimizationResult:
        """The last geometry if it is converged, else the lowest."""
        converged = self.largest_forces[-1] < fmax
        best = len(self.energies) - 1 if converged else int(np.argmin(self.energies))
        return OptimizationResult(
            molecule=self.start.with_positions(self.positions[best]),
            energy=self.energies[best],
            largest_force=self.largest_forces[best],
            converged=converged,
            method=method,
            n_steps=n_steps,
            n_evaluations=len(self.energies),
            n_hessians=self.n_hessians,
            positions=np.array(self.positions),
            energies=np.array(self.energies),
            largest_forces=np.array(self.largest_forces),
        )


class _AseCalculator:
    """What ASE's optimiser asks of a calculator: eV and angstrom on its side, hartree and bohr on ours."""

    def __init__(self, record: _Record) -> None:
        self._record = record

    def get_potential_energy(self, atoms: Any = None, force_consistent: bool = False) -> float:
        """Energy in eV."""
        return self._record(atoms.positions / ANGSTROM)[0] * EV

    def get_forces(self, atoms: Any = None) -> FloatArray:
        """Forces in eV/angstrom."""
        return np.asarray(self._record(atoms.positions / ANGSTROM)[1] * EV_ANGSTROM)


def _cartesian_steps(record: _Record) -> Iterator[None]:
    """ASE's BFGS, one step for each item."""
    from ase import Atoms
    from ase.optimize import BFGS

    atoms: Any = Atoms(record.start.symbols, positions=record.start.positions * ANGSTROM)
    atoms.calc = _AseCalculator(record)
    search: Any = BFGS(atoms, logfile=None)
    while True:
        search.step()
        record(atoms.positions / ANGSTROM)
        yield


class _GeometricEngine:
    """What geomeTRIC's optimiser asks of its engine; writes no files."""

    def __init__(self, record: _Record) -> None:
        self._record = record

    def calc(self, coords: FloatArray, dirname: object, read_data: bool = False) -> dict[str, object]:
        """Energy (hartree) and gradient (hartree/bohr, flat) at flat coordinates in bohr."""
        energy, forces = self._record(coords.reshape(-1, 3))
        return {"energy": energy, "gradient": -forces.ravel()}

    def clearCalcs(self) -> None:
        """Nothing is stored here."""

    def load_guess_files(self, dirname: object) -> None:
        """There are none."""

    def save_guess_files(self, dirname: object) -> None:
        """There are none."""


def _internal_steps(record: _Record) -> Iterator[None]:
    """The optimiser of geomeTRIC, one step for each item."""
    try:
        from geometric.internal import DelocalizedInternalCoordinates
        from geometric.molecule import Molecule as Topology
        from geometric.optimize import OPT_STATE, Optimizer
        from geometric.params import OptParams
    except ImportError as error:
        raise MissingDependencyError(
            "method 'internal'", "the package geometric", "it is not installed", "pip install 'fflux_py[optimize]'"
        ) from error
    start = record.start
    topology = Topology()
    topology.elem = list(start.symbols)
    topology.xyzs = [start.positions * ANGSTROM]
    with _silent():
        topology.build_topology()
        coordinates = DelocalizedInternalCoordinates(topology, build=True, connect=False, addcart=False)
        parameters = OptParams(maxiter=10**9, **_GEOMETRIC_CRITERIA)
        search = Optimizer(
            start.positions.ravel().copy(),
            topology,
            coordinates,
            _GeometricEngine(record),
            None,
            parameters,
            print_info=False,
        )
        search.calcEnergyForce()
        search.prepareFirstStep()
    while True:
        with _silent():
            search.step()
            # a step that only rebuilt the coordinates moved nothing
            if search.state == OPT_STATE.NEEDS_EVALUATION:
                search.calcEnergyForce()
                search.evaluateStep()
        yield


@contextmanager
def _silent() -> Iterator[None]:
    """Keep geomeTRIC from logging every step."""
    logger = logging.getLogger("geometric.nifty")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
