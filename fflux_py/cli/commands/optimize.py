"""``fflux optimize``: the minimum of a force field."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fflux_py.cli._command import Outcome, command
from fflux_py.cli._inputs import read_model, read_start
from fflux_py.cli._options import JsonOption, ModelArgument, StartArgument, ThreadsOption
from fflux_py.cli._paths import check_output
from fflux_py.cli._progress import progress
from fflux_py.cli._threads import use_threads
from fflux_py.errors import ConvergenceError, GeometryError, InputError

if TYPE_CHECKING:
    from fflux_py.forcefield import ForceField
    from fflux_py.molecules.molecule import Molecule
    from fflux_py.molecules.normal_modes import NormalModes
    from fflux_py.optimization.search import OptimizationResult
    from fflux_py.typing import IntArray


@command(interrupted="no geometry was written")
def optimize(
    model: ModelArgument,
    start: StartArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Optimised geometry to write (extended XYZ).")],
    fmax: Annotated[float, typer.Option(help="Converged when no atom feels a larger force (eV/angstrom).")] = 0.01,
    max_steps: Annotated[int, typer.Option(min=1, help="Give up after so many steps, with exit code 3.")] = 500,
    method: Annotated[
        str,
        typer.Option(
            help="newton (Hessians from forces), internal (geomeTRIC), bfgs (ASE), or auto: newton, the fastest here."
        ),
    ] = "auto",
    frequencies: Annotated[
        bool,
        typer.Option(
            "--frequencies", help="Compute harmonic frequencies at the end; from a saddle point, search on downhill."
        ),
    ] = False,
    as_it_is: Annotated[
        bool,
        typer.Option(
            "--as-it-is",
            help="Begin at the start itself. Without it: where atoms are nearer or further than in all training "
            "geometries, at the geometry next to it where they are not.",
        ),
    ] = False,
    threads: ThreadsOption = 1,
    json_output: JsonOption = False,
) -> Outcome:
    """Optimise a geometry with a force field: the minimum next to the start."""
    if not (math.isfinite(fmax) and fmax > 0.0):
        raise InputError("--fmax", "a positive force in eV/angstrom", f"{fmax:g}")
    check_output(output, model)
    use_threads(threads)
    import numpy as np

    from fflux_py.molecules.extended_xyz import Value, write_molecule
    from fflux_py.optimization.known_region import KnownRegion
    from fflux_py.optimization.search import optimize as minimise
    from fflux_py.optimization.search import optimize_to_minimum
    from fflux_py.optimization.training_range import move_into_training_range
    from fflux_py.units import EV, EV_ANGSTROM

    forcefield = read_model(model)
    given = read_start(start, forcefield)
    matching = forcefield.match(given)
    geometry = matching.reorder(given)
    begin = geometry if as_it_is else move_into_training_range(forcefield, geometry)
    with progress(f"optimising {geometry.name} (steps)") as show:
        settings = (forcefield, begin, fmax / EV_ANGSTROM, max_steps, method, show)
        result, modes = optimize_to_minimum(*settings) if frequencies else (minimise(*settings), None)
    left = result.largest_force * EV_ANGSTROM
    if not result.converged:
        raise ConvergenceError(
            str(start),
            f"forces below {fmax:g} eV/angstrom within {max_steps} steps",
            f"{left:.3g} eV/angstrom",
            "raise --max-steps or start from another geometry; nothing was written",
        )
    marks: dict[str, Value] = {"model_energy_ev": result.energy * EV, "largest_force_ev_angstrom": left}
    region = KnownRegion(forcefield)
    objections = region.objections(np.array(result.molecule.positions), result.energy, matching.order)
    if objections:
        marks["outside_training"] = "; ".join(objections)
    write_molecule(output, matching.inverse.reorder(result.molecule), marks)
    outcome = _with_start(_outcome(model, output, geometry, result), forcefield, (geometry, begin), matching.order)
    if modes is not None:
        outcome = _with_frequencies(outcome, modes)
    outcome = replace(outcome, figures={**outcome.figures, "outside_training": objections})
    if not objections:
        return outcome
    error = GeometryError(
        str(output), "a minimum where the model knows the molecule", "; ".join(objections),
        "this is no minimum of the molecule; start from a geometry nearer to the training data, or label this one",
    )  # fmt: skip
    return replace(outcome, error=error)


def _with_start(
    outcome: Outcome, forcefield: ForceField, starts: tuple[Molecule, Molecule], order: IntArray
) -> Outcome:
    """How far the search began from the start, and why; ``order`` has the numbers of the atoms in the file."""
    from fflux_py.analysis.geometry import rmsd
    from fflux_py.gp.distance_ranges import distances
    from fflux_py.optimization.training_range import distance_ranges, largest_violation
    from fflux_py.units import ANGSTROM

    start, begin = starts
    moved = 0.0 if begin is start else float(rmsd(begin.positions, start.positions)) * ANGSTROM
    outcome = replace(outcome, figures={**outcome.figures, "start_moved_angstrom": moved})
    if begin is start:
        return outcome
    ranges = distance_ranges(forcefield)
    i, j, _ = largest_violation(start.positions, *ranges)
    low, high = (float(limit[i, j]) * ANGSTROM for limit in ranges)
    pair = "-".join(f"{start.symbols[atom]}{order[atom] + 1}" for atom in (i, j))
    text = (
        f"The start lies outside of what the model has learnt ({pair} at "
        f"{float(distances(start.positions)[i, j]) * ANGSTROM:.2f} Å, in the training data {low:.2f} to {high:.2f} Å): "
        f"the search began next to it, {moved:.3f} Å away (RMSD)."
    )
    return replace(outcome, text=[text, *outcome.text])


def _with_frequencies(outcome: Outcome, modes: NormalModes) -> Outcome:
    """Harmonic wavenumbers and zero-point energy; imaginary wavenumbers are negative."""
    from fflux_py.units import KCAL_MOL, WAVENUMBER

    waves = modes.wavenumbers
    imaginary = int((waves < 0.0).sum())
    zero_point = float(0.5 * waves[waves > 0.0].sum() / WAVENUMBER * KCAL_MOL)
    figures = {
        **outcome.figures,
        "wavenumbers_per_cm": [float(w) for w in waves],
        "imaginary_modes": imaginary,
        "zero_point_energy_kcal_mol": zero_point,
    }
    kind = "a minimum: no imaginary mode" if imaginary == 0 else f"NO minimum: {imaginary} imaginary mode(s)"
    listed = " ".join(f"{w:.0f}" if w >= 0.0 else f"{-w:.0f}i" for w in waves)
    text = f"It is {kind}. Harmonic wavenumbers (cm-1): {listed}; zero-point energy {zero_point:.2f} kcal/mol."
    return replace(outcome, figures=figures, text=[*outcome.text, text])


def _outcome(model: Path, output: Path, start: Molecule, result: OptimizationResult) -> Outcome:
    from fflux_py.analysis.geometry import rmsd
    from fflux_py.units import ANGSTROM, EV, EV_ANGSTROM, KCAL_MOL

    lowered = (result.energies[0] - result.energy) * KCAL_MOL
    moved = float(rmsd(result.molecule.positions, start.positions)) * ANGSTROM
    figures = {
        "output": str(output),
        "molecule": start.name,
        "converged": result.converged,
        "energy_ev": result.energy * EV,
        "energy_hartree": result.energy,
        "energy_lowered_kcal_mol": lowered,
        "largest_force_ev_angstrom": result.largest_force * EV_ANGSTROM,
        "rmsd_from_start_angstrom": moved,
        "n_steps": result.n_steps,
        "n_evaluations": result.n_evaluations,
        "n_hessians": result.n_hessians,
        "method": result.method,
    }
    text = [
        f"{start.name}: converged in {result.n_steps} steps ({result.method}), largest force "
        f"{result.largest_force * EV_ANGSTROM:.2g} eV/Å, energy {result.energy * EV:.4f} eV, {lowered:.3g} kcal/mol "
        f"below the start, {moved:.3f} Å from it (RMSD).",
        f"The minimum is in {output}. Next: fflux md {model} {output} --steps 100000 -o run",
    ]
    return Outcome(figures, text)
