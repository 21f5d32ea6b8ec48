"""Valid files of every kind that the package reads, their readers, and ways to damage them.

A file is damaged from outside (bytes replaced, removed, put in) and from within: what is compressed is opened first,
entries of JSON are changed, arrays get other shapes and types, and the checksum is made anew, so that the change is not
noticed at the door.
"""

from __future__ import annotations

import io
import json
import lzma
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fflux_py import model_file
from fflux_py.active_learning.rounds import Round, read_state, write_state
from fflux_py.analysis.runs import read_run
from fflux_py.bias.plumed_files import read_colvar, read_hills
from fflux_py.bias.plumed_input import parse_plumed_input, read_plumed_input
from fflux_py.dynamics import MDConfig, run_nvt
from fflux_py.dynamics.checkpoint import Checkpoint
from fflux_py.dynamics.dcd import read_dcd
from fflux_py.dynamics.trajectory import read_thermo
from fflux_py.exchange.aimall import read_int, read_sum
from fflux_py.exchange.dl_fflux import read_dl_fflux, write_dl_fflux
from fflux_py.exchange.ferebus.consistency import read_model
from fflux_py.exchange.ferebus.folder import read_models
from fflux_py.exchange.ferebus.kernel import Reading
from fflux_py.exchange.ferebus.model_text import format_model
from fflux_py.exchange.ferebus.tables import FeatureTable, read_training_csv, write_training_csv
from fflux_py.exchange.labelled_xyz import read_labelled_xyz
from fflux_py.exchange.npz_archive import ArchiveOrigin, read_npz
from fflux_py.files import arrays_sha256, parse_npz, read_text
from fflux_py.gp.taught_mean import TaughtMean
from fflux_py.interfaces.executor import read_settings
from fflux_py.iqa.result_archive import read_archive, write_archive
from fflux_py.iqa.result_folder import ResultFolder
from fflux_py.iqa.scf.electronic_structure import OccupiedOrbitals
from fflux_py.iqa.scf.level_of_theory import LevelOfTheory
from fflux_py.iqa.scf.orbitals import OrbitalFile
from fflux_py.molecules.dataset import Dataset, GeometrySet
from fflux_py.molecules.extended_xyz import Frame, read_frames, read_molecule, write_frames, write_molecule
from fflux_py.molecules.normal_modes import NormalModes, read_modes, write_modes
from fflux_py.propagators.trajectories import TrajectorySet
from fflux_py.teacher.teacher_file import Teacher, load_teacher, save_teacher
from fflux_py.training import _checkpoint as training_checkpoint
from tests.exchange import test_aimall as aimall
from tests.support import ferebus_data
from tests.support.cli_support import methanol_data
from tests.support.compiled_potentials import ammonia, ammonia_morse
from tests.support.paths import TEST_DATA
from tests.support.synthetic import fit, label, methanol, sample
from tests.support.taught_means import METHANOL, random_mean

WORDS: Final = (b"", b"nan", b"-1", b"1e999", b"99999999999999999999", b"0", b"=", b'"', b"\n", b" ", b"\x00", b"\xff",
         b"{", b"\xc2\xb2", b"#! FIELDS", b"-", b",", b"()", b"1.5", b"F", b"%s", b"inf", b"[" * 3000,
         b"9" * 5000, b"10000000000000", b"null", b"[]", b"true", b"../x", b"\t", b"\r")  # fmt: skip
"""Words that mean something to a reader."""

PLUMED: Final = """phi: TORSION ATOMS=1,2,3,4
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
_EXECUTOR = 'workers_per_node = 2\nthreads_per_worker = 1\nlauncher = "single"\nprovider = {kind = "local"}\n'
_WATER_LEVEL = LevelOfTheory(basis="6-31g")
_TRAINING_KEY = "k" * 64
_DEEP = "nested deeply"

Arrays = dict[str, NDArray[Any]]
Seal = Callable[[Arrays], Arrays]


class Kind(NamedTuple):
    """A kind of file: which one is damaged, who reads it, and how its checksum is made (None: it has none)."""

    name: str
    read: Callable[[Path], object]
    seal: Seal | None = None


def seal_arrays(arrays: Arrays) -> Arrays:
    """Arrays with the checksum that most archives have."""
    rest = {name: array for name, array in arrays.items() if name != "sha256"}
    return {**rest, "sha256": np.array(arrays_sha256(rest))}


def seal_trajectories(arrays: Arrays) -> Arrays:
    """Arrays with the checksum of a set of trajectories, where the header can be read."""
    rest = {name: array for name, array in arrays.items() if name not in ("sha256", "header")}
    try:
        header = json.loads(arrays["header"].tobytes())
    except (KeyError, ValueError, RecursionError):
        return arrays
    text = json.dumps(header, sort_keys=True).encode()
    return {**rest, "header": arrays["header"], "sha256": np.array(arrays_sha256(rest, text))}


def no_seal(arrays: Arrays) -> Arrays:
    """Arrays of a file without a checksum."""
    return arrays


def _trajectories() -> TrajectorySet:
    molecule = methanol()
    positions = np.repeat(molecule.positions[None, None], 4, axis=0).repeat(5, axis=1)
    split = np.array([0, 0, 1, 2])
    return TrajectorySet(molecule, molecule.masses, 1.0, positions, 0.0 * positions, np.full(4, 300.0), split)


def _read_orbitals(path: Path) -> object:
    file = OrbitalFile(methanol(), _WATER_LEVEL, path.parent)
    path.replace(file.path)
    return file.read()


def _read_labels(path: Path) -> object:
    archive = read_archive(path)
    return [archive.result(name) for name in archive.names]


def _read_result(path: Path) -> object:
    return ResultFolder(path.parent).read(path.stem)


def _read_training(path: Path) -> object:
    return training_checkpoint.Checkpoint(path, _TRAINING_KEY)


def _read_arrays(path: Path) -> object:
    try:
        return parse_npz(path.read_bytes())
    except ValueError:
        return None


def _read_propagator(path: Path) -> object:
    from fflux_py.propagators.propagator import load_propagator

    return load_propagator(path)


def _variables() -> Any:
    return parse_plumed_input(PLUMED, "").bias.variables


def make_files(folder: Path) -> None:
    """Write one valid file of every kind (of propagators: if torch is there)."""
    run_nvt(ammonia_morse(), ammonia(), MDConfig(steps=20), folder / "run")
    data = methanol_data().select(np.arange(2))
    data.write(folder / "data.extxyz")
    write_molecule(folder / "start.xyz", methanol())
    (folder / "data.extxyz.xz").write_bytes(lzma.compress((folder / "data.extxyz").read_bytes()))
    texts = {"plumed.dat": PLUMED, "HILLS": _HILLS, "COLVAR": _COLVAR, "executor.toml": _EXECUTOR}
    for name, text in texts.items():
        (folder / name).write_text(text)
    aimall.archive(folder / "archive.npz")
    foreign = [Frame(("O", "H"), np.eye(3)[:2] * k, {"forces": np.eye(3)[:2]}, {"energy": -1.0 * k}) for k in (1, 2)]
    write_frames(folder / "foreign.xyz", foreign)
    water = aimall.Water(5)
    (folder / "atoms").mkdir()
    (folder / "W.sum").write_text(water.sum_file())
    (folder / "atoms" / "W.wfn").write_text(water.wavefunction())
    for k, symbol in enumerate(aimall.SYMBOLS):
        (folder / "atoms" / f"{symbol.lower()}{k + 1}.int").write_text(water.int_file(k))
    x, energies = ferebus_data.data()
    names = tuple(f"f{k + 1}" for k in range(x.shape[1]))
    write_training_csv(folder / "atom.csv", FeatureTable(names, x[:5], energies[:5]))
    (folder / "atom.model").write_text(format_model(ferebus_data.solved(ferebus_data.single(x), Reading(), n=8)))
    write_archive(folder / "labels.npz.xz", {name: {"energies": [1.5, 2.5], "n": 3} for name in "ab"})
    write_dl_fflux(folder / "dl_fflux", fit(label(sample(12)), "spherical", noise=1e-8, inverse_width=0.02))
    _trajectories().save(folder / "trajectories.npz")
    save_teacher(Teacher(METHANOL, TaughtMean(random_mean(), "GFN2-xTB")), folder / "teacher.npz")
    write_modes(folder / "normal_modes.npz", NormalModes(METHANOL.positions, np.arange(12.0), np.eye(18)[:, :12]))
    training_checkpoint.Checkpoint(folder / "training.partial", _TRAINING_KEY).update(length=np.arange(3.0))
    file = OrbitalFile(methanol(), _WATER_LEVEL, folder)
    file.write(OccupiedOrbitals(np.eye(4), np.arange(4.0)))
    file.path.replace(folder / "orbitals.npz")
    (folder / "improve").mkdir()
    write_state(folder / "improve", {"model": "a"}, [Round(1, 30, 6, 6, 15, *[0.5] * 5, 20, 20, 15, 31)])
    (folder / "results").mkdir()
    ResultFolder(folder / "results").write("a" * 64, {"energy": -1.5, "forces": [[0.5, 0.0, 1e-9]]})


KINDS: Final[dict[str, Kind]] = {
    "frames": Kind("data.extxyz", read_frames),
    "data": Kind("data.extxyz", Dataset.read),
    "geometries": Kind("run/final.extxyz", GeometrySet.read),
    "molecule": Kind("start.xyz", read_molecule),
    "compressed": Kind("data.extxyz.xz", read_text),
    "model": Kind(str(TEST_DATA / "model_schema_1_energies.npz"), model_file.load, seal_arrays),
    "joint model": Kind(str(TEST_DATA / "model_schema_1_joint.npz"), model_file.load, seal_arrays),
    "arrays": Kind(str(TEST_DATA / "model_schema_1_joint.npz"), _read_arrays, no_seal),
    "checkpoint": Kind("run/checkpoint.npz", Checkpoint.read, seal_arrays),
    "description of a run": Kind("run/run.json", lambda path: read_run(path.parent)),
    "dcd": Kind("run/trajectory.dcd", read_dcd),
    "thermo": Kind("run/thermo.csv", read_thermo),
    "plumed": Kind("plumed.dat", read_plumed_input),
    "hills": Kind("HILLS", lambda path: read_hills(path, _variables())),
    "colvar": Kind("COLVAR", lambda path: read_colvar(path, _variables(), ["m.bias"])),
    "archive": Kind("archive.npz", lambda path: read_npz(path, ArchiveOrigin("B3LYP", "6-31G", "mbis")), no_seal),
    "foreign": Kind("foreign.xyz", lambda path: read_labelled_xyz(path, ArchiveOrigin("B3LYP", "6-31G"))),
    "csv": Kind("atom.csv", read_training_csv),
    "ferebus": Kind("atom.model", read_model),
    "ferebus folder": Kind("dl_fflux/model_krig/METHANOL_iqa_C1.model", lambda path: read_models(path.parent)),
    "config": Kind("dl_fflux/CONFIG", lambda path: read_dl_fflux(path.parent)),
    "sum": Kind("W.sum", read_sum),
    "int": Kind("atoms/h2.int", lambda path: read_int(path.parent, path.parent / "W.wfn")),
    "wavefunction": Kind("atoms/W.wfn", lambda path: read_int(path.parent, path)),
    "labels": Kind("labels.npz.xz", _read_labels, seal_arrays),
    "trajectories": Kind("trajectories.npz", TrajectorySet.load, seal_trajectories),
    "teacher": Kind("teacher.npz", load_teacher, seal_arrays),
    "modes": Kind("normal_modes.npz", read_modes, no_seal),
    "training": Kind("training.partial", _read_training, no_seal),
    "orbitals": Kind("orbitals.npz", _read_orbitals, seal_arrays),
    "improvement": Kind("improve/improve.json", lambda path: read_state(path.parent, {"model": "a"})),
    "executor": Kind("executor.toml", read_settings),
    "result": Kind(f"results/{'a' * 64}.json", _read_result),
    "propagator": Kind("propagator.safetensors", _read_propagator),
}


def make_propagators(folder: Path) -> None:
    """Write one propagator without training; it needs torch."""
    from fflux_py.propagators._torch import network
    from fflux_py.propagators.propagator import Header

    molecule = methanol()
    head = Header("action", molecule, molecule.masses, 2.0, settings={"width": 8, "even": True})
    network.save(network.Network(head, network.build(head)), folder / "propagator.safetensors")


def damage_outside(rng: Random, data: bytes) -> bytes:
    """Up to three pieces replaced by words, and perhaps the end cut off."""
    for _ in range(rng.randint(0, 3)):
        begin = rng.randint(0, len(data))
        data = data[:begin] + rng.choice(WORDS) + data[begin + rng.randint(0, 12) :]
    return data[: rng.randint(0, len(data))] if rng.random() < 0.2 else data


def damage_within(rng: Random, data: bytes, seal: Seal | None = None) -> bytes:
    """One to three changes of what is in the file, in the form that the file has."""
    if data[:6] == b"\xfd7zXZ\x00":
        return lzma.compress(damage_within(rng, lzma.decompress(data), seal), preset=0)
    if data[:2] == b"PK":
        return _damage_archive(rng, data, seal or no_seal)
    size = int.from_bytes(data[:8], "little")
    if data[8:9] == b"{" and 0 < size < len(data):
        return _damage_safetensors(rng, data[8 : 8 + size], data[8 + size :])
    if data[:1] == b"{":
        return _damage_json(rng, data)
    return _damage_words(rng, data)


def _damage_words(rng: Random, data: bytes) -> bytes:
    """Lines doubled, removed or exchanged, and words replaced."""
    lines = data.split(b"\n")
    for _ in range(rng.randint(1, 3)):
        i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
        match rng.randrange(4):
            case 0:
                lines[i], lines[j] = lines[j], lines[i]
            case 1:
                lines.insert(i, lines[j])
            case 2 if len(lines) > 1:
                del lines[i]
            case _:
                words = lines[i].split(b" ")
                words[rng.randrange(len(words))] = rng.choice(WORDS)
                lines[i] = b" ".join(words)
    return b"\n".join(lines)


def _damage_json(rng: Random, data: bytes) -> bytes:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):  # damaged before
        return damage_outside(rng, data)
    for _ in range(rng.randint(1, 3)):
        content = damage_object(rng, content)
    return json.dumps(content).replace(f'"{_DEEP}"', "[" * 20000 + "]" * 20000).encode()


def damage_object(rng: Random, content: Any) -> Any:
    """``content`` with one entry, anywhere in it, removed or replaced by something else."""
    if isinstance(content, dict) and content and rng.random() < 0.9:
        key = rng.choice(list(content))
        rest = {name: value for name, value in content.items() if name != key}
        return rest if rng.random() < 0.1 else {**rest, key: damage_object(rng, content[key])}
    if isinstance(content, list) and content and rng.random() < 0.8:
        k = rng.randrange(len(content))
        return [*content[:k], *([] if rng.random() < 0.2 else [damage_object(rng, content[k])]), *content[k + 1 :]]
    values = [None, True, -1, 0, 10**13, 10**400, 1.5, 1e308, float("nan"), "x", "../x", "", "0" * 300, [], {}, _DEEP,
              [1, "a"], {"a": 1}, [[1.0]], content, "action", "B3LYP"]  # fmt: skip
    return rng.choice(values)


def _damage_safetensors(rng: Random, header: bytes, tensors: bytes) -> bytes:
    content = json.loads(header)
    inner = content.get("__metadata__", {}).get("fflux_py")
    if inner is not None and rng.random() < 0.8:
        content["__metadata__"]["fflux_py"] = _damage_json(rng, inner.encode()).decode()
    else:
        content = damage_object(rng, content)
    text = json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text + tensors


def _damage_archive(rng: Random, data: bytes, seal: Seal) -> bytes:
    """Arrays changed and the checksum made anew; or members of the archive changed, renamed or doubled."""
    if rng.random() < 0.15:
        return _damage_members(rng, data)
    arrays = parse_npz(data)
    for _ in range(rng.randint(1, 2)):
        name = rng.choice(sorted(arrays))
        if name == "header" and rng.random() < 0.95:
            arrays[name] = np.frombuffer(_damage_json(rng, arrays[name].tobytes()), dtype=np.uint8)
        elif rng.random() < 0.1:
            del arrays[name]
        else:
            arrays[name] = damage_array(rng, arrays[name])
        if not arrays:
            break
    stream = io.BytesIO()
    np.savez(stream, **seal(arrays))  # type: ignore[arg-type]
    return stream.getvalue()


def damage_array(rng: Random, array: NDArray[Any]) -> NDArray[Any]:
    """An array of another shape, another type, or with other numbers."""
    match rng.randrange(7):
        case 0:
            return array.ravel()[: rng.randint(0, array.size)]
        case 1:
            return np.expand_dims(array, rng.randint(0, array.ndim))
        case 2:
            return np.array("text")
        case 3 if array.dtype.kind == "f":
            changed = array.copy().reshape(-1)
            value = rng.choice([np.nan, np.inf, -1.0, 0.0, 1e300 if array.itemsize == 8 else 1e30])
            changed[: rng.randint(0, changed.size)] = value
            return changed.reshape(array.shape)
        case 4 if array.dtype.kind in "iu":
            return (array.astype(np.int64) + rng.choice([-1, 1, 100])).astype(array.dtype)
        case 5 if array.dtype.kind in "fiub":
            with np.errstate(all="ignore"):
                return array.astype(rng.choice(["f4", "i8", "c16", "U8", "?"]))
        case _:
            return np.zeros((0, *array.shape))


def _damage_members(rng: Random, data: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            content = source.read(entry)
            if rng.random() < 0.3:
                content = damage_outside(rng, content)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Duplicate name", UserWarning)
                target.writestr(entry.filename if rng.random() < 0.9 else "header.npy", content)
    return stream.getvalue()


def bomb_xz(size: int) -> bytes:
    """A few bytes that xz unpacks to ``size`` zeros."""
    return lzma.compress(bytes(size), preset=0)


def bomb_npz(size: int, said: int) -> bytes:
    """An archive of one array of ``size`` bytes whose directory says that it has ``said`` ones."""
    stream = io.BytesIO()
    with tempfile.SpooledTemporaryFile() as content, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        np.lib.format.write_array(content, np.zeros(size // 8), allow_pickle=False)  # type: ignore[arg-type]
        content.seek(0)
        archive.writestr("energies.npy", content.read())
    data = bytearray(stream.getvalue())
    true = int.from_bytes(data[22:26], "little")
    old, new = true.to_bytes(4, "little"), said.to_bytes(4, "little")
    return bytes(data.replace(old, new))
