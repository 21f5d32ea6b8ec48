"""Campaigns of labels: what is computed stays, whatever happens to the process."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.paths import REPOSITORY

pytest.importorskip("pyscf")

from fflux_py.errors import InputError
from fflux_py.iqa import campaign
from fflux_py.iqa.campaign import Campaign, Resources
from fflux_py.iqa.labelling import label_geometry
from fflux_py.iqa.partition import PARTITIONS
from fflux_py.iqa.scf.free_atoms import compute_isolated_atoms
from fflux_py.iqa.scf.level_of_theory import LevelOfTheory
from fflux_py.molecules.dataset import Dataset, GeometrySet
from fflux_py.molecules.molecule import Molecule

LEVEL = LevelOfTheory(basis="sto-3g", grid_level=1)

SCRIPT = """
import sys
from fflux_py.molecules.dataset import GeometrySet
from fflux_py.iqa.campaign import label
from fflux_py.iqa.scf.level_of_theory import LevelOfTheory

if __name__ == "__main__":
    level = LevelOfTheory(basis="sto-3g", grid_level=1)
    label(GeometrySet.read(sys.argv[1]), level, "hirshfeld", sys.argv[2], workers=2)
"""


def geometries(count: int) -> GeometrySet:
    """Hydrogen molecules of different lengths."""
    molecule = Molecule(("H", "H"), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.4]]), name="H2")
    positions = np.array([molecule.positions * scale for scale in np.linspace(0.8, 1.6, count)])
    return GeometrySet(molecule, positions, ("run",) * count, np.full(count, 300.0), ("train",) * count)


@pytest.fixture
def here() -> Iterator[ThreadPoolExecutor]:
    """An executor in this process, which spares the start of others."""
    with ThreadPoolExecutor(1) as executor:
        yield executor


def results(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*.json") if not p.name.startswith("isolated"))


def until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


def test_campaign_gives_the_labels_of_its_geometries(tmp_path: Path, here: ThreadPoolExecutor) -> None:
    steps: list[tuple[int, int]] = []
    chosen = geometries(4)
    data = campaign.label(
        chosen, LEVEL, "hirshfeld", tmp_path / "a" / "b", executor=here, progress=lambda k, n: steps.append((k, n))
    )
    assert steps == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    assert len(results(tmp_path / "a" / "b")) == 4
    np.testing.assert_array_equal(data.positions, chosen.positions)
    for k in (0, 3):
        alone = label_geometry(chosen.molecule.with_positions(chosen.positions[k]), LEVEL)
        assert data.energies[k] == pytest.approx(alone.energy, abs=1e-11)
        np.testing.assert_allclose(data.forces[k], alone.forces, atol=1e-9)
        np.testing.assert_allclose(data.atomic_energies[k], alone.atomic_energies, atol=1e-9)
    np.testing.assert_allclose(data.atomic_energies.sum(axis=1), data.energies, rtol=0, atol=1e-10)
    assert data.isolated_energies == compute_isolated_atoms(["H"], LEVEL)
    assert (data.metadata["method"], data.metadata["basis"], data.metadata["partition"]) == (
        "b3lyp",
        "sto-3g",
        "hirshfeld",
    )
    assert (data.metadata["failed_geometries"], data.metadata["missing_geometries"]) == (0, 0)
    data.write(tmp_path / "data.extxyz")
    np.testing.assert_allclose(Dataset.read(tmp_path / "data.extxyz").atomic_energies, data.atomic_energies, rtol=1e-14)


def test_nothing_is_computed_twice(tmp_path: Path, here: ThreadPoolExecutor) -> None:
    first = campaign.label(geometries(3), LEVEL, "none", tmp_path, executor=here)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.glob("*.json")}
    second = campaign.label(geometries(3), LEVEL, "none", tmp_path, executor=here)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.glob("*.json")} == before
    assert second.digest() == first.digest()
    assert np.isnan(first.atomic_energies).all()
    # Another level, partition or geometry is another result.
    campaign.label(geometries(3), LEVEL, "hirshfeld", tmp_path, executor=here)
    campaign.label(geometries(3), replace(LEVEL, grid_level=2), "none", tmp_path, executor=here)
    assert len(results(tmp_path)) == 9
    with pytest.raises(InputError, match="none \\(0 failed, 5 without a result\\)"):
        Campaign(geometries(5), replace(LEVEL, method="hf"), "none", tmp_path).collect()


def test_the_first_geometries_only_are_partitioned(tmp_path: Path, here: ThreadPoolExecutor) -> None:
    chosen, every = geometries(4), campaign.label(geometries(4), LEVEL, "hirshfeld", tmp_path / "all", executor=here)
    data = Campaign(chosen, LEVEL, "hirshfeld", tmp_path / "some", n_partitioned=2).run(Resources(executor=here))
    assert data.has_atomic_energies.tolist() == [True, True, False, False]
    np.testing.assert_array_equal(data.energies, every.energies)
    np.testing.assert_array_equal(data.forces, every.forces)
    np.testing.assert_array_equal(data.atomic_energies[:2], every.atomic_energies[:2])
    assert (data.metadata["partition"], data.metadata["missing_geometries"]) == ("hirshfeld", 0)
    assert len(results(tmp_path / "some")) == 4
    # Atomic energies that are there are taken, wherever the geometry stands.
    campaign.label(chosen.select([3]), LEVEL, "hirshfeld", tmp_path / "some", executor=here)
    again = Campaign(chosen, LEVEL, "hirshfeld", tmp_path / "some", n_partitioned=2).collect()
    assert again.has_atomic_energies.tolist() == [True, True, False, True]
    # A data set of them goes to a file and back.
    again.write(tmp_path / "data.extxyz")
    assert Dataset.read(tmp_path / "data.extxyz").has_atomic_energies.tolist() == [True, True, False, True]
    assert not Campaign(chosen, LEVEL, "hirshfeld", tmp_path / "some", 2).failures()
    with pytest.raises(InputError, match="n_partitioned: expected at least 0"):
        Campaign(chosen, LEVEL, "hirshfeld", tmp_path / "some", n_partitioned=-1)


def test_damaged_results_are_computed_again(tmp_path: Path, here: ThreadPoolExecutor) -> None:
    first = campaign.label(geometries(3), LEVEL, "none", tmp_path, executor=here)
    cut, changed, emptied = results(tmp_path)
    cut.write_bytes(cut.read_bytes()[:300])
    stored = json.loads(changed.read_text())
    stored["result"]["label"]["energy"] += 0.001
    changed.write_text(json.dumps(stored))
    emptied.write_text("")
    with pytest.raises(InputError, match="3 without a result"):
        Campaign(geometries(3), LEVEL, "none", tmp_path).collect()
    second = campaign.label(geometries(3), LEVEL, "none", tmp_path, executor=here)
    np.testing.assert_allclose(second.energies, first.energies, rtol=0, atol=1e-11)


def test_failed_geometries_are_recorded_and_left_out(tmp_path: Path, here: ThreadPoolExecutor) -> None:
    chosen = geometries(3)
    positions = np.array(chosen.positions)
    positions[1, 1] = positions[1, 0] + 0.01
    data = campaign.label(replace(chosen, positions=positions), LEVEL, "none", tmp_path, executor=here)
    np.testing.assert_array_equal(data.positions, positions[[0, 2]])
    assert data.metadata["failed_geometries"] == 1
    reasons = Campaign(replace(chosen, positions=positions), LEVEL, "none", tmp_path).failures()
    assert list(reasons) == [1]
    assert "two atoms stand on one spot" in reasons[1]


def test_scf_that_does_not_converge_is_recorded_and_not_tried_again(tmp_path: Path, here: ThreadPoolExecutor) -> None:
    level = replace(LEVEL, max_cycle=1)
    # One iteration is not enough for stretched, polarised H-He+.
    molecule = Molecule(("He", "H"), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.5]]), charge=1, name="HeH+")
    chosen = GeometrySet(molecule, molecule.positions[None], ("run",), np.array([300.0]), ("train",))
    with pytest.raises(InputError, match="none \\(1 failed, 0 without a result\\)"):
        campaign.label(chosen, level, "none", tmp_path, executor=here)
    assert "within 1 iterations" in Campaign(chosen, level, "none", tmp_path).failures()[0]
    before = [path.stat().st_mtime_ns for path in results(tmp_path)]
    with pytest.raises(InputError, match="1 failed"):
        campaign.label(chosen, level, "none", tmp_path, executor=here)
    assert [path.stat().st_mtime_ns for path in results(tmp_path)] == before


def test_members_of_an_array_share_the_work(tmp_path: Path, here: ThreadPoolExecutor) -> None:
    part = Campaign(geometries(5), LEVEL, "none", tmp_path).run(Resources(executor=here), array=(1, 2))
    assert len(results(tmp_path)) == len(part) == 2
    np.testing.assert_array_equal(part.positions, geometries(5).positions[1::2])
    assert part.metadata["missing_geometries"] == 3
    Campaign(geometries(5), LEVEL, "none", tmp_path).run(Resources(executor=here), array=(0, 2))
    assert len(Campaign(geometries(5), LEVEL, "none", tmp_path).collect()) == 5


def test_a_geometry_in_other_hands_is_waited_for(
    tmp_path: Path, here: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaign, "_POLL_SECONDS", 0.05)
    task = Campaign(geometries(2), LEVEL, "none", tmp_path)._tasks()[0]
    path = task.results.file_of(task.key)
    descriptor = os.open(path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    ended: list[Dataset] = []
    run = threading.Thread(
        target=lambda: ended.append(campaign.label(geometries(2), LEVEL, "none", tmp_path, executor=here))
    )
    run.start()
    assert until(lambda: len(results(tmp_path)) == 1, 30.0)
    time.sleep(0.3)
    assert not ended
    assert results(tmp_path) != [path]
    os.close(descriptor)
    run.join(30.0)
    assert len(ended[0]) == 2
    assert not list(tmp_path.glob("*.lock"))


def test_full_disk_names_the_place(tmp_path: Path, here: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign.label(geometries(1), LEVEL, "none", tmp_path, executor=here)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("fflux_py.files.os.fsync", full)
    with pytest.raises(InputError, match="No space left on device") as caught:
        campaign.label(geometries(3), LEVEL, "none", tmp_path, executor=here)
    assert str(tmp_path) in str(caught.value)
    assert len(results(tmp_path)) == 1
    assert not list(tmp_path.glob("*.part")) + list(tmp_path.glob(".*.part"))


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    chosen = geometries(2)
    with pytest.raises(InputError, match="workers: expected at least 1"):
        campaign.label(chosen, LEVEL, "none", tmp_path, workers=0)
    with pytest.raises(InputError, match="threads_per_worker"):
        campaign.label(chosen, LEVEL, "none", tmp_path, threads_per_worker=0)
    with pytest.raises(InputError, match="array"):
        Campaign(chosen, LEVEL, "none", tmp_path).run(array=(2, 2))
    assert {"becke", "hirshfeld", "qtaim"} <= set(PARTITIONS)
    with pytest.raises(InputError, match=f"one of {', '.join(sorted(PARTITIONS))}, none"):
        campaign.label(chosen, LEVEL, "voronoi", tmp_path)
    with pytest.raises(InputError, match="geometries: expected at least one"):
        campaign.label(chosen.select([]), LEVEL, "none", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="a folder to write to"):
        campaign.label(chosen, LEVEL, "none", tmp_path / "file")
    with pytest.raises(InputError, match="a functional that PySCF knows"):
        campaign.label(chosen, replace(LEVEL, method="no-such"), "none", tmp_path)


def test_errors_of_workers_come_back_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for check in ("check_electrons", "check_level"):  # which else find the error before a worker does
        monkeypatch.setattr(campaign, check, lambda *_: None)
    odd = Molecule(("H", "H"), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.4]]), charge=1, name="H2+")
    chosen = GeometrySet(odd, odd.positions[None], ("run",), np.array([300.0]), ("train",))
    with pytest.raises(InputError, match="an even number of electrons") as caught:
        campaign.label(chosen, LEVEL, "none", tmp_path)
    assert caught.value.remedy == "open shells are not supported"


@pytest.mark.parametrize("blow", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.exhaustive)])
def test_killed_campaign_goes_on_where_it_was(tmp_path: Path, here: ThreadPoolExecutor, blow: signal.Signals) -> None:
    count = 16
    folder = tmp_path / "labels"
    geometries(count).write(tmp_path / "geometries.extxyz")
    (tmp_path / "run.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "run.py"), str(tmp_path / "geometries.extxyz"), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    run = subprocess.Popen(
        command, env=environment, stderr=subprocess.DEVNULL,
        # a shell lets what it starts in the background ignore the signal, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert until(lambda: len(results(folder)) >= 2, 120.0)
    workers = _children(run.pid)
    assert workers
    run.send_signal(blow)
    assert run.wait(10.0) != 0
    assert until(lambda: not any(_is_running(pid) for pid in workers), 10.0)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in results(folder)}
    assert 2 <= len(before) < count

    chosen = GeometrySet.read(tmp_path / "geometries.extxyz")
    disturbed = campaign.label(chosen, LEVEL, "hirshfeld", folder, executor=here)
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in results(folder)}
    assert len(after) == count
    # What was there is untouched, bit for bit, and the labels are those of a campaign that nobody disturbed.
    assert {path: after[path] for path in before} == before
    calm = campaign.label(chosen, LEVEL, "hirshfeld", tmp_path / "calm", executor=here)
    np.testing.assert_allclose(disturbed.energies, calm.energies, rtol=0, atol=1e-11)
    np.testing.assert_allclose(disturbed.forces, calm.forces, rtol=0, atol=1e-9)
    np.testing.assert_allclose(disturbed.atomic_energies, calm.atomic_energies, rtol=0, atol=1e-9)
    assert disturbed.metadata.keys() == calm.metadata.keys()


STORM = """
import sys
from fflux_py.molecules.dataset import GeometrySet
from fflux_py.iqa.campaign import label
from fflux_py.iqa.scf.level_of_theory import LevelOfTheory

if __name__ == "__main__":
    level = LevelOfTheory(basis="sto-3g", grid_level=1)
    keep = sys.argv[3] == "keep"
    label(GeometrySet.read(sys.argv[1]), level, "hirshfeld", sys.argv[2], workers=2, keep_orbitals=keep)
"""


@pytest.mark.slow
def test_twelve_geometries_survive_two_kills_bit_for_bit(tmp_path: Path) -> None:
    count, kills = 12, 2
    rng = np.random.default_rng(20)
    water = Molecule(("O", "H", "H"), np.array([[0.0, 0.0, 0.2], [1.4, 0.0, -0.9], [-1.5, 0.1, -0.8]]), name="water")
    positions = water.positions + 0.08 * rng.normal(size=(count, 3, 3))
    marks = (("run",) * count, np.full(count, 300.0), ("train",) * count)
    GeometrySet(water, positions, *marks).write(tmp_path / "geometries.extxyz")
    (tmp_path / "run.py").write_text(STORM)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}

    def start(folder: str, keep: str) -> subprocess.Popen[bytes]:
        arguments = [str(tmp_path / name) for name in ("run.py", "geometries.extxyz", folder)]
        return subprocess.Popen([sys.executable, *arguments, keep], env=environment, stderr=subprocess.DEVNULL)

    seen = []
    for kill in range(kills):
        run = start("storm", "keep")
        before = len(results(tmp_path / "storm"))
        assert until(lambda had=before: len(results(tmp_path / "storm")) > had, 120.0)  # type: ignore[misc]
        time.sleep(rng.uniform(0.0, 0.3))
        # Not the helper of multiprocessing that tidies up after its processes.
        workers = [p for p in _children(run.pid) if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]
        assert len(workers) == 2
        # Now the run itself, now one of its workers, at any point of its work.
        os.kill(run.pid if kill % 2 == 0 else int(rng.choice(workers)), signal.SIGKILL)
        assert run.wait(20.0) != 0
        assert until(lambda pids=tuple(workers): not any(_is_running(p) for p in pids), 10.0)  # type: ignore[misc]
        seen.append(len(results(tmp_path / "storm")))
    assert 0 < seen[0] < seen[-1] < count
    for folder, keep in (("storm", "keep"), ("calm", "leave")):
        assert start(folder, keep).wait(120.0) == 0
    stormy, calm = (
        {path.name: json.loads(path.read_text())["result"] for path in results(tmp_path / folder)}
        for folder in ("storm", "calm")
    )
    assert len(calm) == count
    for result in (*stormy.values(), *calm.values()):
        assert min(result["label"].pop("wall_times").values()) >= 0.0
    # JSON keeps every bit of a number.
    assert stormy == calm
    assert not list((tmp_path / "calm").glob("*.npz"))


def _children(pid: int) -> list[int]:
    """Processes whose parent is ``pid`` (Linux)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(entry.name))
    return found


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
