"""The molecules that come with the package: labelled geometries, a start geometry, a trained model.

In a checkout (also an editable install) they are the folders of ``training_data/`` at the top of the repository; a
built package carries the same folder inside itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fflux_py.errors import InputError
from fflux_py.files import stored_path

DATA: Final = "data.extxyz"
"""Labelled geometries, :class:`fflux_py.molecules.dataset.Dataset`; on the disk compressed, as ``data.extxyz.xz``."""

START: Final = "start.xyz"
"""A start geometry."""

MODEL: Final = "model.npz"
"""A force field trained on the labelled geometries."""

_PACKAGE: Final = Path(__file__).resolve().parent.parent
_FOLDERS: Final = (_PACKAGE / "training_data", _PACKAGE.parent / "training_data")


def molecules() -> tuple[str, ...]:
    """Names of the molecules that are there, in alphabetical order."""
    return tuple(sorted(entry.name for entry in _folder().glob("*") if stored_path(entry / DATA).is_file()))


def path(molecule: str) -> Path:
    """Folder of a molecule's files.

    Parameters
    ----------
    molecule
        One of :func:`molecules`, for example ``"malondialdehyde"``.

    Raises
    ------
    InputError
        If there are no data of that molecule; the message names the molecules that there are.
    """
    known = molecules()
    if molecule not in known:
        raise InputError(
            "molecule",
            f"one of {', '.join(known)}" if known else f"labelled geometries in {_FOLDERS[0]}",
            repr(molecule) if known else "none",
            "" if known else "install the package again",
        )
    return _folder() / molecule


def _folder() -> Path:
    return next((folder for folder in _FOLDERS if folder.is_dir()), _FOLDERS[0])
