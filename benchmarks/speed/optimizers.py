"""Ways to a minimum: steps, evaluations and time of each method on a force field, from displaced starts.

    python benchmarks/speed/optimizers.py [model.npz] [--starts 20] [--displacement 0.25]

Every coordinate of the model's minimum is moved by up to the displacement (angstrom, uniform, seeded).  The methods run
in turns from the same starts; times are wall times of one thread.  Counted are runs that converge, and those that end
at the energy of the minimum that they were displaced from (0.1 kcal/mol; other conformers are near).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the folder support

from support.figures import FOLDER, parser, show

import numpy as np

from fflux_py import model_file
from fflux_py.errors import FFLUXError
from fflux_py.molecules.extended_xyz import read_molecule
from fflux_py.optimization.search import optimize
from fflux_py.threads import set_threads
from fflux_py.units import ANGSTROM, EV_ANGSTROM, KCAL_MOL

METHODS = ("newton", "internal", "bfgs")
SAME_KCAL_MOL = 0.1


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("model", nargs="?", default=FOLDER / "model.npz")
    options.add_argument("--starts", type=int, default=20)
    options.add_argument("--displacement", type=float, default=0.25, help="angstrom")
    options.add_argument("--fmax", type=float, default=0.005, help="eV/angstrom")
    options.add_argument("--seed", type=int, default=1)
    chosen = options.parse_args()
    set_threads(1)
    forcefield = model_file.load(chosen.model)
    start = read_molecule(FOLDER / "minimum_b3lyp.xyz") if chosen.model == FOLDER / "model.npz" else forcefield.molecule
    lowest = optimize(forcefield, start)
    bottom = lowest.molecule
    for method in METHODS:  # loads and compiles before the clock starts
        optimize(forcefield, bottom.with_positions(bottom.positions + 0.01), max_steps=2, method=method)
    generator = np.random.default_rng(chosen.seed)
    found: dict[str, list[tuple[float, ...]]] = {method: [] for method in METHODS}
    for _ in range(chosen.starts):
        moved = generator.uniform(-1.0, 1.0, bottom.positions.shape) * chosen.displacement / ANGSTROM
        for method in METHODS:
            begin = time.perf_counter()
            try:
                result = optimize(
                    forcefield,
                    bottom.with_positions(bottom.positions + moved),
                    chosen.fmax / EV_ANGSTROM,
                    method=method,
                )
            except FFLUXError:
                continue
            seconds = time.perf_counter() - begin
            if result.converged:
                same = abs(result.energy - lowest.energy) * KCAL_MOL < SAME_KCAL_MOL
                found[method].append((result.n_steps, result.n_evaluations, result.n_hessians, seconds, same))
    figures: dict[str, object] = {"starts": chosen.starts, "fmax_ev_angstrom": chosen.fmax}
    for method, runs in found.items():
        figures[f"{method}_converged"] = len(runs)
        figures[f"{method}_same_minimum"] = int(sum(run[-1] for run in runs))
        if runs:
            steps, evaluations, hessians, seconds, _ = np.median(np.array(runs), axis=0)
            figures[f"{method}_steps_median"] = steps
            figures[f"{method}_evaluations_median"] = evaluations
            figures[f"{method}_hessians_median"] = hessians
            figures[f"{method}_time_median_s"] = seconds
    show(figures, chosen.json)


if __name__ == "__main__":
    main()
