"""Criteria on what a run visited, against the minimum of the model and against held-out geometries."""

from __future__ import annotations

from typing import Final

import numpy as np

from fflux_py.analysis.criteria import Criterion
from fflux_py.analysis.runs import EQUILIBRATION, Run
from fflux_py.analysis.validate import Validation
from fflux_py.forcefield import ForceField
from fflux_py.molecules.mechanics import degrees_of_freedom
from fflux_py.units import BOLTZMANN, KCAL_MOL

LARGEST_RATIO: Final = 1.5
"""Mean predictive deviation of visited frames over that of held-out geometries."""

_FRAMES: Final = 200


def energy_above_minimum(run: Run, minimum: float) -> Criterion:
    """Mean potential energy of a run above the model's minimum.

    A run whose mean lies below the minimum has fallen into a well that does not exist.

    Parameters
    ----------
    run
        The run; its first tenth is left out.
    minimum
        Energy of the model at its minimum, hartree.
    """
    potential = run.trajectory.potential[int(EQUILIBRATION * len(run.trajectory)) :]
    value = (float(potential.mean()) - minimum) * KCAL_MOL
    freedom = degrees_of_freedom(run.trajectory.molecule.n_atoms)
    harmonic = 0.5 * freedom * BOLTZMANN * run.config.temperature * KCAL_MOL
    note = f"A harmonic molecule has {harmonic:.1f} kcal/mol; below zero the run sits in a well that does not exist."
    return Criterion("Mean potential energy above the minimum", value, "kcal/mol", 0.0, ">", note, run.label)


def relative_deviation(run: Run, forcefield: ForceField, validation: Validation) -> Criterion:
    """Mean predictive deviation of a model on visited frames, over that on held-out geometries.

    Parameters
    ----------
    run
        The run; at most 200 of its frames are taken, equally spaced.
    forcefield
        The model.
    validation
        Its predictions for held-out geometries.  Those of unbiased trajectories at the run's temperature are compared
        with, all of them where there are none.
    """
    frames, geometries = run.trajectory.positions, validation.dataset.geometries
    unbiased = np.array([source.startswith("nvt") for source in geometries.source])
    alike = unbiased & (geometries.temperature == run.config.temperature)
    held_out = float(validation.atomic_deviations[alike if alike.any() else slice(None)].mean())
    chosen = np.linspace(0, len(frames) - 1, min(_FRAMES, len(frames))).astype(int)
    visited = float(forcefield.atomic_deviations(frames[chosen]).mean())
    which = f"unbiased geometries at {run.config.temperature:g} K" if alike.any() else "geometries"
    note = f"Mean over atoms and {len(chosen)} visited frames, over the same mean of the held-out {which}."
    value = visited / held_out
    return Criterion("Predicted deviation, visited over held-out", value, "", LARGEST_RATIO, "<", note, run.label)
