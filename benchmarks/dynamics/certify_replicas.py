"""Many replicas of malondialdehyde at 500 K: how many are lost, processor time, and the time of 50 x 10 ns.

    python benchmarks/dynamics/certify_replicas.py model.npz --picoseconds 100 --folder replicas

A replica is lost when a guard stops it or a bond leaves 0.5 to 1.5 times its reference.  Interrupted, the runs go on in
their folder; the processor time is that of this process, for the steps that it did.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the folder support

from support.figures import FOLDER, parser, show

from fflux_py import model_file
from fflux_py.certification.judge import run_figures
from fflux_py.certification.replicas import simulate
from fflux_py.dynamics import MDConfig, run_replicas
from fflux_py.molecules.extended_xyz import read_molecule

LONG_PS = 10_000.0


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("model")
    options.add_argument("--replicas", type=int, default=50)
    options.add_argument("--picoseconds", type=float, default=100.0)
    options.add_argument("--temperature", type=float, default=500.0)
    options.add_argument("--timestep", type=float, default=1.0, help="femtosecond")
    options.add_argument("--folder", type=Path, default=Path("replicas"))
    options.add_argument("--seed", type=int, default=1)
    chosen = options.parse_args()
    model, start = model_file.load(chosen.model), read_molecule(FOLDER / "minimum_b3lyp.xyz")
    config = MDConfig(
        steps=round(1000.0 * chosen.picoseconds / chosen.timestep),
        temperature=chosen.temperature,
        timestep=chosen.timestep,
        report_every=round(100.0 / chosen.timestep),
        checkpoint_every=10_000,
        seed=chosen.seed,
        replicas=chosen.replicas,
    )
    run_replicas(model, start, MDConfig(steps=20, replicas=chosen.replicas))  # compiled before the clock starts
    first: list[int] = []
    last = 0

    def count(done: int, total: int) -> None:
        nonlocal last
        first[:] = first or [done]
        last = done

    begin = time.process_time()
    runs = [run_figures(run, model.molecule) for run in simulate(model, start, config, chosen.folder, count)]
    seconds = time.process_time() - begin
    steps = last - (first[0] if first else 0)
    per_step = seconds / max(steps, 1)
    whole = chosen.replicas * LONG_PS * 1000.0 / chosen.timestep * per_step
    show(
        {
            "replicas": len(runs),
            "length_ps_shortest": min(run.length_ps for run in runs),
            "lost": sum(not run.survived for run in runs),
            "largest_bond_deviation_angstrom": max(run.largest_bond_deviation_angstrom for run in runs),
            "closest_contact_angstrom": min(run.closest_contact_angstrom for run in runs),
            "largest_drift_kcal_mol_100ps": max(abs(run.drift_kcal_mol_100ps) for run in runs),
            "jumps": sum(run.jumps for run in runs),
            "processor_time_s": seconds,
            "steps_done_here": steps,
            "processor_time_per_step_ms": 1000.0 * per_step,
            "processor_time_50x100ps_h": 50 * 100_000.0 / chosen.timestep * per_step / 3600.0,
            "processor_time_50x10ns_h": whole / 3600.0 * 50 / chosen.replicas,
        },
        chosen.json,
    )


if __name__ == "__main__":
    main()
