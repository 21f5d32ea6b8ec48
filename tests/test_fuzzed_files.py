"""Readers of damaged files: they give what the file says or an error of this package, and nothing else.

Valid files are changed at random: bytes replaced, removed, doubled, or words put in that mean something to a reader.
"""

from __future__ import annotations

import contextlib
import lzma
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fflux_py import model_file
from fflux_py.bias.plumed_files import read_colvar, read_hills
from fflux_py.bias.plumed_input import parse_plumed_input, read_plumed_input
from fflux_py.dynamics import MDConfig, run_nvt
from fflux_py.dynamics.checkpoint import Checkpoint
from fflux_py.dynamics.dcd import read_dcd
from fflux_py.dynamics.trajectory import read_thermo
from fflux_py.errors import FFLUXError
from fflux_py.exchange.aimall import read_int, read_sum
from fflux_py.exchange.ferebus.consistency import read_model
from fflux_py.exchange.ferebus.kernel import Reading
from fflux_py.exchange.ferebus.model_text import format_model
from fflux_py.exchange.ferebus.tables import FeatureTable, read_training_csv, write_training_csv
from fflux_py.exchange.labelled_xyz import read_labelled_xyz
from fflux_py.exchange.npz_archive import ArchiveOrigin, read_npz
from fflux_py.files import parse_npz, read_text
from fflux_py.iqa.result_archive import read_archive, write_archive
from fflux_py.molecules.dataset import Dataset, GeometrySet
from fflux_py.molecules.extended_xyz import Frame, read_frames, write_frames
from tests.exchange import test_aimall as aimall
from tests.support import ferebus_data
from tests.support.cli_support import methanol_data
from tests.support.compiled_potentials import ammonia, ammonia_morse
from tests.support.paths import TEST_DATA

_WORDS = (b"", b"nan", b"-1", b"1e999", b"99999999999999999999", b"0", b"=", b'"', b"\n", b" ", b"\x00", b"\xff", b"{",
          b"\xc2\xb2", b"#! FIELDS", b"-", b",", b"()", b"1.5", b"F", b"%s", b"inf")  # fmt: skip


@st.composite
def damages(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Up to three changes, their places as shares of the length."""
    changes = draw(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), st.sampled_from(_WORDS)), max_size=3))
    end = draw(st.none() | st.floats(0, 1))

    def damage(data: bytes) -> bytes:
        for share, length, word in changes:
            begin = int(share * len(data))
            data = data[:begin] + word + data[begin + length :]
        return data if end is None else data[: int(end * len(data))]

    return damage


_SETTINGS = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)

_PLUMED = """phi: TORSION ATOMS=1,2,3,4
d: DISTANCE ATOMS=1,2
m: METAD ARG=phi PACE=10 HEIGHT=1.2 SIGMA=0.35 BIASFACTOR=10 TEMP=300 GRID_MIN=-pi GRID_MAX=pi FILE=HILLS
PRINT ARG=phi,m.bias STRIDE=5 FILE=COLVAR
"""
_HILLS = """#! FIELDS time phi sigma_phi height biasf
#! SET multivariate false
#! SET kerneltype gaussian
#! SET min_phi -pi
#! SET max_phi pi
 0.5 -1.31 0.35 1.33 10
 1.0 -1.32 0.35 1.31 10
"""
_COLVAR = """#! FIELDS time phi m.bias
#! SET min_phi -pi
#! SET max_phi pi
 0.000000 -1.3 0.0
 0.002500 -1.2 0.1
"""


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one valid file of every kind."""
    folder = tmp_path_factory.mktemp("valid")
    run_nvt(ammonia_morse(), ammonia(), MDConfig(steps=20), folder / "run")
    data = methanol_data().select(np.arange(2))
    data.write(folder / "data.extxyz")
    (folder / "data.extxyz.xz").write_bytes(lzma.compress((folder / "data.extxyz").read_bytes()))
    for name, text in (("plumed.dat", _PLUMED), ("HILLS", _HILLS), ("COLVAR", _COLVAR)):
        (folder / name).write_text(text)
    aimall.archive(folder / "archive.npz")
    foreign = [Frame(("O", "H"), np.eye(3)[:2] * k, {"forces": np.eye(3)[:2]}, {"energy": -1.0 * k}) for k in (1, 2)]
    write_frames(folder / "foreign.xyz", foreign)
    water = aimall.Water(5)
    (folder / "W.sum").write_text(water.sum_file())
    (folder / "W.wfn").write_text(water.wavefunction())
    (folder / "atoms").mkdir()
    for k, symbol in enumerate(aimall.SYMBOLS):
        (folder / "atoms" / f"{symbol.lower()}{k + 1}.int").write_text(water.int_file(k))
    x, energies = ferebus_data.data()
    names = tuple(f"f{k + 1}" for k in range(x.shape[1]))
    write_training_csv(folder / "atom.csv", FeatureTable(names, x[:5], energies[:5]))
    (folder / "atom.model").write_text(format_model(ferebus_data.solved(ferebus_data.single(x), Reading(), n=8)))
    write_archive(folder / "labels.npz.xz", {name: {"energies": [1.5, 2.5], "n": 3} for name in "ab"})
    return folder


def _read_arrays(path: Path) -> object:
    with contextlib.suppress(ValueError):
        return parse_npz(path.read_bytes())
    return None


_READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "frames": ("data.extxyz", read_frames),
    "data": ("data.extxyz", Dataset.read),
    "geometries": ("run/final.extxyz", GeometrySet.read),
    "compressed": ("data.extxyz.xz", read_text),
    "model": (str(TEST_DATA / "model_schema_1_energies.npz"), model_file.load),
    "arrays": (str(TEST_DATA / "model_schema_1_joint.npz"), _read_arrays),
    "checkpoint": ("run/checkpoint.npz", Checkpoint.read),
    "dcd": ("run/trajectory.dcd", read_dcd),
    "thermo": ("run/thermo.csv", read_thermo),
    "plumed": ("plumed.dat", read_plumed_input),
    "hills": ("HILLS", lambda path: read_hills(path, parse_plumed_input(_PLUMED, "").bias.variables)),
    "colvar": ("COLVAR", lambda path: read_colvar(path, parse_plumed_input(_PLUMED, "").bias.variables, ["m.bias"])),
    "archive": ("archive.npz", lambda path: read_npz(path, ArchiveOrigin("B3LYP", "6-31G", "mbis"))),
    "foreign": ("foreign.xyz", lambda path: read_labelled_xyz(path, ArchiveOrigin("B3LYP", "6-31G"))),
    "csv": ("atom.csv", read_training_csv),
    "ferebus": ("atom.model", read_model),
    "sum": ("W.sum", read_sum),
    "labels": ("labels.npz.xz", read_archive),
}


@pytest.mark.filterwarnings("ignore::fflux_py.errors.FFLUXWarning")
@pytest.mark.parametrize("kind", _READERS)
def test_a_damaged_file_is_read_or_refused(kind: str, valid: Path, tmp_path: Path) -> None:
    name, read = _READERS[kind]
    original = (valid / name).read_bytes()
    path = tmp_path / Path(name).name

    @_SETTINGS
    @given(damages())
    def check(damage: Callable[[bytes], bytes]) -> None:
        path.write_bytes(damage(original))
        with contextlib.suppress(FFLUXError):
            read(path)

    path.write_bytes(original)
    read(path)
    check()


def test_damaged_files_of_atoms_are_read_or_refused(valid: Path, tmp_path: Path) -> None:
    shutil.copytree(valid / "atoms", tmp_path / "atoms")
    shutil.copy(valid / "W.wfn", tmp_path / "W.wfn")
    atom, wavefunction = tmp_path / "atoms" / "h2.int", tmp_path / "W.wfn"
    originals = {path: path.read_bytes() for path in (atom, wavefunction)}

    @_SETTINGS
    @given(damages(), st.sampled_from([atom, wavefunction]))
    def check(damage: Callable[[bytes], bytes], path: Path) -> None:
        for other, original in originals.items():
            other.write_bytes(damage(original) if other == path else original)
        with contextlib.suppress(FFLUXError):
            read_int(tmp_path / "atoms", wavefunction)

    assert read_int(tmp_path / "atoms", wavefunction).symbols == aimall.SYMBOLS
    check()
