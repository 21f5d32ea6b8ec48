"""Data sets of other groups, read from the files that they published (not shipped; docs/league.md says where).

Each part is a :class:`Dataset`: :data:`TRAIN`, which trains, and what is held out, by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.io import read as read_frames

from fflux_py.molecules.dataset import Dataset, GeometrySet
from fflux_py.molecules.molecule import Molecule
from fflux_py.units import ANGSTROM, EV, KCAL_MOL, KCAL_MOL_ANGSTROM

TRAIN, VALIDATION = "train", "validation"
# Frames of train_mixedT.xyz: 300, 600 and 1200 K one after the other; the energies jump between them.
BLOCKS_3BPA = {"300 K block": slice(0, 167), "600 K block": slice(167, 334), "1200 K block": slice(334, 500)}
LEVELS = {
    "rmd17": {"method": "PBE", "basis": "def2-SVP", "partition": "none"},
    "acac": {"method": "PBE-D3", "basis": "def2-SVP", "partition": "none"},
    "3bpa": {"method": "wB97X", "basis": "6-31G(d)", "partition": "none"},
}


def datasets_of(
    symbols: Sequence[str], parts: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]], name: str, level: str
) -> dict[str, Dataset]:
    """Data sets of parts: positions (bohr), energies (hartree), forces (hartree/bohr), without atomic energies.

    A part without frames is left out: the validation, where all frames train.
    """
    made = {}
    for part, (positions, energies, forces) in parts.items():
        if len(energies) == 0:
            continue
        unknown = np.full(positions.shape[:2], np.nan)
        split = ("train" if part == TRAIN else "test",) * len(energies)
        molecule = Molecule(tuple(symbols), positions[0], 0, name)
        made[part] = Dataset(
            geometries=GeometrySet(molecule, positions, (part,) * len(split), np.full(len(split), np.nan), split),
            energies=energies,
            forces=forces,
            atomic_energies=unknown,
            atomic_errors=unknown,
            charges=unknown,
            metadata=LEVELS[level],
        )
    return made


def rmd17(folder: Path, molecule: str, n_train: int, n_held_out: int = 200) -> dict[str, Dataset]:
    """Split 01 of rMD17: the first frames of ``train``, the first of ``test``, the last of ``train`` as validation."""
    arrays = np.load(folder / f"{molecule}_split01.npz")

    def part(of: str, rows: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return (
            np.asarray(arrays[f"{of}_R_angstrom"][rows], dtype=np.float64) / ANGSTROM,
            np.asarray(arrays[f"{of}_E_kcal_mol"][rows], dtype=np.float64) / KCAL_MOL,
            np.asarray(arrays[f"{of}_F_kcal_mol_angstrom"][rows], dtype=np.float64) / KCAL_MOL_ANGSTROM,
        )

    parts = {TRAIN: part("train", slice(n_train)), "test": part("test", slice(n_held_out))}
    last = max(n_train, len(arrays["train_E_kcal_mol"]) - n_held_out)
    parts[VALIDATION] = part("train", slice(last, None))
    return datasets_of([chemical_symbols[z] for z in arrays["z"]], parts, molecule, "rmd17")


def frames_part(frames: Sequence[Atoms]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames in eV and angstrom as a part; forces that a file does not have are not numbers."""
    positions = np.array([frame.positions for frame in frames]).reshape(len(frames), -1, 3)
    energies = np.array([frame.get_potential_energy() for frame in frames])
    known = [frame.calc.results.get("forces") for frame in frames]
    forces = np.array([np.full(x.shape, np.nan) if f is None else f for x, f in zip(positions, known, strict=True)])
    return positions / ANGSTROM, energies / EV, forces.reshape(positions.shape) / (EV / ANGSTROM)


def without_copies(frames: Sequence[Atoms], of: Sequence[Atoms]) -> list[Atoms]:
    """The frames that are no copies of others (positions to 1e-6 angstrom)."""
    taken = {np.round(frame.positions, 6).tobytes() for frame in of}
    return [frame for frame in frames if np.round(frame.positions, 6).tobytes() not in taken]


def acac(folder: Path, n_train: int, n_held_out: int = 100) -> dict[str, Dataset]:
    """Acetylacetone: the first frames at 300 K, held out the tests at 300 and 600 K and the dihedral scan."""
    train = read_frames(folder / "train_300K.xyz", ":")
    held_out = {
        "300 K": read_frames(folder / "test_MD_300K.xyz", ":"),
        "600 K": read_frames(folder / "test_MD_600K.xyz", ":"),
        "dihedral scan": read_frames(folder / "test_dihedral.xyz", ":"),
        VALIDATION: train[max(n_train, len(train) - n_held_out) :],
    }
    parts = {name: frames_part(frames) for name, frames in {TRAIN: train[:n_train], **held_out}.items() if frames}
    return datasets_of(train[0].get_chemical_symbols(), parts, "acac", "acac")


def three_bpa(folder: Path, n_train: int, n_held_out: int = 100) -> dict[str, Dataset]:
    """3BPA: the first frames at 300 K; held out are the blocks of ``train_mixedT`` without those that train too."""
    train, mixed = (read_frames(folder / f"train_{name}.xyz", ":") for name in ("300K", "mixedT"))
    held_out = {name: without_copies(mixed[rows], train) for name, rows in BLOCKS_3BPA.items()}
    held_out[VALIDATION] = train[max(n_train, len(train) - n_held_out) :]
    parts = {name: frames_part(frames) for name, frames in {TRAIN: train[:n_train], **held_out}.items() if frames}
    return datasets_of(train[0].get_chemical_symbols(), parts, "3bpa", "3bpa")


def read(folder: Path, name: str, molecule: str, n_train: int) -> dict[str, Dataset]:
    """A set by its name; ``folder`` holds one folder for each set."""
    if name == "rmd17":
        return rmd17(folder / name, molecule, n_train)
    return {"acac": acac, "3bpa": three_bpa}[name](folder / name, n_train)
