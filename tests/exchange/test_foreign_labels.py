"""Labels of other programs as other groups publish them: archives of MD17 and rMD17, extended XYZ; wrong ones."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from fflux_py.errors import FileFormatError, InputError
from fflux_py.exchange.labelled_xyz import read_labelled_xyz
from fflux_py.exchange.labels import keep_for_testing
from fflux_py.exchange.npz_archive import ArchiveOrigin, force_unit, read_npz
from fflux_py.molecules import shipped_data
from fflux_py.molecules.dataset import Dataset
from fflux_py.molecules.extended_xyz import Frame, write_frames
from fflux_py.units import ANGSTROM, EV, EV_ANGSTROM, KCAL_MOL, KCAL_MOL_ANGSTROM
from tests.support.cli_support import fflux, refused

ORIGIN = ArchiveOrigin("b3lyp", "6-31+g(d,p)")
LEVEL = ("--method", "b3lyp", "--basis", "6-31+g(d,p)")


@lru_cache(maxsize=1)
def labels() -> Dataset:
    return Dataset.read(shipped_data.path("malondialdehyde") / shipped_data.DATA).select(range(60))


def sgdml(path: Path, **changes: object) -> Path:
    """An archive of 60 geometries as sGDML and MD17 have it, in angstrom and hartree, with atomic energies."""
    data = labels()
    entries: dict[str, object] = {
        "z": data.molecule.numbers, "R": data.positions * ANGSTROM, "E": data.energies,
        "F": data.forces / ANGSTROM, "E_IQA": data.atomic_energies, "r_unit": "Ang", "e_unit": "hartree",
    }  # fmt: skip
    entries.update(changes)
    np.savez(path, **{k: v for k, v in entries.items() if v is not None})  # type: ignore[arg-type]
    return path


def frames(changes: dict[int, dict[str, object]] | None = None) -> list[Frame]:
    data = labels()
    return [
        Frame(
            data.molecule.symbols,
            data.positions[k] * ANGSTROM,
            {"forces": data.forces[k] * EV_ANGSTROM},
            {"energy": data.energies[k] * EV, "config_type": "300K", "angle": 1.0 * k, **(changes or {}).get(k, {})},
        )
        for k in range(12)
    ]


@pytest.mark.parametrize(
    ("changes", "factor"),
    [
        ({"F": "hartree/bohr"}, "0.5292 (forces per bohr with positions in angstrom)"),
        ({"F": "gradient"}, "factor -1"),
        ({"F": "eV/angstrom"}, "27.21 (forces in eV with energies in hartree)"),
    ],
)
def test_mixed_units_are_refused_with_the_factor(changes: dict[str, str], factor: str, tmp_path: Path) -> None:
    forces = {
        "hartree/bohr": labels().forces,
        "gradient": -labels().forces / ANGSTROM,
        "eV/angstrom": labels().forces * EV_ANGSTROM,
    }[changes["F"]]
    source, output = sgdml(tmp_path / "set.npz", F=forces), tmp_path / "out.extxyz"
    message = refused("convert", source, output, *LEVEL)
    assert factor in message
    assert "set.npz, forces: expected" in message
    assert not output.exists()


def test_another_unit_of_forces_can_be_named(tmp_path: Path) -> None:
    source, output = sgdml(tmp_path / "set.npz", F=labels().forces), tmp_path / "out.extxyz"
    answer = fflux("convert", source, output, *LEVEL, "--force-unit", "hartree/bohr", "--json")
    assert answer.code == 0, answer.err
    np.testing.assert_allclose(Dataset.read(output).forces, labels().forces, rtol=1e-12)
    assert answer.json["n_test"] == 6
    assert answer.json["checks"][0].startswith("forces against energies: 0.9")
    with pytest.raises(InputError, match="expected ENERGY/LENGTH of hartree"):
        force_unit("newton")
    assert force_unit("kcal/mol/angstrom") == pytest.approx(KCAL_MOL_ANGSTROM)


def test_names_and_parts_of_rmd17(tmp_path: Path) -> None:
    data = labels()
    plain = tmp_path / "plain.npz"
    np.savez(
        plain, nuclear_charges=data.molecule.numbers, coords=data.positions * ANGSTROM,
        energies=data.energies * KCAL_MOL, forces=data.forces * KCAL_MOL_ANGSTROM, old_indices=np.arange(60),
    )  # fmt: skip
    with pytest.raises(InputError, match="entry r_unit: expected a unit"):
        read_npz(plain, ORIGIN)
    first = read_npz(plain, ArchiveOrigin("pbe", "def2-svp", None, "angstrom", "kcal/mol"))
    parts = tmp_path / "parts.npz"
    np.savez(
        parts, z=data.molecule.numbers,
        train_R_angstrom=data.positions[:50] * ANGSTROM, test_R_angstrom=data.positions[50:] * ANGSTROM,
        train_E_kcal_mol=data.energies[:50] * KCAL_MOL, test_E_kcal_mol=data.energies[50:] * KCAL_MOL,
        train_F_kcal_mol_angstrom=data.forces[:50] * KCAL_MOL_ANGSTROM,
        test_F_kcal_mol_angstrom=data.forces[50:] * KCAL_MOL_ANGSTROM,
    )  # fmt: skip
    second = read_npz(parts, ORIGIN)
    for read in (first, second):
        np.testing.assert_allclose(read.positions, data.positions, rtol=1e-12)
        np.testing.assert_allclose(read.energies, data.energies, rtol=1e-12)
        np.testing.assert_allclose(read.forces, data.forces, rtol=1e-12)
        assert read.metadata["partition"] == "none"
        assert not read.has_atomic_energies.any()
    assert second.geometries.split == ("train",) * 50 + ("test",) * 10
    answer = fflux("convert", parts, tmp_path / "out.extxyz", *LEVEL)
    assert answer.code == 0, answer.err
    assert "10 of them are kept for testing" in answer.out
    np.savez(parts, z=data.molecule.numbers, R_bohr=data.positions, E_ev=data.energies * EV, Q=np.ones(60))
    charged = read_npz(parts, ORIGIN)
    np.testing.assert_allclose(charged.positions, data.positions)
    assert charged.molecule.charge == 1
    assert not charged.has_forces
    np.savez(parts, z=data.molecule.numbers, R_bohr=data.positions, E_ev=data.energies * EV, Q=np.arange(60.0))
    with pytest.raises(FileFormatError, match="entry Q: expected atomic charges"):
        read_npz(parts, ORIGIN)


def test_extended_xyz_with_energies_and_forces(tmp_path: Path) -> None:
    single = [
        Frame((symbol,), np.zeros((1, 3)), {}, {"energy": energy})
        for symbol, energy in (("H", -13.6), ("C", -1030.0), ("O", -2043.0))
    ]
    source, output = tmp_path / "ase.xyz", tmp_path / "data.extxyz"
    write_frames(source, [*single, *frames()])
    answer = fflux("convert", source, output, *LEVEL, "--json")
    assert answer.code == 0, answer.err
    data = Dataset.read(output)
    assert len(data) == 12
    np.testing.assert_allclose(data.energies, labels().energies[:12], rtol=1e-12)
    np.testing.assert_allclose(data.forces, labels().forces[:12], rtol=1e-10, atol=1e-12)
    assert data.isolated_energies["O"] == pytest.approx(-2043.0 / EV)
    assert data.geometries.split.count("test") == 1
    bohr = ArchiveOrigin("b3lyp", "x", None, "bohr", "hartree")
    atomic = [
        Frame(f.symbols, f.positions / ANGSTROM, {"REF_forces": f.columns["forces"] / EV_ANGSTROM},
              {"REF_energy": f.info["energy"] / EV})
        for f in frames()
    ]  # fmt: skip
    write_frames(source, atomic)
    again = read_labelled_xyz(source, bohr)
    np.testing.assert_allclose(again.positions, data.positions, rtol=1e-12)
    np.testing.assert_allclose(again.forces, data.forces, rtol=1e-9, atol=1e-12)


def test_wrong_extended_xyz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ase.xyz"

    def refusal(written: list[Frame], origin: ArchiveOrigin = ORIGIN) -> str:
        write_frames(path, written)
        with pytest.raises((FileFormatError, InputError)) as error:
            read_labelled_xyz(path, origin)
        return str(error.value)

    plain = frames()
    unlabelled = Frame(plain[3].symbols, plain[3].positions, plain[3].columns, {"angle": 1.0})
    assert "ase.xyz:35: expected the energy as one of REF_energy" in refusal([*plain[:3], unlabelled])
    bare = Frame(plain[3].symbols, plain[3].positions, {}, plain[3].info)
    assert "ase.xyz:35, column forces: expected finite forces" in refusal([*plain[:3], bare])
    assert "expected forces as in other frames" in refusal([bare, *plain[:3]])
    assert "expected the atoms of the first frame" in refusal(
        [Frame(("O", "C"), plain[0].positions[:2], {}, {}), *plain]
    )
    assert "energy: expected a finite number" in refusal(frames({5: {"energy": float("nan")}}))
    assert "partition: expected 'none'" in refusal(plain, ArchiveOrigin("pbe", "x", "qtaim"))
    assert "energy unit: expected one of" in refusal(plain, ArchiveOrigin("pbe", "x", None, None, "furlong"))
    assert "single atoms only" in refusal([Frame(("O",), np.zeros((1, 3)), {}, {"energy": 1.0})])
    write_frames(path, [*plain])
    with pytest.raises(FileFormatError, match="'fflux convert' makes one of labels of other programs"):
        Dataset.read(path)
    with pytest.raises(FileFormatError, match="expected an XYZ file, found a NumPy archive; 'fflux convert"):
        Dataset.read(sgdml(tmp_path / "set.npz"))
    labels().write(tmp_path / "own.extxyz")
    with pytest.raises(FileFormatError, match="expected labels of another program"):
        read_labelled_xyz(tmp_path / "own.extxyz", ORIGIN)


def test_geometries_are_kept_for_testing() -> None:
    plain = labels().geometries
    plain = replace(plain, split=("train",) * 60, source=("md",) * 60)
    data = keep_for_testing(replace(labels(), geometries=plain))
    assert [k for k, split in enumerate(data.geometries.split) if split == "test"] == [9, 19, 29, 39, 49, 59]
    assert {data.geometries.source[k] for k in (9, 59)}.isdisjoint({data.geometries.source[k] for k in (8, 58)})
    assert keep_for_testing(replace(labels(), geometries=plain), 2).geometries.split.count("test") == 30
    with pytest.raises(InputError, match="every: expected at least 2"):
        keep_for_testing(labels(), 1)
