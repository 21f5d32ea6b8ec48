"""Ramachandran maps of molecular dynamics runs, with and without metadynamics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from fflux_py.analysis.geometry import angles, bond_lengths, torsions
from fflux_py.analysis.ramachandran.estimates import map_of_free_energy, ramachandran_map
from fflux_py.analysis.ramachandran.map import RamachandranMap
from fflux_py.analysis.runs import EQUILIBRATION, Run
from fflux_py.bias.collective_variables import CollectiveVariable
from fflux_py.bias.free_energy import (
    FreeEnergy,
    frame_weights,
    free_energy_of_hills,
)
from fflux_py.bias.grid import Grid, grid_around
from fflux_py.bias.metadynamics import Hills
from fflux_py.bias.plumed_files import read_hills
from fflux_py.bias.plumed_input import PlumedInput, parse_plumed_input
from fflux_py.errors import FileFormatError, InputError
from fflux_py.molecules.molecule import Molecule, Torsion
from fflux_py.typing import FloatArray
from fflux_py.units import BOLTZMANN, FEMTOSECOND

Pair = tuple[Torsion, Torsion]
"""Phi and psi of one residue."""

FILLING: Final = 0.2
"""Share of a run with metadynamics that is left out at its start, while the bias fills the first basin."""

_MOST_VARIABLES: Final = 3


def residues(molecule: Molecule) -> list[Pair]:
    """Phi and psi of every residue between two amide bonds; none for a molecule that is no peptide."""
    backbone = molecule.backbone_torsions()
    return list(zip(backbone[0::2], backbone[1::2], strict=True))


def can_be_mapped(run: Run) -> bool:
    """Whether a run is a canonical one of a peptide, without bias or with one that reweighting takes out."""
    if run.config.thermostat == "none" or not residues(run.trajectory.molecule):
        return False
    text = run.record.get("bias")
    return not text or _has_offset(parse_plumed_input(str(text), f"bias of {run.label}"))


def map_of_runs(runs: Sequence[Run], pair: Pair, *, bins: int = 36, smoothing: float = 0.0) -> RamachandranMap:
    """The map of replicas of one temperature; frames of runs with metadynamics are reweighted.

    The first tenth of every run is left out, of runs with metadynamics the first fifth.  Their frames count with
    exp((V(s, t) - c(t)) / kT) (P. Tiwary, M. Parrinello, J. Phys. Chem. B 119, 736 (2015)), V and c from the hills in
    the run's folder; whatever the variables were that the bias acted on.

    Parameters
    ----------
    runs
        Canonical runs of one molecule at one temperature, with a bias each, or one bias for all, or none.
    pair
        Phi and psi.
    bins
        Cells on each axis.
    smoothing
        As in :func:`~fflux_py.analysis.ramachandran.estimates.ramachandran_map`.

    Raises
    ------
    InputError
        Different temperatures, no thermostat, a bias without c(t) (PBMETAD), or with more than three variables.
    FileFormatError
        HILLS is missing or damaged.
    """
    temperature = _temperature(runs)
    angle, exponents = [], []
    for run in runs:
        first = int((FILLING if run.record.get("bias") else EQUILIBRATION) * len(run.trajectory))
        angle.append(torsions(run.trajectory.positions[first:], pair))
        exponents.append(reweighting_exponents(run)[first:])
    weights = frame_weights(BOLTZMANN * temperature * np.concatenate(exponents), 0.0, temperature)
    return ramachandran_map(
        [each[:, 0] for each in angle],
        [each[:, 1] for each in angle],
        temperature,
        np.split(weights, np.cumsum([len(each) for each in angle])[:-1]),
        bins=bins,
        smoothing=smoothing,
    )


def reweighting_exponents(run: Run) -> FloatArray:
    """(V(s, t) - c(t)) / kT of every frame, ``(m,)``; zero for a run without bias.

    Raises
    ------
    InputError
        A bias that has no c(t) (PBMETAD), or more than three variables.
    FileFormatError
        HILLS is missing or damaged.
    """
    bias_files = _read_bias(run)
    if bias_files is None:
        return np.zeros(len(run.trajectory))
    plumed, hills = bias_files
    variables, temperature = plumed.bias.variables, run.config.temperature
    grid = plumed.bias.grid or grid_around(variables, plumed.bias.hills.sigmas(variables))
    values = np.stack([_values(run.trajectory.positions, v) for v in variables], axis=1)
    # A frame is written before the hill of its own step comes down.
    before = run.trajectory.times_fs - 0.5 * run.config.timestep
    counts = np.searchsorted(hills.times * FEMTOSECOND, before, side="right")
    # The bias grows again as it did in the run: on a grid, so that the time is linear in frames and hills.
    bias = replace(plumed.bias, grid=grid).build(temperature)
    energies, offset = np.empty(len(values)), 0.0
    for frame, (point, count) in enumerate(zip(values, counts, strict=True)):
        if bias.n_hills < count:
            for centre in hills.centres[bias.n_hills : count]:
                bias.deposit_at(centre)
            offset = bias.offset()
        energies[frame] = bias.bias(point)[0] - offset
    if not np.allclose(bias.heights[:, 0], hills.heights[: bias.n_hills], rtol=1e-4):
        raise FileFormatError(f"{plumed.files[0]} of {run.label}", "the hills that its bias puts down", "others",
                              "was the file changed after the run?")  # fmt: skip
    return energies / (BOLTZMANN * temperature)


def map_of_hills(runs: Sequence[Run], pair: Pair, *, bins: int = 36) -> RamachandranMap:
    """The map of -gamma/(gamma-1) V, with the bias V of metadynamics on phi and psi at its end.

    Biases of several replicas are independent estimates; walkers of one bias are one, without an error.  Cells that the
    bias has raised by less than its first hill count as not visited.

    Parameters
    ----------
    runs
        Runs at one temperature with metadynamics on ``pair`` alone, phi first.
    pair
        Phi and psi.
    bins
        Cells on each axis.

    Raises
    ------
    InputError
        Runs without a bias, or with one on other variables.
    FileFormatError
        HILLS is missing or damaged.
    """
    temperature = _temperature(runs)
    surfaces = []
    for run in runs:
        bias_files = _read_bias(run)
        expected = "metadynamics on phi and psi"
        if bias_files is None:
            raise InputError(f"run {run.label!r}", expected, "no bias")
        plumed, hills = bias_files
        if tuple(v.atoms for v in hills.variables) != pair:
            raise InputError(f"bias of {run.label}", expected, ", ".join(v.label for v in hills.variables))
        grid = Grid(hills.variables, (-np.pi,) * 2, (np.pi,) * 2, (bins,) * 2)
        surface = free_energy_of_hills(hills, grid)
        filled = -surface.values * (1.0 - 1.0 / hills.bias_factor) >= hills.heights.max()
        surfaces.append(FreeEnergy(grid, np.where(filled, surface.values, np.inf)))
        if plumed.walkers:
            break
    return map_of_free_energy(surfaces, temperature)


def _temperature(runs: Sequence[Run]) -> float:
    """The one temperature of canonical runs."""
    temperatures = {run.config.temperature for run in runs}
    if len(temperatures) != 1 or any(run.config.thermostat == "none" for run in runs):
        labels = ", ".join(run.label for run in runs) or "none"
        raise InputError("runs of a map", "canonical runs at one temperature", labels)
    return temperatures.pop()


def _read_bias(run: Run) -> tuple[PlumedInput, Hills] | None:
    """Input and hills of the bias of a run; None if it has none."""
    text = run.record.get("bias")
    if not text:
        return None
    plumed = parse_plumed_input(str(text), f"bias of {run.label}")
    if not _has_offset(plumed):
        kind = "PBMETAD" if plumed.bias.parallel else f"{len(plumed.bias.variables)} variables"
        raise InputError(f"bias of {run.label}", f"METAD on at most {_MOST_VARIABLES} variables", kind,
                         "its frames cannot be reweighted with c(t)")  # fmt: skip
    folder = run.trajectory.folder
    if folder is None:
        raise InputError(f"run {run.label!r}", "a run in a folder, with its HILLS", "one in memory")
    # Walkers of one bias share the file in the folder above their own.
    paths = [Path(parent) / plumed.files[0] for parent in (folder, folder.parent)]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise FileFormatError(str(paths[0]), "the hills of the run", "no such file")
    return plumed, read_hills(path, plumed.bias.variables, plumed.units)


def _has_offset(plumed: PlumedInput) -> bool:
    """Whether c(t) is defined and can be integrated on a grid."""
    return not plumed.bias.parallel and len(plumed.bias.variables) <= _MOST_VARIABLES


def _values(positions: FloatArray, variable: CollectiveVariable) -> FloatArray:
    """A collective variable along a trajectory."""
    a = variable.atoms
    if variable.kind == "torsion":
        return torsions(positions, [(a[0], a[1], a[2], a[3])])[:, 0]
    if variable.kind == "angle":
        return angles(positions, [(a[0], a[1], a[2])])[:, 0]
    return bond_lengths(positions, [(a[0], a[1])])[:, 0]
