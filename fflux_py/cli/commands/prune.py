"""``fflux prune``: a smaller and faster model."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from fflux_py.cli._command import Outcome, command
from fflux_py.cli._inputs import check_level, read_dataset, read_model
from fflux_py.cli._options import JsonOption, ModelArgument, ThreadsOption
from fflux_py.cli._paths import check_output, reading
from fflux_py.cli._progress import progress
from fflux_py.cli._threads import use_threads
from fflux_py.errors import InputError
from fflux_py.threads import processor_times

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from fflux_py.forcefield import ForceField
    from fflux_py.molecules.dataset import Dataset
    from fflux_py.training.joint_solver import SolverSettings
    from fflux_py.typing import IntArray

_GROWTH: Final = 0.1
# Features go only if they have no influence: a geometry less makes a step faster at less of an error.
_FEATURES_GROWTH: Final = 0.02
_SMALL_FIT: Final = 60


@dataclass(frozen=True)
class _Wanted:
    """What the options ask for."""

    growth: float
    points: int | None
    leave_out: tuple[str, ...] | None
    small_fit: int | None


@dataclass(frozen=True)
class _Judges:
    """Rows of the data set: all that are held out, those that the number of points is chosen by, and the others."""

    all: IntArray
    choosing: IntArray
    apart: IntArray


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
    memory: Annotated[float, typer.Option(metavar="GB", help="Memory that a fit may take.")] = 14.0,
    json_output: JsonOption = False,
) -> Outcome:
    """Make a model smaller, and so faster: fewer training geometries and features, at an error that you accept.

    Only for models of energies and forces. The fit is solved again without them, at the same length scales. Errors are
    those of the geometries marked 'test'; the number of training geometries is chosen by every second of their
    trajectories. Certify what comes out before you trust it in dynamics.
    """
    check_output(output, model, data)
    wanted = _wanted(growth, points, leave_out, small_fit)
    use_threads(threads)
    from fflux_py.model_file import file_digest, save
    from fflux_py.training.joint_solver import SolverSettings

    settings = SolverSettings(memory=memory, threads=threads)
    before, dataset = read_model(model), read_dataset(data)
    judges = _checked(before, dataset, model, data, wanted)
    after, criterion = _smaller(before, dataset, wanted, judges, settings)
    if wanted.points is None:
        criterion += f", judged by {', '.join(_sources(dataset, judges.choosing))}"
    origin: dict[str, str | int | float | bool] = {
        "pruned_from": model.name,
        "pruned_from_digest": file_digest(model),
        "pruning_criterion": criterion,
    }
    after = replace(after, metadata={**after.metadata, **origin})
    save(after, output)
    return _outcome(model, data, output, dataset, before, after, judges if wanted.points is None else None)


def _wanted(growth: float | None, points: int | None, leave_out: str | None, small_fit: int | None) -> _Wanted:
    """The options, if they go together."""
    if growth is not None and not math.isfinite(growth):
        raise InputError("--growth", "a number like 0.1", f"{growth:g}")
    if growth is not None and points is not None:
        raise InputError("--growth", "either --growth or --points", "both", "leave one of them out")
    if small_fit is not None and leave_out is not None:
        raise InputError("--small-fit", "features to be found", "--leave-out, which says them", "leave one of them out")
    kinds = None if leave_out is None else tuple(dict.fromkeys(word.strip() for word in leave_out.split(",")))
    return _Wanted(_GROWTH if growth is None else growth, points, () if kinds == ("none",) else kinds, small_fit)


def _checked(before: ForceField, dataset: Dataset, model: Path, data: Path, wanted: _Wanted) -> _Judges:
    """Refuse what cannot be pruned; the held-out geometries."""
    import numpy as np

    from fflux_py.analysis.calibration import calibration_halves
    from fflux_py.gp.features import FeatureSet
    from fflux_py.training.pruning import training_rows

    with reading(data):
        before.check_molecule(dataset.molecule)
    check_level(dataset, data, before, ("method", "basis", "partition"))
    with reading(model if before.joint is None else data):
        rows = training_rows(before, dataset)
    if wanted.points is not None and wanted.points > len(rows):
        raise InputError("--points", f"at most the {len(rows)} training geometries of {model}", str(wanted.points))
    if wanted.small_fit is not None and wanted.small_fit >= len(rows):
        expected = f"fewer than the {len(rows)} training geometries of {model}"
        raise InputError("--small-fit", expected, str(wanted.small_fit))
    names = dict.fromkeys(FeatureSet(before.atoms[0].feature_kind, before.molecule.n_atoms).names)
    unknown = [kind for kind in wanted.leave_out or () if kind not in names]
    if unknown:
        raise InputError("--leave-out", f"'none', or some of {', '.join(names)}", ", ".join(map(repr, unknown)))
    held_out = np.flatnonzero([split == "test" for split in dataset.geometries.split])
    if not len(held_out):
        found = f"none of {len(dataset)}"
        raise InputError(f"{data}", "geometries marked 'test', to measure errors by", found, "sample and label some")
    if len(_sources(dataset, held_out)) < 2:
        return _Judges(held_out, held_out, held_out[:0])
    first, second = calibration_halves(dataset.geometries.select(held_out))
    return _Judges(held_out, held_out[first], held_out[second])


def _sources(dataset: Dataset, rows: IntArray) -> list[str]:
    """Trajectories that some geometries are of."""
    return list(dict.fromkeys(dataset.geometries.source[row] for row in rows))


def _smaller(
    before: ForceField, dataset: Dataset, wanted: _Wanted, judges: _Judges, settings: SolverSettings
) -> tuple[ForceField, str]:
    """The smaller model, and by what it was chosen."""
    from fflux_py.training.pruning import evenly, features_left_out, refit, training_rows

    dropped = _features(before, dataset, wanted) if wanted.leave_out is None else wanted.leave_out
    found = wanted.leave_out is None
    which = f"features without influence ({_FEATURES_GROWTH:g})" if found else "features given"
    indices = training_rows(before, dataset)
    gone_before = set(features_left_out(before))
    if wanted.points is not None:
        if wanted.points == len(indices) and set(dropped) <= gone_before:
            raise InputError("--points", f"fewer than {len(indices)}", str(wanted.points), "nothing else is left out")
        with progress(f"fit to {wanted.points} geometries"):
            return refit(before, dataset, dropped, evenly(indices, wanted.points), settings), f"points and {which}"
    after = _fewest(before, dataset, dropped, wanted, judges, settings)
    if after is None and found:  # what holds for small fits need not hold for the whole
        dropped = ()
        after = _fewest(before, dataset, dropped, wanted, judges, settings)
    allowed = f"growth of the force error by {wanted.growth:g} at most"
    if after is None:
        remedy = "allow more with --growth, or leave out fewer"
        raise InputError("--leave-out", allowed, f"more than that without {', '.join(dropped)}", remedy)
    if after is before:
        remedy = "allow more with --growth, or say how many --points"
        raise InputError("model", f"something to leave out at a {allowed}", "nothing", remedy)
    return after, f"{allowed}, {which}"


def _features(before: ForceField, dataset: Dataset, wanted: _Wanted) -> tuple[str, ...]:
    """Kinds of features without influence."""
    from fflux_py.training.pruning import prune as find
    from fflux_py.training.pruning import training_rows

    available = len(training_rows(before, dataset))
    n_fit = wanted.small_fit if wanted.small_fit is not None else min(_SMALL_FIT, 2 * available // 3)
    with progress("features without influence") as show:
        return find(before, dataset, min(wanted.growth, _FEATURES_GROWTH), n_fit, show).dropped


def _fewest(
    before: ForceField,
    dataset: Dataset,
    dropped: Sequence[str],
    wanted: _Wanted,
    judges: _Judges,
    settings: SolverSettings,
) -> ForceField | None:
    """The fit to the fewest training geometries that the growth of the error allows."""
    from fflux_py.training.pruning import fewest_points, force_error

    limit = (1.0 + wanted.growth) * force_error(before, dataset, judges.choosing)
    with progress("fewest training geometries") as show:
        return fewest_points(before, dataset, dropped, judges.choosing, limit, settings, show)


def _step_times(before: ForceField, after: ForceField) -> tuple[float, float]:
    """Milliseconds of one step of molecular dynamics without its integrator, one replica and one thread.

    The models run in turns; the least processor time counts, so that a busy machine does not matter.
    """
    import numpy as np

    from fflux_py.dynamics import CompiledPotential

    positions = np.array(before.molecule.positions)
    steps = [CompiledPotential.of(model) for model in (before, after)]
    first, second = processor_times(*(lambda step=step: step.kernel(positions, step.arrays) for step in steps))
    return 1e3 * first, 1e3 * second


def _figures(model: ForceField, held_out: Dataset, step_time: float) -> dict[str, Any]:
    """Size, errors and time of a model."""
    from fflux_py.analysis.prediction_errors import ALL, prediction_errors

    energies, forces = model.compute(held_out.positions)
    assert forces is not None
    assert model.joint is not None
    errors = prediction_errors(held_out, energies, forces).groups[ALL]
    names = ("energy_mae_kcal_mol", "energy_rmse_kcal_mol", "force_mae_kcal_mol_angstrom",
             "force_rmse_kcal_mol_angstrom")  # fmt: skip
    return {
        "n_geometries": len(model.joint.positions),
        "n_points": sum(len(atom.points) for atom in model.atoms),
        "n_features_per_atom": int((model.atoms[0].covariance.theta > 0.0).sum()),
        **{name: getattr(errors, name) for name in names},
        "step_time_ms": step_time,
    }


def _outcome(
    model: Path,
    data: Path,
    output: Path,
    dataset: Dataset,
    before: ForceField,
    after: ForceField,
    judges: _Judges | None,
) -> Outcome:
    """The table; ``judges`` are those that the number of points was chosen by, None if it was given."""
    from fflux_py.training.pruning import features_left_out, force_error
    from fflux_py.units import KCAL_MOL_ANGSTROM

    held_out = dataset.with_split("test")
    was, now = (
        _figures(field, held_out, milliseconds)
        for field, milliseconds in zip((before, after), _step_times(before, after), strict=True)
    )
    growth = now["force_mae_kcal_mol_angstrom"] / was["force_mae_kcal_mol_angstrom"] - 1.0
    apart = None if judges is None or not len(judges.apart) else [
        force_error(field, dataset, judges.apart) * KCAL_MOL_ANGSTROM for field in (before, after)
    ]  # fmt: skip
    left_out = features_left_out(after)
    figures = {
        "model": str(model),
        "data": str(data),
        "output": str(output),
        "molecule": after.molecule.name,
        "criterion": after.metadata["pruning_criterion"],
        "features_left_out": list(left_out),
        "n_held_out": len(held_out),
        "before": was,
        "after": now,
        "force_error_growth": growth,
        "speed": was["step_time_ms"] / now["step_time_ms"],
        "n_held_out_apart": 0 if judges is None else len(judges.apart),
        "force_mae_apart_before_kcal_mol_angstrom": None if apart is None else apart[0],
        "force_mae_apart_after_kcal_mol_angstrom": None if apart is None else apart[1],
    }
    text: list[str | Table] = [
        _table(was, now),
        f"Features without influence on any atom: {', '.join(left_out) or 'none'}. One step is "
        f"{figures['speed']:.2f} times as fast, the held-out force error {100.0 * abs(growth):.1f} % "
        f"{'larger' if growth > 0.0 else 'smaller'}.",
    ]
    if judges is not None and apart is not None:
        text.append(f"On the {len(judges.apart)} geometries that had no part in the choice: force MAE {apart[0]:.3g} "
                    f"before, {apart[1]:.3g} after.")  # fmt: skip
    if before.calibration:
        text.append("Its predictive deviations are not calibrated any more: fflux validate --calibrate")
    text.append(f"The model is in {output}. Next: fflux certify {output} --data {data}")
    return Outcome(figures, text)


def _table(was: dict[str, Any], now: dict[str, Any]) -> Table:
    from rich.table import Table

    heads = ("", "geometries", "points", "features", "energy MAE", "RMSE", "force MAE", "RMSE", "ms for a step")
    table = Table(*heads, caption="errors of the held-out geometries; kcal/mol, kcal/mol/Å; features of one atom")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, entry in (("before", was), ("after", now)):
        *sizes, energy, energy_rmse, force, force_rmse, step = entry.values()
        numbers = (energy, energy_rmse, force, force_rmse, step)
        table.add_row(name, *map(str, sizes), *(f"{number:.3g}" for number in numbers))
    return table
