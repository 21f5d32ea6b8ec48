"""Where PySCF comes in: the package itself, and which of its methods and basis sets have atomic energies here."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import scipy.linalg

from fflux_py.errors import InputError, MissingDependencyError
from fflux_py.iqa.scf.functionals import check_name, is_range_separated
from fflux_py.typing import FloatArray

_CORE_TYPE: Final = "OPENBLAS_CORETYPE"
_MODULES: Final = (
    "gto", "data.radii", "dft", "df", "lib", "scf", "scf.atom_ks", "scf.dispersion", "mp", "grad.mp2",
)  # fmt: skip


def load_pyscf() -> Any:
    """Import PySCF, or say how to install it."""
    try:
        with _known_processor():
            package = importlib.import_module("pyscf")
            for module in (
                "gto",
                "data.radii",
                "dft",
                "df",
                "lib",
                "scf",
                "scf.atom_ks",
                "scf.dispersion",
                "mp",
                "grad.mp2",
            ):
                importlib.import_module(f"pyscf.{module}")
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "labelling", "the package pyscf", "none installed", "pip install 'fflux_py[label]'"
        ) from error
    return package


@contextmanager
def _known_processor() -> Iterator[None]:
    """Let PySCF's BLAS use the vector instructions that the processor has.

    Its wheels for Linux hold OpenBLAS 0.3.3 (2018), which takes processors made since for ones of 2007: products of
    matrices are then half as fast.  A choice that the user made (``OPENBLAS_CORETYPE``) stays; the variable is read
    when a library is loaded, so those of NumPy and SciPy, which know the processor, are loaded before.
    """
    information = Path("/proc/cpuinfo")
    if _CORE_TYPE in os.environ or not information.is_file():
        yield
        return
    flags = next((line for line in information.read_text().splitlines() if line.startswith("flags")), "").split()
    if not {"avx2", "fma"}.issubset(flags):
        yield
        return
    for module in ("numpy.linalg", "scipy.linalg"):
        importlib.import_module(module)
    os.environ[_CORE_TYPE] = "Haswell"
    try:
        yield
    finally:
        del os.environ[_CORE_TYPE]


@contextmanager
def no_advice_on_missing_bases() -> Iterator[None]:
    """Leave it to our own error to say that a basis is missing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(Basis|ECP) may be available", category=UserWarning)
        yield


@contextmanager
def no_checkpoint_files() -> Iterator[None]:
    """Keep SCF objects made inside from opening temporary checkpoint files, which nothing here reads."""
    settings = load_pyscf().scf.hf
    before = settings.MUTE_CHKFILE
    settings.MUTE_CHKFILE = True
    try:
        yield
    finally:
        settings.MUTE_CHKFILE = before


def check_functional(method: str) -> None:
    """Refuse functionals that are not in the list, and of these nothing that PySCF alone would compute differently.

    Raises
    ------
    InputError
        An unknown, Laplacian-dependent, non-local or dispersion-corrected method, or arithmetic in its name.
    """
    pyscf = load_pyscf()
    libxc = pyscf.dft.libxc
    try:
        known = libxc.xc_type(method) in ("HF", "LDA", "GGA", "MGGA")
        kinds = {
            "range-separated": libxc.rsh_coeff(method)[0] != 0.0 and not is_range_separated(method),
            "with the Laplacian of the density": libxc.needs_laplacian(method),
            "with non-local correlation": bool(libxc.is_nlc(method)),
            "with a dispersion correction": pyscf.scf.dispersion.parse_dft(method)[2] is not None,
        }
    except (KeyError, ValueError, NotImplementedError) as error:
        raise InputError("method", "a functional that PySCF knows", repr(method), "correct the name") from error
    refused = [kind for kind, applies in kinds.items() if applies]
    if refused or not known:
        raise InputError(
            "method",
            "hf, or a local, GGA, meta-GGA or global hybrid functional",
            f"{method!r}, a functional {' and '.join(refused) or 'of another kind'}",
            "such a functional is not computed here: use for example b3lyp",
        )
    check_name(method)


def refuse_effective_cores(symbols: set[str], basis: str) -> None:
    """Refuse basis sets that are made for an effective core potential: their core electrons have no orbitals."""
    pyscf = load_pyscf()
    for symbol in sorted(symbols):
        try:
            with no_advice_on_missing_bases():
                core = pyscf.gto.basis.load_ecp(basis, symbol)
        except (pyscf.gto.basis.BasisNotFoundError, RuntimeError, KeyError):
            continue  # PySCF has no such potential
        if core:
            raise InputError(
                "basis",
                f"an all-electron basis for {symbol}",
                f"{basis!r}, which needs an effective core potential",
                "an atom without its core has no IQA energy: choose another basis",
            )


def sum_by_atom(mole: Any, per_function: FloatArray) -> FloatArray:
    """Sum contributions ``(3, n_functions)`` over the functions of each atom: ``(n_atoms, 3)``."""
    ranges = mole.aoslice_by_atom()[:, 2:]
    return np.array([per_function[:, first:last].sum(axis=1) for first, last in ranges])


def independent_root(metric: FloatArray) -> FloatArray:
    """Matrix R with metric^-1 = R^T R for linearly dependent fitting functions, as PySCF leaves out dependent ones."""
    values, vectors = scipy.linalg.eigh(metric)
    kept = values > load_pyscf().df.incore.LINEAR_DEP_THR
    return np.asarray(vectors[:, kept].T / np.sqrt(values[kept])[:, None])
