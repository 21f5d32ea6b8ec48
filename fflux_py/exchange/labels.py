"""Labels of other programs as a data set: folders of AIMAll results, and ``.npz`` archives of labelled geometries.

Forces stand in neither of AIMAll's files; they are taken from the output of the Gaussian run beside them, if it is
there.  What a geometry's atomic energies miss of the energy of the wavefunction is given to the atoms in proportion to
the size of their energies, so that they sum to it; how much that was is in the data set, atom by atom.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from fflux_py.errors import FileFormatError, InputError
from fflux_py.exchange.aimall import AIMAllResult, read_int, read_sum
from fflux_py.files import read_text
from fflux_py.molecules.dataset import Dataset, GeometrySet
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM, KCAL_MOL

LARGEST_LAGRANGIAN: Final = 1e-3
"""Atoms with a larger |L(A)| (hartree) are not integrated well; the field leaves them out."""
LARGEST_RESIDUAL: Final = 1.0 / KCAL_MOL
"""Likewise a geometry whose atomic energies miss its energy by more than 1 kcal/mol (hartree)."""
LARGEST_CHARGE_RESIDUAL: Final = 5e-3
HELD_OUT_EVERY: Final = 10
"""Every tenth geometry of an import is kept for testing."""
_GAUSSIAN: Final = (".gaussianoutput", ".gau", ".log", ".out")
_FORCES: Final = "Forces (Hartrees/Bohr)"
_ORIENTATION: Final = re.compile(r"\s*(Input|Standard|Z-Matrix) orientation:")
_ROUTE: Final = re.compile(r"\s*#[pnt]?\b.*?\b([A-Za-z0-9-]+)/([^\s/]+)", re.IGNORECASE)
# Coordinates in Gaussian's output carry six decimals of an angstrom.
_COORDINATE_TOLERANCE: Final = 2e-6 / ANGSTROM


@dataclass(frozen=True)
class LeftOut:
    """A geometry that is not in the data set, and why."""

    path: str
    reason: str


def read_aimall(
    folder: Path, basis: str | None = None, progress: Callable[[int, int], None] | None = None
) -> tuple[Dataset, tuple[LeftOut, ...]]:
    """Read all results below ``folder``: ``.sum`` files, or where there are none ``X_atomicfiles`` beside ``X.wfn``.

    Parameters
    ----------
    folder
        One folder; it may hold one folder for each geometry.
    basis
        Name of the basis set, which AIMAll's files do not say; by default that of the Gaussian runs.
    progress
        Called with the number of geometries read and their total.

    Returns
    -------
    dataset, left_out
        The geometries in the order of their paths, all marked ``train``; and those that are not integrated well
        (:data:`LARGEST_LAGRANGIAN`, :data:`LARGEST_RESIDUAL`, :data:`LARGEST_CHARGE_RESIDUAL`).

    Raises
    ------
    FileFormatError
        With ``file:line``: see :func:`fflux_py.exchange.aimall.read_sum`; other elements, another method or other
        coordinates than in the files before.
    InputError
        No results, no usable geometry, forces of some geometries only, an unknown basis.
    """
    sources = _sources(folder)
    results: list[AIMAllResult] = []
    forces: list[FloatArray | None] = []
    bases: set[str] = set()
    left_out: list[LeftOut] = []
    for done, source in enumerate(sources):
        result = read_sum(source) if source.suffix == ".sum" else _read_atoms(source)
        _check_same(result, results[0] if results else result)
        reason = _reason_to_leave_out(result)
        if reason:
            left_out.append(LeftOut(str(result.path), reason))
        else:
            output = _gaussian_output(source)
            results.append(result)
            forces.append(None if output is None else _gaussian_forces(output, result))
            bases.update(_gaussian_basis(output) if output is not None else ())
        if progress is not None:
            progress(done + 1, len(sources))
    if not results:
        first = left_out[0]
        remedy = "AIMAll's energies are right for LSDA, PBE, PBE0, B3LYP, M06-2X and Hartree-Fock only"
        raise InputError(
            str(folder), "a geometry that is integrated well", f"none of {len(left_out)} ({first.reason})", remedy
        )
    return _dataset(results, forces, _choose_basis(basis, bases, folder), folder, len(left_out)), tuple(left_out)


def _dataset(
    results: Sequence[AIMAllResult],
    forces: Sequence[FloatArray | None],
    basis: str,
    folder: Path,
    left_out: int,
) -> Dataset:
    with_forces = [f for f in forces if f is not None]
    if with_forces and len(with_forces) < len(forces):
        bare = next(r.path for r, f in zip(results, forces, strict=True) if f is None)
        remedy = "add the missing Gaussian outputs, or take all of them away for a data set without forces"
        raise InputError(str(bare), "the Gaussian output beside it, as beside others", "none", remedy)
    name = folder.resolve().name
    first, count = results[0], len(results)
    energies = np.array([r.energy for r in results])
    atomic, errors = spread_residuals(np.array([r.atomic_energies for r in results]), energies)
    return Dataset(
        geometries=GeometrySet(
            Molecule(first.symbols, first.positions, first.charge, name),
            np.array([r.positions for r in results]),
            (name,) * count,
            np.full(count, np.nan),
            ("train",) * count,
        ),
        energies=energies,
        forces=np.array(with_forces) if with_forces else np.full((count, len(first.symbols), 3), np.nan),
        atomic_energies=atomic,
        atomic_errors=errors,
        charges=np.array([r.charges for r in results]),
        metadata={
            "method": first.model.split()[-1].lower(),
            "basis": basis,
            "partition": "qtaim",
            "programs": f"AIMAll {first.version}",
            "forces": "Gaussian" if with_forces else "none",
            "left_out_geometries": left_out,
            "largest_raw_residual_hartree": float(max(abs(r.residual) for r in results)),
            "largest_lagrangian_hartree": float(max(np.abs(r.lagrangians).max() for r in results)),
        },
    )


def keep_for_testing(data: Dataset, every: int = HELD_OUT_EVERY) -> Dataset:
    """Mark every so many-th geometry of the training part ``test``, as a source of its own.

    They are spread evenly over the set.  Where it is one trajectory, their neighbours in time are learnt, so that their
    errors are those of interpolation.

    Parameters
    ----------
    data
        The set.
    every
        At least 2; smaller sets have no such geometry.
    """
    if every < 2:
        raise InputError("every", "at least 2", str(every))
    train = np.flatnonzero([split == "train" for split in data.geometries.split])
    chosen = set(train[every - 1 :: every].tolist())
    source, split = list(data.geometries.source), list(data.geometries.split)
    for k in chosen:
        source[k], split[k] = f"{source[k]} test", "test"
    return replace(data, geometries=replace(data.geometries, source=tuple(source), split=tuple(split)))


def spread_residuals(atomic_energies: FloatArray, energies: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Make the rows of ``atomic_energies`` sum to ``energies``; return them and the size of what each atom received."""
    residual = energies - atomic_energies.sum(axis=1)
    size = np.abs(atomic_energies)
    correction = residual[:, None] * size / size.sum(axis=1, keepdims=True)
    return atomic_energies + correction, np.abs(correction)


def _sources(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(str(folder), "a folder of AIMAll results", "no folder")
    sums = sorted(folder.rglob("*.sum"))
    sources = sums or sorted(p for p in folder.rglob("*_atomicfiles") if p.is_dir())
    if not sources:
        raise InputError(str(folder), "AIMAll results (.sum, or .int in NAME_atomicfiles)", "none", "check the path")
    return sources


def _read_atoms(folder: Path) -> AIMAllResult:
    wavefunction = folder.with_name(folder.name.removesuffix("_atomicfiles") + ".wfn")
    if not wavefunction.is_file():
        raise FileFormatError(str(wavefunction), "the wavefunction of the .int files", "no file", "put it there")
    return read_int(folder, wavefunction)


def _check_same(result: AIMAllResult, first: AIMAllResult) -> None:
    if "Unrestricted" in result.model or not result.model:
        raise FileFormatError(str(result.path), "a restricted wavefunction", repr(result.model))
    for what, value, first_value in (
        ("the elements", " ".join(result.symbols), " ".join(first.symbols)),
        ("the charge", str(result.charge), str(first.charge)),
        ("the model", result.model, first.model),
    ):
        if value != first_value:
            raise FileFormatError(
                str(result.path), f"{what} {first_value} of {first.path}", value, "do not mix data sets"
            )


def _reason_to_leave_out(result: AIMAllResult) -> str:
    if abs(result.residual) > LARGEST_RESIDUAL:
        return f"the atomic energies miss the energy by {result.residual * KCAL_MOL:.2f} kcal/mol"
    worst = int(np.abs(result.lagrangians).argmax())
    if abs(result.lagrangians[worst]) > LARGEST_LAGRANGIAN:
        return f"L is {result.lagrangians[worst]:.1e} hartree on atom {result.symbols[worst]}{worst + 1}"
    missing = float(result.charges.sum()) - result.charge
    if abs(missing) > LARGEST_CHARGE_RESIDUAL:
        return f"the atomic charges miss the charge by {missing:.4f} e"
    return ""


def _gaussian_output(source: Path) -> Path | None:
    """The output that has the name of the results, or the only one in their folder."""
    stem = source.name.removesuffix(".sum").removesuffix("_atomicfiles")
    same_name = [source.with_name(stem + suffix) for suffix in _GAUSSIAN]
    others = sorted(p for p in source.parent.iterdir() if p.suffix in _GAUSSIAN)
    return next((p for p in same_name if p.is_file()), others[0] if len(others) == 1 else None)


def _gaussian_forces(path: Path, result: AIMAllResult) -> FloatArray:
    """The last forces in a Gaussian output, whose coordinates must be those of ``result``."""
    lines = read_text(path).splitlines()
    titles = [k for k, line in enumerate(lines) if _FORCES in line]
    if not titles:
        raise FileFormatError(f"{path}:{len(lines)}", f"the table {_FORCES!r}", "none", "run Gaussian with 'force'")
    frames = [k for k, line in enumerate(lines[: titles[-1]]) if _ORIENTATION.match(line)]
    if not frames:
        raise FileFormatError(f"{path}:{titles[-1] + 1}", "the table of coordinates before it", "none")
    coordinates = _gaussian_table(path, lines, frames[-1] + 5, result, 6) / ANGSTROM
    shift = float(np.abs(coordinates - result.positions).max())
    if shift > _COORDINATE_TOLERANCE:
        difference = f"coordinates that differ by {shift * ANGSTROM:.6f} angstrom"
        raise FileFormatError(
            f"{path}:{frames[-1] + 1}", f"the geometry of {result.path}", difference, "run Gaussian with 'nosymm'"
        )
    return _gaussian_table(path, lines, titles[-1] + 3, result, 5)


def _gaussian_table(path: Path, lines: Sequence[str], first: int, result: AIMAllResult, width: int) -> FloatArray:
    """Three last columns of a table with one row for each atom."""
    rows = []
    for k in range(len(result.symbols)):
        words = lines[first + k].split() if first + k < len(lines) else []
        where = f"{path}:{min(first + k + 1, len(lines))}"
        if len(words) != width or words[0] != str(k + 1):
            raise FileFormatError(where, f"{width} columns of atom {k + 1}", repr(" ".join(words)))
        try:
            rows.append([float(word) for word in words[-3:]])
        except ValueError:
            raise FileFormatError(where, "three numbers", repr(" ".join(words[-3:]))) from None
    return np.array(rows)


def _gaussian_basis(path: Path) -> set[str]:
    match = next((m for m in map(_ROUTE.match, read_text(path).splitlines()) if m), None)
    return {match[2].lower()} if match else set()


def _choose_basis(given: str | None, names: set[str], folder: Path) -> str:
    if given is not None:
        return given
    if len(names) != 1:
        what = "different ones: " + ", ".join(sorted(names)) if names else "none in the files"
        raise InputError("basis", f"the name of the basis set of {folder}", what, "give it (--basis)")
    return names.pop()
