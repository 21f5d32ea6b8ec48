"""The ``.model`` files of all atoms of a molecule in one folder: read and written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fflux_py.errors import FileFormatError
from fflux_py.exchange.ferebus.consistency import interpret
from fflux_py.exchange.ferebus.model import FerebusModel
from fflux_py.exchange.ferebus.model_text import ModelText, format_model, parse_model
from fflux_py.exchange.ferebus.tables import ENERGY
from fflux_py.files import read_text, write_atomically

DL_FFLUX_FOLDER: Final = "model_krig"
"""Where DL_FFLUX keeps the models, inside the folder of its input."""


def models_folder(folder: Path) -> Path:
    """The folder that holds the models: ``model_krig`` inside an input of DL_FFLUX, else the folder itself."""
    inner = folder / DL_FFLUX_FOLDER
    return inner if inner.is_dir() and not any(folder.glob("*.model")) else folder


def read_models(folder: str | os.PathLike[str], system: str | None = None) -> tuple[FerebusModel, ...]:
    """Read the energy models of all atoms of one molecule, in the order of the atoms.

    Models of other properties (multipole moments) in the folder are passed over.

    Parameters
    ----------
    folder
        Holds files with names that end in ``.model`` (:func:`models_folder`).
    system
        Name of the molecule; without it the folder may hold models of one only.

    Raises
    ------
    FileFormatError
        No ``.model`` file, one that cannot be read, models of several molecules, two for one atom, or an atom without.
    """
    paths = sorted(Path(folder).glob("*.model"))
    if not paths:
        raise FileFormatError(str(folder), "files with names that end in .model", "none", "check the folder")
    texts = [(path, parse_model(read_text(path), str(path))) for path in paths]
    chosen = [(path, t) for path, t in texts if t.property_name == ENERGY and system in (None, t.system)]
    if not chosen:
        present = ", ".join(sorted({f"{text.property_name} of {text.system}" for _, text in texts}))
        of = f" of {system}" if system else ""
        raise FileFormatError(str(folder), f"models of the property {ENERGY!r}{of}", present)
    first_path, first = chosen[0]
    by_atom: dict[int, tuple[Path, ModelText]] = {}
    for path, text in chosen:
        if (text.system, text.n_atoms) != (first.system, first.n_atoms):
            expected = f"{first.system} with {first.n_atoms} atoms as in {first_path.name}"
            raise FileFormatError(str(path), expected, f"{text.system} with {text.n_atoms}", "one molecule per folder")
        atom = text.frame[0]
        if atom in by_atom:
            raise FileFormatError(str(path), "one model for each atom", f"atom {atom + 1} again", by_atom[atom][0].name)
        by_atom[atom] = (path, text)
    missing = [str(k + 1) for k in range(first.n_atoms) if k not in by_atom]
    if missing:
        raise FileFormatError(str(folder), f"models of all {first.n_atoms} atoms", f"none of {', '.join(missing)}")
    return tuple(interpret(by_atom[k][1], str(by_atom[k][0])) for k in range(first.n_atoms))


def write_models(folder: str | os.PathLike[str], texts: Sequence[ModelText]) -> tuple[Path, ...]:
    """Write ``SYSTEM_iqa_O1.model`` and so on into a folder, made if it is not there; return the paths."""
    Path(folder).mkdir(exist_ok=True)
    paths = []
    for text in texts:
        paths.append(Path(folder) / f"{text.system}_{text.property_name}_{text.atom}.model")
        write_atomically(paths[-1], format_model(text))
    return tuple(paths)
