"""Training of one atom on a feature table, as FEREBUS does it.

The hyperparameters are those of the largest likelihood, the kernel is a squared exponential that is periodic in the
azimuths.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from fflux_py.errors import InputError
from fflux_py.exchange.ferebus.forcefield import ASSUMED_FRAME, single_atom_text
from fflux_py.exchange.ferebus.model_text import ModelText
from fflux_py.exchange.ferebus.table_atom import TableAtom
from fflux_py.exchange.ferebus.tables import FeatureTable
from fflux_py.gp.atomic_model import fit_weights
from fflux_py.gp.covariance import Covariance
from fflux_py.gp.features import FeatureSet
from fflux_py.gp.prior_mean import prior_mean as prior_mean_value
from fflux_py.training.energies import starting_theta
from fflux_py.training.hyperparameters import maximise_likelihood
from fflux_py.typing import FloatArray, IntArray

_MAX_ITERATIONS: Final = 200
_FEWEST_ROWS: Final = 2


@dataclass(frozen=True)
class TrainedAtom:
    """A trained atom and what its training found.

    Parameters
    ----------
    text
        The model, as its file holds it.
    theta
        Inverse squared length scales, shape ``(d,)``.
    nugget
        What was added to the diagonal of the kernel matrix, over the prior variance; the jitter included.
    jitter
        The part of it that the Cholesky decomposition needed.
    prior_variance
        Hartree^2.
    prior_mean_name, prior_mean
        The prior mean by name, and its value in hartree.
    evaluations
        Evaluations of the likelihood.
    """

    text: ModelText
    theta: FloatArray
    nugget: float
    jitter: float
    prior_variance: float
    prior_mean_name: str
    prior_mean: float
    evaluations: int

    def as_dict(self) -> dict[str, object]:
        """For JSON: units in the key names."""
        return {
            "theta": self.theta.tolist(),
            "nugget": self.nugget,
            "jitter": self.jitter,
            "prior_deviation_hartree": self.prior_variance**0.5,
            "prior_mean": self.prior_mean_name,
            "prior_mean_hartree": self.prior_mean,
            "log_likelihood": self.text.likelihood,
            "evaluations": self.evaluations,
        }


def choose_rows(n: int, n_train: int | None, seed: int | None, where: str) -> IntArray:
    """Indices of the rows of a table to train on.

    Parameters
    ----------
    n
        Rows of the table.
    n_train
        How many to take; all of them if not given.
    seed
        Seed of a random choice; the first rows if not given.
    where
        Names the table in messages.

    Raises
    ------
    InputError
        A table with fewer rows, or with fewer than two.
    """
    count = n if n_train is None else n_train
    if n < max(count, _FEWEST_ROWS):
        raise InputError(where, f"at least {max(count, _FEWEST_ROWS)} rows", str(n), "ask for fewer")
    order = np.arange(n) if seed is None else np.random.default_rng(seed).permutation(n)
    return order[:count]


def train_atom(
    table: FeatureTable,
    atom: TableAtom,
    prior_mean: str,
    rows: IntArray | None = None,
    threads: int = 1,
    remarks: Mapping[str, str] | None = None,
) -> TrainedAtom:
    """Train one atom: hyperparameters by the likelihood, then weights and prior mean.

    Parameters
    ----------
    table
        Features and energies of the atom.
    atom
        Whose features they are (:func:`fflux_py.exchange.ferebus.table_atom.identify_atom`).
    prior_mean
        Name of the prior mean (:mod:`fflux_py.gp.prior_mean`).
    rows
        Rows to train on (:func:`choose_rows`); all of them if not given.
    threads
        Threads of the linear algebra.
    remarks
        Further metadata of the model, words on one line.
    """
    chosen = slice(None) if rows is None else rows
    points, energies = table.features[chosen], table.energies[chosen]
    azimuths = FeatureSet("spherical", atom.n_atoms).azimuths if atom.n_atoms > 2 else np.zeros(0, dtype=np.int64)
    start = Covariance(starting_theta(points, azimuths), azimuths)
    best = maximise_likelihood(start, points, energies, _MAX_ITERATIONS, threads)
    covariance = Covariance(best.theta, azimuths)
    w_y, w_1, jitter = fit_weights(covariance, points, energies, best.noise)
    mean = prior_mean_value(prior_mean, energies, None, w_y, w_1)
    weights = w_y - (mean - energies.mean()) * w_1
    nugget = best.noise + jitter
    notes = dict(remarks or {})
    if atom.frame_is_assumed:
        notes[ASSUMED_FRAME] = "sequence rule"
    text = single_atom_text(
        names=(atom.system, atom.atom),
        frame=atom.frame,
        n_atoms=atom.n_atoms,
        covariance=covariance,
        data=(points, energies, weights),
        mean=(prior_mean, mean),
        nugget=nugget,
        remarks=notes,
    )
    return TrainedAtom(text, best.theta, nugget, jitter, best.variance, prior_mean, mean, best.iterations)
