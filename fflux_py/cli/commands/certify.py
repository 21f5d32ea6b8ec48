"""``fflux certify``: the stability protocol."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fflux_py.cli._command import Outcome, command
from fflux_py.cli._inputs import check_level, executor_of, parse_temperatures, read_dataset, read_model, read_start
from fflux_py.cli._options import (
    EnergyLimitOption,
    ExecutorOption,
    ForceLimitOption,
    HydrogenMassOption,
    JsonOption,
    LabelFolderOption,
    ModelArgument,
    OptionalStartArgument,
    SeedOption,
    TemperaturesOption,
    ThermostatOption,
    TimestepOption,
    WorkersOption,
)
from fflux_py.cli._paths import check_folder
from fflux_py.cli._progress import progress
from fflux_py.cli._threads import use_threads
from fflux_py.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

    from fflux_py.certification import Certificate
    from fflux_py.forcefield import ForceField


@command(interrupted="runs and labels are kept, the same command goes on from there")
def certify(
    model: ModelArgument,
    start: OptionalStartArgument = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of runs, labels and certificate.")
    ] = Path("certificate"),
    temperatures: TemperaturesOption = "300,500,700,1000",
    seeds: Annotated[int, typer.Option(min=1, help="Independent runs at every temperature.")] = 3,
    picoseconds: Annotated[float, typer.Option(help="Length of every run; may be prolonged later.")] = 1000.0,
    timestep: TimestepOption = 0.5,
    hydrogen_mass: HydrogenMassOption = None,
    thermostat: ThermostatOption = None,
    frames: Annotated[int, typer.Option(min=1, help="Visited frames to label at every temperature.")] = 100,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA.extxyz", help="The model's data set: settings of the labels beyond the model's own."
        ),
    ] = None,
    labels: Annotated[
        str, typer.Option(help="Who labels: 'auto' (the level of theory of model and data set) or 'gfn2'.")
    ] = "auto",
    label_folder: LabelFolderOption = None,
    energy_mae: EnergyLimitOption = 1.0,
    force_mae: ForceLimitOption = None,
    seed: SeedOption = 0,
    workers: WorkersOption = 1,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Runs side by side; threads of each label.")] = 1,
    executor: ExecutorOption = None,
    json_output: JsonOption = False,
) -> Outcome:
    """Certify a model: is molecular dynamics with it stable, and right where it goes?

    Runs several seeds at several temperatures, labels frames that they visited again at the model's own level of
    theory, and judges: bonds kept, energy conserved, energies right, no well below the minimum. Ends with 0 only if
    every criterion holds, else with 10. Interrupted, it goes on where it was.
    """
    check_folder(output)
    use_threads(threads)
    from fflux_py.certification import CertificationConfig, Execution, Limits, certify, labeller_of
    from fflux_py.certification.report import write_certificate
    from fflux_py.dynamics.thermostats import DEFAULT_THERMOSTAT

    config = CertificationConfig(
        temperatures=parse_temperatures(temperatures),
        seeds=seeds,
        picoseconds=picoseconds,
        timestep=timestep,
        hydrogen_mass=hydrogen_mass,
        thermostat=thermostat or DEFAULT_THERMOSTAT,
        frames=frames,
        seed=seed,
        limits=Limits(energy_mae_kcal_mol=energy_mae, force_mae_kcal_mol_angstrom=force_mae),
    )
    forcefield = read_model(model)
    geometry = None if start is None else read_start(start, forcefield, in_model_order=True)
    header = label_header(forcefield, data, labels)
    with executor_of(executor, output) as pool:
        from fflux_py.iqa.campaign import Resources

        labeller = labeller_of(header, "none", Resources(workers, threads, pool))
        execution = Execution(output, label_folder, threads, progress)
        certificate = certify(forcefield, labeller, config, execution, geometry)
    report = write_certificate(certificate, forcefield, output)
    return _outcome(certificate, report, model)


def label_header(forcefield: ForceField, data: Path | None, labels: str) -> Mapping[str, Any]:
    """The header that says at which level of theory is labelled."""
    from fflux_py.certification.labellers import GFN2_METADATA

    if labels not in ("auto", "gfn2"):
        raise InputError("--labels", "'auto' or 'gfn2'", repr(labels))
    if labels == "gfn2":
        return GFN2_METADATA
    header = dict(forcefield.metadata)
    if data is None:
        return header
    dataset = read_dataset(data, forcefield)
    check_level(dataset, data, forcefield, ("method", "basis"))
    return dataset.metadata


def _outcome(certificate: Certificate, report: Path, model: Path) -> Outcome:
    figures = {"model": str(model), "report": str(report), **certificate.as_dict()}
    met = sum(criterion.passed for criterion in certificate.criteria)
    text: list[str | Table] = [_table(certificate)]
    text += [
        f"not met: {c.full_name} {c.value:.3g} {c.unit} (required {c.relation} {c.threshold:g})"
        for c in certificate.criteria
        if not c.passed
    ]
    if not certificate.config.is_full:
        text.append("Thin: the definition of a stable model asks for 3 seeds and 100 labelled frames each.")
    text.append(f"{met} of {len(certificate.criteria)} criteria met. The certificate is {report}")
    return Outcome(figures, text, certificate.error())


def _table(certificate: Certificate) -> Table:
    from rich.table import Table

    heads = ("T (K)", "survived", "drift", "jumps", "modes", "worst bond (Å)", "closest (Å)", "frames", "energy MAE",
             "largest", "force MAE", "⟨E⟩ model − ref.", "⟨E⟩ − minimum", "lowest E − minimum")  # fmt: skip
    table = Table(*heads, caption="kcal/mol, kcal/mol/Å; drift in 100 ps; modes: temperature, standard errors off")
    for entry in certificate.figures:
        worst = entry.worst
        numbers = (entry.energy_mae_kcal_mol, entry.energy_largest_error_kcal_mol, entry.force_mae_kcal_mol_angstrom,
                   entry.mean_energy_difference_kcal_mol, entry.mean_energy_above_minimum_kcal_mol,
                   entry.lowest_energy_above_minimum_kcal_mol)  # fmt: skip
        table.add_row(
            f"{entry.temperature_k:g}",
            f"{entry.n_survived}/{len(entry.runs)}",
            f"{entry.drift_kcal_mol_100ps:.2g}",
            str(sum(run.jumps for run in entry.runs)),
            "-" if entry.equipartition is None else f"{entry.equipartition.largest_deviation:.1f}",
            f"{worst.worst_bond} {worst.largest_bond_deviation_angstrom:.2f}",
            f"{min(run.closest_contact_angstrom for run in entry.runs):.2f}",
            str(entry.n_frames),
            *(f"{number:.3g}" for number in numbers),
        )
    return table
