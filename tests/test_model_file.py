"""Model files: an exact round trip, nothing read that was altered, nothing half-written."""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fflux_py import model_file
from fflux_py.errors import FileFormatError, InputError
from fflux_py.files import arrays_sha256
from fflux_py.forcefield import ForceField
from fflux_py.gp.joint_atoms import JointFrame, joint_atoms
from fflux_py.gp.joint_fit import JointFit
from fflux_py.gp.observations import Observations
from fflux_py.molecules.molecule import Molecule
from tests.support.paths import TEST_DATA
from tests.support.synthetic import fit, label, methanol, sample

pytestmark = pytest.mark.core


@cache
def _forcefield(kind: str = "unit-vector") -> ForceField:
    forcefield = fit(label(sample(5)), kind, noise=1e-6)  # type: ignore[arg-type]
    return replace(forcefield, metadata={"seed": 3, "method": "analytic", "fraction": 0.1})


def _joint() -> ForceField:
    """A force field in the derivative basis, with arbitrary coefficients."""
    forcefield = _forcefield()
    rng = np.random.default_rng(1)
    partitioned = np.array([True, False, True, True, True])
    joint = JointFit(
        positions=sample(5),
        partitioned=partitioned,
        centres=np.array([model.energies.mean() for model in forcefield.atoms]),
        variances=rng.uniform(0.5, 1.0, 6),
        coefficients=rng.standard_normal((Observations(partitioned, 6).count, 7)),
        noises=(1e-3, 3e-5, 3e-5),
    )
    isolated = [forcefield.isolated_energies[symbol] for symbol in forcefield.molecule.symbols]
    atoms = joint_atoms(joint, [JointFrame.of(m) for m in forcefield.atoms], "MF5", isolated)
    return replace(forcefield, atoms=atoms, joint=joint)


@pytest.mark.parametrize("make", [_forcefield, lambda: _forcefield("spherical"), _joint])
def test_what_is_loaded_is_what_was_saved(tmp_path: Path, make: Callable[[], ForceField]) -> None:
    forcefield, path = make().unmatched, tmp_path / "model.npz"
    model_file.save(forcefield, path)
    loaded = model_file.load(path).unmatched
    positions = sample(3, 1000.0, seed=6)
    for mean in ("MF5", "MF2", "gls"):
        ours, theirs = forcefield.with_prior_mean(mean), loaded.with_prior_mean(mean)
        np.testing.assert_array_equal(theirs.compute(positions)[0], ours.compute(positions)[0])
        np.testing.assert_array_equal(theirs.compute(positions)[1], ours.compute(positions)[1])
    np.testing.assert_array_equal(loaded.compute(positions)[0], forcefield.compute(positions)[0])
    if forcefield.joint is None:
        np.testing.assert_array_equal(loaded.atomic_deviations(positions), forcefield.atomic_deviations(positions))
    assert loaded.molecule.symbols == forcefield.molecule.symbols
    np.testing.assert_array_equal(loaded.molecule.positions, forcefield.molecule.positions)
    assert (loaded.molecule.name, loaded.molecule.charge) == ("methanol", 0)
    assert dict(loaded.metadata) == dict(forcefield.metadata)
    assert dict(loaded.isolated_energies) == dict(forcefield.isolated_energies)
    for a, b in zip(loaded.atoms, forcefield.atoms, strict=True):
        for name in ("frame", "feature_kind", "mean_name", "mean", "variance", "noise", "jitter"):
            assert getattr(a, name) == getattr(b, name), name
        for name in ("points", "energies"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
        assert type(a.weights) is type(b.weights)
        for name in ("w_y", "w_1"):
            np.testing.assert_array_equal(getattr(a.weights, name), getattr(b.weights, name), err_msg=name)
        np.testing.assert_array_equal(a.covariance.theta, b.covariance.theta)
    assert (loaded.joint is None) == (forcefield.joint is None)


def test_charge_is_kept(tmp_path: Path) -> None:
    forcefield = _forcefield()
    anion = Molecule(methanol().symbols, methanol().positions, charge=-1, name="anion")
    model_file.save(replace(forcefield, molecule=anion), tmp_path / "a.npz")
    loaded = model_file.load(tmp_path / "a.npz").molecule
    assert (loaded.charge, loaded.name) == (-1, "anion")


def test_the_same_model_gives_the_same_checksum_and_another_model_another(tmp_path: Path) -> None:
    for name, forcefield in (("a", _forcefield()), ("b", _forcefield()), ("c", _forcefield().with_prior_mean("MF2"))):
        model_file.save(forcefield, tmp_path / name)
    digests = [model_file.file_digest(tmp_path / name) for name in "abc"]
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]
    assert len(digests[0]) == 64


def test_the_file_is_plain_arrays_with_units_in_a_readable_header(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    model_file.save(_forcefield(), path)
    with np.load(path, allow_pickle=False) as archive:
        header = json.loads(archive["header"].tobytes().decode())
        assert archive["000/points"].shape == (5, 15)
    assert header["schema"] == 2  # one kernel for each frame
    assert header["units"]["positions"] == "bohr"
    assert header["units"]["energies"] == "hartree"
    assert header["symbols"] == list(methanol().symbols)


def _rewritten(path: Path, change: Callable[[dict[str, Any]], None], checksum: bool = True) -> bytes:
    """The file with changed entries, and with the checksum that belongs to them."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    change(arrays)
    if checksum:
        arrays.pop("sha256", None)
        arrays["sha256"] = np.array(arrays_sha256(arrays))
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def _header(**changes: object) -> Callable[[dict[str, Any]], None]:
    def change(arrays: dict[str, Any]) -> None:
        header = {**json.loads(arrays["header"].tobytes().decode()), **changes}
        arrays["header"] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)

    return change


def _negative_theta(arrays: dict[str, Any]) -> None:
    arrays["002/theta"] = -arrays["002/theta"]


@pytest.mark.parametrize(
    ("change", "checksum", "message"),
    [
        (lambda a: a.update({"001/w_y": a["001/w_y"] * 1.0001}), False, "checksum.*altered"),
        (lambda a: a.pop("sha256"), False, "checksum"),
        (lambda a: a.pop("header"), True, "header"),
        (lambda a: a.pop("003/theta"), True, "the entry .*theta"),
        (_header(schema=99), True, "schema 1 to 3, found 99"),
        (_header(symbols=["C", "O", "H", "H", "H", "Q"]), True, "an element symbol"),
        (_header(features="cartesian"), True, "features"),
        (_header(atoms=[]), True, "models of all of the 6 atoms"),
        (_negative_theta, True, "theta"),
        (lambda a: a.update(header=np.frombuffer(b"no JSON", dtype=np.uint8)), True, "header: expected JSON"),
        (lambda a: a.update(header=np.frombuffer(b"[1]", dtype=np.uint8)), True, "JSON that is no object"),
        (_header(schema=None), True, "schema 1 to 3, found None"),
        (_header(charge="x"), True, "the entries of a model"),
        (_header(symbols=3), True, "the entries of a model"),
        (_header(atoms=[3]), True, "the entries of a model"),
        (lambda a: a.update({"001/w_y": a["001/w_y"][:-1]}), True, ""),
    ],
)
def test_altered_or_incomplete_models_are_refused_with_one_line(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], checksum: bool, message: str
) -> None:
    path = tmp_path / "model.npz"
    model_file.save(_forcefield(), path)
    path.write_bytes(_rewritten(path, change, checksum))
    with pytest.raises(FileFormatError, match=r"model\.npz.*" + message) as caught:
        model_file.load(path)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_other_files_are_refused_with_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    array, pickled, foreign = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(array, np.zeros(3))
    np.savez(pickled, a=np.array([{}], dtype=object))
    np.savez(foreign, a=np.zeros(3))
    for content in (b"", b"6\nmethanol\n", array.getvalue(), pickled.getvalue(), foreign.getvalue()):
        path.write_bytes(content)
        for function in (model_file.load, model_file.file_digest):
            with pytest.raises(FileFormatError, match=r"model\.npz: ") as caught:
                function(path)
            assert "\n" not in str(caught.value)
    for missing, reason in ((tmp_path / "no.npz", "No such file"), (tmp_path, "directory")):
        with pytest.raises(FileFormatError, match=reason):
            model_file.load(missing)


def test_a_file_with_any_flipped_bit_is_refused_or_means_the_same(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    model_file.save(_forcefield(), path)
    data = path.read_bytes()
    expected = _forcefield().energy_and_forces(methanol().positions)[1]
    rng = np.random.default_rng(0)
    places = np.concatenate([rng.integers(0, len(data), 100), rng.integers(len(data) - 3000, len(data), 300)])
    refused = 0
    for place in places:
        altered = bytearray(data)
        altered[place] ^= 1 << rng.integers(8)
        path.write_bytes(bytes(altered))
        try:
            loaded = model_file.load(path)
        except FileFormatError:
            refused += 1
        else:  # a bit of the archive that nobody reads: a date, an attribute
            np.testing.assert_array_equal(loaded.energy_and_forces(methanol().positions)[1], expected)
    assert refused > 200
    for length in range(0, len(data), 499):
        path.write_bytes(data[:length])
        with pytest.raises(FileFormatError):
            model_file.load(path)


def test_a_full_disk_leaves_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.npz"
    model_file.save(_forcefield(), path)
    old = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"model\.npz.*No space left"):
        model_file.save(_forcefield("spherical"), path)
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["model.npz"]


@pytest.mark.parametrize("name", ["joint", "energies"])
def test_files_of_schema_1_are_still_read(name: str) -> None:
    """Written by the version that introduced the schema, with what it predicted."""
    folder = TEST_DATA
    expected = np.load(folder / "model_schema_1_predictions.npz")
    forcefield = model_file.load(folder / f"model_schema_1_{name}.npz")
    energies, forces = forcefield.compute(expected["positions"])
    np.testing.assert_allclose(energies, expected[f"{name}_energies"], atol=1e-10)
    np.testing.assert_allclose(forces, expected[f"{name}_forces"], atol=1e-10)
    assert dict(forcefield.calibration) == {}


def test_files_of_schema_2_are_still_read() -> None:
    """A joint fit with symmetry and calibration, written by the version before schema 3."""
    expected = np.load(TEST_DATA / "model_schema_2_predictions.npz")
    forcefield = model_file.load(TEST_DATA / "model_schema_2_joint.npz")
    energies, forces = forcefield.compute(expected["positions"])
    np.testing.assert_allclose(energies, expected["energies"], atol=1e-10)
    np.testing.assert_allclose(forces, expected["forces"], atol=1e-10)
    np.testing.assert_allclose(forcefield.deviations(expected["positions"]), expected["deviations"], rtol=1e-6)
