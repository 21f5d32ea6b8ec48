"""Frames of one molecule in one order of atoms and one hand."""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import replace

import numpy as np

from fflux_py.errors import GeometryError, InputError, InputWarning, ModelMismatchError
from fflux_py.molecules.extended_xyz import Frame
from fflux_py.molecules.matching import Labels, Matching, match
from fflux_py.molecules.molecule import Molecule
from fflux_py.units import ANGSTROM


def in_one_order(frames: list[Frame], path: str) -> list[Frame]:
    """Frames with the atoms of all in the order and hand of the reference, told.

    The exchange of two hydrogens of a CH2 group makes of a frame, to its labels, the mirror image of the others.
    Frames whose atoms no order brings to the reference's bonds and chirality stay as they are.
    """
    first = frames[0]
    words = str(first.info.get("reference", "")).split()
    reference_positions = first.positions
    if len(words) == first.positions.size:
        with contextlib.suppress(ValueError):  # a reference that is none is refused with its place later
            reference_positions = np.array(words, dtype=np.float64).reshape(first.positions.shape)
    same = np.array([f.symbols == first.symbols for f in frames])
    positions = np.array([f.positions if keep else first.positions for f, keep in zip(frames, same, strict=True)])
    try:
        labels = Labels(Molecule(first.symbols, reference_positions / ANGSTROM))
        kept = same & labels.keep_bonds(positions / ANGSTROM) & labels.keep_chirality(positions)
        kept &= labels.keep_sides(positions, double=True)
    except (GeometryError, InputError):  # likewise; or an element without a covalent radius
        return frames
    ordered, moved = [], []
    for frame, keep in zip(frames, kept, strict=True):
        ordered.append(frame)
        if keep or sorted(frame.symbols) != sorted(first.symbols):
            continue
        with contextlib.suppress(ModelMismatchError, GeometryError):
            matching = match(labels.reference, Molecule(frame.symbols, frame.positions / ANGSTROM))
            if not matching.identity:
                ordered[-1] = _reordered(frame, matching)
                moved.append(frame.line)
    if moved:
        text = f"{path}: the atoms of {len(moved)} of {len(frames)} frames (the first at line {moved[0]}) were brought"
        warnings.warn(f"{text} into the order and hand of the reference", InputWarning, stacklevel=4)
    return ordered


def _reordered(frame: Frame, matching: Matching) -> Frame:
    """A frame and its columns in another order; vectors (columns of three real numbers) are inverted with it."""
    columns = {}
    for name, column in frame.columns.items():
        vectors = column.dtype.kind == "f" and column.shape[1:] == (3,)
        columns[name] = matching.to_reference(np.asarray(column, np.float64)) if vectors else column[matching.order]
    symbols = tuple(frame.symbols[i] for i in matching.order)
    return replace(frame, symbols=symbols, positions=matching.to_reference(frame.positions), columns=columns)
