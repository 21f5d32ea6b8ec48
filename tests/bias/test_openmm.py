"""Metadynamics of another program: OpenMM's ``Metadynamics`` on one torsion."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from tests.support.sampling_models import Springs, hydrogen_peroxide

with warnings.catch_warnings():
    # OpenMM's wrapper registers types in a way that Python warns about.
    warnings.simplefilter("ignore", DeprecationWarning)
    openmm = pytest.importorskip("openmm", reason="OpenMM is not installed")
    from openmm import app, unit

from fflux_py.bias import BiasSettings, CollectiveVariable, Grid, HillParameters, Metadynamics
from fflux_py.bias.free_energy import free_energy_of_hills
from fflux_py.bias.grid import grid_around
from fflux_py.units import ANGSTROM, BOLTZMANN, DALTON, KJ_MOL

TEMPERATURE, GAMMA, SIGMA, PACE = 600.0, 4.0, 0.3, 40
KT = BOLTZMANN * TEMPERATURE
BARRIER, TILT = 4.0 * KT, 2.0 * KT
HEIGHT = 0.3 * KT
POINTS = 241
NM = 0.1 * ANGSTROM
PHI = CollectiveVariable("torsion", (0, 1, 2, 3), "phi")


def system(springs: Springs, masses: np.ndarray) -> Any:
    """The springs as a system of OpenMM."""
    made = openmm.System()
    for mass in masses:
        made.addParticle(mass * DALTON)
    bonds = openmm.HarmonicBondForce()
    for (i, j), length in zip(springs.pairs, springs.lengths, strict=True):
        bonds.addBond(int(i), int(j), length * NM, springs.stiffness * KJ_MOL / NM**2)
    made.addForce(bonds)
    torsion = openmm.CustomTorsionForce("0.5*barrier*(1-cos(2*theta)) + 0.5*tilt*(1-cos(theta))")
    torsion.addGlobalParameter("barrier", BARRIER * KJ_MOL)
    torsion.addGlobalParameter("tilt", TILT * KJ_MOL)
    torsion.addTorsion(0, 1, 2, 3)
    made.addForce(torsion)
    return made


class Recorded(app.Metadynamics):  # type: ignore[misc, name-defined]
    """Keeps every hill that OpenMM puts down."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.hills: list[tuple[float, float]] = []

    def _addGaussian(self, position: Any, height: Any, context: Any) -> None:
        self.hills.append((float(position[0]), height.value_in_unit(unit.kilojoules_per_mole) / KJ_MOL))
        super()._addGaussian(position, height, context)


def run_openmm() -> tuple[Recorded, Any]:
    """80 000 steps of OpenMM: 2000 hills."""
    molecule = hydrogen_peroxide()
    springs = Springs(molecule, barrier=BARRIER, tilt=TILT)
    made = system(springs, molecule.masses)
    force = openmm.CustomTorsionForce("theta")
    force.addTorsion(0, 1, 2, 3)
    variable = app.BiasVariable(force, -np.pi, np.pi, SIGMA, True, POINTS)
    height = HEIGHT * KJ_MOL * unit.kilojoules_per_mole
    bias = Recorded(made, [variable], TEMPERATURE * unit.kelvin, GAMMA, height, PACE)
    integrator = openmm.LangevinMiddleIntegrator(TEMPERATURE, 20.0, 0.001)
    integrator.setRandomNumberSeed(3)
    topology = app.Topology()
    residue = topology.addResidue("HOOH", topology.addChain())
    for symbol in molecule.symbols:
        topology.addAtom(symbol, app.Element.getBySymbol(symbol), residue)
    platform = openmm.Platform.getPlatformByName("Reference")
    simulation = app.Simulation(topology, made, integrator, platform)
    simulation.context.setPositions(molecule.positions * NM)
    simulation.context.setVelocitiesToTemperature(TEMPERATURE, 5)
    bias.step(simulation, 80_000)
    return bias, simulation


@pytest.fixture(scope="module")
def finished() -> tuple[Recorded, Any]:
    return run_openmm()


def ours(grid: bool) -> Metadynamics:
    hills = HillParameters(HEIGHT, SIGMA, GAMMA, PACE)
    around = grid_around((PHI,), (SIGMA,), bins_per_sigma=10.0) if grid else None
    return BiasSettings((PHI,), hills, grid=around).build(TEMPERATURE)


@pytest.mark.parametrize("grid", [False, True])
def test_same_places_give_the_same_hills_and_free_energy(finished: tuple[Recorded, Any], grid: bool) -> None:
    """The hills follow from where they stand: heights, bias, forces and free energy of both programs agree."""
    theirs, simulation = finished
    bias = ours(grid)
    heights = np.array([bias.deposit_at(np.array([position])) for position, _ in theirs.hills])
    assert len(heights) == 2000
    assert heights.min() < 0.5 * heights.max()
    np.testing.assert_allclose(heights, [height for _, height in theirs.hills], rtol=1e-5)
    # OpenMM's grid counts both ends of the circle.
    surface = free_energy_of_hills(bias.hills(1.0)[0], Grid((PHI,), (-np.pi,), (np.pi,), (POINTS - 1,)))
    reference = theirs.getFreeEnergy().value_in_unit(unit.kilojoules_per_mole)[:-1] / KJ_MOL
    np.testing.assert_allclose(surface.values, reference, atol=1e-6 * np.ptp(reference))
    group = {theirs._force.getForceGroup()}
    state = simulation.context.getState(positions=True, energy=True, forces=True, groups=group)
    x = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer) / NM
    energy, forces = bias.energy_and_forces(np.asarray(x))
    assert energy == pytest.approx(
        state.getPotentialEnergy().value_in_unit(unit.kilojoules_per_mole) / KJ_MOL, rel=1e-3
    )
    their_forces = state.getForces(asNumpy=True)
    their_forces = their_forces.value_in_unit(unit.kilojoules_per_mole / unit.nanometer) / KJ_MOL * NM
    assert np.abs(forces).max() > 1e-5
    np.testing.assert_allclose(forces, their_forces, atol=1e-3 * np.abs(forces).max())


def test_their_run_finds_the_free_energy_that_ours_finds(finished: tuple[Recorded, Any]) -> None:
    """Both against the torsion term, which is the free energy of this model exactly (ours: a test of its own)."""
    theirs, _ = finished
    points = np.linspace(-np.pi, np.pi, POINTS)
    found = theirs.getFreeEnergy().value_in_unit(unit.kilojoules_per_mole) / KJ_MOL / KT
    exact = Springs(hydrogen_peroxide(), BARRIER, TILT).torsion_term(points) / KT
    # 0.10 kT with this seed.
    assert np.std(found - exact) < 0.3
