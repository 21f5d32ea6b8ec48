"""Archives of closed campaigns: every label comes back to the last bit, and damage is refused with its reason."""

from __future__ import annotations

import io
import json
import lzma
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("pyscf")

from fflux_py.errors import FileFormatError, InputError
from fflux_py.files import arrays_sha256, sha256
from fflux_py.iqa.campaign import Campaign, Resources
from fflux_py.iqa.label_dataset import LabelSelection, read_labels
from fflux_py.iqa.result_archive import canonical, read_archive, write_archive
from fflux_py.iqa.result_folder import ARCHIVE, ResultFolder, holds_results
from fflux_py.iqa.scf.level_of_theory import LevelOfTheory
from fflux_py.molecules.dataset import Dataset, GeometrySet
from fflux_py.molecules.molecule import Molecule
from tests.support.cli_support import fflux, refused
from tests.support.paths import REPOSITORY

LEVEL = LevelOfTheory(basis="sto-3g", grid_level=1)
CAMPAIGNS = REPOSITORY / "campaigns"


def geometries(count: int) -> GeometrySet:
    """Hydrogen molecules of different lengths."""
    molecule = Molecule(("H", "H"), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.4]]), name="H2")
    positions = np.array([molecule.positions * scale for scale in np.linspace(0.8, 1.6, count)])
    return GeometrySet(molecule, positions, ("run",) * count, np.full(count, 300.0), ("train",) * count)


@pytest.fixture
def resources() -> Iterator[Resources]:
    """This process, which spares the start of others."""
    with ThreadPoolExecutor(1) as executor:
        yield Resources(executor=executor)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with five geometries, two of them with atomic energies, one that failed, and orbitals."""
    folder = tmp_path_factory.mktemp("campaign") / "labels"
    chosen = geometries(5)
    positions = np.array(chosen.positions)
    positions[4, 1] = 0.01
    with ThreadPoolExecutor(1) as executor:
        for partition, count in (("none", 5), ("hirshfeld", 2)):
            campaign = Campaign(replace(chosen, positions=positions), LEVEL, partition, folder, count, True)
            campaign.run(Resources(executor=executor))
    return folder


@pytest.fixture
def folder(labelled: Path, tmp_path: Path) -> Path:
    """A copy of that folder."""
    return Path(shutil.copytree(labelled, tmp_path / "labels"))


def campaign_of(folder: Path, partition: str = "hirshfeld") -> Campaign:
    chosen = geometries(5)
    positions = np.array(chosen.positions)
    positions[4, 1] = 0.01
    return Campaign(replace(chosen, positions=positions), LEVEL, partition, folder, 2)


def stored_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Contents of the files, as any reader of JSON has them: with their checksums."""
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def test_every_result_survives_the_closing_to_the_last_bit(folder: Path) -> None:
    before, data = stored_results(folder), campaign_of(folder).collect()
    orbitals = sorted(folder.glob("*.orbitals.npz"))
    assert len(before) == 5 + 2 + 1
    assert len(orbitals) == 4
    assert campaign_of(folder).close() == folder / ARCHIVE
    # One file instead of eight; the orbitals, of which an archive would be no smaller, stay.
    assert sorted(folder.iterdir()) == sorted([folder / ARCHIVE, *orbitals])
    archive = read_archive(folder / ARCHIVE)
    assert archive.names == tuple(sorted(before)) == ResultFolder(folder).names()
    for name, stored in before.items():
        # Text of all digits: equal texts are equal bits.
        assert json.dumps(archive.result(name), sort_keys=True) == json.dumps(stored["result"], sort_keys=True)
        assert sha256(canonical(archive.result(name) or {})) == stored["sha256"]
    again = campaign_of(folder)
    assert again.collect().to_text() == data.to_text()
    assert "two atoms stand on one spot" in again.failures()[4]


def test_a_closed_campaign_is_computed_no_more(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = campaign_of(folder).collect()
    campaign_of(folder).close()
    content = (folder / ARCHIVE).read_bytes()

    def refuse(*_: object) -> None:
        raise AssertionError("computed again")

    for name in ("compute_isolated_atoms", "label_geometry", "run_in_processes"):
        monkeypatch.setattr(f"fflux_py.iqa.campaign.{name}", refuse)
    steps: list[tuple[int, int]] = []
    assert campaign_of(folder).run(progress=lambda k, n: steps.append((k, n))).to_text() == before.to_text()
    assert steps == [(5, 5)]
    assert (folder / ARCHIVE).read_bytes() == content
    assert not list(folder.glob("*.json"))


def test_files_beside_an_archive_count_and_join_it(folder: Path, resources: Resources) -> None:
    campaign_of(folder).close()
    more = Campaign(geometries(7), LEVEL, "none", folder)
    data = more.run(resources)
    # Two of the seven are in the archive: the shortest and the one in the middle.
    assert len(list(folder.glob("*.json"))) == 5
    assert len(ResultFolder(folder).names()) == 8 + 5
    # The label without a partition in the archive spares the SCF of one with a partition.
    becke = Campaign(geometries(5).select([0]), LEVEL, "becke", folder).run(resources)
    np.testing.assert_array_equal(becke.energies, data.energies[:1])
    np.testing.assert_array_equal(becke.forces, data.forces[:1])
    # A file that says something else than the archive is the later one.
    results = ResultFolder(folder)
    name = next(n for n in read_archive(folder / ARCHIVE).names if not n.startswith("isolated"))
    changed = {**(results.read(name) or {}), "remark": "later"}
    results.write(name, changed)
    assert results.read(name) == changed
    more.close()
    assert not list(folder.glob("*.json"))
    assert results.read(name) == changed
    assert len(read_archive(folder / ARCHIVE).names) == 8 + 5 + 1
    assert more.collect().to_text() == data.to_text()


def test_closing_is_refused_while_results_are_missing_or_damaged(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a result of every geometry, found 3 without"):
        Campaign(geometries(5), LEVEL, "hirshfeld", folder).close()
    before = stored_results(folder)
    path = folder / f"{campaign_of(folder)._tasks()[0].key}.json"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="a result of every geometry, found 1 without"):
        campaign_of(folder).close()
    # One of another campaign in the folder, which this one does not read.
    with pytest.raises(InputError, match="a whole result file, found a damaged one") as caught:
        campaign_of(folder, "none").close()
    assert caught.value.where == str(path)
    assert len(list(folder.glob("*.json"))) == len(before)
    assert not (folder / ARCHIVE).exists()
    with pytest.raises(InputError, match="results to put into an archive"):
        ResultFolder(tmp_path).pack()


def test_a_full_disk_loses_no_result(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = stored_results(folder)

    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("fflux_py.files.os.fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        campaign_of(folder).close()
    assert stored_results(folder) == before
    assert not (folder / ARCHIVE).exists()


def _npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def _entries(data: bytes) -> dict[str, np.ndarray]:
    return dict(np.load(io.BytesIO(lzma.decompress(data)), allow_pickle=False))


def _change_a_number(data: bytes) -> bytes:
    """One number changed, and everything else as it was: also the checksum."""
    entries = _entries(data)
    name = next(name for name in entries if name.endswith("/label/energy"))
    entries[name] = entries[name] + 1e-12
    return lzma.compress(_npz(**entries))


def _change_the_schema(data: bytes) -> bytes:
    """An archive of a later version, whole."""
    entries = _entries(data)
    header = entries["header"].tobytes().replace(b"label-archive-1", b"label-archive-9")
    entries["header"] = np.frombuffer(header, dtype=np.uint8)
    del entries["sha256"]
    return lzma.compress(_npz(**entries, sha256=np.array(arrays_sha256(entries))))


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut": (lambda data: data[: len(data) // 2], "an archive of labels, found Compressed data ended"),
    "empty": (lambda data: b"", "an archive of labels"),
    "a bit": (lambda data: data[:900] + bytes([data[900] ^ 4]) + data[901:], "an archive of labels, found Corrupt"),
    "a number": (_change_a_number, r"the checksum \w{12}\.\.\., found another: the file was altered; restore"),
    "text": (lambda data: b"energies\n", "an archive of labels, found Input format not supported"),
    "not npz": (lambda data: lzma.compress(b"energies"), "an archive of labels"),
    "another npz": (
        lambda data: lzma.compress(_npz(a=np.ones(2))),
        "an archive without header and checksum",
    ),
    "later schema": (_change_the_schema, "schema 'fflux-label-archive-1', found 'fflux-label-archive-9'"),
    "pickle": (lambda data: lzma.compress(_npz(sha256=np.array([{}], dtype=object))), "an archive of labels"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_archives_are_refused_with_the_reason(folder: Path, damage: str) -> None:
    campaign_of(folder).close()
    change, message = DAMAGES[damage]
    path = folder / ARCHIVE
    content = change(path.read_bytes())
    path.write_bytes(content)
    for read in (
        campaign_of(folder).collect,
        campaign_of(folder).run,
        lambda: read_labels(folder),
        lambda: read_archive(path),
    ):
        with pytest.raises(FileFormatError, match=message) as caught:
            read()
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)
    # Nothing was computed instead, and nothing written.
    assert path.read_bytes() == content
    assert not list(folder.glob("*.json"))


def test_a_result_that_is_not_what_its_checksum_says_is_refused(folder: Path) -> None:
    campaign_of(folder).close()
    archive = read_archive(folder / ARCHIVE)
    name = next(n for n in archive.names if not n.startswith("isolated"))
    key = next(key for key in archive.arrays if key.endswith("/label/energy"))
    arrays = {**archive.arrays, key: archive.arrays[key] + 1e-12}
    name = archive.groups[int(key[:3])]["names"][0]
    assert archive.result(name) is not None
    with pytest.raises(FileFormatError, match="a result with its checksum"):
        replace(archive, arrays=arrays).result(name)


reals = st.floats(allow_nan=False, allow_infinity=False)
leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), reals, st.lists(reals, max_size=4))
contents = st.dictionaries(
    st.sampled_from(["a", "b", "level"]), st.one_of(leaves, st.lists(st.lists(reals, max_size=3), max_size=3),
    st.dictionaries(st.sampled_from(["a", "x"]), leaves, max_size=2)), max_size=3)  # fmt: skip


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(st.text("0123456789abcdef", min_size=1, max_size=3), contents, max_size=5))
def test_whatever_json_holds_survives(tmp_path_factory: pytest.TempPathFactory, results: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.npz.xz"
    write_archive(path, results)
    archive = read_archive(path)
    assert archive.names == tuple(sorted(results))
    for name, result in results.items():
        assert canonical(archive.result(name) or {}) == canonical(result)  # also the sign of zero
    assert archive.result("none of them") is None


def test_labels_without_their_geometries_become_a_data_set(folder: Path, tmp_path: Path) -> None:
    opened = read_labels(folder)
    campaign_of(folder).close()
    archive = shutil.copy(folder / ARCHIVE, tmp_path / "hydrogen.npz.xz")
    closed, alone = read_labels(folder), read_labels(Path(archive))
    assert opened.to_text() == closed.to_text()
    assert alone.molecule.name == "hydrogen"
    expected = campaign_of(folder).collect()
    order = np.argsort(closed.positions[:, 1, 2])
    for name in ("positions", "energies", "forces", "atomic_energies", "atomic_errors", "charges"):
        np.testing.assert_array_equal(getattr(closed, name)[order], getattr(expected, name), err_msg=name)
        np.testing.assert_array_equal(getattr(alone, name), getattr(closed, name), err_msg=name)
    assert closed.isolated_energies == expected.isolated_energies
    assert closed.metadata["partition"] == "hirshfeld"
    assert closed.has_atomic_energies[order].tolist() == [True, True, False, False]
    plain = read_labels(folder, LabelSelection(partition="none"))
    assert len(plain) == 4
    assert not plain.has_atomic_energies.any()


def test_labels_that_leave_a_choice_need_one(folder: Path, resources: Resources, tmp_path: Path) -> None:
    Campaign(geometries(5).select([0]), LEVEL, "becke", folder).run(resources)
    with pytest.raises(InputError, match="partition: expected one of becke, hirshfeld, none, found none given"):
        read_labels(folder)
    with pytest.raises(InputError, match="found 'qtaim'"):
        read_labels(folder, LabelSelection(partition="qtaim"))
    assert read_labels(folder, LabelSelection(partition="becke")).has_atomic_energies.sum() == 1
    Campaign(geometries(5).select([0]), replace(LEVEL, method="hf"), "none", folder).run(resources)
    with pytest.raises(InputError, match=r"one level of theory, found method (b3lyp and hf|hf and b3lyp)"):
        read_labels(folder, LabelSelection(partition="becke"))
    assert len(read_labels(folder, LabelSelection(method="HF"))) == 1
    with pytest.raises(InputError, match="labels of this level of theory, found none"):
        read_labels(folder, LabelSelection(basis="6-31g"))
    helium = Molecule(("He",), np.zeros((1, 3)), name="He")
    other = GeometrySet(helium, helium.positions[None], ("run",), np.array([300.0]), ("train",))
    Campaign(other, LEVEL, "none", folder).run(resources)
    with pytest.raises(InputError, match="one molecule"):
        read_labels(folder, LabelSelection(method="b3lyp", partition="becke"))
    with pytest.raises(FileFormatError, match="a folder of results or an archive of labels, found nothing"):
        read_labels(tmp_path / "missing")


def test_the_commands_close_a_campaign_and_read_it(folder: Path, tmp_path: Path) -> None:
    chosen = geometries(4)
    positions = campaign_of(folder).geometries.positions[:4]
    replace(chosen, positions=positions).write(tmp_path / "geometries.extxyz")
    out = tmp_path / "data.extxyz"
    words = [
        "label",
        tmp_path / "geometries.extxyz",
        "-o",
        out,
        "--basis",
        "sto-3g",
        "--method",
        "hf",
        "--folder",
        folder,
    ]
    first = fflux(*words, "--partition", "none", "--executor", _pool(tmp_path), "--json")
    assert first.code == 0, first.err
    assert (first.json["n_computed"], first.json["archive"]) == (4, None)
    text = out.read_text()
    part = fflux(*words, "--partition", "becke", "--array", "0/2", "--executor", _pool(tmp_path), "--archive")
    assert "found 2 without; label them first" in refused(part)
    closed = fflux(*words, "--partition", "none", "--archive", "--json")
    assert (closed.json["n_computed"], closed.json["archive"]) == (0, str(folder / ARCHIVE))
    assert not list(folder.glob("*.json"))
    again = fflux(*words, "--partition", "none")
    assert "0 computed now, 4 reused" in again.out
    assert out.read_text() == text
    for source in (folder, folder / ARCHIVE):
        for converted in (tmp_path / "converted.extxyz", tmp_path / "converted.extxyz.xz"):
            answer = fflux("convert", source, converted, "--method", "b3lyp", "--json")
            assert answer.code == 0, answer.err
            assert (answer.json["n_geometries"], answer.json["partition"]) == (4, "hirshfeld")
            assert len(Dataset.read(converted)) == 4
    line = refused(fflux("convert", folder, tmp_path / "converted.extxyz"))
    assert "one level of theory" in line
    line = refused(fflux("convert", folder, tmp_path / "converted.extxyz", "--length-unit", "bohr"))
    assert "--length-unit" in line


def _pool(folder: Path) -> Path:
    path = folder / "pool.py"
    path.write_text("from concurrent.futures import ThreadPoolExecutor\nexecutor = ThreadPoolExecutor(1)\n")
    return path


def test_what_holds_results(folder: Path, tmp_path: Path) -> None:
    assert holds_results(folder)
    assert holds_results(tmp_path / "labels.npz.xz")
    assert not holds_results(tmp_path)
    assert not holds_results(tmp_path / "labels.npz")
    (tmp_path / "header.json").write_text("{}")
    assert not holds_results(tmp_path)


@pytest.mark.parametrize(("molecule", "counts"), [("alanine_dipeptide", (614, 165)), ("glycine_dipeptide", (485, 152))])
def test_archives_in_the_repository_hold_the_labels_of_the_shipped_data(molecule: str, counts: tuple[int, int]) -> None:
    file = REPOSITORY / "training_data" / molecule / "data.extxyz"
    chosen = GeometrySet.read(file)  # its geometries, without the labels
    campaign = Campaign(chosen, LevelOfTheory(), "hirshfeld", CAMPAIGNS / molecule / "labels", counts[1])
    names = ResultFolder(campaign.folder).names()
    assert len(names) == sum(counts) + 1
    data = campaign.collect()
    shipped = Dataset.read(file)
    # Texts, to the byte: energies, forces, atomic energies, wall times and all.
    assert data.to_text() == shipped.to_text()
    assert sorted(path.name for path in campaign.folder.iterdir()) == [ARCHIVE]
