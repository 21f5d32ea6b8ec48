"""What guards do besides stopping, heavier hydrogen, and memory that does not grow."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from numba import njit

from fflux_py.dynamics import CompiledPotential, GuardConfig, GuardEvent, GuardTripped, MDConfig, run_nvt, run_replicas
from fflux_py.dynamics.guards import EXIT_CODES, Inspector
from fflux_py.errors import ConvergenceError, FFLUXError, InputError
from fflux_py.molecules import mechanics
from fflux_py.molecules.dataset import GeometrySet
from fflux_py.molecules.molecule import Molecule
from fflux_py.units import ANGSTROM, DALTON, KCAL_MOL
from tests.support.compiled_potentials import ammonia, ammonia_morse, carbon_dioxide, hydrogen_chloride
from tests.support.synthetic import fitted, methanol


def read_events(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "events.csv").read_text())))


def test_exit_codes_are_of_their_own() -> None:
    assert len(set(EXIT_CODES.values())) == len(EXIT_CODES)
    assert not {0, 1, FFLUXError.exit_code, ConvergenceError.exit_code, 130} & set(EXIT_CODES.values())


def test_a_bond_that_is_only_told_does_not_stop_the_run(tmp_path: Path) -> None:
    narrow = {"bond_shortest": 0.97, "bond_longest": 1.03}
    seen: list[GuardEvent] = []
    config = MDConfig(steps=300, seed=3, guards=GuardConfig(bond="warn", **narrow))
    run = run_nvt(ammonia_morse(), ammonia(), config, tmp_path / "warn", on_event=seen.append)
    free = run_nvt(ammonia_morse(), ammonia(), dataclasses.replace(config, guards=GuardConfig()))
    assert np.array_equal(run.potential, free.potential)
    rows = read_events(tmp_path / "warn")
    assert len(rows) == len(seen) > 3
    assert {(row["guard"], row["action"]) for row in rows} == {("bond", "warn")}
    # the first step of a block, and how many of its steps
    assert all(1 <= event.count <= 10 and (event.step - 1) // 10 * 10 + event.count <= event.step + 9 for event in seen)
    for event in seen:
        atoms = [int(name[1:]) - 1 for name in event.place.removeprefix("bond ").split("-")]
        length = np.linalg.norm(event.positions[atoms[0]] - event.positions[atoms[1]]) * ANGSTROM
        assert length == pytest.approx(event.value, abs=1e-12)
        reference = np.linalg.norm(ammonia().positions[atoms[0]] - ammonia().positions[atoms[1]]) * ANGSTROM
        assert not 0.97 < length / reference < 1.03
    assert not (tmp_path / "warn" / "flagged.extxyz").exists()


def test_saved_frames_can_be_labelled(tmp_path: Path) -> None:
    guards = GuardConfig(bond="save", bond_shortest=0.97, bond_longest=1.03)
    config = MDConfig(steps=300, seed=3, guards=guards, replicas=2)
    seen: list[GuardEvent] = []
    run_replicas(ammonia_morse(), ammonia(), config, tmp_path / "run", on_event=seen.append)
    for r in (0, 1):
        flagged = GeometrySet.read(tmp_path / "run" / f"replica-{r:03d}" / "flagged.extxyz")
        events = [event for event in seen if event.replica == r]
        assert len(flagged) == len(events)
        assert set(flagged.source) == {f"nvt-300K-s3-r{r}-bond"}
        assert set(flagged.split) == {"train"}
        assert np.abs(flagged.positions - np.array([event.positions for event in events])).max() < 1e-13


LIMITS: dict[str, dict[str, float]] = {
    "bond": {"bond_shortest": 0.98, "bond_longest": 1.02},
    "contact": {"contact_distance": 0.95},
    "conserved": {"conserved_jump": 1e-5},
    "features": {"features_margin": 1e-4},
    "deviation": {"deviation_limit": 1e-6},
}


@pytest.mark.parametrize("action", ["off", "warn", "save", "stop"])
@pytest.mark.parametrize("name", LIMITS)
def test_every_guard_does_everything(tmp_path: Path, name: str, action: str) -> None:
    """Five guards and four actions on one run; what is not asked for is off, so that nothing else interferes."""
    off = dict.fromkeys(LIMITS, "off")
    guards = GuardConfig(**{**off, name: action}, **LIMITS[name], every=20)  # type: ignore[arg-type]
    config = MDConfig(steps=200, temperature=1200.0, seed=4, guards=guards)
    seen: list[GuardEvent] = []
    stop: GuardTripped | None = None
    try:
        run_nvt(fitted(), methanol(), config, tmp_path, on_event=seen.append)
    except GuardTripped as error:
        stop = error
    assert {(event.kind, event.action) for event in seen} == ({(name, action)} if action != "off" else set())
    assert {(row["guard"], row["action"]) for row in read_events(tmp_path)} == {(e.kind, e.action) for e in seen}
    assert (stop is not None) == (tmp_path / "stopped.extxyz").exists() == (action == "stop")
    assert (tmp_path / "final.extxyz").exists() == (action != "stop")
    assert (tmp_path / "flagged.extxyz").exists() == (action == "save")
    if action == "save":
        assert len(GeometrySet.read(tmp_path / "flagged.extxyz")) == len(seen) > 0
    if stop is not None:
        assert stop.exit_code == EXIT_CODES[name]
        assert len(seen) == 1


@njit(cache=True)
def stepped(positions, arrays):
    """A spring with a step in its energy, which no force tells of: what a discontinuous model does."""
    d = positions[0] - positions[1]
    r = np.sqrt((d * d).sum())
    energy = 0.5 * arrays.depth[0] * (r - arrays.length[0]) ** 2
    forces = np.zeros_like(positions)
    forces[0] = -arrays.depth[0] * (r - arrays.length[0]) * d / r
    forces[1] = -forces[0]
    if r > arrays.length[0] + 0.05:
        energy += arrays.exponent[0]
    return energy, forces


def step_potential(height_kcal_mol: float) -> CompiledPotential:
    base = hydrogen_chloride()
    arrays = base.arrays._replace(depth=np.array([0.3]), exponent=np.array([height_kcal_mol / KCAL_MOL]))
    return CompiledPotential(base.molecule, stepped, arrays)


@pytest.mark.parametrize("thermostat", ["none", "nose-hoover", "langevin"])
def test_a_jump_of_the_conserved_quantity_is_seen_where_it_is(thermostat: str) -> None:
    config = MDConfig(steps=2000, temperature=600.0, thermostat=thermostat, timestep=0.25, seed=2,
                      guards=GuardConfig(conserved="stop", conserved_jump=2.0))  # fmt: skip
    start = hydrogen_chloride().molecule
    with pytest.raises(GuardTripped, match="conserved quantity: expected a change by at most 2 kcal/mol") as stop:
        run_nvt(step_potential(3.0), start, config)
    assert (stop.value.kind, stop.value.exit_code) == ("conserved", 7)
    assert stop.value.frame is not None
    length = np.linalg.norm(stop.value.frame.positions[0] - stop.value.frame.positions[1])
    edge = hydrogen_chloride().arrays.length[0] + 0.05
    assert abs(length - edge) < 0.03  # within a step of the edge
    run_nvt(step_potential(1.0), start, config)  # a step below the limit, up and down again


def test_features_outside_the_data_and_large_deviations_are_seen() -> None:
    forcefield = fitted()
    inspector = Inspector(forcefield, GuardConfig(features="warn", deviation="warn", features_margin=0.2))
    inside = methanol().positions
    velocities = np.zeros_like(inside)
    assert list(inspector.events(inside, velocities, 0, 0, 0.0)) == []
    far = inside.copy()
    far[5] += 2.0 * (far[5] - far[1])
    events = {event.kind: event for event in inspector.events(far, velocities, 3, 70, 35.0)}
    assert set(events) == {"features", "deviation"}
    assert "H6" in events["features"].place or "O2" in events["features"].place
    assert events["features"].value == pytest.approx(inspector.excess(far[None]).max())
    assert events["deviation"].value == pytest.approx(forcefield.unmatched.atomic_deviations(far).max() * KCAL_MOL)
    assert (events["deviation"].replica, events["deviation"].step) == (3, 70)
    assert inspector.excess(forcefield.molecule.positions[None]).shape == (1, 6)


def test_a_bare_potential_has_no_training_data_to_compare_with() -> None:
    config = MDConfig(steps=10, guards=GuardConfig(deviation="warn"))
    with pytest.raises(InputError, match="a force field, which knows its training data"):
        run_nvt(ammonia_morse(), ammonia(), config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bond": "explode"}, "guard bond: expected one of off, warn, save, stop, found 'explode'"),
        ({"bond_longest": 0.9}, "guards.bond_shortest and bond_longest: expected one number below 1 and one above"),
        ({"contact_distance": 0.0}, "guards.contact_distance: expected a positive number, found 0"),
        ({"deviation_limit": float("nan")}, "guards.deviation_limit: expected a positive number"),
        ({"every": 0}, "guards.every: expected a whole number of at least 1, found 0"),
    ],
)
def test_wrong_guards(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as error:
        GuardConfig(**settings)  # type: ignore[arg-type]
    assert str(error.value).startswith(message)


def test_heavier_hydrogen_keeps_the_mass_of_the_molecule() -> None:
    molecule = methanol()
    masses = mechanics.masses(molecule, 3.0) * DALTON
    assert masses.sum() == pytest.approx(molecule.masses.sum() * DALTON, rel=1e-14)
    hydrogen = molecule.numbers == 1
    assert masses[hydrogen] == pytest.approx(3.0)
    gained = 3.0 - molecule.masses[hydrogen][0] * DALTON
    assert masses[0] == pytest.approx(molecule.masses[0] * DALTON - 3 * gained)  # the carbon of the methyl group
    assert masses[1] == pytest.approx(molecule.masses[1] * DALTON - gained)
    assert np.array_equal(mechanics.masses(molecule), molecule.masses)
    with pytest.raises(InputError, match="heavy atoms that stay heavier than hydrogen"):
        mechanics.masses(molecule, 4.4)
    with pytest.raises(InputError, match="H1 without one"):
        mechanics.masses(Molecule(("H", "H"), np.array([[0.0, 0, 0], [1.4, 0, 0]])), 3.0)
    with pytest.raises(InputError, match=r"1 to 4\.5 Da"):
        MDConfig(steps=1, hydrogen_mass=0.5)


def test_heavier_hydrogen_conserves_energy_better_at_the_same_step() -> None:
    spreads = []
    for mass in (None, 3.0):
        config = MDConfig(steps=2000, timestep=1.0, thermostat="none", exact_temperature=True, hydrogen_mass=mass)
        spreads.append(run_nvt(ammonia_morse(), ammonia(), config).conserved.std())
    # the error goes with the square of the fastest vibration, here by about 14/17 x 3
    assert 1.7 < spreads[0] / spreads[1] < 4.0


def test_masses_of_the_molecule_do_not_change_without_hydrogen() -> None:
    potential = carbon_dioxide()
    assert np.array_equal(mechanics.masses(potential.molecule, 3.0), potential.molecule.masses)


def resident_kb() -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc on this system")
def test_a_run_that_writes_files_does_not_grow_in_memory(tmp_path: Path) -> None:
    seen: list[int] = []
    config = MDConfig(steps=24_000, report_every=1, checkpoint_every=5000)
    run_nvt(ammonia_morse(), ammonia(), config, tmp_path / "run", lambda done, _: _every(done, seen))
    # its frames and lines are 3.3 MB in memory
    assert max(seen[2:]) - seen[2] < 1024


def _every(done: int, seen: list[int]) -> None:
    if done % 3000 == 0:
        seen.append(resident_kb())
