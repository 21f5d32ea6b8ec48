"""A run that is cut anywhere and taken up again is the run that was never cut, bit for bit; and nothing is lost."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numba import njit

from fflux_py.dynamics import (
    CompiledPotential,
    GuardConfig,
    GuardTripped,
    MDConfig,
    Trajectory,
    checkpoint,
    resume,
    run_nvt,
    run_replicas,
)
from fflux_py.dynamics.checkpoint import CHECKPOINT_FILE, PREVIOUS_FILE, Checkpoint
from fflux_py.dynamics.thermostats import THERMOSTATS
from fflux_py.errors import FileFormatError, InputError, ModelMismatchError
from fflux_py.files import arrays_sha256
from fflux_py.molecules.dataset import GeometrySet
from fflux_py.typing import FloatArray
from tests.support.compiled_potentials import Pairs, ammonia, ammonia_morse, ammonia_springs, hydrogen_chloride, morse
from tests.support.kills import kill_eight_times

OUTPUTS = (
    "trajectory.dcd",
    "velocities.dcd",
    "thermo.csv",
    "events.csv",
    "final.extxyz",
    "start.extxyz",
    "topology.pdb",
)


def outputs(folder: Path) -> dict[str, bytes]:
    """The bytes of everything that a run leaves, but for its log of how it went."""
    names = {*OUTPUTS, "flagged.extxyz"}
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.name in names}


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def config_of(steps: int, **settings: object) -> MDConfig:
    return MDConfig(**{"steps": steps, "report_every": 10, "checkpoint_every": 50, "seed": 7, **settings})


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("thermostat", THERMOSTATS)
def test_a_longer_run_is_the_run_of_that_length(tmp_path: Path, thermostat: str, replicas: int) -> None:
    config = config_of(407, thermostat=thermostat, replicas=replicas)
    run_replicas(ammonia_morse(), ammonia(), config, tmp_path / "whole")
    run_replicas(ammonia_morse(), ammonia(), dataclasses.replace(config, steps=183), tmp_path / "parts")
    resume(ammonia_morse(), tmp_path / "parts", steps=290)
    again = resume(ammonia_morse(), tmp_path / "parts", steps=407)
    whole = outputs(tmp_path / "whole")
    assert len(whole) == replicas * len(OUTPUTS)
    assert outputs(tmp_path / "parts") == whole
    assert [len(run) for run in again] == [41] * replicas
    first = next((tmp_path / "parts").rglob("run.json"))
    record = json.loads(first.read_text())
    assert (record["status"], record["steps_done"], record["config"]["steps"]) == ("completed", 407, 407)
    assert record["resumed_at_steps"] == [183, 290]


@pytest.mark.parametrize("thermostat", ["nose-hoover", "langevin"])
def test_eight_kills_at_random_moments_change_no_bit(tmp_path: Path, thermostat: str) -> None:
    config = config_of(24_000, thermostat=thermostat, replicas=2, checkpoint_every=300)
    run_replicas(ammonia_morse(), ammonia(), config, tmp_path / "whole")
    folder = tmp_path / "killed"
    kill_eight_times(ammonia_morse(), ammonia(), config, folder)
    resume(ammonia_morse(), folder)
    assert outputs(folder) == outputs(tmp_path / "whole")


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_change_no_bit(tmp_path: Path, threads: int) -> None:
    config = config_of(200, replicas=5, thermostat="langevin")
    run_replicas(ammonia_morse(), ammonia(), config, tmp_path / "one")
    run_replicas(ammonia_morse(), ammonia(), config, tmp_path / "many", threads=threads)
    assert outputs(tmp_path / "one") == outputs(tmp_path / "many")


@njit(cache=True)
def morse_together(positions, arrays):
    """The Morse potential of several geometries at once."""
    energies, forces = np.empty(positions.shape[0]), np.empty_like(positions)
    for k in range(positions.shape[0]):
        energy, force = morse(positions[k], arrays)
        energies[k] = energy
        forces[k] = force
    return energies, forces


@pytest.mark.parametrize("group", [1, 2, 5])
def test_replicas_evaluated_together_are_the_replicas_one_by_one(tmp_path: Path, group: int) -> None:
    config = config_of(100, replicas=5)
    together = dataclasses.replace(ammonia_morse(), together=morse_together, group=group)
    run_replicas(ammonia_morse(), ammonia(), config, tmp_path / "one")
    run_replicas(together, ammonia(), config, tmp_path / "group", threads=2)
    assert outputs(tmp_path / "one") == outputs(tmp_path / "group")


class Growing(NamedTuple):
    """A spring between two atoms, and a bias that remembers: calls so far and the sum of the lengths seen."""

    length: FloatArray
    memory: FloatArray


@njit(cache=True)
def growing(positions, arrays):
    """A spring whose length grows with what was seen: a force that depends on the past."""
    d = positions[0] - positions[1]
    r = np.sqrt((d * d).sum())
    arrays.memory[0] += 1.0
    arrays.memory[1] += r
    rest = arrays.length[0] + 0.02 * np.sin(0.01 * arrays.memory[1])
    forces = np.zeros_like(positions)
    forces[0] = -0.4 * (r - rest) * d / r
    forces[1] = -forces[0]
    return 0.2 * (r - rest) ** 2, forces


def growing_potential() -> CompiledPotential:
    molecule = hydrogen_chloride().molecule
    arrays = Growing(np.array([2.41]), np.zeros(2))
    return CompiledPotential(molecule, growing, arrays, memory=arrays.memory)


def test_a_bias_that_grows_goes_on_where_it_was(tmp_path: Path) -> None:
    config = config_of(300, guards=GuardConfig(conserved="off"))
    whole, first, second = growing_potential(), growing_potential(), growing_potential()
    run_nvt(whole, whole.molecule, config, tmp_path / "whole")
    run_nvt(first, first.molecule, dataclasses.replace(config, steps=130), tmp_path / "parts")
    resume(second, tmp_path / "parts", steps=300)
    assert whole.memory is not None
    assert whole.memory[0] == 301.0
    assert np.array_equal(whole.memory, second.memory)
    assert outputs(tmp_path / "whole") == outputs(tmp_path / "parts")


def interrupted(folder: Path, at: int, **settings: object) -> MDConfig:
    """A run of 400 steps that ended at step ``at`` without a word."""
    config = config_of(400, **settings)

    class Killed(BaseException):
        pass

    def kill(done: int, total: int) -> None:
        if done == at:
            raise Killed

    with pytest.raises(Killed):
        run_nvt(ammonia_morse(), ammonia(), config, folder, kill)
    return config


@pytest.mark.parametrize("damage", ["truncated", "altered", "empty", "gone", "another"])
def test_a_damaged_checkpoint_is_named_and_the_previous_one_is_used(tmp_path: Path, damage: str) -> None:
    config = interrupted(tmp_path / "run", 230)
    path = tmp_path / "run" / CHECKPOINT_FILE
    assert Checkpoint.read(path).step == 200
    data = path.read_bytes()
    changed = bytearray(data)
    changed[data.index(b"positions") + 300] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(
            {"truncated": data[:-100], "altered": bytes(changed), "empty": b"", "another": b"x" * 400}[damage]
        )
    notices: list[str] = []
    resume(ammonia_morse(), tmp_path / "run", on_notice=notices.append)
    assert len(notices) == 1
    assert notices[0].startswith(f"{path}: expected a checkpoint")
    assert notices[0].endswith("; going on from checkpoint-previous.npz, step 150")
    run_nvt(ammonia_morse(), ammonia(), config, tmp_path / "whole")
    assert outputs(tmp_path / "run") == outputs(tmp_path / "whole")


def test_a_crash_between_the_two_renamings_loses_nothing(tmp_path: Path) -> None:
    interrupted(tmp_path / "run", 230)
    (tmp_path / "run" / CHECKPOINT_FILE).rename(tmp_path / "run" / checkpoint.FRESH_FILE)
    assert checkpoint.read_newest_checkpoint(tmp_path / "run")[0].step == 200


def test_every_altered_byte_is_seen(tmp_path: Path) -> None:
    interrupted(tmp_path / "run", 60)
    path = tmp_path / "run" / CHECKPOINT_FILE
    data = path.read_bytes()
    original = Checkpoint.read(path)
    for position in np.random.default_rng(2).integers(0, len(data), 200):
        changed = bytearray(data)
        changed[position] ^= 0x10
        path.write_bytes(bytes(changed))
        try:
            found = Checkpoint.read(path)
        except FileFormatError:
            continue
        # a byte of the archive that says nothing, such as a time stamp
        assert np.array_equal(found.positions, original.positions)
        assert found.config == original.config
        assert found.step == original.step


def test_no_usable_checkpoint_is_one_line_and_nothing_is_touched(tmp_path: Path) -> None:
    interrupted(tmp_path / "run", 230)
    for name in (CHECKPOINT_FILE, PREVIOUS_FILE):
        (tmp_path / "run" / name).write_bytes(b"nothing")
    before = everything(tmp_path / "run")
    with pytest.raises(FileFormatError, match="expected a checkpoint, found none that can be used") as error:
        resume(ammonia_morse(), tmp_path / "run")
    assert str(error.value).count("truncated or altered") == 2
    assert "\n" not in str(error.value)
    assert everything(tmp_path / "run") == before


@pytest.mark.parametrize("name", ["thermo.csv", "run.json", "notes"])
def test_a_link_out_of_the_folder_is_refused_and_what_it_names_stays(tmp_path: Path, name: str) -> None:
    interrupted(tmp_path / "run", 150)
    precious = tmp_path / "thesis.tex"
    precious.write_text("precious " * 1000)
    path = tmp_path / "run" / name
    path.unlink(missing_ok=True)
    path.symlink_to(precious)
    with pytest.raises(FileFormatError, match=f"{name}: expected a file of the run, found a link to .*thesis.tex"):
        resume(ammonia_morse(), tmp_path / "run")
    assert precious.read_text() == "precious " * 1000
    path.unlink()
    # A link to the whole folder is the folder.
    (tmp_path / "elsewhere").symlink_to(tmp_path / "run", target_is_directory=True)
    if name == "notes":
        assert resume(ammonia_morse(), tmp_path / "elsewhere")


def test_lost_output_is_named_and_the_previous_checkpoint_is_used(tmp_path: Path) -> None:
    config = interrupted(tmp_path / "run", 230)
    log = tmp_path / "run" / "thermo.csv"
    known = Checkpoint.read(tmp_path / "run" / CHECKPOINT_FILE).replicas[0].sizes["thermo.csv"]
    log.write_bytes(log.read_bytes()[: known - 10])
    notices: list[str] = []
    resume(ammonia_morse(), tmp_path / "run", on_notice=notices.append)
    assert f"{log}: expected at least {known} bytes, as in the checkpoint, found {known - 10}" in notices[0]
    run_nvt(ammonia_morse(), ammonia(), config, tmp_path / "whole")
    assert outputs(tmp_path / "run") == outputs(tmp_path / "whole")


def test_another_model_is_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    interrupted(tmp_path / "run", 230)
    before = everything(tmp_path / "run")
    with pytest.raises(ModelMismatchError, match=r"expected the model of this run \(SHA-256") as error:
        resume(ammonia_springs(), tmp_path / "run")
    assert error.value.exit_code == 2
    with pytest.raises(InputError, match="at least the 200 that were done, found 100"):
        resume(ammonia_morse(), tmp_path / "run", steps=100)
    assert everything(tmp_path / "run") == before


def test_a_run_that_is_still_going_is_left_alone(tmp_path: Path) -> None:
    tried: list[str] = []

    def intrude(done: int, total: int) -> None:
        if done == 230:
            with pytest.raises(InputError, match="a run that has ended, found one that is still going") as error:
                resume(ammonia_morse(), tmp_path / "run")
            tried.append(str(error.value))

    run = run_nvt(ammonia_morse(), ammonia(), config_of(400), tmp_path / "run", intrude)
    assert len(tried) == 1
    assert len(run) == 41


@pytest.mark.parametrize("victim", ["trajectory.dcd", "thermo.csv", "checkpoint"])
def test_full_disk_is_one_line_and_the_run_goes_on_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: str
) -> None:
    folder = tmp_path / "run"
    config = config_of(400)
    with monkeypatch.context() as patch:

        def fill(done: int, total: int) -> None:
            """From step 230 on, every write ends in the middle, as on a full disk."""
            if done != 230:
                return
            if victim == "checkpoint":

                def refuse(path: object, content: object) -> None:
                    raise InputError(str(path), "a place to write", os.strerror(errno.ENOSPC), "free space")

                patch.setattr(checkpoint, "write_atomically", refuse)
            else:
                limit = (folder / victim).stat().st_size + 30
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))

        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            with pytest.raises(InputError) as error:
                run_nvt(ammonia_morse(), ammonia(), config, folder, fill)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 2
    assert "free space" in str(error.value)
    assert checkpoint.read_newest_checkpoint(folder)[0].step == 200
    resume(ammonia_morse(), folder)
    run_nvt(ammonia_morse(), ammonia(), config, tmp_path / "whole")
    assert outputs(folder) == outputs(tmp_path / "whole")


def weak() -> CompiledPotential:
    """A bond that breaks sooner or later."""
    potential = hydrogen_chloride()
    return dataclasses.replace(potential, arrays=Pairs(*potential.arrays)._replace(depth=np.array([0.004])))


def test_a_stopped_replica_stays_stopped_and_the_others_go_on(tmp_path: Path) -> None:
    config = config_of(600, replicas=4, temperature=300.0, timestep=1.0, thermostat="nose-hoover")
    with pytest.raises(GuardTripped):
        run_replicas(weak(), weak().molecule, config, tmp_path / "whole")
    with pytest.raises(GuardTripped):
        run_replicas(weak(), weak().molecule, dataclasses.replace(config, steps=300), tmp_path / "parts")
    states = [json.loads(p.read_text())["status"] for p in sorted((tmp_path / "parts").rglob("run.json"))]
    assert states == ["completed", "stopped", "stopped", "completed"]
    with pytest.raises(GuardTripped, match=r"^replica 3 \(1 of 4 stopped\)"):
        resume(weak(), tmp_path / "parts", steps=600)
    assert outputs(tmp_path / "parts") == outputs(tmp_path / "whole")


def test_flagged_frames_are_cut_with_the_rest(tmp_path: Path) -> None:
    narrow = GuardConfig(bond="save", bond_shortest=0.97, bond_longest=1.03)
    config = interrupted(tmp_path / "run", 230, guards=narrow)
    flagged = GeometrySet.read(tmp_path / "run" / "flagged.extxyz")
    resume(ammonia_morse(), tmp_path / "run")
    run_nvt(ammonia_morse(), ammonia(), config, tmp_path / "whole")
    assert len(GeometrySet.read(tmp_path / "whole" / "flagged.extxyz")) > len(flagged) > 3
    assert outputs(tmp_path / "run") == outputs(tmp_path / "whole")


def test_a_run_that_ended_before_its_first_step_is_taken_up(tmp_path: Path) -> None:
    config = interrupted(tmp_path / "run", 0)
    resume(ammonia_morse(), tmp_path / "run")
    run_nvt(ammonia_morse(), ammonia(), config, tmp_path / "whole")
    assert outputs(tmp_path / "run") == outputs(tmp_path / "whole")


def test_a_folder_with_a_checkpoint_is_not_begun_again(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / CHECKPOINT_FILE).write_bytes(b"of another run")
    with pytest.raises(InputError, match=r"expected a new or empty folder, found checkpoint\.npz of another run"):
        run_replicas(ammonia_morse(), ammonia(), config_of(10, replicas=2), tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [CHECKPOINT_FILE]


def test_a_complete_run_is_complete(tmp_path: Path) -> None:
    config = config_of(120)
    run_nvt(ammonia_morse(), ammonia(), config, tmp_path / "run")
    before = outputs(tmp_path / "run")
    (again,) = resume(ammonia_morse(), tmp_path / "run")
    assert len(again) == len(Trajectory.read(tmp_path / "run")) == 13
    assert outputs(tmp_path / "run") == before


def _altered(path: Path, change: Callable[[dict[str, Any], dict[str, np.ndarray]], None]) -> None:
    """Change header or arrays of a checkpoint and give it a fitting checksum."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files if name != "sha256"}
    header = json.loads(arrays["header"].tobytes())
    change(header, arrays)
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    np.savez(path, **arrays, sha256=np.array(arrays_sha256(arrays)))


@pytest.mark.parametrize("folder", ["../victim", "/victim", "a/../../victim", "\0", 3])
def test_a_checkpoint_that_names_another_folder_is_refused(tmp_path: Path, folder: object) -> None:
    config = config_of(20)
    for name in ("run", "victim"):
        run_nvt(ammonia_morse(), ammonia(), config, tmp_path / name)
    if folder == "/victim":
        folder = str(tmp_path / "victim")
    (tmp_path / "run" / PREVIOUS_FILE).unlink()

    def point_elsewhere(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        header["replicas"][0].update(folder=folder)

    _altered(tmp_path / "run" / CHECKPOINT_FILE, point_elsewhere)
    before = everything(tmp_path)
    with pytest.raises(FileFormatError, match=r"replicas: expected"):
        resume(ammonia_morse(), tmp_path / "run", steps=40)
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda header, arrays: header["replicas"][0]["sizes"].update({"thermo.csv": -1}), "a size in bytes"),
        (lambda header, arrays: header["replicas"][0]["sizes"].pop("thermo.csv"), "the sizes of trajectory and logs"),
        (lambda header, arrays: header["replicas"].clear(), "numbers of shape"),
        (lambda header, arrays: header.update(replicas=7), "a checkpoint of this version"),
        (lambda header, arrays: header.update(step="x"), "a checkpoint of this version"),
        (lambda header, arrays: header["config"].update(timestep=-1.0), "timestep"),
        (lambda header, arrays: arrays.update(positions=np.zeros((1, 3, 3))), "positions: expected"),
        (lambda header, arrays: arrays.update(kinetic=np.array(["a"])), "kinetic: expected"),
    ],
)
def test_a_checkpoint_whose_parts_do_not_fit_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any], dict[str, np.ndarray]], None], said: str
) -> None:
    run_nvt(ammonia_morse(), ammonia(), config_of(20), tmp_path)
    _altered(tmp_path / CHECKPOINT_FILE, change)
    with pytest.raises(FileFormatError, match=said) as caught:
        Checkpoint.read(tmp_path / CHECKPOINT_FILE)
    assert caught.value.where.startswith(str(tmp_path / CHECKPOINT_FILE))


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_block_that_the_end_of_a_run_cut_is_told_once(tmp_path: Path, replicas: int) -> None:
    guards = GuardConfig(conserved="save", conserved_jump=1e-6)
    config = config_of(200, report_every=40, checkpoint_every=40, timestep=1.5, guards=guards, replicas=replicas)
    run_replicas(ammonia_morse(), ammonia(), config, tmp_path / "whole")
    run_replicas(ammonia_morse(), ammonia(), dataclasses.replace(config, steps=103), tmp_path / "parts")
    run_replicas(ammonia_morse(), ammonia(), dataclasses.replace(config, steps=103), tmp_path / "short")
    assert b"\n81," in next((tmp_path / "parts").rglob("events.csv")).read_bytes()
    # once more to the same end: the events of the block are there again
    resume(ammonia_morse(), tmp_path / "parts")
    assert outputs(tmp_path / "parts") == outputs(tmp_path / "short")
    resume(ammonia_morse(), tmp_path / "parts", steps=107)
    resume(ammonia_morse(), tmp_path / "parts", steps=200)
    whole = outputs(tmp_path / "whole")
    assert any(name.endswith("flagged.extxyz") for name in whole)
    assert outputs(tmp_path / "parts") == whole
    counts = [json.loads(p.read_text())["guard_events"] for p in sorted(tmp_path.glob("[wp]*/**/run.json"))]
    assert len(counts) == 2 * replicas
    assert counts[:replicas] == counts[replicas:]
