"""HILLS and COLVAR files of the biased trajectories of a sampling, as the PLUMED input file asks for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fflux_py.bias import BiasSettings, Grid, Hills
from fflux_py.bias.collective_variables import values_and_gradients
from fflux_py.bias.free_energy import bias_of_frames, reweighting_offset
from fflux_py.bias.grid import grid_around
from fflux_py.bias.plumed_files import write_colvar, write_hills
from fflux_py.bias.plumed_input import PlumedInput
from fflux_py.errors import InputError
from fflux_py.sampling.plan import SamplingConfig
from fflux_py.sampling.sampler import BiasedRun
from fflux_py.typing import FloatArray
from fflux_py.units import BOLTZMANN


def check_prints(plumed: PlumedInput, config: SamplingConfig) -> None:
    """Refuse a ``PRINT`` between the frames that a sampling keeps, c(t) of a bias without limits, and walkers.

    Raises
    ------
    InputError
        Naming the keyword.
    """
    if plumed.walkers:
        raise InputError("bias", "a bias for each trajectory", "walkers that share one", "leave the keyword out")
    for each in plumed.prints:
        if each.stride % config.stride:
            raise InputError(f"PRINT FILE={each.file}, STRIDE", f"a multiple of {config.stride} (steps between frames)",
                             str(each.stride))  # fmt: skip
        if {f"{plumed.label}.rct", f"{plumed.label}.rbias"} & set(each.columns):
            offset_grid(plumed.bias)


def offset_grid(bias: BiasSettings) -> Grid:
    """The grid over which c(t) is integrated: the bias's own, or the circles of its torsions."""
    if bias.grid is not None:
        return bias.grid
    if all(v.period for v in bias.variables):
        return grid_around(bias.variables, bias.hills.sigmas(bias.variables), bins_per_sigma=3.0)
    raise InputError("c(t) of a bias on angles or distances", "GRID_MIN and GRID_MAX, its limits", "none")


def write_plumed_files(folder: Path, run: BiasedRun, plumed: PlumedInput) -> None:
    """Write the files that ``plumed`` names into ``folder``, each with the name of the trajectory at its end.

    Times count from the beginning of the biased run.  The bias of a frame is, as in PLUMED, that before the hill of the
    same step.
    """
    hills = run.bias.hills(run.timestep)
    for file, each in zip(plumed.files, hills, strict=True):
        write_hills(folder / f"{file}.{run.source}", each, plumed.units)
    steps = np.arange(1, len(run.positions) + 1) * round(run.interval / run.timestep)
    for each_print in plumed.prints:
        chosen = steps % each_print.stride == 0
        columns = set(each_print.columns)
        variables = [v for v in plumed.variables if v.label in columns]
        positions = run.positions[chosen]
        values = np.array([values_and_gradients(x, variables)[0] for x in positions]).reshape(-1, len(variables))
        energies = _energies(run, plumed, hills, positions, (steps[chosen] - 1) // run.bias.pace)
        printed = {name: energies[name] for name in each_print.columns if name in energies}
        path = folder / f"{each_print.file}.{run.source}"
        write_colvar(path, run.timestep * steps[chosen], variables, values, printed, plumed.units)


def _energies(
    run: BiasedRun, plumed: PlumedInput, hills: tuple[Hills, ...], positions: FloatArray, counts: np.ndarray
) -> dict[str, FloatArray]:
    """Bias, c(t) and their difference at the frames, by the names of their columns."""
    values = np.array([run.bias.values(x) for x in positions]).reshape(-1, len(run.bias.variables))
    label = plumed.label
    if plumed.bias.parallel:
        thermal = BOLTZMANN * run.bias.temperature
        each = np.array([bias_of_frames(h, values[:, k : k + 1], counts) for k, h in enumerate(hills)])
        lowest = each.min(axis=0)
        return {f"{label}.bias": lowest - thermal * np.log(np.exp((lowest - each) / thermal).mean(axis=0))}
    bias = bias_of_frames(hills[0], values, counts)
    energies = {f"{label}.bias": bias}
    if any({f"{label}.rct", f"{label}.rbias"} & set(p.columns) for p in plumed.prints):
        offset = reweighting_offset(hills[0], run.bias.temperature, offset_grid(plumed.bias))[counts]
        energies.update({f"{label}.rct": offset, f"{label}.rbias": bias - offset})
    return energies
