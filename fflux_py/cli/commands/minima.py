"""``fflux minima``: all minima of a force field, and their order held against its reference method."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fflux_py.cli._command import Outcome, command
from fflux_py.cli._inputs import read_model, read_start
from fflux_py.cli._options import (
    JsonOption,
    LabelFolderOption,
    ModelArgument,
    SeedOption,
    StartArgument,
    ThreadsOption,
    WorkersOption,
)
from fflux_py.cli._paths import check_output
from fflux_py.cli._progress import progress
from fflux_py.cli._threads import use_threads
from fflux_py.errors import InputError

if TYPE_CHECKING:
    from fflux_py.certification.minima import MinimaCheck
    from fflux_py.optimization.basin_hopping import MinimaFound


@command(interrupted="no minima were written; finished labels are kept")
def minima(
    model: ModelArgument,
    start: StartArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Minima to write, the lowest first (extended XYZ).")],
    searches: Annotated[int, typer.Option("--searches", min=1, help="Minimisations from random geometries.")] = 100,
    window: Annotated[
        float, typer.Option("--window", help="Leave out minima further above the lowest (kcal/mol).")
    ] = 20.0,
    check: Annotated[
        int,
        typer.Option("--check", min=0, metavar="N", help="Label the lowest N minima by the model's reference method."),
    ] = 0,
    label_folder: LabelFolderOption = None,
    workers: WorkersOption = 1,
    seed: SeedOption = 0,
    threads: ThreadsOption = 1,
    json_output: JsonOption = False,
) -> Outcome:
    """Find the minima of a force field by basin hopping; hold the lowest against its reference method."""
    if not (math.isfinite(window) and window > 0.0):
        raise InputError("--window", "a positive energy in kcal/mol", f"{window:g}")
    check_output(output, model, start)
    use_threads(threads)
    from fflux_py.optimization.basin_hopping import BasinHoppingConfig, find_minima
    from fflux_py.units import KCAL_MOL

    forcefield = read_model(model)
    given = read_start(start, forcefield, in_model_order=False)
    config = BasinHoppingConfig(n_searches=searches, window=window / KCAL_MOL, seed=seed)
    with progress(f"minima of {given.name} (searches)") as show:
        found = find_minima(forcefield, given, config, show)
    checked = None
    if check:
        from fflux_py.certification import labeller_of
        from fflux_py.certification.minima import check_minima
        from fflux_py.iqa.campaign import Resources

        # Labels are asked for in the model's order, so that those of another run are found again.
        lowest = [
            replace(each, molecule=forcefield.match(each.molecule).reorder(each.molecule))
            for each in found.minima[:check]
        ]
        labeller = labeller_of(forcefield.metadata, "none", Resources(workers, threads))
        folder = label_folder or output.with_suffix("").with_name(f"{output.stem}-labels")
        with progress(f"labelling by {labeller.name}") as show:
            checked = check_minima(lowest, labeller, folder, show)
    _write(output, found, checked)
    return _outcome(output, found, checked)


def _write(output: Path, found: MinimaFound, checked: MinimaCheck | None) -> None:
    from fflux_py.molecules.extended_xyz import Frame, Value, write_frames
    from fflux_py.units import ANGSTROM, EV, KCAL_MOL

    frames = []
    for index, (each, above) in enumerate(zip(found.minima, found.relative_energies, strict=True)):
        molecule = each.molecule
        info: dict[str, Value] = {
            "name": molecule.name,
            "total_charge": molecule.charge,
            "units": "eV, angstrom, kcal/mol, 1/cm",
            "model_energy_ev": each.energy * EV,
            "above_lowest_kcal_mol": float(above) * KCAL_MOL,
            "lowest_wavenumber_per_cm": each.lowest_wavenumber,
            "times_found": each.n_found,
        }
        if checked is not None and index < len(checked.reference) and math.isfinite(checked.reference[index]):
            info["reference_energy_ev"] = float(checked.reference[index]) * EV
        frames.append(Frame(molecule.symbols, molecule.positions * ANGSTROM, {}, info))
    write_frames(output, frames)


def _outcome(output: Path, found: MinimaFound, checked: MinimaCheck | None) -> Outcome:
    from rich.table import Table

    from fflux_py.units import EV, EV_ANGSTROM, KCAL_MOL

    table = Table("minimum", "above the lowest (kcal/mol)", "lowest mode (1/cm)", "found")
    if checked is not None:
        table.add_column(f"{checked.method} (kcal/mol)")
        table.add_column("force left (eV/Å)")
    for column in table.columns[1:]:
        column.justify = "right"
    rows = []
    for index, (each, above) in enumerate(zip(found.minima, found.relative_energies * KCAL_MOL, strict=True)):
        row: dict[str, object] = {
            "energy_ev": each.energy * EV,
            "above_lowest_kcal_mol": float(above),
            "lowest_wavenumber_per_cm": each.lowest_wavenumber,
            "times_found": each.n_found,
        }
        cells = [str(index + 1), f"{above:.2f}", f"{each.lowest_wavenumber:.0f}", str(each.n_found)]
        if checked is not None and index < len(checked.reference):
            relative = float(checked.relative_reference[index]) * KCAL_MOL
            force = float(checked.largest_forces[index]) * EV_ANGSTROM
            row |= {"reference_above_first_kcal_mol": relative, "reference_force_ev_angstrom": force}
            cells += [f"{relative:.2f}", f"{force:.3f}"]
        table.add_row(*cells)
        rows.append(row)
    figures: dict[str, object] = {
        "output": str(output),
        "minima": rows,
        "n_searches": found.n_searches,
        "last_new": found.last_new,
        "n_outside_training": found.n_outside,
        "n_failed": found.n_failed,
    }
    text: list[str | Table] = [
        f"{len(found.minima)} minima from {found.n_searches} searches, the last new one from search {found.last_new}; "
        f"{found.n_outside} ended outside of what the model knows, {found.n_failed} on no minimum.",
        table,
    ]
    if checked is not None:
        figures |= {"reference": checked.method, "kendall_tau": checked.kendall_tau}
        text.append(
            f"Order of the model against {checked.method} at the same geometries: Kendall's tau "
            f"{checked.kendall_tau:.2f}."
        )
    text.append(f"The minima are in {output}.")
    return Outcome(figures, text)
