r"""What a ``.model`` file leaves open, decided from its own training energies.

Weights that were solved for obey :math:`K w + m - y + \nu w = 0`.  Every reading of the header gives another K; the
one that leaves nothing over is right, with the :math:`\nu` that fits best.  In this way is decided

- whether the periodic kernel has the factor 4 or 2,
- whether azimuths of an ``rbf`` were wrapped,
- which nugget the weights contain (gpytorch's contain the noise over the output scale, not the header's noise),
- whether the mean belongs to the weights: if a constant is left over, and nothing else, it belongs to the mean.

Where readings cannot be told apart, the training data do not distinguish them: the factor is taken as 4, and azimuths
are wrapped, because an energy that jumps at 180 degrees is not one.
"""

from __future__ import annotations

import itertools
import os
import warnings
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from fflux_py.errors import ConvergenceError, FFLUXWarning, FileFormatError
from fflux_py.exchange.ferebus.kernel import PERIODIC_FACTORS, Composition, Reading
from fflux_py.exchange.ferebus.model import FerebusModel
from fflux_py.exchange.ferebus.model_text import Mean, ModelText, parse_model
from fflux_py.files import read_text
from fflux_py.typing import FloatArray
from fflux_py.units import KJ_MOL

# Largest remainder over the spread of the training energies: of weights as they were solved for, and of weights that
# are right but written, or computed, with few digits.
_EXACT: Final = 1e-3
_ROUGH: Final = 0.05
_DISTINCT: Final = 10.0
_FEWEST_POINTS: Final = 5
_SAME_NUGGET: Final = 1e-2


class FerebusWarning(FFLUXWarning):
    """A ``.model`` file was repaired, or predicts less well than its authors thought."""


@dataclass(frozen=True)
class _Fit:
    """One reading: nugget, what is to be added to the mean, and what is left over (largest, in units of y)."""

    reading: Reading
    nugget: float
    shift: float
    remainder: float


def read_model(path: str | os.PathLike[str]) -> FerebusModel:
    """Read a ``.model`` file, decide what its header leaves open, and repair what can be repaired in one way only.

    Warns
    -----
    FerebusWarning
        Once for every note of the model.

    Raises
    ------
    FileFormatError
        A file that cannot be read, or that does not reproduce its own training energies.
    """
    model = interpret(parse_model(read_text(path), str(path)), str(path))
    for note in model.notes:
        warnings.warn(f"{path}: {note}", FerebusWarning, stacklevel=2)
    return model


def interpret(text: ModelText, where: str) -> FerebusModel:
    """Decide on the reading of a file's text, as :func:`read_model` does, without warnings.

    Parameters
    ----------
    text, where
        The text, and the name of the file for messages.
    """
    rest = text.y - text.mean.at(text.x)
    spread = float(text.y.std())
    floor = max(1e-14 * float(np.abs(text.weights).sum()), 1e-12 * float(np.abs(text.y).max()))
    limit = max(_EXACT * spread, floor)
    fits = [_fit(text, rest, reading, limit) for reading in _readings(text.kernels)]
    best = _best([fit for fit in fits if fit.shift == 0.0], limit, floor)
    if best is not None:
        return _as_written(text, best)
    best = _best([fit for fit in fits if fit.shift != 0.0], limit, floor)
    if best is not None:
        return _with_mean(text, best)
    return _rough(text, fits, spread, where)


def _readings(kernels: Composition) -> list[Reading]:
    """All readings that can differ, the preferred ones first."""
    factors = PERIODIC_FACTORS if kernels.of_kind("periodic") else PERIODIC_FACTORS[:1]
    # chi (the third feature) lies between 0 and pi and never wraps
    angles = {int(h) for kernel in kernels.of_kind("rbf") for h in kernel.dimensions if h % 3 == 2 and h > 2}
    wraps = (True, False) if angles else (False,)
    return [Reading(factor, wrap) for factor, wrap in itertools.product(factors, wraps)]


def _fit(text: ModelText, rest: FloatArray, reading: Reading, limit: float) -> _Fit:
    """The nugget of a reading by least squares; a shift of the mean only if it is needed and makes the fit exact."""
    w = text.weights
    left = rest - text.kernels.matrix(text.x, text.x, reading) @ w
    square = float(w @ w)
    plain = _with_nugget(text, reading, left, float(left @ w) / square if square > 0.0 else 0.0, 0.0)
    constant = text.mean.kind in ("constant", "zero")
    if plain.remainder <= limit or not constant or square == 0.0 or len(w) < _FEWEST_POINTS:
        return plain
    scale = float(np.abs(w).max())
    (nugget, shift), *_ = np.linalg.lstsq(np.column_stack([w / scale, np.ones_like(w)]), left, rcond=None)
    shifted = _with_nugget(text, reading, left, float(nugget) / scale, float(shift))
    return shifted if shifted.remainder <= min(limit, plain.remainder / _DISTINCT) else plain


def _with_nugget(text: ModelText, reading: Reading, left: FloatArray, fitted: float, shift: float) -> _Fit:
    """A fit with the header's nugget, where that explains what is left over as well as the fitted one does."""

    def remainder(nugget: float) -> float:
        return float(np.abs(left - nugget * text.weights - shift).max())

    declared, nugget = text.nugget, fitted
    if declared is not None and (
        abs(declared - fitted) <= _SAME_NUGGET * abs(declared) or remainder(declared) <= 1.1 * remainder(fitted)
    ):
        nugget = declared
    elif fitted < 0.0 and (declared is None or declared >= 0.0):
        nugget = 0.0  # below the rounding of the weights
    return _Fit(reading, nugget, shift, remainder(nugget))


def _best(fits: list[_Fit], limit: float, floor: float) -> _Fit | None:
    """The first of those that leave least over, rounding aside; None if none is exact."""
    exact = [fit for fit in fits if fit.remainder <= limit]
    if not exact:
        return None
    least = min(fit.remainder for fit in exact)
    return next(fit for fit in exact if fit.remainder <= max(_DISTINCT * least, floor))


def _as_written(text: ModelText, fit: _Fit) -> FerebusModel:
    return FerebusModel(text, fit.reading, fit.nugget, _reading_notes(text, fit))


def _with_mean(text: ModelText, fit: _Fit) -> FerebusModel:
    """Weights of another mean: the constant that is left over belongs to it, and is determined by the data."""
    value = text.mean.value + fit.shift
    kind = "the generalised least-squares mean" if _is_gls(text.weights) else "another constant"
    note = (
        f"the weights belong to {kind}, {value:.9g}, not to the mean in the file, {text.mean.value:.9g}; "
        f"the mean was corrected (the file's predictions are {abs(fit.shift) * KJ_MOL:.4g} kJ/mol off)"
    )
    repaired = replace(text, mean=Mean("constant", value))
    return FerebusModel(repaired, fit.reading, fit.nugget, (note, *_reading_notes(text, fit)))


def _is_gls(weights: FloatArray) -> bool:
    """The weights of the generalised least-squares mean sum to zero."""
    return abs(float(weights.sum())) <= 1e-6 * float(np.abs(weights).sum())


def _rough(text: ModelText, fits: list[_Fit], spread: float, where: str) -> FerebusModel:
    """Weights of few digits: solved again where the nugget is known, kept where it is not; else refused."""
    ranked = sorted(fits, key=lambda fit: fit.remainder)
    best = ranked[0]
    unique = len(ranked) == 1 or ranked[1].remainder > _DISTINCT * best.remainder
    if best.remainder > _ROUGH * spread or not unique:
        remainders = ", ".join(f"{fit.remainder * KJ_MOL:.3g} ({_words(fit.reading)})" for fit in ranked)
        raise FileFormatError(
            where,
            f"weights that reproduce the training energies (within {_ROUGH * spread * KJ_MOL:.2g} kJ/mol)",
            f"differences up to {remainders} kJ/mol",
            "kernel, mean, weights and data do not belong together; train again on its training set",
        )
    error = f"{best.remainder * KJ_MOL:.3g} kJ/mol"
    if text.nugget is None or text.nugget <= 0.0:
        note = f"the weights reproduce the training energies to {error} only; they were kept"
        return FerebusModel(text, best.reading, max(best.nugget, 0.0), (note,))
    again = FerebusModel(text, best.reading, text.nugget)
    try:
        again.variances(text.x[:1])
    except ConvergenceError:
        note = f"the weights reproduce the training energies to {error} only, and cannot be solved for again"
        return replace(again, notes=(note,))
    weights = again.solve(text.y - text.mean.at(text.x))
    note = f"the weights reproduced the training energies to {error} only and were solved for again with its nugget"
    return replace(again, text=replace(text, weights=weights), notes=(note,))


def _reading_notes(text: ModelText, fit: _Fit) -> tuple[str, ...]:
    notes = []
    if fit.reading.periodic_factor != PERIODIC_FACTORS[0] and text.kernels.of_kind("periodic"):
        notes.append("its periodic kernel has the factor 2, not 4: theta is twice what other programs take it for")
    declared = text.nugget
    if declared is not None and fit.nugget != declared:
        notes.append(f"the weights contain the nugget {fit.nugget:.4g}, not {declared:.4g} as the header says")
    return tuple(notes)


def _words(reading: Reading) -> str:
    wrapped = "azimuths wrapped" if reading.wrap_rbf else "not wrapped"
    return f"periodic factor {reading.periodic_factor:g}, rbf {wrapped}"
