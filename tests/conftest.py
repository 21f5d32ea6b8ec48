"""Shared fixtures; one thread per process, so that tests in parallel do not fight for the cores."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY

# Read by NumPy, PyTorch and Numba when they are imported, which no line above does.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")


# PySCF's BLAS is chosen when it is loaded: by us, before a test module imports it, so that all labels have equal bits.
if find_spec("pyscf") is not None:
    from fflux_py.iqa.scf._pyscf import load_pyscf

    load_pyscf()


def _beside_the_repository(name: str) -> Path:
    folder = REPOSITORY.parent / "shared" / name
    if not folder.is_dir():
        pytest.skip(f"the folder {name} is not beside the repository")
    return folder


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """Public figures of other programs, kept outside the repository."""
    return _beside_the_repository("reference")


@pytest.fixture(scope="session")
def prototype_dir() -> Path:
    """GFN2-xTB data of a prototype, kept outside the repository."""
    return _beside_the_repository("prototype")
