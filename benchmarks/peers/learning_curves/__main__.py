"""Learning curves on DFT labels of malondialdehyde: this package beside sGDML and MACE.

    python benchmarks/peers/learning_curves run joint --n 100 200 400
    python benchmarks/peers/learning_curves run sgdml --n 100 --peer-python PYTHON   # a Python with sgdml
    python benchmarks/peers/learning_curves run mace --n 100 --peer-python PYTHON --budget 600
    python benchmarks/peers/learning_curves run joint --n 200 --data DATA.extxyz --results FILE.json  # another molecule
    python benchmarks/peers/learning_curves show           # the tables, as Markdown
    python benchmarks/peers/learning_curves page           # tables and picture into the documentation

All train on the first N frames marked ``train`` of the shipped data, peers by energies and forces, and predict the
frames of held-out trajectories.  One thread each; times are processor times of that thread, to be read beside
``reference_processor_time_s``, the time of one Cholesky factorisation of 2000 x 2000 in the same run.
"""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for the folder support

from support import fits
from support.learning_curves import DATA, RESULTS, keep, reference_s

import fflux_py
from fflux_py.molecules.dataset import Dataset
from fflux_py.training import TrainingConfig


def parse() -> argparse.Namespace:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = options.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train and test; the figures are kept in benchmarks/results/")
    run.add_argument("method", choices=[*fits.CONFIGS, "sgdml", "mace"])
    run.add_argument("--n", type=int, nargs="+", default=[100, 200, 400])
    run.add_argument("--peer-python", default=sys.executable, help="Python in which the peer is installed")
    run.add_argument("--budget", type=float, default=600.0, help="processor time to train MACE for, seconds")
    run.add_argument("--data", type=Path, default=DATA, help="another data set than the shipped malondialdehyde")
    run.add_argument("--results", type=Path, default=RESULTS, help="file of results")
    commands.add_parser("show", help="print the tables")
    commands.add_parser("page", help="write tables and picture into docs/")
    return options.parse_args()


def run(chosen: argparse.Namespace) -> None:
    dataset = Dataset.read(chosen.data)
    for n in chosen.n:
        before = reference_s()
        command = f"python benchmarks/peers/learning_curves run {chosen.method} --n {n}"
        if chosen.data != DATA:
            command += f" --data {chosen.data} --results {chosen.results}"
        if chosen.method in fits.CONFIGS:
            figures = fits.run(dataset, TrainingConfig(n_train=n, **fits.CONFIGS[chosen.method]))
        else:
            import peers

            extra = [str(chosen.budget)] if chosen.method == "mace" else []
            command += " --peer-python PYTHON" + (f" --budget {chosen.budget:g}" if extra else "")
            figures = peers.run(dataset, chosen.method, n, chosen.peer_python, extra)
        versions = {"fflux_py": fflux_py.__version__, "python": platform.python_version()}
        run = {
            "benchmark": "learning curve",
            "method": chosen.method,
            "n_train": n,
            "command": command,
            **figures,
            "reference_processor_time_s": 0.5 * (before + reference_s()),
        }
        run["versions"] = {**versions, **figures.get("versions", {})}
        keep(run, ("benchmark", "method", "n_train"), chosen.results)
        for group, errors in figures["groups"].items():
            print(chosen.method, n, group, errors, flush=True)


def main() -> None:
    chosen = parse()
    if chosen.command == "run":
        run(chosen)
        return
    import page

    print(page.tables()) if chosen.command == "show" else page.write()


if __name__ == "__main__":
    main()
