"""Checks of input and output paths, made before any work starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fflux_py.errors import FFLUXError, InputError, MissingDependencyError


def check_output(path: Path, *inputs: Path) -> None:
    """Refuse an output file that cannot be written later, or that is one of the inputs."""
    _check_parent(path)
    if path.is_dir():
        raise InputError(str(path), "a file to write", "a folder", "give a file name")
    if path.exists() and not path.is_file():
        raise InputError(str(path), "a file to write", "a device, pipe or socket", "give a file name")
    for source in inputs:
        if path.exists() and source.exists() and path.samefile(source):
            raise InputError(str(path), "an output that is not the input", "the same file", "choose another name")


def check_new_folder(path: Path) -> None:
    """Refuse an output folder that holds anything, or that cannot be made."""
    _check_parent(path)
    if path.exists() and not path.is_dir():
        raise InputError(str(path), "a new or empty folder", "a file", "choose another name")
    if path.is_dir():
        entries = sorted(entry.name for entry in path.iterdir())
        if entries:
            more = f" and {len(entries) - 1} more" if len(entries) > 1 else ""
            raise InputError(
                str(path), "a new or empty folder", f"{entries[0]}{more} in it", "choose another folder or remove it"
            )


def check_folder(path: Path) -> None:
    """Refuse a folder for files to be added to that cannot be made."""
    _check_parent(path)
    if path.exists() and not path.is_dir():
        raise InputError(str(path), "a folder", "a file", "choose another name")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Let every error inside name the file that was being read, unless it is not the file's fault."""
    try:
        yield
    except FFLUXError as error:
        if isinstance(error, MissingDependencyError) or str(path) in error.where:
            raise
        raise type(error)(f"{path}, {error.where}", error.expected, error.found, error.remedy) from None


def _check_parent(path: Path) -> None:
    parent = path.absolute().parent
    if not parent.is_dir():
        raise InputError(str(path), "a name in an existing folder", f"no folder {parent}", "make it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(str(path), "a folder that can be written to", f"{parent} without permission")
