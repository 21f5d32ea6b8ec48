"""A ``.model`` file against a table of the same atom: errors, S-curve, and how many errors its variances cover."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fflux_py.errors import ConvergenceError, FileFormatError
from fflux_py.exchange.ferebus.model import FerebusModel
from fflux_py.exchange.ferebus.tables import ENERGY, FeatureTable, read_training_csv
from fflux_py.molecules.molecule import read_only
from fflux_py.typing import FloatArray
from fflux_py.units import KJ_MOL


@dataclass(frozen=True)
class AtomValidation:
    """Errors of one atom's model on a table, predicted minus reference.

    Parameters
    ----------
    model
        The model.
    errors
        Errors in the table's order, shape ``(m,)``: kJ/mol of an energy, atomic units of any other property.
    spread
        Standard deviation of the reference values, same unit: the error of the best constant.
    coverage
        Shares of the errors within one and two predicted standard deviations; None where the model has no variance.
    """

    model: FerebusModel
    errors: FloatArray
    spread: float
    coverage: tuple[float, float] | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "errors", read_only(self.errors))

    @property
    def absolute_errors(self) -> FloatArray:
        """Absolute errors, ascending, shape ``(m,)``: the abscissa of the S-curve."""
        return np.sort(np.abs(self.errors))

    @property
    def percentages(self) -> FloatArray:
        """Percentage of the geometries whose error does not exceed each of these, shape ``(m,)``."""
        m = len(self.errors)
        return np.asarray(100.0 * np.arange(1, m + 1) / m)

    @property
    def mae(self) -> float:
        """Mean absolute error."""
        return float(self.absolute_errors.mean())

    @property
    def rmse(self) -> float:
        """Root mean square error."""
        return float(np.sqrt((self.errors**2).mean()))

    @property
    def q_squared(self) -> float | None:
        """One minus the mean square error over the variance of the reference; None where that is zero."""
        return 1.0 - (self.rmse / self.spread) ** 2 if self.spread > 0.0 else None

    @property
    def is_energy(self) -> bool:
        """Whether the property is an energy, so that errors are in kJ/mol."""
        return self.model.text.property_name == ENERGY

    def as_dict(self) -> dict[str, object]:
        """For JSON: units in the key names."""
        text, sizes = self.model.text, self.absolute_errors
        unit = "kj_mol" if self.is_energy else "au"
        within_1, within_2 = self.coverage if self.coverage is not None else (None, None)
        return {
            "system": text.system,
            "atom": text.atom,
            "property": text.property_name,
            "n_train": len(text.y),
            "n_validation": len(sizes),
            f"mae_{unit}": self.mae,
            f"rmse_{unit}": self.rmse,
            f"max_{unit}": float(sizes[-1]),
            f"mean_signed_error_{unit}": float(self.errors.mean()),
            f"spread_{unit}": self.spread,
            "q_squared": self.q_squared,
            f"s_curve_error_{unit}": sizes.tolist(),
            "s_curve_percent": self.percentages.tolist(),
            "share_within_1_sigma": within_1,
            "share_within_2_sigma": within_2,
            f"training_error_{unit}": self.model.training_error() * _factor(self.model),
            "nugget": self.model.nugget,
            "periodic_factor": self.model.reading.periodic_factor,
            "rbf_azimuths_wrapped": self.model.reading.wrap_rbf,
            "notes": list(self.model.notes),
        }


def read_validation_table(model: FerebusModel, path: Path, model_name: str) -> FeatureTable:
    """Read the table that a model is compared with: the model's property, at the model's number of features.

    Parameters
    ----------
    model, path
        The model, and the file of the table.
    model_name
        Names the model in messages.

    Raises
    ------
    FileFormatError
        A table that cannot be read, or one with another number of features.
    """
    table = read_training_csv(path, model.text.property_name)
    if table.features.shape[1] != model.text.n_features:
        expected = f"{model.text.n_features} features as {model_name} has"
        raise FileFormatError(str(path), expected, str(table.features.shape[1]), "a table of another molecule?")
    return table


def validate_atom(model: FerebusModel, table: FeatureTable) -> AtomValidation:
    """Compare a model with a table of its atom.

    Parameters
    ----------
    model, table
        The model, and the table with its features (:func:`read_validation_table`).
    """
    factor = _factor(model)
    errors = (model.energies(table.features) - table.energies) * factor
    spread = float(table.energies.std()) * factor
    return AtomValidation(model, errors, spread, _coverage(model, table, errors / factor))


def _factor(model: FerebusModel) -> float:
    """From atomic units to the unit of the errors."""
    return KJ_MOL if model.text.property_name == ENERGY else 1.0


def _coverage(model: FerebusModel, table: FeatureTable, errors: FloatArray) -> tuple[float, float] | None:
    """Shares of the errors (atomic units) within one and two predicted standard deviations."""
    try:
        variances = model.variances(table.features) * model.prior_variance()
    except ConvergenceError:
        return None
    sigma = np.sqrt(np.maximum(variances, 0.0))
    size = np.abs(errors)
    return float((size <= sigma).mean()), float((size <= 2 * sigma).mean())
