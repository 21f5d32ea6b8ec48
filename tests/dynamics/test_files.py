"""Files of a run, guards, refusals, reproducibility."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import struct
import subprocess
import sys
from pathlib import Path

import ase.io
import ase.units
import numpy as np
import pytest

from fflux_py import dynamics
from fflux_py.dynamics import GuardConfig, GuardTripped, MDConfig, Trajectory, resume, run_nvt, run_replicas
from fflux_py.dynamics.checkpoint import read_newest_checkpoint
from fflux_py.dynamics.dcd import DCDWriter, header, read_dcd
from fflux_py.dynamics.line_file import LineFile
from fflux_py.dynamics.thermostats import THERMOSTATS
from fflux_py.dynamics.trajectory import COLUMNS, read_thermo
from fflux_py.errors import FFLUXError, FileFormatError, GeometryError, InputError, InputWarning, ModelMismatchError
from fflux_py.molecules import mechanics
from fflux_py.molecules.dataset import GeometrySet
from fflux_py.molecules.extended_xyz import read_frames, read_molecule
from fflux_py.molecules.molecule import Molecule
from fflux_py.molecules.normal_modes import normal_modes, read_modes
from fflux_py.units import ANGSTROM, BOLTZMANN, EV, FEMTOSECOND, KCAL_MOL
from tests.support.compiled_potentials import Pairs, ammonia, ammonia_morse, hydrogen_chloride, poisoned
from tests.support.paths import REPOSITORY
from tests.support.synthetic import fitted, methanol


def run_in(folder: Path | None, **settings: object) -> Trajectory:
    config = MDConfig(**{"steps": 200, "temperature": 300.0, "timestep": 0.5, "seed": 7, **settings})
    return run_nvt(ammonia_morse(), ammonia(), config, folder)


def test_trajectory_is_read_by_mdtraj(tmp_path: Path) -> None:
    mdtraj = pytest.importorskip("mdtraj")
    run = run_in(tmp_path / "run")
    with mdtraj.formats.DCDTrajectoryFile(str(tmp_path / "run" / "trajectory.dcd")) as file:
        xyz, lengths, _ = file.read()
    assert xyz.shape == run.positions.shape == (21, 4, 3)
    assert np.abs(xyz - run.positions * ANGSTROM).max() < 1e-6
    assert lengths is None or not np.any(lengths)


def test_trajectory_header_is_charmm(tmp_path: Path) -> None:
    run_in(tmp_path / "run")
    data = (tmp_path / "run" / "trajectory.dcd").read_bytes()
    assert struct.unpack_from("<i4s4i", data) == (84, b"CORD", 21, 0, 10, 200)
    assert struct.unpack_from("<f", data, 44)[0] * 48.88821 == pytest.approx(0.5, rel=1e-5)  # CHARMM's time unit, fs
    assert struct.unpack_from("<i", data, 48)[0] == 0  # no unit cell
    assert struct.unpack_from("<ii", data, 84) == (24, 84)


def test_counters_of_a_long_run_stay_at_their_largest(tmp_path: Path) -> None:
    path, largest = tmp_path / "t.dcd", 2**31 - 1
    with DCDWriter(path, 2, 1000, 20.67, "t") as writer:
        writer.n_frames = 2_147_484  # 1.07 microseconds
        writer.write(np.ones((2, 3)))
        assert struct.unpack_from("<4i", path.read_bytes(), 8) == (2_147_485, 0, 1000, largest)
        writer.n_frames = largest
        writer.write(np.ones((2, 3)))
        assert struct.unpack_from("<4i", path.read_bytes(), 8) == (largest, 0, 1000, largest)
    assert read_dcd(path).positions.shape == (2, 2, 3)
    assert struct.unpack_from("<4i", header(2, 1000, 20.67, "t", 3_000_000), 8) == (3_000_000, 0, 1000, largest)


def test_an_interval_that_the_trajectory_cannot_hold_keeps_its_time(tmp_path: Path) -> None:
    run_in(tmp_path / "run", steps=10, report_every=2**31)
    file = read_dcd(tmp_path / "run" / "trajectory.dcd")
    assert file.interval * file.timestep * FEMTOSECOND == pytest.approx(0.5 * 2**31, rel=1e-6)


def test_our_reader_gives_back_what_was_written(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run")
    file = read_dcd(tmp_path / "run" / "trajectory.dcd")
    assert np.abs(file.positions - run.positions).max() < 1e-6
    assert (file.interval, file.timestep * FEMTOSECOND) == (10, pytest.approx(0.5, rel=1e-6))
    again = Trajectory.read(tmp_path / "run")
    for name in ("times_fs", "potential", "kinetic", "conserved", "temperature"):
        assert np.array_equal(getattr(again, name), getattr(run, name))
    assert again.molecule.symbols == run.molecule.symbols


def test_thermo_log(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run")
    lines = (tmp_path / "run" / "thermo.csv").read_text().splitlines()
    assert lines[0] == (
        "step,time_fs,temperature_k,potential_hartree,kinetic_hartree,conserved_hartree,conserved_drift_kcal_mol"
    )
    table = read_thermo(tmp_path / "run" / "thermo.csv")
    assert tuple(table) == COLUMNS
    assert np.array_equal(table["step"], 10.0 * np.arange(21))
    assert np.allclose(table["time_fs"], 0.5 * table["step"])
    assert np.allclose(table["temperature_k"], 2.0 * table["kinetic_hartree"] / (6 * BOLTZMANN))
    assert np.allclose(
        table["conserved_drift_kcal_mol"], (run.conserved - run.conserved[0]) * KCAL_MOL, rtol=0, atol=1e-12
    )


def test_energies_are_those_of_the_frames() -> None:
    run = run_in(None)
    potential = ammonia_morse()
    for frame, energy in zip(run.positions, run.potential, strict=True):
        assert potential.force_function(np.array(frame), potential.arrays)[0] == pytest.approx(energy, abs=1e-14)


def test_description_start_and_end(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", steps=205)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["status"], record["steps_done"], record["degrees_of_freedom"]) == ("completed", 205, 6)
    assert record["config"] == dataclasses.asdict(MDConfig(steps=205, timestep=0.5, seed=7))
    assert record["model_sha256"] == ammonia_morse().digest()
    assert {"python", "numpy", "numba", "fflux_py"} <= set(record["versions"])
    low, high = record["guards"]["bond_limits_angstrom"]["N1-H2"]
    assert high == pytest.approx(3.0 * low)
    (start,) = read_frames(tmp_path / "run" / "start.extxyz")
    assert np.allclose(start.positions, ammonia().positions * ANGSTROM, rtol=0, atol=1e-13)
    (final,) = read_frames(tmp_path / "run" / "final.extxyz")
    # five steps after the last report: close to its frame, and not on it
    gap = np.abs(final.positions - run.positions[-1] * ANGSTROM).max()
    assert 1e-4 < gap < 0.3
    assert final.info["step"] == 205
    assert final.columns["velocities"].shape == (4, 3)


def test_final_velocities_go_on_from_the_final_positions(tmp_path: Path) -> None:
    run_in(tmp_path / "a", steps=200, thermostat="nose-hoover")
    run_in(tmp_path / "b", steps=201, thermostat="nose-hoover")
    before, after = (read_frames(tmp_path / name / "final.extxyz")[0] for name in "ab")
    moved = (after.positions - before.positions) / 0.5  # angstrom/fs
    mean = 0.5 * (before.columns["velocities"] + after.columns["velocities"])
    assert np.abs(moved - mean).max() < 0.02 * np.abs(moved).max()


@pytest.mark.parametrize("thermostat", THERMOSTATS)
def test_velocities_are_those_of_the_kinetic_energy(tmp_path: Path, thermostat: str) -> None:
    """In every report, in memory and in the file; in Langevin dynamics that is the middle of the step."""
    settings = {"thermostat": thermostat, "timestep": 1.0, "hydrogen_mass": 2.0}
    in_file = run_in(tmp_path / "run", **settings)
    in_memory = run_in(None, **settings)
    table = mechanics.masses(ammonia(), 2.0)
    for run, tolerance in ((in_file, 1e-6), (in_memory, 1e-12)):
        kinetic = [mechanics.kinetic_energy(velocities, table) for velocities in run.velocities]
        assert kinetic == pytest.approx(run.kinetic, rel=tolerance)
        for positions, velocities in zip(run.positions, run.velocities, strict=True):
            momentum = mechanics.angular_momentum(positions, velocities, table)
            assert np.abs(momentum).max() < 1e4 * tolerance
    assert np.abs(in_file.velocities - in_memory.velocities).max() < 1e-6 * np.abs(in_memory.velocities).max()


def test_normal_modes_are_kept(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", hydrogen_mass=3.0)
    expected = normal_modes(ammonia_morse(), ammonia().positions, mechanics.masses(ammonia(), 3.0))
    assert run.modes is not None
    assert run.modes.wavenumbers == pytest.approx(expected.wavenumbers, rel=1e-9)
    path = tmp_path / "run" / "normal_modes.npz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(FileFormatError, match=r"normal_modes\.npz"):
        read_modes(path)
    np.savez(path, positions=np.zeros((4, 3)), wavenumbers=np.zeros(5), vectors=np.zeros((12, 6)))
    with pytest.raises(FileFormatError, match="shapes"):
        read_modes(path)
    np.savez(path, positions=np.zeros((4, 3)), wavenumbers=np.full(6, np.nan), vectors=np.zeros((12, 6)))
    with pytest.raises(FileFormatError, match="no finite"):
        read_modes(path)


def test_a_run_of_an_earlier_version_has_no_velocities_and_goes_on(tmp_path: Path) -> None:
    """Its checkpoint knows of no such file, and none is made."""
    folder = tmp_path / "run"
    run_in(folder)
    whole = run_in(tmp_path / "whole", steps=400)
    earlier, _ = read_newest_checkpoint(folder)
    record = earlier.replicas[0]
    sizes = {name: size for name, size in record.sizes.items() if name != "velocities.dcd"}
    for old in folder.glob("checkpoint*"):
        old.unlink()
    dataclasses.replace(earlier, replicas=(dataclasses.replace(record, sizes=sizes),)).write(folder)
    for name in ("velocities.dcd", "normal_modes.npz"):
        (folder / name).unlink()
    (run,) = resume(ammonia_morse(), folder, 400)
    assert run.velocities is None
    assert run.modes is None
    assert not (folder / "velocities.dcd").exists()
    assert np.array_equal(run.positions, whole.positions)


@pytest.mark.parametrize("hydrogen_mass", [None, 3.0])
def test_ase_goes_on_with_the_final_velocities(tmp_path: Path, hydrogen_mass: float | None) -> None:
    run = run_in(tmp_path / "run", hydrogen_mass=hydrogen_mass, thermostat="nose-hoover")
    path = tmp_path / "run" / "final.extxyz"
    atoms = ase.io.read(path)
    assert atoms.get_kinetic_energy() == pytest.approx(run.kinetic[-1] * EV, rel=1e-6)
    assert atoms.get_masses()[1] == pytest.approx(hydrogen_mass or 1.008)
    (frame,) = read_frames(path)
    velocities = atoms.get_velocities() * ase.units.fs
    assert np.abs(velocities - frame.columns["velocities"]).max() < 1e-6 * np.abs(velocities).max()
    with pytest.warns(InputWarning) as told:
        assert read_molecule(path).n_atoms == 4
    assert sum("velocities and momenta" in str(w.message) for w in told) == 1
    assert len(told) == (1 if hydrogen_mass is None else 2)  # and the masses


def test_same_seed_same_bits_other_seed_other_run(tmp_path: Path) -> None:
    for name in ("a", "b"):
        run_in(tmp_path / name)
    run_in(tmp_path / "c", seed=8)
    for name in ("trajectory.dcd", "thermo.csv", "final.extxyz"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert (tmp_path / "a" / name).read_bytes() != (tmp_path / "c" / name).read_bytes()
    # how often is reported does not change the run
    assert np.array_equal(run_in(None).positions[::5], run_in(None, report_every=50).positions)


def test_replicas(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    config = MDConfig(steps=50, seed=7, replicas=3, timestep=0.5)
    runs = run_replicas(ammonia_morse(), ammonia(), config, tmp_path / "many", lambda *done: seen.append(done))
    assert seen[-1] == (150, 150)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    folders = ["replica-000", "replica-001", "replica-002"]
    names = ["checkpoint-previous.npz", "checkpoint.npz", *folders]
    assert sorted(p.name for p in (tmp_path / "many").iterdir()) == names
    alone = run_nvt(ammonia_morse(), ammonia(), dataclasses.replace(config, replicas=1))
    assert np.array_equal(alone.potential, runs[0].potential)
    assert np.abs(alone.positions - runs[0].positions).max() < 1e-6
    assert not np.allclose(runs[0].positions[-1], runs[1].positions[-1])
    assert not np.allclose(runs[1].positions[-1], runs[2].positions[-1])
    assert [run.replica for run in runs] == [0, 1, 2]


def test_bond_that_breaks_stops_the_run(tmp_path: Path) -> None:
    potential = hydrogen_chloride()
    weak = dataclasses.replace(potential, arrays=potential.arrays._replace(depth=np.array([1e-4])))
    molecule = potential.molecule
    with pytest.raises(GuardTripped) as stop:
        run_nvt(weak, molecule, MDConfig(steps=20_000, temperature=2000.0, timestep=1.0, seed=1), tmp_path / "run")
    assert (stop.value.exit_code, stop.value.kind) == (4, "bond")
    frame = read_frames(tmp_path / "run" / "stopped.extxyz")[0]
    length = np.linalg.norm(frame.positions[1] - frame.positions[0])
    reference = np.linalg.norm(molecule.positions[1] - molecule.positions[0]) * ANGSTROM
    assert length > 1.5 * reference
    assert str(stop.value) == (
        f"step {stop.value.step} ({stop.value.step} fs), bond H1-Cl2: expected {0.5 * reference:.3f} to "
        f"{1.5 * reference:.3f} angstrom (0.5 to 1.5 x its reference length), found {length:.3f} angstrom; the model "
        "left what it knows: label such frames and train on them, or lower temperature or time step; the frame is in "
        f"{tmp_path / 'run' / 'stopped.extxyz'}"
    )
    # what was reported before stays, and the frame can be labelled as it stands
    assert stop.value.trajectory is not None
    assert len(stop.value.trajectory) == len(read_thermo(tmp_path / "run" / "thermo.csv")["step"])
    assert stop.value.step == frame.info["step"] < 10 * len(stop.value.trajectory)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["status"], record["steps_done"]) == ("stopped", stop.value.step)
    assert "bond H1-Cl2" in record["message"]
    assert GeometrySet.read(tmp_path / "run" / "stopped.extxyz").temperature[0] == 2000.0
    assert not (tmp_path / "run" / "final.extxyz").exists()


def test_atoms_that_meet_stop_the_run() -> None:
    potential = ammonia_morse()
    length = potential.arrays.length.copy()
    length[3] = 0.3  # two hydrogens attract each other down to 0.16 angstrom
    depth = potential.arrays.depth.copy()
    depth[3] = 0.5
    pulled = dataclasses.replace(potential, arrays=potential.arrays._replace(length=length, depth=depth))
    with pytest.raises(
        GuardTripped, match=r"atoms H2-H3: expected at least 0.6 angstrom, found 0.5\d\d angstrom"
    ) as stop:
        run_nvt(pulled, ammonia(), MDConfig(steps=2000, timestep=0.2))
    assert (stop.value.kind, stop.value.exit_code) == ("contact", 5)
    assert stop.value.frame is not None


def test_energy_that_is_not_a_number_stops_the_run(tmp_path: Path) -> None:
    molecule = hydrogen_chloride().molecule
    limit = np.array([2.42])
    arrays = Pairs(np.array([[0, 1]]), limit, limit, limit)
    potential = dynamics.CompiledPotential(molecule, poisoned, arrays)
    with pytest.raises(GuardTripped, match="expected finite energy and coordinates, found NaN or infinity") as stop:
        run_nvt(potential, molecule, MDConfig(steps=2000, seed=5, timestep=0.1), tmp_path / "run")
    assert (stop.value.kind, stop.value.exit_code) == ("energy", 6)


def test_a_stopped_replica_does_not_stop_the_others(tmp_path: Path) -> None:
    molecule = hydrogen_chloride().molecule
    limit = np.array([2.42])
    potential = dynamics.CompiledPotential(molecule, poisoned, Pairs(np.array([[0, 1]]), limit, limit, limit))
    config = MDConfig(steps=20, seed=5, timestep=0.1, replicas=6, report_every=1)
    with pytest.raises(GuardTripped, match=r"^replica \d \(\d of 6 stopped\)") as stop:
        run_replicas(potential, molecule, config, tmp_path / "many")
    states = [json.loads((tmp_path / "many" / f"replica-{r:03d}" / "run.json").read_text())["status"] for r in range(6)]
    assert {*states} == {"stopped", "completed"}
    assert f"({states.count('stopped')} of 6" in str(stop.value)


_KILLED = """
import os, signal, sys
from pathlib import Path
from tests.support.compiled_potentials import ammonia, ammonia_morse
from fflux_py.dynamics import MDConfig, run_nvt
def kill(done, total):
    if done == 120:
        os.kill(os.getpid(), signal.SIGKILL)
run_nvt(ammonia_morse(), ammonia(), MDConfig(steps=200, timestep=0.5, seed=7), Path(sys.argv[1]), kill)
"""


def test_a_killed_run_leaves_what_can_be_read(tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(dynamics.__file__).parents[2]), str(REPOSITORY)])
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tmp_path / "run")], env={**os.environ, "PYTHONPATH": path}, check=False
    )
    assert done.returncode == -9
    killed, whole = Trajectory.read(tmp_path / "run"), run_in(None)
    assert len(killed) == 13
    assert np.array_equal(killed.conserved, whole.conserved[:13])
    assert np.abs(killed.positions - whole.positions[:13]).max() < 1e-6
    assert struct.unpack_from("<i", (tmp_path / "run" / "trajectory.dcd").read_bytes(), 8)[0] == 13
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "running"
    # also if the last write was cut in two
    for name in ("trajectory.dcd", "thermo.csv"):
        data = (tmp_path / "run" / name).read_bytes()
        (tmp_path / "run" / name).write_bytes(data[:-5])
    assert len(Trajectory.read(tmp_path / "run")) == 12


def test_an_interrupted_run_says_so(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_nvt(ammonia_morse(), ammonia(), MDConfig(steps=200), tmp_path / "run", stop)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["status"], record["steps_done"]) == ("interrupted", 50)
    assert len(Trajectory.read(tmp_path / "run")) == 6


class _Terminated(KeyboardInterrupt):
    pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_signal_waits_for_a_checkpoint_from_which_the_run_goes_on(tmp_path: Path, number: int, threads: int) -> None:
    def handle(*_: object) -> None:
        raise _Terminated

    def send(done: int, total: int) -> None:
        if done == 2 * 100:
            signal.raise_signal(number)

    config = MDConfig(steps=400, report_every=50, checkpoint_every=5000, replicas=2)
    run_replicas(ammonia_morse(), ammonia(), config, tmp_path / "whole")
    before = signal.signal(number, handle)
    try:
        with pytest.raises(_Terminated):
            run_replicas(ammonia_morse(), ammonia(), config, tmp_path / "run", send, threads=threads)
        assert signal.getsignal(number) is handle
    finally:
        signal.signal(number, before)
    assert read_newest_checkpoint(tmp_path / "run")[0].step == 100
    record = json.loads((tmp_path / "run" / "replica-001" / "run.json").read_text())
    assert (record["status"], record["steps_done"]) == ("interrupted", 100)
    resume(ammonia_morse(), tmp_path / "run")
    for name in ("trajectory.dcd", "thermo.csv", "final.extxyz"):
        ended, whole = (tmp_path / folder / "replica-001" / name for folder in ("run", "whole"))
        assert ended.read_bytes() == whole.read_bytes()


def test_a_signal_with_the_last_step_leaves_a_completed_run(tmp_path: Path) -> None:
    def send(done: int, total: int) -> None:
        if done == 125:
            signal.raise_signal(signal.SIGINT)

    config = MDConfig(steps=125, report_every=50)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started us without one
    try:
        with pytest.raises(KeyboardInterrupt):
            run_nvt(ammonia_morse(), ammonia(), config, tmp_path / "run", send)
    finally:
        signal.signal(signal.SIGINT, before)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["status"], record["steps_done"]) == ("completed", 125)


def test_folder_of_another_run_is_refused_and_untouched(tmp_path: Path) -> None:
    run_in(tmp_path / "run")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    with pytest.raises(InputError, match="new or empty folder"):
        run_in(tmp_path / "run", seed=9)
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="folder"):
        run_in(tmp_path / "file")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    writer = DCDWriter(tmp_path / "x.dcd", 4, 1, 1.0, "")
    os.dup2(full, writer._stream.fileno())
    with pytest.raises(InputError, match="No space left on device"):
        writer.write(ammonia().positions)
    writer.close()
    log = LineFile(tmp_path / "x.csv")
    os.dup2(full, log._stream.fileno())
    with pytest.raises(InputError, match="No space left on device"):
        log.write("1,2")
    log.close()
    os.close(full)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -10.0}, "temperature: expected a positive number of K, found -10 K"),
        ({"temperature": 0.0}, "temperature: expected a positive number"),
        ({"temperature": float("nan")}, "temperature: expected a positive number"),
        ({"steps": 0}, "steps: expected a whole number of at least 1, found 0"),
        ({"steps": 1.5}, "steps: expected a whole number"),
        ({"timestep": 0.0}, "timestep: expected a positive number of fs"),
        ({"timestep": -1.0}, "timestep: expected a positive number of fs"),
        ({"relaxation_time": 0.0}, "relaxation_time: expected a positive number"),
        ({"chain_length": 0}, "chain_length: expected a whole number"),
        ({"suzuki_yoshida_order": 4}, "suzuki_yoshida_order: expected one of 1, 3, 5, 7"),
        (
            {"thermostat": "berendsen"},
            "thermostat: expected one of nose-hoover, velocity-rescaling, langevin, none, found 'berendsen'",
        ),
        ({"replicas": 0}, "replicas: expected a whole number"),
        ({"seed": -1}, "seed: expected a whole number of at least 0"),
        ({"report_every": 0}, "report_every"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as error:
        MDConfig(**{"steps": 10, **settings})
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 2


def test_start_from_rest_needs_no_thermostat() -> None:
    run = run_in(None, temperature=0.0, thermostat="none")
    assert run.kinetic.max() < 1e-20


def test_another_molecule_is_refused(tmp_path: Path) -> None:
    potential, start = ammonia_morse(), ammonia()
    swapped = Molecule(("H", "N", "H", "H"), start.positions[[1, 0, 2, 3]])
    with pytest.raises(ModelMismatchError, match="atom 1: expected N as in the model, found H"):
        run_nvt(potential, swapped, MDConfig(steps=10), tmp_path / "run")
    fewer = Molecule(("N", "H", "H"), start.positions[:3])
    with pytest.raises(ModelMismatchError, match="expected 4 atoms"):
        run_nvt(potential, fewer, MDConfig(steps=10), tmp_path / "run")
    charged = dataclasses.replace(start, charge=1)
    with pytest.raises(ModelMismatchError, match="charge"):
        run_nvt(potential, charged, MDConfig(steps=10), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_start_beyond_the_limits_is_refused(tmp_path: Path) -> None:
    stretched = ammonia().positions.copy()
    stretched[2] *= 1.6
    with pytest.raises(GeometryError, match=r"start geometry, bond N1-H3: expected .* found 1\.\d+ angstrom") as error:
        run_nvt(ammonia_morse(), ammonia().with_positions(stretched), MDConfig(steps=10), tmp_path / "run")
    assert error.value.exit_code == 2
    assert not (tmp_path / "run").exists()


def test_one_atom_is_refused() -> None:
    atom = Molecule(("H",), np.zeros((1, 3)))
    with pytest.raises(InputError, match="at least two atoms"):
        run_nvt(dataclasses.replace(ammonia_morse(), molecule=atom), atom, MDConfig(steps=1))


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.dcd").write_bytes(b"\x00" * 500)
    with pytest.raises(FileFormatError, match="a DCD file"):
        read_dcd(tmp_path / "x.dcd")
    with pytest.raises(FileFormatError, match="No such file"):
        read_dcd(tmp_path / "y.dcd")
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(FileFormatError, match=r"x\.csv:1: expected step,time_fs"):
        read_thermo(tmp_path / "x.csv")
    (tmp_path / "x.csv").write_text(",".join(COLUMNS) + "\n0,0,x,0,0,0,0\n")
    with pytest.raises(FileFormatError, match=r"x\.csv:2: expected numbers"):
        read_thermo(tmp_path / "x.csv")


def test_force_field_runs_with_its_own_energies() -> None:
    """The compiled loop and ``ForceField.energy_and_forces`` are the same function."""
    forcefield = fitted()
    config = MDConfig(steps=4000, temperature=300.0, timestep=0.5, seed=2)
    run = run_nvt(forcefield, methanol(), config)
    energies, _ = forcefield.compute(run.positions, deriv=0)
    assert np.abs(energies - run.potential).max() < 1e-11
    assert np.abs(run.conserved - run.conserved[0]).max() * KCAL_MOL < 1.0
    assert 200.0 < run.temperature.mean() < 400.0


def test_force_field_conserves_energy_as_the_square_of_the_time_step() -> None:
    spreads = []
    for timestep in (0.5, 0.25):
        config = MDConfig(
            steps=round(100.0 / timestep), timestep=timestep, thermostat="none", temperature=300.0, report_every=1
        )
        spreads.append(run_nvt(fitted(), methanol(), config).conserved.std())
    assert spreads[0] / spreads[1] == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_run_is_in_the_order_and_hand_of_its_start(mirrored: bool, tmp_path: Path) -> None:
    """Files, guards and the run that goes on from a checkpoint too."""
    start, order, sign = methanol(), [1, 0, 5, 3, 4, 2], -1.0 if mirrored else 1.0
    other = Molecule(tuple(start.symbols[k] for k in order), sign * start.positions[order])
    guards = GuardConfig(deviation="save", deviation_limit=1e-6, every=20)
    config = MDConfig(steps=60, report_every=10, checkpoint_every=20, guards=guards)
    run = run_nvt(fitted(), other, config, tmp_path / "run")
    assert run.molecule.symbols == other.symbols
    assert np.abs(run.positions[0] - other.positions).max() < 1e-5
    matching = fitted().match(other)
    assert not matching.identity
    energies = fitted().unmatched.compute(matching.to_reference(run.positions), 0)[0]
    np.testing.assert_allclose(energies, run.potential, rtol=0, atol=2e-7)  # positions of single precision
    assert np.ptp(run.potential) > 1e-3
    for name in ("start.extxyz", "final.extxyz", "flagged.extxyz"):
        assert read_frames(tmp_path / "run" / name)[0].symbols == other.symbols
    assert re.search("deviation of [CHO][1-6],", (tmp_path / "run" / "events.csv").read_text().replace('"', ","))
    run_nvt(fitted(), other, dataclasses.replace(config, steps=40), tmp_path / "cut")
    resume(fitted(), tmp_path / "cut", 60)
    for name in ("trajectory.dcd", "thermo.csv", "final.extxyz", "events.csv", "flagged.extxyz"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_force_field_refuses_other_elements() -> None:
    other = Molecule(("Si", *methanol().symbols[1:]), methanol().positions)
    with pytest.raises(FFLUXError, match="atom 1: expected C"):
        run_nvt(fitted(), other, MDConfig(steps=10))
