"""``fflux prune``: a smaller and faster model."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fflux_py.cli._command import Outcome, command
from fflux_py.cli._inputs import check_level, read_dataset, read_model
from fflux_py.cli._options import JsonOption, MemoryOption, ModelArgument, ThreadsOption
from fflux_py.cli._paths import check_output, reading
from fflux_py.cli._progress import progress
from fflux_py.cli._threads import use_threads
from fflux_py.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from fflux_py.analysis.pruned_models import HeldOut, ModelFigures, PruningFigures
    from fflux_py.forcefield import ForceField
    from fflux_py.molecules.dataset import Dataset
    from fflux_py.training.pruning import PruningConfig
    from fflux_py.typing import IntArray

_GROWTH: Final = 0.1
# What the settings of the pruning are called here.
_OPTIONS: Final = {"growth": "--growth", "n_train": "--points", "leave_out": "--leave-out", "n_fit": "--small-fit"}


@command(interrupted="no model was written")
def prune(
    model: ModelArgument,
    data: Annotated[Path, typer.Argument(metavar="DATA.extxyz", help="The data set that it was trained on.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="SMALL.npz", help="The smaller model to write.")],
    growth: Annotated[
        float | None,
        typer.Option(min=0.0, help="Largest accepted growth of the held-out force error. Without it: 0.1, by 10 %."),
    ] = None,
    points: Annotated[
        int | None,
        typer.Option(min=2, help="Training geometries to keep. Without it: as few as the growth of the error allows."),
    ] = None,
    leave_out: Annotated[
        str | None,
        typer.Option(
            metavar="KIND,KIND,...",
            help="Kinds of features to leave out, or 'none'. Without it: those found to have no influence.",
        ),
    ] = None,
    small_fit: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Geometries of the fits that show which features have no influence. Without it: 60, or two thirds.",
        ),
    ] = None,
    threads: ThreadsOption = 1,
    memory: MemoryOption = None,
    json_output: JsonOption = False,
) -> Outcome:
    """Make a model smaller, and so faster: fewer training geometries and features, at an error that you accept.

    Only for models of energies and forces. The fit is solved again without them, at the same length scales. Errors are
    those of the geometries marked 'test'; the number of training geometries is chosen by every second of their
    trajectories. Certify what comes out before you trust it in dynamics.
    """
    check_output(output, model, data)
    _check_options(growth, points, leave_out, small_fit)
    use_threads(threads)
    from fflux_py.model_file import file_digest, save
    from fflux_py.training import pruning
    from fflux_py.training.config import SolverSettings

    config = pruning.PruningConfig(
        growth=_GROWTH if growth is None else growth,
        n_train=points,
        leave_out=_kinds(leave_out),
        n_fit=small_fit,
        solver=SolverSettings(memory=memory, threads=threads),
    )
    before = read_model(model)
    dataset = read_dataset(data, before)
    held_out = _check_inputs(before, dataset, model, data, config)
    with _naming_options():
        pruned = pruning.prune(before, dataset, held_out.judges, config, progress)
    origin: dict[str, str | int | float | bool] = {
        "pruned_from": model.name,
        "pruned_from_digest": file_digest(model),
        "pruning_criterion": pruned.criterion,
    }
    after = replace(pruned.forcefield, metadata={**pruned.forcefield.metadata, **origin})
    save(after, output)
    paths = {"model": str(model), "data": str(data), "output": str(output)}
    return _outcome(paths, before, after, dataset, held_out.others[: None if points is None else 0])


def _check_options(growth: float | None, points: int | None, leave_out: str | None, small_fit: int | None) -> None:
    """Refuse options that do not go together."""
    if growth is not None and not math.isfinite(growth):
        raise InputError("--growth", "a number like 0.1", f"{growth:g}")
    if growth is not None and points is not None:
        raise InputError("--growth", "either --growth or --points", "both", "leave one of them out")
    if small_fit is not None and leave_out is not None:
        raise InputError("--small-fit", "features to be found", "--leave-out, which says them", "leave one of them out")


def _kinds(leave_out: str | None) -> tuple[str, ...] | None:
    """Kinds of features that an option names; None if it is not given."""
    if leave_out is None:
        return None
    kinds = tuple(dict.fromkeys(word.strip() for word in leave_out.split(",")))
    return () if kinds == ("none",) else kinds


def _check_inputs(before: ForceField, dataset: Dataset, model: Path, data: Path, config: PruningConfig) -> HeldOut:
    """Refuse what cannot be pruned; the held-out geometries."""
    from fflux_py.analysis.pruned_models import split_held_out
    from fflux_py.gp.features import FeatureSet
    from fflux_py.training.refit import training_rows

    check_level(dataset, data, before, ("method", "basis", "partition"))
    with reading(model if before.joint is None else data):
        training_rows(before, dataset)
    names = dict.fromkeys(FeatureSet(before.atoms[0].feature_kind, before.molecule.n_atoms).names)
    unknown = [kind for kind in config.leave_out or () if kind not in names]
    if unknown:
        raise InputError("--leave-out", f"'none', or some of {', '.join(names)}", ", ".join(map(repr, unknown)))
    with reading(data):
        return split_held_out(dataset)


@contextmanager
def _naming_options() -> Iterator[None]:
    """Let errors name the options in place of the settings that they are of."""
    try:
        yield
    except InputError as error:
        settings = re.compile(rf"\b({'|'.join(_OPTIONS)})\b")
        remedy = settings.sub(lambda match: _OPTIONS[match[0]], error.remedy)
        raise InputError(_OPTIONS.get(error.where, error.where), error.expected, error.found, remedy) from None


def _outcome(
    paths: dict[str, str], before: ForceField, after: ForceField, dataset: Dataset, others: IntArray
) -> Outcome:
    """Figures and table; ``others`` are held-out geometries without a part in the choice."""
    from fflux_py.analysis.pruned_models import compare_pruned
    from fflux_py.training.refit import features_left_out

    compared = compare_pruned(before, after, dataset, others)
    left_out = features_left_out(after)
    figures = {
        **paths,
        "molecule": after.molecule.name,
        "criterion": after.metadata["pruning_criterion"],
        "features_left_out": list(left_out),
        "n_held_out": compared.n_held_out,
        "before": asdict(compared.before),
        "after": asdict(compared.after),
        "force_error_growth": compared.force_error_growth,
        "speed": compared.speed,
        "n_held_out_apart": compared.n_others,
        "force_mae_apart_before_kcal_mol_angstrom": compared.others_before,
        "force_mae_apart_after_kcal_mol_angstrom": compared.others_after,
    }
    return Outcome(figures, _text(paths, compared, left_out, bool(before.calibration)))


def _text(
    paths: dict[str, str], compared: PruningFigures, left_out: tuple[str, ...], was_calibrated: bool
) -> list[str | Table]:
    growth = compared.force_error_growth
    text: list[str | Table] = [
        _table(compared.before, compared.after),
        f"Features without influence on any atom: {', '.join(left_out) or 'none'}. One step is "
        f"{compared.speed:.2f} times as fast, the held-out force error {100.0 * abs(growth):.1f} % "
        f"{'larger' if growth > 0.0 else 'smaller'}.",
    ]
    if compared.others_before is not None:
        text.append(f"On the {compared.n_others} geometries that had no part in the choice: force MAE "
                    f"{compared.others_before:.3g} before, {compared.others_after:.3g} after.")  # fmt: skip
    if was_calibrated:
        text.append("Its predictive deviations are not calibrated any more: fflux validate --calibrate")
    output, data = paths["output"], paths["data"]
    text.append(f"The model is in {output}. Next: fflux certify {output} --data {data}")
    return text


def _table(was: ModelFigures, now: ModelFigures) -> Table:
    from rich.table import Table

    heads = ("", "geometries", "points", "features", "energy MAE", "RMSE", "force MAE", "RMSE", "ms for a step")
    table = Table(*heads, caption="errors of the held-out geometries; kcal/mol, kcal/mol/Å; features of one atom")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, entry in (("before", was), ("after", now)):
        *sizes, energy, energy_rmse, force, force_rmse, step = asdict(entry).values()
        numbers = (energy, energy_rmse, force, force_rmse, step)
        table.add_row(name, *map(str, sizes), *(f"{number:.3g}" for number in numbers))
    return table
