"""Retrained on FEREBUS's own training sets: our errors against those of its own models.

    python benchmarks/peers/ferebus_training.py REFERENCE_FOLDER

REFERENCE_FOLDER holds ``ferebus_paper/`` with the published files (ammonia N1: training set, validation set, model;
water O1: training set, model).  Energies only, marginal likelihood, periodic kernel, as ``fflux train`` does it.

Which features are used, and whether the images under exchange of the hydrogens are added to the training points, is
chosen by cross-validation within the training set (ammonia: 5 parts, water: leave one out; hyperparameters found anew
each time).  The validation set is looked at once, for the figures printed.  There is none for water: there the figures
compared are leave-one-out errors with the hyperparameters kept, those in FEREBUS's file and ours, both of which have
seen all points; the cross-validation, where ours have not, is printed besides.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the folder support

from support.figures import parser, show

import numpy as np

from fflux_py.exchange.ferebus.consistency import read_model
from fflux_py.exchange.ferebus.tables import read_training_csv
from fflux_py.gp.atomic_model import fit_weights
from fflux_py.gp.covariance import Covariance
from fflux_py.gp.features import FeatureKind, features, phi_features
from fflux_py.molecules.local_frame import LocalFrame
from fflux_py.training.energies import starting_theta
from fflux_py.training.hyperparameters import maximise_likelihood
from fflux_py.typing import FloatArray
from fflux_py.units import KJ_MOL

FRAME = LocalFrame(0, 1, 2)
VARIANTS: dict[str, tuple[FeatureKind, bool]] = {
    "as_published": ("spherical", False),
    "spherical_with_exchange": ("spherical", True),
    "unit_vector": ("unit-vector", False),
    "unit_vector_with_exchange": ("unit-vector", True),
}


def positions_of(table: FloatArray) -> FloatArray:
    """Geometries (bohr) from spherical features in the frame of the first atom."""
    count, width = table.shape
    x = np.zeros((count, 3 + (width - 3) // 3, 3))
    x[:, 1, 0] = table[:, 0]
    x[:, 2, 0], x[:, 2, 1] = table[:, 1] * np.cos(table[:, 2]), table[:, 1] * np.sin(table[:, 2])
    for atom in range(3, x.shape[1]):
        r, polar, azimuth = table[:, 3 * atom - 6 : 3 * atom - 3].T
        across = r * np.sin(polar)
        x[:, atom] = np.column_stack([across * np.cos(azimuth), across * np.sin(azimuth), r * np.cos(polar)])
    return x


def images(x: FloatArray) -> FloatArray:
    """All exchanges of the hydrogens; an odd one with the mirror image, so that the handedness stays."""
    n = x.shape[1]
    copies = []
    for order in permutations(range(1, n)):
        odd = np.linalg.det(np.eye(n - 1)[[k - 1 for k in order]]) < 0
        copies.append(x[:, [0, *order]] * (np.array([1, 1, -1]) if odd else 1))
    return np.concatenate(copies)


@dataclass(frozen=True)
class Fit:
    """A trained atom: its kernel, points, energies and noise."""

    kind: FeatureKind
    covariance: Covariance
    points: FloatArray
    energies: FloatArray
    noise: float

    def predict(self, x: FloatArray) -> FloatArray:
        w_y, _, _ = fit_weights(self.covariance, self.points, self.energies, self.noise)
        return self.energies.mean() + self.covariance.matrix(features(x, FRAME, self.kind), self.points) @ w_y


def fit(variant: str, x: FloatArray, y: FloatArray) -> Fit:
    """Train on geometries ``x`` and energies ``y``."""
    kind, exchange = VARIANTS[variant]
    if exchange:
        copies = images(x)
        x, y = copies, np.tile(y, len(copies) // len(x))
    azimuths = phi_features(x.shape[1], kind)
    points = features(x, FRAME, kind)
    found = maximise_likelihood(Covariance(starting_theta(points, azimuths), azimuths), points, y, 100)
    return Fit(kind, Covariance(found.theta, azimuths), points, y, found.noise)


def fixed_leave_one_out(trained: Fit, count: int) -> FloatArray:
    """Errors of every training point without it and its images, with the hyperparameters of all points."""
    matrix = trained.covariance.matrix(trained.points, trained.points)
    matrix[np.diag_indices_from(matrix)] += trained.noise
    inverse = np.linalg.inv(matrix)
    weights = inverse @ (trained.energies - trained.energies.mean())
    errors = np.empty(count)
    for k in range(count):
        left_out = np.arange(k, len(matrix), count)
        errors[k] = np.linalg.solve(inverse[np.ix_(left_out, left_out)], weights[left_out])[0]
    return errors


def cross_validated(variant: str, x: FloatArray, y: FloatArray, parts: int) -> FloatArray:
    """Errors of every training point from a model that has not seen it."""
    part = np.arange(len(y)) % parts
    errors = np.empty(len(y))
    for k in range(parts):
        held = part == k
        errors[held] = fit(variant, x[~held], y[~held]).predict(x[held]) - y[held]
    return errors


def rmse(errors: FloatArray) -> float:
    return float(np.sqrt(np.mean(errors**2))) * KJ_MOL


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("folder", type=Path)
    chosen = options.parse_args()
    folder = chosen.folder / "ferebus_paper"
    figures: dict[str, object] = {}

    ammonia = read_training_csv(folder / "AMMONIA_N1_TRAINING_SET.csv")
    validation = read_training_csv(folder / "AMMONIA_N1_VALIDATION_SET.csv")
    x, y, unseen = positions_of(ammonia.features), np.array(ammonia.energies), positions_of(validation.features)
    own = {v: rmse(cross_validated(v, x, y, 5)) for v in VARIANTS}
    best = min(own, key=own.__getitem__)
    theirs = read_model(folder / "AMMONIA_iqa_N1_marginal.model")
    figures |= {f"ammonia_N1_cross_validation_{v}_kJ_mol": e for v, e in own.items()}
    figures["ammonia_N1_chosen"] = best
    figures["ammonia_N1_validation_rmse_ferebus_kJ_mol"] = rmse(
        theirs.energies(validation.features) - validation.energies
    )
    for variant in dict.fromkeys(("as_published", best)):
        error = fit(variant, x, y).predict(unseen) - validation.energies
        figures[f"ammonia_N1_validation_rmse_{variant}_kJ_mol"] = rmse(error)

    water = read_training_csv(folder / "WATER_O1_TRAINING_SET.csv")
    x, y = positions_of(water.features), np.array(water.energies)
    own = {v: rmse(cross_validated(v, x, y, len(y))) for v in VARIANTS}
    theirs = read_model(folder / "WATER_iqa_O1_marginal.model")
    inverse = theirs.solve(np.eye(len(y)))
    mean = theirs.energies(np.full((1, 3), 1e6))[0]  # far from all points the model is its mean
    figures |= {f"water_O1_cross_validation_{v}_kJ_mol": e for v, e in own.items()}
    best = min(own, key=own.__getitem__)
    figures["water_O1_chosen"] = best
    figures["water_O1_leave_one_out_rmse_ferebus_kJ_mol"] = rmse(inverse @ (y - mean) / np.diag(inverse))
    for variant in dict.fromkeys(("as_published", best)):
        error = fixed_leave_one_out(fit(variant, x, y), len(y))
        figures[f"water_O1_leave_one_out_rmse_{variant}_kJ_mol"] = rmse(error)
    show(figures, chosen.json)


if __name__ == "__main__":
    main()
