"""Propagators of malondialdehyde against each other and against velocity Verlet.

    fflux trajectories model.npz start.xyz -o trajectories.npz
    fflux train-propagator trajectories.npz --kind action --step 3 --seed 0 -o action_3_s0.safetensors   # ... and so on
    python benchmarks/propagators --trajectories trajectories.npz --models *.safetensors [--rows exact,structure,...]

Models of one kind and step that differ in their seeds make one line: mean and standard error over the seeds.  Starts of
all runs are the ends of the held-out trajectories at 300 K.  A run that comes apart is a figure, not an error.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from common import Setting, show  # sets the number of threads: before everything that reads it

# isort: split
import exact
import rows

ROWS: dict[str, Callable[[Setting], dict[str, object]]] = {
    "exact": exact.exact, "structure": rows.structure, "momenta": rows.momenta, "symmetry": rows.symmetry,
    "errors": rows.errors, "parts": rows.parts, "temperatures": rows.temperatures, "verlet": rows.verlet_steps,
    "drift": rows.drift,
    "distributions": rows.distributions, "spectrum": rows.spectrum, "speed": rows.speed,
}  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--trajectories", type=Path, required=True)
    options.add_argument("--models", type=Path, nargs="*", default=[])
    options.add_argument("--rows", default=",".join(ROWS), help=f"some of {', '.join(ROWS)}")
    options.add_argument("--picoseconds", type=float, default=100.0, help="length of the runs")
    options.add_argument("--replicas", type=int, default=8)
    options.add_argument(
        "--correct-variance", action="store_true", help="under a thermostat, add noise of a predictor's own error"
    )
    options.add_argument("--pictures", type=Path, help="folder for the pictures that spectrum and distributions draw")
    options.add_argument("--json", action="store_true", help="one JSON object instead of lines of text")
    chosen = options.parse_args()
    setting = Setting.read(
        chosen.trajectories, chosen.models, chosen.picoseconds, chosen.replicas, chosen.correct_variance,
        chosen.pictures,
    )  # fmt: skip
    figures: dict[str, object] = {}
    for name in chosen.rows.split(","):
        if name not in ROWS:
            sys.exit(f"--rows: expected some of {', '.join(ROWS)}, found {name!r}")
        part = ROWS[name](setting)
        figures.update(part)
        if not chosen.json:
            show(part)
    if chosen.json:
        print(json.dumps(figures, default=float))


if __name__ == "__main__":
    main()
