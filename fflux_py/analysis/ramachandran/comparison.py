"""Two Ramachandran maps against each other, for example from unbiased replicas and from metadynamics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fflux_py.analysis.ramachandran.map import RamachandranMap, jensen_shannon
from fflux_py.errors import InputError


@dataclass(frozen=True)
class MapComparison:
    """Two maps of one grid.

    Parameters
    ----------
    rms_kcal_mol, largest_kcal_mol
        Differences of free energies over the cells compared, after the constant between both maps is taken out.
    rms_over_error
        Root mean square of difference over standard error, 1 if both maps differ by their statistical errors; NaN where
        errors are not known.
    n_cells
        Cells compared.
    n_missing
        Cells that are low in the reference and not visited by the other map.
    jensen_shannon
        Jensen-Shannon distance of both probabilities.
    """

    rms_kcal_mol: float
    largest_kcal_mol: float
    rms_over_error: float
    n_cells: int
    n_missing: int
    jensen_shannon: float


def compare_maps(estimate: RamachandranMap, reference: RamachandranMap, highest: float = 4.0) -> MapComparison:
    """Differences of free energies in the cells where that of the reference is below ``highest``.

    Free energies have no zero of their own: the constant between both maps makes the mean difference zero, each cell
    with the inverse of its variance where errors are known.

    Parameters
    ----------
    estimate, reference
        Maps of the same grid and temperature.
    highest
        kcal/mol.
    """
    if estimate.blocks.shape[1:] != reference.blocks.shape[1:] or estimate.temperature != reference.temperature:
        given = [f"{m.probability.shape} cells at {m.temperature:g} K" for m in (estimate, reference)]
        raise InputError("maps to be compared", given[1], given[0], "same grid, same temperature")
    low = np.where(reference.visited, reference.free_energy_kcal_mol, np.inf) < highest
    both = low & estimate.visited
    if not both.any():
        nothing = jensen_shannon(estimate, reference)
        return MapComparison(np.nan, np.nan, np.nan, 0, int(low.sum()), nothing)
    gap = (estimate.free_energy_kcal_mol - reference.free_energy_kcal_mol)[both]
    errors = np.hypot(estimate.errors_kcal_mol, reference.errors_kcal_mol)[both]
    known = bool((errors > 0.0).all())
    gap -= np.average(gap, weights=errors**-2 if known else None)
    return MapComparison(
        rms_kcal_mol=float(np.sqrt(np.mean(gap**2))),
        largest_kcal_mol=float(np.abs(gap).max()),
        rms_over_error=float(np.sqrt(np.mean((gap / errors) ** 2))) if known else np.nan,
        n_cells=int(both.sum()),
        n_missing=int((low & ~both).sum()),
        jensen_shannon=jensen_shannon(estimate, reference),
    )
