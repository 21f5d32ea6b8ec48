"""Data sets: exact round trips, units, choices, and one line for every inconsistent file."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ase.io
import ase.units
import numpy as np
import pytest

from fflux_py.errors import FFLUXError, FileFormatError, InputError, InputWarning
from fflux_py.files import write_atomically
from fflux_py.molecules import shipped_data
from fflux_py.molecules.dataset import Dataset, GeometrySet
from fflux_py.molecules.extended_xyz import read_frames, read_molecule, write_frames
from fflux_py.molecules.molecule import Molecule
from fflux_py.units import KCAL_MOL
from tests.support.synthetic import ISOLATED, MethanolPotential, label, methanol, sample

pytestmark = pytest.mark.core


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Six labelled geometries of two trajectories; the last has no atomic energies."""
    whole = label(sample(6))
    geometries = replace(
        whole.geometries,
        source=("a", "b", "a", "b", "a", "a"),
        split=("train", "test", "train", "test", "train", "train"),
        temperature=np.array([300.0, 500.0, 300.0, 500.0, np.nan, 300.0]),
    )
    columns = {}
    for name in ("atomic_energies", "atomic_errors", "charges"):
        columns[name] = np.array(getattr(whole, name))
        columns[name][5] = np.nan
    return replace(whole, geometries=geometries, **columns)


def test_the_synthetic_labels_are_consistent() -> None:
    positions, potential = sample(2), MethanolPotential()
    energies, forces = potential.compute(positions)
    np.testing.assert_allclose(potential.atomic_energies(positions).sum(-1), energies, rtol=1e-14)
    step = 1e-3
    for atom, component in np.ndindex(6, 3):
        shift = np.zeros((6, 3))
        shift[atom, component] = step
        e = [potential.compute(positions + k * shift)[0] for k in (-2, -1, 1, 2)]
        slope = (e[0] - 8 * e[1] + 8 * e[2] - e[3]) / (12 * step)
        np.testing.assert_allclose(forces[:, atom, component], -slope, atol=1e-9)
    far = methanol().positions * 30.0
    np.testing.assert_allclose(potential.atomic_energies(far), [ISOLATED[s] for s in methanol().symbols], atol=0.05)


def test_read_gives_what_was_written(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "data.extxyz"
    dataset.write(path)
    read = Dataset.read(path)
    for name in ("energies", "forces", "atomic_energies", "atomic_errors", "charges", "positions"):
        np.testing.assert_allclose(getattr(read, name), getattr(dataset, name), rtol=1e-14, err_msg=name)  # 15 digits
    assert read.geometries.source == dataset.geometries.source
    assert read.geometries.split == dataset.geometries.split
    np.testing.assert_array_equal(read.geometries.temperature, dataset.geometries.temperature)
    np.testing.assert_array_equal(read.has_atomic_energies, [True] * 5 + [False])
    assert read.molecule.name == "methanol"
    np.testing.assert_allclose(read.molecule.positions, methanol().positions, atol=1e-14)
    assert read.isolated_energies == pytest.approx(ISOLATED, rel=1e-15)
    assert dict(read.metadata) == {**dataset.geometries.metadata, **dataset.metadata}


def test_a_file_that_was_read_is_written_back_byte_for_byte(dataset: Dataset, tmp_path: Path) -> None:
    path, again = tmp_path / "data.extxyz", tmp_path / "again.extxyz"
    dataset.write(path)
    Dataset.read(path).write(again)
    assert again.read_bytes() == path.read_bytes()
    geometries = tmp_path / "geometries.extxyz"
    dataset.geometries.write(geometries)
    GeometrySet.read(geometries).write(again)
    assert again.read_bytes() == geometries.read_bytes()


def test_a_compressed_data_set_is_the_same_for_us_and_for_ase(dataset: Dataset, tmp_path: Path) -> None:
    path, compressed = tmp_path / "plain.extxyz", tmp_path / "data.extxyz.xz"
    dataset.write(path)
    dataset.write(compressed)
    digests = [Dataset.read(name).digest() for name in (path, compressed, tmp_path / "data.extxyz")]
    assert digests == [dataset.digest()] * 3
    for plain, packed in zip(ase.io.read(path, ":"), ase.io.read(compressed, ":"), strict=True):
        np.testing.assert_array_equal(plain.arrays["REF_forces"], packed.arrays["REF_forces"])
        assert plain.info["REF_energy"] == packed.info["REF_energy"]
    # A file of another program without a name is called by the name of the file.
    (tmp_path / "water.xyz").write_text("1\n\nO 0 0 0\n")
    write_atomically(tmp_path / "ice.xyz.xz", "1\n\nO 0 0 0\n")
    names = [GeometrySet.read(tmp_path / name).molecule.name for name in ("water.xyz", "ice.xyz.xz", "ice.xyz")]
    assert names == ["water", "ice", "ice"]
    assert GeometrySet.read(tmp_path / "ice.xyz.xz").source == ("ice",)
    assert read_molecule(tmp_path / "ice.xyz.xz").name == "ice"


def test_the_file_is_in_ev_and_angstrom_and_ase_holds_every_value(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "data.extxyz"
    dataset.write(path)
    frames = ase.io.read(path, ":")
    assert len(frames) == 6
    for k, atoms in enumerate(frames):
        assert atoms.calc is None  # nothing was swallowed into a calculator
        np.testing.assert_allclose(atoms.positions, dataset.positions[k] * ase.units.Bohr, rtol=1e-7)
        assert atoms.info["REF_energy"] == pytest.approx(dataset.energies[k] * ase.units.Hartree, rel=1e-7)
        forces = dataset.forces[k] * ase.units.Hartree / ase.units.Bohr
        np.testing.assert_allclose(atoms.arrays["REF_forces"], forces, rtol=1e-7)
        assert atoms.info["units"] == "eV, angstrom, e, K"
        assert atoms.info["source"] == dataset.geometries.source[k]
        assert ("iqa_energies" in atoms.arrays) is (k < 5)
    energies = frames[0].arrays["iqa_energies"]
    assert energies.sum() == pytest.approx(frames[0].info["REF_energy"], abs=1e-9)
    assert set(frames[0].arrays) == {
        "numbers", "positions", "REF_forces", "iqa_energies", "iqa_error", "atomic_charges",
    }  # fmt: skip
    assert frames[0].info["isolated_energy_H"] == pytest.approx(-0.5 * ase.units.Hartree, rel=1e-7)


def test_select_and_split(dataset: Dataset) -> None:
    chosen = dataset.select([3, 0])
    assert chosen.geometries.source == ("b", "a")
    assert chosen.geometries.split == ("test", "train")
    np.testing.assert_array_equal(chosen.geometries.temperature, [500.0, 300.0])
    np.testing.assert_array_equal(chosen.energies, dataset.energies[[3, 0]])
    np.testing.assert_array_equal(chosen.forces, dataset.forces[[3, 0]])
    np.testing.assert_array_equal(chosen.positions, dataset.positions[[3, 0]])
    np.testing.assert_array_equal(chosen.atomic_energies, dataset.atomic_energies[[3, 0]])
    assert len(dataset.with_split("test")) == 2
    np.testing.assert_array_equal(dataset.with_split("train").energies, dataset.energies[[0, 2, 4, 5]])
    np.testing.assert_array_equal(dataset.geometries.select(np.array([5])).positions[0], dataset.positions[5])
    hot = dataset.geometries.temperature > 400.0
    np.testing.assert_array_equal(dataset.select(hot).energies, dataset.energies[hot])
    assert len(dataset.geometries.select([False] * 6)) == 0
    with pytest.raises(InputError, match="mask of all 6"):
        dataset.select(hot[:4])


def test_digest_is_that_of_the_file_and_feels_every_change(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "data.extxyz"
    dataset.write(path)
    assert Dataset.read(path).digest() == dataset.digest()
    forces = np.array(dataset.forces)
    forces[2, 1, 0] += 1e-12
    others = [
        replace(dataset, forces=forces),
        replace(dataset, metadata={**dataset.metadata, "basis": "other"}),
        replace(dataset, isolated_energies={**ISOLATED, "H": -0.4999}),
        dataset.select([0, 1, 2, 3, 5, 4]),
        dataset.select(range(5)),
    ]
    digests = {dataset.digest(), *(other.digest() for other in others)}
    assert len(digests) == 6


def test_geometries_of_a_labelled_file_and_of_a_plain_trajectory(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "data.extxyz"
    dataset.write(path)
    geometries = GeometrySet.read(path)
    np.testing.assert_allclose(geometries.positions, dataset.positions, rtol=1e-14)
    assert geometries.split == dataset.geometries.split
    frames = [
        ase.Atoms("OH", [[0, 0, 0], [0.96 + 0.01 * k, 0, 0]], info={"step": k, "energy": -5.0 - k}) for k in range(3)
    ]
    ase.io.write(tmp_path / "run.xyz", frames, format="extxyz")
    plain = GeometrySet.read(tmp_path / "run.xyz")
    assert (len(plain), plain.source, plain.split) == (3, ("run",) * 3, ("train",) * 3)
    assert np.isnan(plain.temperature).all()
    assert plain.molecule.name == "run"
    assert plain.positions[2, 1, 0] == pytest.approx(0.98 / 0.529177210903)


def _edit(old: str, new: str, count: int = -1) -> Callable[[str], str]:
    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new, count)

    return edit


_BAD = {
    "no units": (_edit('units="eV, angstrom, e, K" ', ""), r"data\.extxyz:2: .*units=.*no key 'units'"),
    "other units": (_edit("eV, angstrom", "hartree, bohr"), r"data\.extxyz:2: .*units=.*hartree"),
    "no schema": (_edit('schema="fflux-dataset-1" ', ""), r"data\.extxyz:2: .*no key 'schema'"),
    "future schema": (_edit("fflux-dataset-1", "fflux-dataset-9"), r"data\.extxyz:2: .*fflux-dataset-9"),
    "no method": (_edit('method="analytic" ', ""), r"data\.extxyz:2: .*the key method"),
    "no energy": (_edit("REF_energy", "REF_enthalpy", 1), r"data\.extxyz:\d+.*REF_e"),
    "energy is text": (_edit("REF_energy=", "REF_energy=about", 1), r"data\.extxyz:2, key REF_energy: .*a real number"),
    "forces missing": (_edit("REF_forces:R:3", "other:R:3", 1), r"data\.extxyz:2, column REF_forces"),
    "forces as columns": (
        _edit("REF_forces:R:3", "REF_forces:R:2:u:R:1", 1),
        r"data\.extxyz:2, column REF_forces: .*shape",
    ),
    "atomic energies as text": (_edit("iqa_energies:R", "iqa_energies:S", 1), r"data\.extxyz:2, column iqa_energies"),
    "mixed methods": (_edit("analytic", "b3lyp", 1), r"data\.extxyz:10: .*method='b3lyp'.*do not mix data sets"),
    "mixed isolated energies": (
        _edit("isolated_energy_H", "isolated_energy_N", 1),
        r"data\.extxyz:10: .*isolated_energy",
    ),
    "other element": (_edit("\nO  ", "\nS  ", 1), r"data\.extxyz:10, atom 2: .*S as in the first frame"),
    "bad split": (_edit('split="train"', 'split="validate"', 1), r"data\.extxyz:2, key split: .*'validate'"),
    "both splits": (_edit('split="train"', 'split="test"', 1), r"data\.extxyz, trajectory 'a': .*one split"),
    "bad temperature": (_edit("temperature=300.0", 'temperature="warm"', 1), r"data\.extxyz:2, key temperature"),
    "bad reference": (_edit('reference="', 'reference="1.0 ', -1), r"data\.extxyz:2, key reference: .*18 numbers"),
    "bad charge": (_edit("total_charge=0", "total_charge=neutral"), r"data\.extxyz:2, key total_charge"),
    "bad isolated energy": (
        _edit("isolated_energy_H=", "isolated_energy_H=x"),
        r"data\.extxyz:2, key isolated_energy_H",
    ),
}


@pytest.mark.parametrize("case", _BAD)
def test_inconsistent_files_end_with_one_line(dataset: Dataset, tmp_path: Path, case: str) -> None:
    edit, message = _BAD[case]
    path = tmp_path / "data.extxyz"
    path.write_text(edit(dataset.to_text()))
    with pytest.raises(FileFormatError, match=message) as caught:
        Dataset.read(path)
    assert "\n" not in str(caught.value)


def test_not_a_number_in_any_column_names_the_frame_and_the_column(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "data.extxyz"
    lines = dataset.to_text().split("\n")
    for field, message in ((4, "column REF_forces"), (7, "column iqa_energies"), (9, "column atomic_charges")):
        words = lines[11].split()  # the second atom of the second frame
        words[field] = "nan"
        path.write_text("\n".join([*lines[:11], " ".join(words), *lines[12:]]))
        with pytest.raises(FileFormatError, match=rf"data\.extxyz:10, {message}: .*NaN"):
            Dataset.read(path)
    path.write_text(re.sub(r"REF_energy=\S+", "REF_energy=nan", dataset.to_text(), count=1))
    with pytest.raises(FileFormatError, match=r"data\.extxyz:2, key REF_energy: .*finite"):
        Dataset.read(path)


def test_geometries_with_another_number_of_atoms_or_in_bohr(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "geometries.extxyz"
    water = "3\nProperties=species:S:1:pos:R:3\nO 0 0 0.1\nH 0 0.8 -0.5\nH 0 -0.8 -0.5\n"
    path.write_text(water + "2\nProperties=species:S:1:pos:R:3\nO 0 0 0.1\nH 0 0.8 -0.5\n")
    with pytest.raises(FileFormatError, match=r"geometries\.extxyz:7: .*3 atoms.*found 2"):
        GeometrySet.read(path)
    dataset.geometries.write(path)
    path.write_text(path.read_text().replace('units="angstrom, K"', 'units="bohr, K"'))
    with pytest.raises(FileFormatError, match=r"geometries\.extxyz:2: .*angstrom.*bohr"):
        GeometrySet.read(path)


def test_a_trajectory_is_either_for_training_or_for_testing() -> None:
    positions = sample(2)
    with pytest.raises(InputError, match=r"trajectory 'a': .*one split for all its frames"):
        GeometrySet(methanol(), positions, ("a", "a"), np.full(2, 300.0), ("train", "test"))
    assert len(GeometrySet(methanol(), positions, ("a", "b"), np.full(2, 300.0), ("train", "test"))) == 2


def test_arrays_of_wrong_shape_or_kind_are_refused(dataset: Dataset) -> None:
    part = np.array(dataset.atomic_energies)
    part[0, 0] = np.nan
    infinite = np.array(dataset.charges)
    infinite[0, 0] = np.inf
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: replace(dataset, energies=dataset.energies[:-1]), "energies: .*shape"),
        (lambda: replace(dataset, forces=dataset.forces[:, :-1]), "forces: .*shape"),
        (lambda: replace(dataset, forces=np.where(np.arange(3) == 1, np.nan, dataset.forces)), "forces: .*finite"),
        (lambda: replace(dataset, atomic_energies=part), "atomic_energies: .*all atoms"),
        (lambda: replace(dataset, charges=infinite), "charges: .*finite"),
        (lambda: replace(dataset, metadata={"method": "x", "basis": "y"}), "'partition'"),
        (lambda: replace(dataset, metadata={**dataset.metadata, "energy": 1.0}), "'energy'"),
        (lambda: replace(dataset, metadata={**dataset.metadata, "temperature": 300.0}), "'temperature'"),
        (lambda: replace(dataset.geometries, source=("a",)), "source: .*6 entries"),
        (lambda: replace(dataset.geometries, positions=dataset.positions[:, :5]), "positions: .*shape"),
        (lambda: replace(dataset.geometries, positions=dataset.positions * np.inf), "positions: .*finite"),
        (lambda: replace(dataset.geometries, split=("x",) * 6), "'train' or 'test'"),
    ]
    for make, message in cases:
        with pytest.raises(InputError, match=message):
            make()


def test_arrays_are_read_only(dataset: Dataset) -> None:
    for array in (dataset.energies, dataset.forces, dataset.atomic_energies, dataset.positions):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0.0


def test_a_geometry_set_of_a_charged_molecule_keeps_the_charge(tmp_path: Path) -> None:
    molecule = Molecule(methanol().symbols, methanol().positions, 1, "cation")
    geometries = GeometrySet(molecule, sample(2), ("a", "a"), np.array([300.0, 300.0]), ("test", "test"), {"seed": 7})
    geometries.write(tmp_path / "g.extxyz")
    read = GeometrySet.read(tmp_path / "g.extxyz")
    assert (read.molecule.charge, read.molecule.name, read.metadata["seed"]) == (1, "cation", 7)


def test_nothing_is_written_where_there_is_no_place(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(FFLUXError, match="No such file or directory"):
        dataset.write(tmp_path / "no" / "data.extxyz")
    assert list(tmp_path.iterdir()) == []


def test_shipped_labels_differ_in_the_partition_alone() -> None:
    folder = shipped_data.path("malondialdehyde")
    hirshfeld, qtaim = Dataset.read(folder / "data.extxyz"), Dataset.read(folder / "data_qtaim.extxyz")
    assert (hirshfeld.metadata["partition"], qtaim.metadata["partition"]) == ("hirshfeld", "qtaim")
    assert len(hirshfeld) == len(qtaim) == 640
    assert hirshfeld.geometries.split == qtaim.geometries.split
    np.testing.assert_array_equal(hirshfeld.geometries.positions, qtaim.geometries.positions)
    np.testing.assert_array_equal(hirshfeld.energies, qtaim.energies)
    np.testing.assert_array_equal(hirshfeld.forces, qtaim.forces)
    for dataset in (hirshfeld, qtaim):
        np.testing.assert_allclose(dataset.atomic_energies.sum(axis=1), dataset.energies, atol=1e-8)
    # Another way to cut space, not another molecule.
    apart = np.abs(hirshfeld.atomic_energies - qtaim.atomic_energies).mean(axis=0) * KCAL_MOL
    assert apart.max() > 10.0


def test_frames_in_another_order_are_brought_into_that_of_the_reference(dataset: Dataset, tmp_path: Path) -> None:
    """Two methyl hydrogens exchanged: labels go with their atoms."""
    path = tmp_path / "data.extxyz"
    dataset.write(path)
    frames = read_frames(path)
    a, b = 3, 4  # out of the plane of the reference: no other order of the three is as near
    order = np.arange(len(frames[0].symbols))
    order[[a, b]] = b, a
    frames[1] = replace(
        frames[1],
        positions=frames[1].positions[order],
        columns={name: column[order] for name, column in frames[1].columns.items()},
    )
    write_frames(path, frames)
    with pytest.warns(InputWarning, match="1 of .* frames"):
        again = Dataset.read(path)
    assert np.allclose(again.positions[1], dataset.positions[1], atol=1e-12)
    assert np.allclose(again.forces[1], dataset.forces[1], atol=1e-12)
    assert np.allclose(again.energies, dataset.energies, rtol=1e-13)
