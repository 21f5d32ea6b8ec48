"""Metadynamics against OpenMM, the grid against the sum of hills, and free energies against quadrature.

    python benchmarks/dynamics/metadynamics.py

Prints: how far heights and free energy are from those of OpenMM's ``Metadynamics`` at the same places (if OpenMM is
installed); how far the grid is from the sum of its hills, and how much faster; how far the free energies of a model are
from quadrature, over seeds.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for the models of the tests

from fflux_py.bias import BiasSettings, CollectiveVariable, Grid, HillParameters
from fflux_py.bias.free_energy import (
    bias_of_frames,
    frame_weights,
    free_energy_of_hills,
    reweighting_offset,
    weighted_free_energy,
)
from fflux_py.bias.grid import grid_around
from fflux_py.units import KCAL_MOL


def against_openmm() -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            from tests.bias import test_openmm as model
    except BaseException as error:  # pytest's Skipped is no Exception
        if type(error).__name__ != "Skipped":
            raise
        print("OpenMM: not installed")
        return
    theirs, _ = model.run_openmm()
    found = np.array([height for _, height in theirs.hills])
    reference = theirs.getFreeEnergy().value_in_unit(model.unit.kilojoules_per_mole)[:-1] / model.KJ_MOL
    for grid in (False, True):
        bias = model.ours(grid)
        heights = np.array([bias.deposit_at(np.array([position])) for position, _ in theirs.hills])
        circle = Grid((model.PHI,), (-np.pi,), (np.pi,), (model.POINTS - 1,))
        surface = free_energy_of_hills(bias.hills(1.0)[0], circle)
        print(
            f"OpenMM, {len(found)} hills, {'grid' if grid else 'sum of hills'}: "
            f"heights within {np.abs(heights / found - 1.0).max():.1e} (relative), free energy within "
            f"{np.abs(surface.values - reference).max() * KCAL_MOL:.1e} kcal/mol of {np.ptp(reference) * KCAL_MOL:.1f}"
        )


def grid_against_sum() -> None:
    variables = tuple(CollectiveVariable("torsion", atoms) for atoms in ((0, 1, 2, 3), (1, 2, 3, 4)))
    hills = HillParameters(1.0 / KCAL_MOL, 0.35, 10.0, 100)
    rng = np.random.default_rng(1)
    zigzag = np.array([[2.3 * k, 0.8 * (-1) ** k, 0.3 * k] for k in range(5)])
    places = zigzag + rng.normal(scale=0.5, size=(200, 5, 3))
    for n in (500, 5000):
        exact = BiasSettings(variables, hills).build(300.0)
        fine = BiasSettings(variables, hills, grid=grid_around(variables, (0.35, 0.35))).build(300.0)
        centres = rng.normal(scale=1.2, size=(n, 2)) % (2.0 * np.pi) - np.pi
        for centre in centres:
            fine.deposit_at(centre)
        exact.restore(fine.centres, fine.heights)
        spent = np.zeros(2)
        energy, force = np.zeros((2, len(places))), np.zeros((2, *places.shape))
        fine.energy_and_forces(places[0])
        for k, x in enumerate(places):
            for which, bias in enumerate((exact, fine)):
                begin = time.perf_counter()
                energy[which, k], force[which, k] = bias.energy_and_forces(x)
                spent[which] += time.perf_counter() - begin
        spent *= 1e6 / len(places)
        print(
            f"two torsions, {n} hills, bias up to {energy[0].max() * KCAL_MOL:.1f} kcal/mol: grid within "
            f"{np.abs(energy[1] - energy[0]).max() * KCAL_MOL:.1e} kcal/mol, forces within "
            f"{np.abs(force[1] - force[0]).max() / np.abs(force[0]).max():.1e} of the largest; "
            f"the sum of hills takes {spent[0] / spent[1]:.0f} times as long ({spent[0]:.0f} us against {spent[1]:.0f})"
        )


def against_quadrature() -> None:
    from tests.bias import test_free_energy as model

    rows = []
    for seed in range(1, 9):
        made = model.run(seed)
        start = len(made.frames) // 10
        offsets = reweighting_offset(made.hills, model.TEMPERATURE, model.FINE)
        bias = bias_of_frames(made.hills, made.frames[start:, :1], made.counts[start:])
        weights = frame_weights(bias, offsets[made.counts[start:]], model.TEMPERATURE)
        surface = weighted_free_energy(made.frames[start:, :1], weights, model.COARSE, model.TEMPERATURE, 20)
        reference = model.exact(model.COARSE.points(0))
        hills = free_energy_of_hills(made.hills, model.COARSE)
        well = reference < 3.0
        gap, error = (surface.values / model.KT - reference)[well], surface.errors[well] / model.KT
        gap -= np.average(gap, weights=error**-2)
        rows.append(
            (
                np.std(hills.values / model.KT - reference),
                np.std(surface.values / model.KT - reference),
                np.median(error),
                np.sqrt(np.mean((gap / error) ** 2)),
            )
        )
    low, high, mean = np.min(rows, axis=0), np.max(rows, axis=0), np.mean(rows, axis=0)
    print(
        f"one-dimensional model, 8 seeds, deviation from quadrature in kT: hills {low[0]:.2f} to {high[0]:.2f}, "
        f"reweighted frames {low[1]:.2f} to {high[1]:.2f}; block error {mean[2]:.2f} kT (median bin), "
        f"deviation over error {mean[3]:.2f}"
    )


if __name__ == "__main__":
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    against_openmm()
    grid_against_sum()
    against_quadrature()
