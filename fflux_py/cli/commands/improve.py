"""``fflux improve``: active learning."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fflux_py.cli._bias import bias_of
from fflux_py.cli._command import Outcome, command, print_line
from fflux_py.cli._inputs import executor_of, parse_temperatures, read_dataset, read_model, read_start
from fflux_py.cli._options import (
    EnergyLimitOption,
    ExecutorOption,
    ForceLimitOption,
    HydrogenMassOption,
    JsonOption,
    LabelFolderOption,
    ModelArgument,
    SeedOption,
    TemperaturesOption,
    TimestepOption,
    WorkersOption,
)
from fflux_py.cli._paths import check_folder
from fflux_py.cli._progress import progress
from fflux_py.cli._threads import use_threads
from fflux_py.errors import FFLUXError

if TYPE_CHECKING:
    from rich.table import Table

    from fflux_py.active_learning import Improvement, Round


class NotImproved(FFLUXError):
    """The budget is spent and a criterion does not hold."""

    exit_code = 10


_StartsArgument = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[START.xyz]...",
        help="Start geometries (angstrom): of the runs by which models are judged, and of others to learn from. "
        "Without any: the model's reference.",
    ),
]


@command(interrupted="runs, labels and rounds are kept, the same command goes on from there")
def improve(
    model: ModelArgument,
    data: Annotated[Path, typer.Argument(metavar="DATA.extxyz", help="Its data set.")],
    starts: _StartsArgument = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of runs, labels, models and the table.")
    ] = Path("improved"),
    temperatures: TemperaturesOption = "300,500,1000",
    budget: Annotated[int, typer.Option(min=1, help="Labels that may be computed in all.")] = 100,
    batch: Annotated[int, typer.Option(min=1, help="Frames to learn in every round.")] = 15,
    checks: Annotated[
        int, typer.Option(min=1, help="Frames at every temperature to judge every model by; learnt afterwards.")
    ] = 5,
    replicas: Annotated[int, typer.Option(min=1, help="Runs at every temperature in every round.")] = 3,
    picoseconds: Annotated[float, typer.Option(help="Length of a run.")] = 5.0,
    timestep: TimestepOption = 0.5,
    hydrogen_mass: HydrogenMassOption = None,
    bias: Annotated[
        str | None,
        typer.Option(
            metavar="torsions|FILE",
            help="Besides, runs with metadynamics to learn from: a PLUMED input file, or 'torsions' for a bias on all "
            "rotatable single bonds but methyl groups.",
        ),
    ] = None,
    energy_mae: EnergyLimitOption = 1.0,
    force_mae: ForceLimitOption = None,
    partition: Annotated[
        str | None, typer.Option(help="Partition of the new labels, also 'none'. Without it: that of the data set.")
    ] = None,
    label_folder: LabelFolderOption = None,
    seed: SeedOption = 0,
    workers: WorkersOption = 1,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of runs, labels and training.")] = 1,
    executor: ExecutorOption = None,
    json_output: JsonOption = False,
) -> Outcome:
    """Improve a model by active learning: label what it visits, train again, until it is right.

    Every round runs molecular dynamics, labels frames of it and judges the model by these as 'fflux certify' does. If a
    criterion fails, frames on which the model is unsure, that lie outside of its data, or where energy was not
    conserved are labelled and learnt. Ends with 0 if all criteria hold, with 10 if the budget is spent before.
    """
    check_folder(output)
    use_threads(threads)
    from fflux_py.active_learning import ImprovementConfig
    from fflux_py.active_learning import improve as improve_model
    from fflux_py.certification import Execution, Limits, labeller_of
    from fflux_py.iqa.campaign import Resources

    forcefield = read_model(model)
    geometries = [read_start(start, forcefield, in_model_order=True) for start in starts or ()]
    kelvin = parse_temperatures(temperatures)
    plumed = bias_of(bias, None, None, geometries[0] if geometries else forcefield.molecule, min(kelvin), timestep)
    config = ImprovementConfig(
        temperatures=kelvin,
        replicas=replicas,
        picoseconds=picoseconds,
        timestep=timestep,
        hydrogen_mass=hydrogen_mass,
        checks=checks,
        batch=batch,
        budget=budget,
        bias=None if plumed is None else plumed.text,
        seed=seed,
        limits=Limits(energy_mae_kcal_mol=energy_mae, force_mae_kcal_mol_angstrom=force_mae),
    )
    dataset = read_dataset(data, forcefield)
    kind = partition if partition is not None else str(dataset.metadata["partition"])
    with executor_of(executor, output) as pool:
        labeller = labeller_of(dataset.metadata, kind, Resources(workers, threads, pool))
        execution = Execution(output, label_folder, threads, progress)
        result = improve_model(forcefield, dataset, labeller, config, execution, geometries, _print_round)
    return _outcome(result, output, budget)


def _print_round(done: Round) -> None:
    print_line(
        f"round {done.number}: {done.n_train} training geometries, {done.n_survived} of {done.n_runs} runs survived, "
        f"energy MAE on visited frames {done.energy_mae_kcal_mol:.3g} kcal/mol, {done.labels_spent} labels spent"
    )


def _outcome(result: Improvement, output: Path, budget: int) -> Outcome:
    from fflux_py.active_learning.loop import DATA_FILE, MODEL_FILE

    last = result.rounds[-1]
    figures = {
        "output": str(output),
        "model": str(output / MODEL_FILE),
        "data": str(output / DATA_FILE),
        "holds": result.holds,
        "labels_spent": last.labels_spent,
        "n_labels": len(result.dataset),
        "rounds": [asdict(entry) for entry in result.rounds],
    }
    error = None
    if not result.holds:
        error = NotImproved(
            "model", f"all {last.criteria} criteria met", f"{last.criteria_met}, {last.labels_spent} labels spent",
            f"a larger --budget than {budget} goes on from here",
        )  # fmt: skip
    text: list[str | Table] = [_table(result)]
    text.append(f"The model is {output / MODEL_FILE}, all labels are in {output / DATA_FILE}.")
    text.append(f"Next: fflux certify {output / MODEL_FILE} --data {output / DATA_FILE}")
    return Outcome(figures, text, error)


def _table(result: Improvement) -> Table:
    from rich.table import Table

    heads = ("round", "trained on", "survived", "energy MAE", "at the hottest", "force MAE", "⟨E⟩ model − ref.",
             "largest deviation", "criteria", "learnt", "labels spent")  # fmt: skip
    table = Table(*heads, caption="on visited frames that the model had not learnt; kcal/mol, kcal/mol/Å")
    for entry in result.rounds:
        table.add_row(
            str(entry.number),
            str(entry.n_train),
            f"{entry.n_survived}/{entry.n_runs}",
            f"{entry.energy_mae_kcal_mol:.3g}",
            f"{entry.hottest_energy_mae_kcal_mol:.3g}",
            f"{entry.force_mae_kcal_mol_angstrom:.3g}",
            f"{entry.mean_energy_difference_kcal_mol:.3g}",
            f"{entry.largest_deviation_kcal_mol:.3g}",
            f"{entry.criteria_met}/{entry.criteria}",
            str(entry.n_learnt),
            str(entry.labels_spent),
        )
    return table
