"""Mutate a package at random places, and see how many of the mutants the tests kill.

    pip install cosmic-ray
    python -m tests.mutations gp [--count 20] [--seed 1] [--timeout 600]

It works on a copy of the files that git knows, with the operators of cosmic-ray.  Left out are mutations of type
annotations, which no program evaluates.  A mutant is killed if a test of its package fails, or takes too long.  The
share has the standard error of a sample of independent mutants.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from math import sqrt
from pathlib import Path
from random import Random
from typing import Final

from tests.support.paths import REPOSITORY

TESTS: Final = {
    "gp": "tests/gp tests/test_forcefield.py tests/test_model_file.py tests/training/test_joint.py",
    "dynamics": "tests/dynamics tests/cli/test_dynamics.py",
    "bias": "tests/bias tests/dynamics/test_bias.py",
    "iqa": "tests/iqa",
    "certification": "tests/certification tests/active_learning",
}
# "int | None" and the like: all modules have annotations that are not evaluated.
_ANNOTATIONS: Final = re.compile(r"core/ReplaceBinaryOperator_BitOr_")


def copy_tree(folder: Path) -> None:
    """Copy what git knows into a folder."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True).stdout
    subprocess.run(
        ["tar", "--null", "--files-from", "-", "-cf", str(folder / "tree.tar")], cwd=REPOSITORY, input=names, check=True
    )
    subprocess.run(["tar", "-xf", "tree.tar"], cwd=folder, check=True)


def test_command(package: str, module: Path) -> str:
    """The tests of a package; compiled code of a module that is compiled is not taken from the cache."""
    tests = f"{shlex.quote(sys.executable)} -m pytest -x -q -p no:cacheprovider -m 'not exhaustive' {TESTS[package]}"
    if "njit" not in module.read_text(encoding="utf-8"):
        return tests
    return "bash -c " + shlex.quote(f"NUMBA_CACHE_DIR=$(mktemp -d) {tests}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__.splitlines()[0])
    parser.add_argument("package", choices=TESTS)
    parser.add_argument("--count", type=int, default=20, help="mutants")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for the tests of one mutant")
    options = parser.parse_args()
    from cosmic_ray.commands import init
    from cosmic_ray.mutating import mutate_and_test
    from cosmic_ray.work_db import WorkDB, use_db

    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        folder = Path(name)
        copy_tree(folder)
        os.chdir(folder)
        os.environ["PYTHONPATH"] = name
        modules = sorted(Path("fflux_py", options.package).rglob("*.py"))
        with use_db("mutants.sqlite", mode=WorkDB.Mode.create) as database:
            init(modules, database, {})
            mutants = [
                item.mutations
                for item in database.pending_work_items
                if not any(_ANNOTATIONS.match(mutation.operator_name) for mutation in item.mutations)
            ]
        chosen = Random(options.seed).sample(mutants, min(options.count, len(mutants)))
        print(f"{options.package}: {len(mutants)} mutants, {len(chosen)} are tried", flush=True)
        killed = 0
        for mutations in chosen:
            result = mutate_and_test(
                mutations, test_command(options.package, mutations[0].module_path), options.timeout
            )
            killed += result.is_killed
            place = f"{mutations[0].module_path}:{mutations[0].start_pos[0]}"
            print(f"{'killed  ' if result.is_killed else 'SURVIVED'} {place} {mutations[0].operator_name}", flush=True)
            if not result.is_killed:
                changed = [line for line in (result.diff or "").splitlines() if re.match(r"[+-](?![+-])", line)]
                print("\n".join(f"    {line}" for line in changed), flush=True)
    share = killed / len(chosen)
    error = sqrt(share * (1.0 - share) / len(chosen))
    print(f"{options.package}: {killed} of {len(chosen)} killed, {100 * share:.0f} +- {100 * error:.0f} %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
