"""The force field inside OpenMM gives our energies and forces, and OpenMM's integrator conserves them."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from fflux_py.errors import MissingDependencyError, ModelMismatchError
from fflux_py.interfaces.openmm_force import openmm_force, openmm_system
from fflux_py.units import ANGSTROM, DALTON, KCAL_MOL, KJ_MOL
from tests.support.synthetic import fitted, methanol, sample

NANOMETER = 0.1 * ANGSTROM


def context_of(system, timestep_fs: float = 0.5):
    openmm = pytest.importorskip("openmm")
    integrator = openmm.VerletIntegrator(timestep_fs * openmm.unit.femtosecond)
    return openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference")), integrator


def test_energies_and_forces_are_ours_to_float_precision() -> None:
    openmm = pytest.importorskip("openmm")
    forcefield = fitted()
    context, _ = context_of(openmm_system(forcefield))
    for positions in sample(5, seed=8):
        context.setPositions(positions * NANOMETER)
        state = context.getState(energy=True, forces=True)
        energy, forces = forcefield.energy_and_forces(positions)
        unit = openmm.unit
        theirs = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        assert theirs == pytest.approx(energy * KJ_MOL, rel=1e-13)
        got = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
        assert np.abs(got - forces * KJ_MOL / NANOMETER).max() < 1e-9 * np.abs(got).max()


def test_masses_are_those_of_the_molecule() -> None:
    pytest.importorskip("openmm")
    system = openmm_system(fitted())
    masses = [system.getParticleMass(i)._value for i in range(system.getNumParticles())]
    assert masses == pytest.approx(methanol().masses * DALTON, rel=1e-12)


def test_openmm_conserves_the_energy_of_our_force_field() -> None:
    openmm = pytest.importorskip("openmm")
    spreads = []
    for timestep in (0.5, 0.25):
        context, integrator = context_of(openmm_system(fitted()), timestep)
        context.setPositions(methanol().positions * NANOMETER)
        context.setVelocitiesToTemperature(300.0, 5)
        energies = []
        for _ in range(round(50.0 / timestep)):
            integrator.step(1)
            state = context.getState(energy=True)
            total = state.getPotentialEnergy() + state.getKineticEnergy()
            energies.append(total.value_in_unit(openmm.unit.kilojoule_per_mole))
        spreads.append(float(np.std(energies)) / KJ_MOL * KCAL_MOL)
    assert spreads[0] < 0.2
    assert spreads[0] / spreads[1] == pytest.approx(4.0, rel=0.25)


def test_a_system_of_other_atoms_is_refused() -> None:
    openmm = pytest.importorskip("openmm")
    system = openmm.System()
    for _ in range(4):
        system.addParticle(1.0)
    system.addForce(openmm_force(fitted()))
    context, _ = context_of(system)
    context.setPositions(np.eye(4, 3))
    with pytest.raises((ModelMismatchError, openmm.OpenMMException), match="6 atoms as in the model"):
        context.getState(energy=True)


def test_without_openmm_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openmm", None)
    with pytest.raises(MissingDependencyError, match=r"fflux_py\[openmm\]"):
        openmm_force(fitted())
