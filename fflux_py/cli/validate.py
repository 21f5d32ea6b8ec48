"""``fflux validate``: a force field against labelled geometries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fflux_py.cli._command import Outcome, command
from fflux_py.cli._options import JsonOption, ThreadsOption
from fflux_py.cli._paths import check_folder, reading
from fflux_py.cli._progress import progress
from fflux_py.cli._threads import use_threads
from fflux_py.files import write_atomically

if TYPE_CHECKING:
    from rich.table import Table

    from fflux_py.analysis.errors import ErrorTable
    from fflux_py.analysis.validate import Validation


@command(interrupted="nothing was changed")
def validate(
    model: Annotated[Path, typer.Argument(metavar="MODEL.npz", help="Model (of 'fflux train').")],
    data: Annotated[Path, typer.Argument(metavar="DATA.extxyz", help="Labelled geometries of the same molecule.")],
    plots: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for pictures (SVG); made if it is not there.")
    ] = None,
    threads: ThreadsOption = 1,
    json_output: JsonOption = False,
) -> Outcome:
    """Compare a model with the held-out geometries of a data set: errors of energies and forces.

    Held out are the geometries marked 'test'; they come from trajectories that training never saw.
    """
    if plots is not None:
        check_folder(plots)
    use_threads(threads)
    from fflux_py import model_file
    from fflux_py.analysis.validate import validate as compare
    from fflux_py.dataset import Dataset

    with reading(model):
        forcefield = model_file.load(model)
    with reading(data), progress(f"validating {forcefield.molecule.name}") as show:
        validation = compare(forcefield, Dataset.read(data), progress=show)
    pictures = _draw(validation, plots) if plots is not None else []
    figures = {
        "model": str(model),
        "data": str(data),
        "molecule": forcefield.molecule.name,
        "n_train": forcefield.metadata.get("n_train"),
        **validation.as_dict(),
        "pictures": [str(picture) for picture in pictures],
    }
    return Outcome(figures, _text(validation, pictures))


def error_table(errors: ErrorTable) -> Table:
    """Errors by group, for the terminal."""
    from rich.table import Table

    from fflux_py.analysis.errors import ALL

    table = Table("geometries", "number", "energy MAE", "RMSE", "largest", "force MAE", "RMSE", "energy spread")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, group in errors.groups.items():
        table.add_row(
            "all" if name == ALL else name,
            str(group.n_frames),
            *(
                f"{value:.3g}"
                for value in (
                    group.energy_mae_kcal_mol,
                    group.energy_rmse_kcal_mol,
                    group.energy_max_kcal_mol,
                    group.force_mae_kcal_mol_angstrom,
                    group.force_rmse_kcal_mol_angstrom,
                    group.energy_spread_kcal_mol,
                )
            ),
        )
    return table


def _text(validation: Validation, pictures: list[Path]) -> list[str | Table]:
    data = validation.dataset
    text: list[str | Table] = [
        f"{len(data)} held-out geometries of {data.molecule.name} from {len(set(data.geometries.source))} "
        f"trajectories, {data.metadata['method']}/{data.metadata['basis']}; errors in kcal/mol and kcal/mol/Å, "
        "without any shift",
        error_table(validation.errors),
        "The energy spread is the error of the best constant: what a model has to beat.",
    ]
    for c in validation.criteria():
        mark = "met" if c.passed else "not met"
        text.append(f"{mark}: {c.name} {c.value:.3g} {c.unit} (required {c.relation} {c.threshold:g} {c.unit})")
    if pictures:
        text.append(f"Pictures: {', '.join(str(picture) for picture in pictures)}")
    return text


def _draw(validation: Validation, folder: Path) -> list[Path]:
    from fflux_py.analysis.drawing import to_svg
    from fflux_py.analysis.plots import atomic_energy_errors, error_s_curve, predicted_against_reference

    folder.mkdir(exist_ok=True)
    pictures = {
        "predicted.svg": predicted_against_reference(validation, str(validation.dataset.metadata["method"]).upper()),
        "s_curve.svg": error_s_curve(validation.errors),
    }
    if validation.dataset.has_atomic_energies.any():
        pictures["atoms.svg"] = atomic_energy_errors(validation)
    for name, figure in pictures.items():
        write_atomically(folder / name, to_svg(figure))
    return [folder / name for name in pictures]
