"""What ``fflux md`` and ``fflux resume`` share: options of guards, progress, events, the outcome."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fflux_py.cli._command import Outcome, print_line
from fflux_py.cli._progress import Callback, progress
from fflux_py.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from fflux_py.analysis.runs import Run
    from fflux_py.dynamics import GuardConfig, GuardEvent
    from fflux_py.errors import SimulationStopped

# Name on the command line -> settings of GuardConfig that its limit goes to.
_LIMITS: Final = {
    "bond": ("bond_shortest", "bond_longest"),
    "contact": ("contact_distance",),
    "conserved": ("conserved_jump",),
    "features": ("features_margin",),
    "deviation": ("deviation_limit",),
}


def parse_guards(words: Sequence[str], every: int) -> GuardConfig:
    """Settings from words like ``deviation=save:0.5`` or ``bond=stop:0.5-1.5``."""
    from fflux_py.dynamics import GuardConfig

    settings: dict[str, str | float] = {}
    for word in words:
        name, equals, rest = word.partition("=")
        action, colon, limit = rest.partition(":")
        if not equals or name not in _LIMITS:
            known = ", ".join(_LIMITS)
            raise InputError("--guard", f"NAME=ACTION[:LIMIT] with a name of {known}", repr(word))
        settings[name] = action
        if colon:
            numbers = limit.split("-") if name == "bond" else [limit]
            try:
                values = [float(number) for number in numbers]
            except ValueError:
                values = []
            if len(values) != len(_LIMITS[name]):
                expected = "two numbers, SHORTEST-LONGEST," if name == "bond" else "a number"
                raise InputError("--guard", f"{expected} behind the colon", repr(word))
            settings.update(zip(_LIMITS[name], values, strict=True))
    return GuardConfig(**settings, every=every)  # type: ignore[arg-type]


def run_progress(what: str, timestep_fs: float) -> AbstractContextManager[Callback]:
    """A bar with nanoseconds a day (of all replicas together) and the time left; off a terminal nothing."""
    pace = Pace(timestep_fs)
    return progress(what, lambda done: pace(done, time.perf_counter()))


class Pace:
    """Nanoseconds a day since the first call, in words; what was done before (a resumed run) does not count."""

    def __init__(self, timestep_fs: float) -> None:
        self._timestep_fs = timestep_fs
        self._first: tuple[int, float] | None = None

    def __call__(self, done: int, now: float) -> str:
        """Words for ``done`` steps at the time ``now`` in seconds."""
        if self._first is None:
            self._first = done, now
        steps, seconds = done - self._first[0], now - self._first[1]
        return f"{nanoseconds_per_day(steps, self._timestep_fs, seconds):.3g} ns/day" if steps else ""


def nanoseconds_per_day(steps: int, timestep_fs: float, seconds: float) -> float:
    """Simulated nanoseconds in a day at the pace of ``steps`` in ``seconds``."""
    return steps * timestep_fs * 1e-6 * 86400.0 / max(seconds, 1e-9)


def make_event_printer() -> Callable[[GuardEvent], None]:
    """Make a function that prints the first event of every kind and replica; the rest are in ``events.csv``.

    An event that stops its replica is not printed: it ends the command with its own message.
    """
    printed: set[tuple[str, int]] = set()

    def print_event(event: GuardEvent) -> None:
        if event.action != "stop" and (event.kind, event.replica) not in printed:
            printed.add((event.kind, event.replica))
            saved = ", saved in flagged.extxyz" if event.action == "save" else ""
            print_line(f"guard {event.kind}, replica {event.replica}: {event.message}{saved}; more in events.csv")

    return print_event


def summarise(
    folder: Path, steps_before: int, seconds: float, stop: SimulationStopped | None, ase_trajectory: bool
) -> Outcome:
    """Figures of all runs in a folder, for the terminal and for JSON.

    Parameters
    ----------
    folder, steps_before, seconds
        The runs, the steps of all of them that were done before this command, and the time that it took.
    stop
        The guard that ended one of them.
    ase_trajectory
        Whether ASE's trajectories are to be written.
    """
    from fflux_py.analysis.runs import MINIMUM_REPORTS, analyse_run, read_runs
    from fflux_py.dynamics.trajectory import ASE_FILE

    runs = read_runs(folder)
    if ase_trajectory:
        for run in runs:
            if run.trajectory.folder is not None:
                run.trajectory.write_ase(run.trajectory.folder / ASE_FILE)
    config = runs[0].config
    done = sum(run.steps_done for run in runs)
    steps = done - steps_before
    pace = nanoseconds_per_day(steps, config.timestep, seconds)
    figures: dict[str, object] = {
        "output": str(folder),
        "molecule": runs[0].trajectory.molecule.name,
        "thermostat": config.thermostat,
        "temperature_k": config.temperature,
        "timestep_fs": config.timestep,
        "steps_done": done,
        "steps_per_s": round(steps / seconds, 1),
        "speed_ns_per_day": round(pace, 4),
        "run_time_s": round(seconds, 3),
        "runs": [
            analyse_run(run).as_dict()
            if len(run.trajectory) >= MINIMUM_REPORTS
            else {"label": run.label, "status": run.status, "time_ps": run.length_ps, "n_frames": len(run.trajectory)}
            for run in runs
        ],
    }
    rate = f"{steps} steps in {seconds:.1f} s ({steps / seconds:.0f} per second, {pace:.3g} ns/day)."
    text: list[str | Table] = [run_table(runs), rate]
    if stop is None:
        text.append(f"The run is in {folder}. Next: fflux report {folder}")
    else:
        text.append(f"Stopped by a guard; what was before is in {folder}.")
    return Outcome(figures, text, stop)


def run_table(runs: tuple[Run, ...]) -> Table:
    """One line for every run, for the terminal."""
    from rich.table import Table

    from fflux_py.analysis.runs import MINIMUM_REPORTS, analyse_run

    table = Table("run", "status", "ps", "mean T / K", "conserved, largest deviation / kcal/mol", "bonds")
    for run in runs:
        row = [run.label, run.status, f"{run.length_ps:g}"]
        if len(run.trajectory) >= MINIMUM_REPORTS:
            analysis = analyse_run(run)
            mean = analysis.temperature_k
            row += [f"{mean.mean:.1f} ± {mean.standard_error:.1f}", f"{analysis.conserved_deviation_kcal_mol:.2g}"]
            row += ["kept" if analysis.bonds_kept and run.status != "stopped" else "not kept"]
        else:
            row += ["too short", "too short", "-"]
        table.add_row(*row)
    return table
