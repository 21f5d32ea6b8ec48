"""``fflux validate``: a force field against labelled geometries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fflux_py.cli import _ferebus
from fflux_py.cli._command import Outcome, command
from fflux_py.cli._inputs import read_dataset, read_model
from fflux_py.cli._label_residuals import validate_labels
from fflux_py.cli._options import JsonOption, ThreadsOption
from fflux_py.cli._paths import check_folder, check_output, reading
from fflux_py.cli._progress import progress
from fflux_py.cli._threads import use_threads
from fflux_py.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from fflux_py.analysis.prediction_errors import ErrorTable
    from fflux_py.analysis.validate import Validation
    from fflux_py.forcefield import ForceField


@command(interrupted="nothing was changed")
def validate(
    model: Annotated[Path, typer.Argument(metavar="MODEL.npz", help="Model (of 'fflux train'), or one atom's .model.")],
    data: Annotated[
        Path,
        typer.Argument(metavar="DATA.extxyz", help="Labelled geometries of the same molecule, or the atom's .csv."),
    ],
    plots: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for pictures (SVG); made if it is not there.")
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Calibrate the predictive deviations and write the model (-o).")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="MODEL.npz", help="The calibrated model.")
    ] = None,
    neighbours: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="M", help="With --calibrate: nearest training geometries that a deviation takes notice of."
        ),
    ] = None,
    labels: Annotated[
        bool, typer.Option("--labels", help="Rank the labels of all geometries by how badly they fit the others.")
    ] = False,
    page: Annotated[
        Path | None,
        typer.Option(metavar="PAGE.html", help="With --labels: the page of the ranking. Without it: DATA.labels.html."),
    ] = None,
    threads: ThreadsOption = 1,
    json_output: JsonOption = False,
) -> Outcome:
    """Compare a model with the held-out geometries of a data set: errors of energies and forces.

    Held out are the geometries marked 'test'; they come from trajectories that training never saw.

    With --calibrate, every second of these trajectories serves to find the factors of the model's predictive standard
    deviations. How many errors lie within one and two of them is reported for the other trajectories only.

    With --labels, the labels themselves are judged: each is left out and predicted from all others by the joint
    Gaussian process, and those that fit worst are listed, with a page.
    """
    _check_options(data, calibrate, output, neighbours)
    if labels or page is not None:
        _check_labels_alone(labels, calibrate or plots is not None or _ferebus.is_table(data))
        use_threads(threads)
        return validate_labels(model, data, page or data.with_name(f"{data.name.removesuffix('.xz')}.labels.html"))
    if plots is not None:
        check_folder(plots)
    if _ferebus.is_table(data):
        return _ferebus.validate_atom(model, data, plots, threads)
    use_threads(threads)
    from fflux_py import model_file
    from fflux_py.analysis.validate import validate as compare

    forcefield = read_model(model)
    dataset = read_dataset(data, forcefield)
    if output is not None:
        from fflux_py.analysis.calibration import calibrate_on_held_out
        from fflux_py.gp.posterior import NEIGHBOURS

        with reading(data), progress(f"calibrating {forcefield.molecule.name}") as show:
            forcefield = calibrate_on_held_out(forcefield, dataset, neighbours or NEIGHBOURS, show)
        model_file.save(forcefield, output)
    with reading(data), progress(f"validating {forcefield.molecule.name}") as show:
        validation = compare(forcefield, dataset, progress=show)
    pictures = _draw(validation, plots) if plots is not None else []
    text = _text(validation, pictures)
    if output is not None:
        text.append(_calibration_text(forcefield, output))
    figures = {
        "model": str(model),
        "data": str(data),
        "molecule": forcefield.molecule.name,
        "n_train": forcefield.metadata.get("n_train"),
        **validation.as_dict(),
        "calibration": dict(forcefield.calibration),
        "output": None if output is None else str(output),
        "pictures": [str(picture) for picture in pictures],
    }
    return Outcome(figures, text)


def _check_options(data: Path, calibrate: bool, output: Path | None, neighbours: int | None) -> None:
    """Refuse options that do not go together."""
    if calibrate != (output is not None):
        remedy = "say where the calibrated model goes"
        raise InputError("--calibrate", "--calibrate and -o, or neither", "one of them", remedy)
    if neighbours is not None and not calibrate:
        raise InputError("--neighbours", "--calibrate with it", "none", "the number belongs to the factors")
    if calibrate and _ferebus.is_table(data):
        raise InputError("--calibrate", "a model (.npz) and a data set (.extxyz)", str(data))
    if output is not None:
        check_output(output, data)


def _check_labels_alone(labels: bool, others: bool) -> None:
    if not labels or others:
        option = "--labels" if labels else "--page"
        raise InputError(option, "--labels alone, for a data set (.extxyz)", "other options or another file")


def _calibration_text(forcefield: ForceField, output: Path) -> str:
    from fflux_py.analysis.calibration import TRAJECTORIES

    factors = ", ".join(f"{name} {value:.3g}" for name, value in forcefield.calibration.items())
    return f"Calibrated ({factors}) on {forcefield.metadata[TRAJECTORIES]}: {output}"


def error_table(errors: ErrorTable) -> Table:
    """Errors by group, for the terminal."""
    from rich.table import Table

    from fflux_py.analysis.prediction_errors import ALL

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
    from fflux_py.analysis.prediction_errors import ALL

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
    within = validation.reliability()
    if within:
        which = within[ALL]
        text.append(
            f"Predictive deviations ({'calibrated' if validation.calibrated else 'not calibrated'}): "
            f"{100 * which.within_1_sigma:.0f} % of {which.n} errors within one, {100 * which.within_2_sigma:.0f} % "
            f"within two (normal: 68 and 95); {validation.deviation_time_ms:.3g} ms for one geometry"
        )
    if pictures:
        text.append(f"Pictures: {', '.join(str(picture) for picture in pictures)}")
    return text


def _draw(validation: Validation, folder: Path) -> list[Path]:
    from fflux_py.analysis.report.drawing import to_svg
    from fflux_py.analysis.report.prediction_plots import (
        atomic_energy_errors,
        error_s_curve,
        predicted_against_reference,
        reliability_diagram,
    )
    from fflux_py.files import write_atomically

    folder.mkdir(exist_ok=True)
    pictures = {
        "predicted.svg": predicted_against_reference(validation, str(validation.dataset.metadata["method"]).upper()),
        "s_curve.svg": error_s_curve(validation.errors),
    }
    if validation.dataset.has_atomic_energies.any():
        pictures["atoms.svg"] = atomic_energy_errors(validation)
    if validation.independent.any():
        pictures["reliability.svg"] = reliability_diagram(validation)
    for name, figure in pictures.items():
        write_atomically(folder / name, to_svg(figure))
    return [folder / name for name in pictures]
