"""``fflux build``: from a molecule, or from labels, to a certified force field."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fflux_py.cli._command import Outcome, command, print_line
from fflux_py.cli._inputs import executor_of, parse_temperatures
from fflux_py.cli._labels import NOT_STATED, LabelOptions, read_labels_of
from fflux_py.cli._options import ExecutorOption, JsonOption, SeedOption, TimestepOption, WorkersOption
from fflux_py.cli._paths import check_folder, reading
from fflux_py.cli._progress import Callback, progress
from fflux_py.cli._threads import use_threads
from fflux_py.errors import InputError

if TYPE_CHECKING:
    from fflux_py.active_learning.build_config import BuildConfig, BuildPlan
    from fflux_py.active_learning.building import BuildSource, Built
    from fflux_py.active_learning.rounds import Round
    from fflux_py.certification import Labeller
    from fflux_py.iqa.campaign import Resources

_GEOMETRY_SUFFIXES = (".xyz", ".extxyz", ".xz")
_EVERY_SECONDS = 30.0


@command(interrupted="everything that is done is kept, the same command goes on from there")
def build(
    molecule: Annotated[
        str, typer.Argument(metavar="MOLECULE", help="SMILES, a geometry (XYZ), or a labelled data set (extended XYZ).")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of everything.")],
    temperatures: Annotated[
        str, typer.Option("--temperatures", metavar="T,T,...", help="Where the model is to hold (kelvin).")
    ] = "300",
    method: Annotated[
        str | None,
        typer.Option(help="Functional of the labels, or gfn2-xtb to play it through in minutes. Without it: b3lyp."),
    ] = None,
    basis: Annotated[str | None, typer.Option(help="Basis set of the labels. Without it: 6-31+g(d,p).")] = None,
    partition: Annotated[
        str | None,
        typer.Option(help="Atoms of the atomic energies: hirshfeld, becke, qtaim or none. Without it: hirshfeld."),
    ] = None,
    labels: Annotated[
        int | None,
        typer.Option(min=1, help="Labels to spend. Without it: 400, or 2000 where one takes less than a second."),
    ] = None,
    hours: Annotated[
        float | None, typer.Option(help="Wall time in hours; 0.7 of it may go to labels. Without it: no limit.")
    ] = None,
    pilot: Annotated[int, typer.Option(min=10, help="Geometries of the first model.")] = 60,
    picoseconds: Annotated[float, typer.Option(help="Length of every run of the certificate.")] = 50.0,
    timestep: TimestepOption = 0.5,
    frames: Annotated[
        int | None,
        typer.Option(
            min=1, help="Visited frames that the certificate labels at every temperature.", show_default=False
        ),
    ] = None,
    charge: Annotated[
        int | None, typer.Option(help="Net charge. Without it: the charge that the file says, or 0.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Label one geometry, tell the plan, and stop.")] = False,
    seed: SeedOption = 0,
    workers: WorkersOption = 1,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Runs side by side; threads of each label.")] = 1,
    executor: ExecutorOption = None,
    json_output: JsonOption = False,
) -> Outcome:
    """Make a certified force field from a molecule or from labels of it.

    Samples and labels a pilot, trains, labels what the model visits until it is right, and certifies it. Interrupted,
    it goes on where it was. Ends with 0 if every criterion of the certificate holds, with 10 if the labels are spent
    before.
    """
    check_folder(output)
    use_threads(threads)
    from fflux_py.active_learning.build_config import BuildConfig
    from fflux_py.active_learning.building import build as run
    from fflux_py.active_learning.building import plan_build
    from fflux_py.certification import Execution
    from fflux_py.iqa.campaign import Resources

    config = BuildConfig(
        temperatures=parse_temperatures(temperatures), labels=labels, hours=hours, pilot=pilot, picoseconds=picoseconds,
        timestep=timestep, frames=frames, seed=seed,
    )  # fmt: skip
    source = read_source(molecule, charge, seed, method, basis)
    with executor_of(executor, output) as pool:
        labeller = _labeller(source, method, basis, partition, Resources(workers, threads, pool))
        execution = Execution(output, None, threads, _stage)
        plan = plan_build(source, labeller, config, execution, workers)
        for line in _plan_text(plan, config, workers):
            print_line(line)
        if dry_run:
            return Outcome(_plan_figures(plan, config), ["Nothing else was done. Without --dry-run the build begins."])
        built = run(source, labeller, config, execution, plan, _print_round)
    return _outcome(built, config, output)


def read_source(text: str, charge: int | None, seed: int, method: str | None, basis: str | None) -> BuildSource:
    """The molecule that a build begins with: a file of a geometry or of labels, or a SMILES string."""
    from fflux_py.active_learning.building import BuildSource
    from fflux_py.molecules.extended_xyz import read_frames, read_molecule
    from fflux_py.molecules.preflight import check_molecule

    path = Path(text)
    if path.exists() or text.endswith(_GEOMETRY_SUFFIXES):
        with reading(path):
            frames = read_frames(path) if path.name.removesuffix(".xz").endswith((".xyz", ".extxyz")) else []
            if len(frames) == 1:
                molecule = read_molecule(path, charge)
                check_molecule(molecule)
                return BuildSource(molecule)
            ours = bool(frames) and "schema" in frames[0].info
            options = LabelOptions() if ours else LabelOptions(method, basis, charge=charge)
            data = read_labels_of(path, options)
        if charge is not None and charge != data.molecule.charge:
            raise InputError("--charge", f"{data.molecule.charge} as in the data set", str(charge))
        return BuildSource(data.molecule, data)
    from fflux_py.sampling import molecule_from_smiles

    molecule = molecule_from_smiles(text, max(seed, 1))
    if charge is not None and charge != molecule.charge:
        raise InputError("--charge", f"{molecule.charge} as in the SMILES string", str(charge), "leave it out")
    check_molecule(molecule)
    return BuildSource(molecule)


def _labeller(
    source: BuildSource, method: str | None, basis: str | None, partition: str | None, resources: Resources
) -> Labeller:
    from fflux_py.certification import labeller_of
    from fflux_py.certification.labellers import GFN2_METADATA
    from fflux_py.iqa.scf.level_of_theory import LevelOfTheory

    if source.dataset is not None:
        header = source.dataset.metadata
        if header["method"] == NOT_STATED:
            raise InputError("--method", "the level of theory of the labels, to label what the model visits", "none")
        for option, value in (("--method", method), ("--basis", basis), ("--partition", partition)):
            if value is not None and value.lower() != str(header.get(option[2:], "")).lower():
                raise InputError(option, f"{header.get(option[2:])} as in the data set", value, "leave it out")
        return labeller_of(header, str(header["partition"]), resources)
    if method is not None and method.lower() == GFN2_METADATA["method"]:
        for option, value in (("--basis", basis), ("--partition", partition)):
            if value is not None:
                raise InputError(option, "nothing beside gfn2-xtb, which has its own", value, "leave it out")
        return labeller_of(GFN2_METADATA)
    from fflux_py.certification.labellers import KohnShamLabeller

    standard = LevelOfTheory()
    level = LevelOfTheory(method=method or standard.method, basis=basis or standard.basis)
    return KohnShamLabeller(level, partition or "hirshfeld", resources)


@contextmanager
def _stage(what: str) -> Iterator[Callback]:
    """A bar on a terminal; elsewhere a line when the stage ends, and one every half minute."""
    begin = last = time.monotonic()
    with progress(what) as bar:

        def show(done: int, total: int) -> None:
            nonlocal last
            bar(done, total)
            if not sys.stderr.isatty() and time.monotonic() - last > _EVERY_SECONDS:
                last = time.monotonic()
                print_line(f"{what}: {done} of {total}")

        yield show
    print_line(f"{what}: {time.monotonic() - begin:.1f} s")


def _print_round(cycle: int, done: Round) -> None:
    print_line(
        f"cycle {cycle}, round {done.number}: {done.n_train} training geometries, {done.n_survived} of {done.n_runs} "
        f"runs survived, energy MAE on visited frames {done.energy_mae_kcal_mol:.3g} kcal/mol, {done.criteria_met} of "
        f"{done.criteria} criteria met"
    )


def _plan_figures(plan: BuildPlan, config: BuildConfig) -> dict[str, object]:
    return {
        "molecule": plan.molecule,
        "reference": plan.reference,
        "seconds_per_label": plan.seconds_per_label,
        "labels": plan.labels,
        "sampled": plan.sampled,
        "certificate_frames": plan.frames,
        "label_hours": plan.label_hours,
        "disk_mb": plan.disk_mb(config),
    }


def _plan_text(plan: BuildPlan, config: BuildConfig, workers: int) -> list[str]:
    kelvin = ", ".join(f"{t:g}" for t in config.temperatures)
    pilot = f"{plan.sampled} of them for a sampled pilot, " if plan.sampled else "the first model from the data set, "
    return [
        f"Plan for {plan.molecule} ({plan.n_atoms} atoms) at {kelvin} K, labels by {plan.reference}: at most "
        f"{plan.labels} labels, {pilot}{plan.frames} at each temperature for a certificate of 3 x "
        f"{config.picoseconds:g} ps.",
        f"One label took {plan.seconds_per_label:.2g} s: at most {plan.label_hours / workers:.2g} hours of labels with "
        f"{workers} worker(s), and {plan.disk_mb(config):.0f} MB on disk.",
    ]


def _outcome(built: Built, config: BuildConfig, output: Path) -> Outcome:
    from dataclasses import asdict

    from fflux_py.active_learning.build_report import write_build_report
    from fflux_py.active_learning.building import DATA_FILE, MODEL_FILE

    report = write_build_report(built, output)
    criteria = built.certificate.criteria
    met = sum(each.passed for each in criteria)
    spent = built.cycles[-1].labels_spent
    figures = {
        "model": str(output / MODEL_FILE),
        "data": str(output / DATA_FILE),
        "report": str(report),
        "certified": built.certificate.passed,
        "full_protocol": built.certificate.config.is_full,
        "labels_spent": spent,
        "plan": _plan_figures(built.plan, config),
        "rounds": [{"cycle": cycle.number, **asdict(entry)} for cycle in built.cycles for entry in cycle.rounds],
        "certificate": built.certificate.as_dict(),
    }
    text = [
        f"not met: {each.full_name} {each.value:.3g} {each.unit} (required {each.relation} {each.threshold:g})"
        for each in criteria
        if not each.passed
    ]
    thin = "" if built.certificate.config.is_full else " (thin: fewer than 3 seeds and 100 labelled frames each)"
    text += [
        f"{met} of {len(criteria)} criteria of the certificate met{thin}, {spent} labels spent.",
        f"Model {output / MODEL_FILE}, all labels {output / DATA_FILE}, report {report}.",
    ]
    return Outcome(figures, text, built.error(config))
