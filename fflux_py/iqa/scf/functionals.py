"""The functionals that have a name here: a closed list, since PySCF takes ``pbe0-2`` for a difference.

Names are compared without regard to case, hyphens and underscores.  Functionals that are defined together with a
dispersion correction (B97-D, wB97X-D) or with non-local correlation (wB97X-V) are not in the list, as PySCF alone would
compute something else under their name.
"""

from __future__ import annotations

import difflib
from typing import Final

from fflux_py.errors import InputError

FUNCTIONALS: Final = (
    "hf",
    "svwn", "lda,vwn",
    "blyp", "bp86", "bpbe", "pw91", "mpw91", "pbe", "revpbe", "rpbe", "pbesol", "olyp", "opbe", "hcth407",
    "tpss", "revtpss", "scan", "rscan", "r2scan", "m06-l", "mn15-l",
    "b3lyp", "b3lyp5", "b3lypg", "b3pw91", "b3p86", "o3lyp", "x3lyp", "bhandhlyp", "b5050lyp", "b97-1", "b97-2",
    "b97-3", "pbe0", "pbe1pbe", "pbe50", "revpbe0", "mpw1pbe", "mpw1k",
    "tpssh", "tpss0", "scan0", "r2scan0", "m05", "m05-2x", "m06", "m06-2x", "m06-hf", "mn15", "pw6b95",
)  # fmt: skip
"""Hartree-Fock and local, GGA, meta-GGA and global hybrid functionals: they have atomic energies."""

RANGE_SEPARATED: Final = ("cam-b3lyp", "wb97", "wb97x", "lrc-wpbe", "lrc-wpbeh", "hse03", "hse06")
"""Range-separated hybrids: they have energies and forces, and no atomic energies."""


MP2: Final = "mp2"
"""Perturbation theory on Hartree-Fock: energies and forces, no atomic energies."""

DISPERSION: Final = ("d3bj", "d4")
"""Dispersion corrections, as endings of a functional's name: ``b3lyp-d3bj``, ``pbe0-d4``; no atomic energies."""


def split_dispersion(method: str) -> tuple[str, str]:
    """Functional and dispersion correction (empty if none) of a method's name."""
    functional, _, kind = method.strip().lower().rpartition("-")
    return (functional, kind) if functional and kind in DISPERSION else (method.strip().lower(), "")


def mean_field_functional(method: str) -> str:
    """The functional whose equations are solved: without a dispersion correction; ``hf`` for MP2."""
    functional = split_dispersion(method)[0]
    return "hf" if functional == MP2 else functional


def is_range_separated(method: str) -> bool:
    """Whether a functional is one of :data:`RANGE_SEPARATED`."""
    return _plain(method) in map(_plain, RANGE_SEPARATED)


def check_name(method: str) -> None:
    """Refuse a name that is not in the list.

    Raises
    ------
    InputError
        Naming the nearest names.
    """
    known = {_plain(name): name for name in (*FUNCTIONALS, *RANGE_SEPARATED)}
    if _plain(method) in known:
        return
    nearest = [known[name] for name in difflib.get_close_matches(_plain(method), list(known), 3, 0.5)]
    raise InputError(
        "method",
        "a functional that PySCF knows and that is in the list of fflux_py.iqa.scf.functionals",
        repr(method),
        f"the nearest names are {', '.join(nearest)}" if nearest else "use for example b3lyp, pbe0 or r2scan",
    )


def check_atomic_energies(method: str) -> None:
    """Refuse a functional whose energy is not divided among atoms here.

    Raises
    ------
    InputError
        A range-separated hybrid, a dispersion correction, MP2, or GFN2-xTB.
    """
    functional, dispersion = split_dispersion(method)
    if dispersion or functional == MP2:
        reason = "whose dispersion correction is" if dispersion else "whose correlation energy is"
        raise InputError(
            "method", "a method whose energy is divided among atoms, such as b3lyp",
            f"{method!r}, {reason} not divided here",
            "use --partition none for energies and forces alone, or another method",
        )  # fmt: skip
    if is_range_separated(method):
        raise InputError(
            "method",
            "hf, or a local, GGA, meta-GGA or global hybrid functional",
            f"{method!r}, a functional range-separated",
            "such a functional has no atomic energies here: use for example b3lyp, or --partition none for energies "
            "and forces alone",
        )


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "").replace("_", "")
