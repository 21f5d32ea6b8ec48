"""Beside published figures: rMD17, acetylacetone and 3BPA by this package, sGDML and FCHL19.

    python benchmarks/league run powers FOLDER --set rmd17 --molecule ethanol --n 50
    python benchmarks/league run near FOLDER --set rmd17 --molecule ethanol --n 50 --part validation
    python benchmarks/league run powers FOLDER --set acac --n 500
    python benchmarks/league run sgdml FOLDER --set rmd17 --molecule ethanol --n 50 --peer-python PYTHON
    python benchmarks/league page          # the tables of docs/league.md

FOLDER holds ``rmd17/MOLECULE_split01.npz``, ``acac/*.xyz`` and ``3bpa/*.xyz`` as published (docs/league.md; they are
not shipped).  All train on the first N frames and predict what is held out; ``--part validation`` judges by the last
training frames, which the model has not learnt, and is kept apart: by it choices are made.  The figures are kept in
``benchmarks/results/league.json``.  One thread; times are processor times, to be read beside
``reference_processor_time_s``, that of one Cholesky factorisation of 2000 x 2000 before and after the run.
"""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the folder support

from support import public_sets
from support.learning_curves import ROOT, keep, reference_s

import fflux_py
from fflux_py.training import TrainingConfig
from fflux_py.training.config import LOCALITIES

RESULTS = ROOT / "benchmarks" / "results" / "league.json"
PEERS = ("sgdml", "fchl19")


def parse() -> argparse.Namespace:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = options.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train and judge; the figures are kept in benchmarks/results/")
    run.add_argument("method", choices=[*LOCALITIES, *PEERS], help="a locality of this package's kernels, or another")
    run.add_argument("folder", type=Path, help="folder of the data sets")
    run.add_argument("--set", default="rmd17", choices=list(public_sets.LEVELS))
    run.add_argument("--molecule", default="ethanol", help="of rMD17")
    run.add_argument("--n", type=int, default=50)
    run.add_argument("--part", choices=["test", public_sets.VALIDATION], default="test")
    run.add_argument("--subset", type=int, default=TrainingConfig.subset, help="frames of the search for lengths")
    run.add_argument("--kernel", default=TrainingConfig.kernel)
    run.add_argument("--symmetry", default=TrainingConfig.symmetry)
    run.add_argument("--peer-python", default=sys.executable, help="Python in which the peer is installed")
    run.add_argument("--results", type=Path, default=RESULTS, help="file of results")
    commands.add_parser("show", help="print the tables")
    commands.add_parser("page", help="write the tables into docs/league.md")
    return options.parse_args()


def command_of(chosen: argparse.Namespace) -> str:
    """The command that repeats a run."""
    words = ["python benchmarks/league run", chosen.method, "FOLDER", "--set", chosen.set, "--n", str(chosen.n)]
    if chosen.set == "rmd17":
        words += ["--molecule", chosen.molecule]
    for name, usual in (
        ("part", "test"),
        ("subset", TrainingConfig.subset),
        ("kernel", TrainingConfig.kernel),
        ("symmetry", TrainingConfig.symmetry),
    ):
        if getattr(chosen, name) != usual:
            words += [f"--{name}", str(getattr(chosen, name))]
    return " ".join([*words, *(["--peer-python PYTHON"] if chosen.method in PEERS else [])])


def run(chosen: argparse.Namespace) -> None:
    import methods

    parts = public_sets.read(chosen.folder, chosen.set, chosen.molecule, chosen.n)
    trained = parts.pop(public_sets.TRAIN)
    validating = chosen.part == public_sets.VALIDATION
    judging = {name: part for name, part in parts.items() if (name == public_sets.VALIDATION) == validating}
    before = reference_s()
    figures: dict[str, Any]
    if chosen.method in PEERS:
        figures = methods.peer(trained, chosen.method, chosen.peer_python, judging)
    else:
        config = TrainingConfig(
            n_train=chosen.n,
            locality=chosen.method,
            subset=chosen.subset,
            kernel=chosen.kernel,
            symmetry=chosen.symmetry,
        )
        figures = methods.own(trained, config, judging)
    versions = {"fflux_py": fflux_py.__version__, "python": platform.python_version(), **figures.get("versions", {})}
    command = command_of(chosen)
    kept = {
        "benchmark": chosen.set if chosen.part == "test" else f"{chosen.set}, {chosen.part}",
        "molecule": chosen.molecule if chosen.set == "rmd17" else chosen.set,
        "method": chosen.method,
        "n_train": chosen.n,
        "command": command,
        **figures,
        "reference_processor_time_s": 0.5 * (before + reference_s()),
        "versions": versions,
    }
    keep(kept, ("command",), chosen.results)
    for part, found in figures["errors"].items():
        print(command, part, found, flush=True)


def main() -> None:
    chosen = parse()
    if chosen.command == "run":
        run(chosen)
        return
    import page

    print(page.tables()) if chosen.command == "show" else page.write()


if __name__ == "__main__":
    main()
