"""``fflux md``: molecular dynamics with a force field."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from fflux_py.cli._bias import bias_of
from fflux_py.cli._command import Outcome, command
from fflux_py.cli._dynamics import make_event_printer, parse_guards, run_progress, summarise
from fflux_py.cli._inputs import read_model, read_start
from fflux_py.cli._options import (
    HydrogenMassOption,
    JsonOption,
    ModelArgument,
    SeedOption,
    StartArgument,
    ThermostatOption,
    TimestepOption,
)
from fflux_py.cli._paths import check_new_folder
from fflux_py.cli._threads import use_threads
from fflux_py.errors import InputError

_Bias = Annotated[
    str | None,
    typer.Option(
        metavar="torsions|FILE",
        help="Well-tempered metadynamics: a PLUMED input file, or 'torsions' for one on all rotatable single bonds but "
        "methyl groups. Every replica has its own bias, or all share one (WALKERS_MPI in the file).",
    ),
]
_Torsions = Annotated[
    str | None,
    typer.Option(
        metavar="I-J-K-L,...|backbone",
        help="Torsions to bias, by atoms from 1; 'backbone': phi and psi of a peptide. Goes with --bias torsions.",
    ),
]
_Parallel = Annotated[
    bool | None,
    typer.Option(
        "--parallel/--joint",
        help="One bias for each torsion (PBMETAD) or one of all of them. Without it: joint for one or two.",
        show_default=False,
    ),
]
_RelaxationTime = Annotated[
    float | None, typer.Option(help="Time of the thermostat in femtosecond. By default 100; 20 with nose-hoover.")
]
_Precision = Annotated[
    str, typer.Option(help="Training points in double, or fixed: 32 bits each, faster where they fill the cache.")
]
_Guard = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=ACTION[:LIMIT]",
        help="Guards: bond (0.5-1.5), contact (angstrom), conserved and deviation (kcal/mol), features (share of "
        "range); actions: off, warn, save, stop. May be given several times.",
    ),
]


@command(interrupted="go on with 'fflux resume' and the output folder")
def md(
    model: ModelArgument,
    start: StartArgument,
    steps: Annotated[int, typer.Option(min=1, help="Number of time steps.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to write; new or empty.")],
    temperature: Annotated[float, typer.Option(help="Temperature in kelvin.")] = 300.0,
    timestep: TimestepOption = 0.5,
    thermostat: ThermostatOption = None,
    relaxation_time: _RelaxationTime = None,
    chain_length: Annotated[
        int | None, typer.Option(min=1, help="Thermostats in the chain of nose-hoover. Without it: 4.")
    ] = None,
    suzuki_yoshida: Annotated[
        int | None, typer.Option(help="Factors of that chain's split: 1, 3, 5 or 7. Without it: 3.")
    ] = None,
    hydrogen_mass: HydrogenMassOption = None,
    bias: _Bias = None,
    torsions: _Torsions = None,
    parallel: _Parallel = None,
    precision: _Precision = "double",
    replicas: Annotated[int, typer.Option(min=1, help="Independent runs from the same start.")] = 1,
    seed: SeedOption = 0,
    report_every: Annotated[int, typer.Option(min=1, help="Steps between two lines of the log and two frames.")] = 10,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps between two checkpoints.")] = 5000,
    guard: _Guard = None,
    guard_every: Annotated[int, typer.Option(min=1, help="Steps between two looks at features and deviations.")] = 1000,
    ase_trajectory: Annotated[
        bool, typer.Option("--ase-trajectory", help="Write trajectory.traj of ASE too, at the end of the run.")
    ] = False,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Replicas that run at the same time.")] = 1,
    json_output: JsonOption = False,
) -> Outcome:
    """Run molecular dynamics at constant temperature (NVT), or at constant energy.

    A run that leaves the molecule stops: exit code 4 if a bond breaks, 5 if two atoms meet, 6 if the energy is not a
    number; guards that are set to stop: 7 conserved quantity, 8 features, 9 deviation. Its folder holds what was
    before.
    """
    check_new_folder(output)
    use_threads(threads)
    if precision not in ("double", "fixed"):
        raise InputError("--precision", "double or fixed", repr(precision))
    from fflux_py.dynamics import MDConfig, run_replicas
    from fflux_py.dynamics.thermostats import DEFAULT_THERMOSTAT
    from fflux_py.errors import SimulationStopped

    thermostat = thermostat or DEFAULT_THERMOSTAT
    config = MDConfig(
        steps=steps,
        temperature=temperature,
        timestep=timestep,
        thermostat=thermostat,
        relaxation_time=relaxation_time,
        **_chain(thermostat, chain_length, suzuki_yoshida),
        hydrogen_mass=hydrogen_mass,
        report_every=report_every,
        checkpoint_every=checkpoint_every,
        seed=seed,
        replicas=replicas,
        guards=parse_guards(guard or (), guard_every),
    )
    forcefield = read_model(model).with_precision("fixed" if precision == "fixed" else "double")
    geometry = read_start(start, forcefield)
    plumed = bias_of(bias, torsions, parallel, geometry, config.temperature, config.timestep)
    stop: SimulationStopped | None = None
    begin = time.perf_counter()
    ensemble = "NVE" if thermostat == "none" else "NVT"
    with run_progress(f"{ensemble} {temperature:g} K (steps)", timestep) as show:
        try:
            run_replicas(
                forcefield, geometry, config, output, show, threads=threads, on_event=make_event_printer(),
                model=str(model.resolve()), bias=plumed,
            )  # fmt: skip
        except SimulationStopped as stopped:
            stop = stopped
    outcome = summarise(output, 0, time.perf_counter() - begin, stop, ase_trajectory)
    if plumed is None:
        return outcome
    files = ", ".join([*plumed.files, *(each.file for each in plumed.prints)])
    return replace(outcome, text=[*outcome.text, f"The bias is in plumed.dat, its files are {files}."])


def _chain(thermostat: str, length: int | None, order: int | None) -> dict[str, Any]:
    """The settings of the chain that were given; only ``nose-hoover`` has one."""
    given = {"--chain-length": ("chain_length", length), "--suzuki-yoshida": ("suzuki_yoshida_order", order)}
    settings = {name: value for name, value in given.values() if value is not None}
    if settings and thermostat != "nose-hoover":
        option = next(option for option, (name, _) in given.items() if name in settings)
        raise InputError(option, "--thermostat nose-hoover with it", thermostat, "leave one of them out")
    return settings
