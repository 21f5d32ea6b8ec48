"""``fflux propagate``: run with long steps."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fflux_py.cli._command import Outcome, command, plain, print_line
from fflux_py.cli._dynamics import nanoseconds_per_day
from fflux_py.cli._options import JsonOption, SeedOption, ThreadsOption
from fflux_py.cli._paths import check_new_folder, reading
from fflux_py.cli._progress import progress
from fflux_py.cli._threads import use_threads
from fflux_py.errors import InputError

if TYPE_CHECKING:
    from fflux_py.forcefield import ForceField
    from fflux_py.molecules.molecule import Molecule
    from fflux_py.propagators.equipartition import EquipartitionMonitor
    from fflux_py.propagators.propagator import Propagator
    from fflux_py.propagators.run import Propagation, PropagationConfig


@command(interrupted="nothing was written")
def propagate(
    model: Annotated[Path, typer.Argument(metavar="MODEL.safetensors", help="Model (of 'fflux train-propagator').")],
    start: Annotated[Path, typer.Argument(metavar="START.xyz", help="Start geometry (angstrom), near a minimum.")],
    steps: Annotated[int, typer.Option(min=1, help="Number of steps.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to write; new or empty.")],
    step: Annotated[float | None, typer.Option(help="Step in femtosecond; by default the model's.")] = None,
    ensemble: Annotated[str, typer.Option(help="nve, langevin or velocity-rescaling.")] = "langevin",
    temperature: Annotated[float, typer.Option(help="Of the start and of the thermostat, kelvin.")] = 300.0,
    relaxation_time: Annotated[float, typer.Option(help="Of the thermostat, femtosecond.")] = 100.0,
    replicas: Annotated[int, typer.Option(min=1, help="Independent runs, side by side.")] = 1,
    report_every: Annotated[int, typer.Option(min=1, help="Steps between two frames.")] = 1,
    fill_in: Annotated[
        int, typer.Option(min=1, help="Frames of each step, its end the last (continuous, --report-every 1).")
    ] = 1,
    forcefield: Annotated[
        Path | None, typer.Option(metavar="MODEL.npz", help="Force field: energies, temperatures of normal modes.")
    ] = None,
    guide: Annotated[
        Path | None, typer.Option(metavar="MODEL.safetensors", help="Direct predictor from which an action starts.")
    ] = None,
    correct_momentum: Annotated[bool, typer.Option("--correct-momentum", help="Remove net motion each step.")] = False,
    correct_angular_momentum: Annotated[
        bool, typer.Option("--correct-angular-momentum", help="Remove net rotation each step.")
    ] = False,
    correct_energy: Annotated[
        bool, typer.Option("--correct-energy", help="Rescale to the total energy of the start (nve, --forcefield).")
    ] = False,
    correct_variance: Annotated[
        bool, typer.Option("--correct-variance", help="Add noise of the predictor's own error (with a thermostat).")
    ] = False,
    seed: SeedOption = 0,
    threads: ThreadsOption = 1,
    json_output: JsonOption = False,
) -> Outcome:
    """Run dynamics with a propagator in place of forces.

    Momentum, angular momentum, energy and variance are corrected only where asked for; what a correction changed is
    told.
    The folder gets one trajectory for each replica, energies, and the temperature of each element.
    """
    check_new_folder(output)
    use_threads(threads)
    import numpy

    from fflux_py.molecules.extended_xyz import read_molecule
    from fflux_py.propagators.propagator import networks
    from fflux_py.propagators.run import PropagationConfig, thermal_starts
    from fflux_py.propagators.run import propagate as run

    networks().use_threads(threads)
    propagator = _load(model, guide)
    with reading(start):
        given = read_molecule(start)
        matching = propagator.header.match(given)
        geometry = matching.reorder(given)
    if not matching.identity:
        print_line(f"{start}: {matching.describe()} to fit the model; results are in the order and hand given")
    config = PropagationConfig(
        steps=steps, step=propagator.header.step if step is None else step, ensemble=ensemble, temperature=temperature,
        relaxation_time=relaxation_time, correct_momentum=correct_momentum,
        correct_angular_momentum=correct_angular_momentum, correct_energy=correct_energy,
        correct_variance=correct_variance, report_every=report_every, fill_in=fill_in, seed=seed,
    )  # fmt: skip
    if forcefield is None and correct_energy:
        raise InputError("--correct-energy", "a force field to compute the energy with", "none", "name --forcefield")
    potential = None if forcefield is None else _read_potential(forcefield, geometry)
    monitor = _monitor(propagator, geometry, potential)

    masses = numpy.asarray(propagator.header.masses)
    positions, velocities = thermal_starts(numpy.array(geometry.positions), masses, temperature, replicas, seed)
    begin = time.perf_counter()
    with progress(f"{ensemble} {temperature:g} K (steps of {config.step:g} fs)") as show:
        result = run(propagator, positions, velocities, config, potential, monitor, show)
    seconds = time.perf_counter() - begin
    result = replace(
        result,
        positions=matching.from_reference(result.positions),
        velocities=matching.from_reference(result.velocities),
    )
    return _outcome(output, given, propagator, config, result, monitor, seconds)


def _read_potential(path: Path, geometry: Molecule) -> ForceField:
    """Read a force field of the start's molecule, in the start's order of atoms."""
    from fflux_py import model_file

    with reading(path):
        forcefield = model_file.load(path)
        forcefield.check_molecule(geometry)
    return forcefield.unmatched


def _load(model: Path, guide: Path | None) -> Propagator:
    """Read the propagator, and the direct predictor from which an action starts."""
    from fflux_py.propagators.propagator import load_propagator, networks

    with reading(model):
        propagator = load_propagator(model)
    if guide is None:
        return propagator
    with reading(guide):
        return networks().Network(propagator.header, propagator.net, load_propagator(guide))  # type: ignore[attr-defined,no-any-return]


def _monitor(propagator: Propagator, geometry: Molecule, potential: ForceField | None) -> EquipartitionMonitor:
    """Elements, and normal modes at the minimum next to the start if there is a force field."""

    import numpy

    from fflux_py.molecules.normal_modes import normal_modes
    from fflux_py.optimization.search import optimize
    from fflux_py.propagators.equipartition import EquipartitionMonitor

    masses, modes = numpy.asarray(propagator.header.masses), None
    if potential is not None:
        minimum = optimize(potential, geometry).molecule
        modes = normal_modes(potential, numpy.array(minimum.positions), masses)
    return EquipartitionMonitor(propagator.header.molecule, masses, modes)


def _outcome(
    folder: Path, geometry: Molecule, propagator: Propagator, config: PropagationConfig, result: Propagation,
    monitor: EquipartitionMonitor, seconds: float,
) -> Outcome:  # fmt: skip
    """Write the folder; say what happened."""
    from dataclasses import asdict

    from fflux_py.files import write_atomically
    from fflux_py.units import KCAL_MOL

    _write_trajectories(folder, geometry, config, result)
    replicas = result.positions.shape[1]
    lines = ["time_fs,replica,kinetic_hartree,potential_hartree"]
    for k, moment in enumerate(result.times_fs):
        lines += [
            f"{moment:.6g},{r},{result.kinetic[k, r]:.12g},{result.potential[k, r]:.12g}" for r in range(replicas)
        ]
    write_atomically(folder / "energies.csv", "\n".join(lines) + "\n")
    temperatures = {name: t for name, (t, _) in monitor.temperatures().items()}
    pace = replicas * nanoseconds_per_day(config.steps, config.step, seconds)
    total = (result.kinetic + result.potential) * KCAL_MOL
    figures: dict[str, Any] = {
        "output": str(folder), "kind": propagator.header.kind, "step_fs": config.step, "steps": config.steps,
        "replicas": replicas, "ensemble": config.ensemble, "temperatures_k": temperatures,
        "energy_change_kcal_mol": float((total[-1] - total[0]).mean()), "corrections": result.corrections,
        "speed_ns_per_day": round(pace, 4), "run_time_s": round(seconds, 3),
    }  # fmt: skip
    record = {"config": asdict(config), "model": dict(propagator.header.metadata), **figures}
    write_atomically(folder / "run.json", json.dumps(plain(record), indent=2, allow_nan=False) + "\n")
    elements = ", ".join(f"{name} {temperatures[name]:.0f} K" for name in monitor.elements)
    switched = [name for name in result.corrections if getattr(config, f"correct_{name}")]
    corrected = ", ".join(f"{name} (up to {result.corrections[name]:.1g} of the kinetic energy)" for name in switched)
    text = [
        f"{config.steps} steps of {config.step:g} fs, {replicas} replicas in {seconds:.1f} s: {pace:.3g} ns/day.",
        f"Temperatures: {elements}. Corrections: {corrected or 'none'}.",
        f"The run is in {folder}.",
    ]
    return Outcome(figures, text)


def _write_trajectories(folder: Path, geometry: Molecule, config: PropagationConfig, result: Propagation) -> None:
    from fflux_py.dynamics.dcd import DCDWriter
    from fflux_py.dynamics.topology import topology_pdb
    from fflux_py.files import write_atomically
    from fflux_py.molecules.extended_xyz import write_molecule

    folder.mkdir(exist_ok=True)
    write_molecule(folder / "start.extxyz", geometry)
    write_atomically(folder / "topology.pdb", topology_pdb(geometry))
    n, every, step = geometry.n_atoms, config.report_every, config.step / config.fill_in
    for r in range(result.positions.shape[1]):
        path = folder / f"trajectory-{r:03d}.dcd"
        with DCDWriter(path, n, every, step, f"propagator, replica {r}") as stream:
            for frame in result.positions[:, r]:
                stream.write(frame)
