"""Geometries for a model that breaks in hot runs: its last frames before a stop, and frames with a stretched bond.

    python campaigns/stretched.py campaigns/MOLECULE/geometries.extxyz RUNS... -o stretched.extxyz [--name visited-2]

RUNS are folders of replicas ('replica-000' and so on).  Of every run that a guard stopped, frames 40 and 120 fs before
its end; and each bond of the molecule, stretched to 1.3 and to 1.45 times its reference length in a frame of the runs
chosen at random, while some angle at a hydrogen far from it is squeezed to 0.55 to 0.75 of what it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from fflux_py.analysis.geometry import bond_lengths, shortest_distances
from fflux_py.analysis.runs import Run, read_runs
from fflux_py.molecules.dataset import GeometrySet
from fflux_py.molecules.molecule import Molecule
from fflux_py.sampling.distortions import Change, angles_of, distort
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM

FACTORS = (1.3, 1.45)
SQUEEZED = (0.55, 0.75)
BEFORE_END_FS = (40.0, 120.0)
# Frames nearer to the end of a run are no base for distortions.
SAFE_FS = 1000.0
# A frame that is kept has no pair of atoms nearer than this (angstrom).
CLOSEST = 0.65
TRIES = 200


def main() -> None:
    """Read runs, write geometries."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("like", type=Path, metavar="GEOMETRIES", help="whose molecule it is")
    options.add_argument("runs", type=Path, nargs="+", metavar="RUNS")
    options.add_argument("-o", "--output", type=Path, required=True)
    options.add_argument("--name", default="visited", help="what 'source' says of them")
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    generator = np.random.default_rng(chosen.seed)
    runs = [run for folder in chosen.runs for run in read_runs(folder)]
    molecule = GeometrySet.read(chosen.like).molecule
    kept = last_frames(runs)
    base = np.concatenate([safe_frames(run) for run in runs])
    stretched = [stretch(molecule, base, bond, factor, generator) for bond in molecule.bonds for factor in FACTORS]
    print(f"{len(kept)} last frames of runs that were stopped, {len(stretched)} with a stretched bond")
    positions = np.array(kept + stretched)
    m = len(positions)
    GeometrySet(
        molecule, positions, (chosen.name,) * m, np.full(m, runs[0].config.temperature), ("train",) * m
    ).write(chosen.output)  # fmt: skip


def last_frames(runs: list[Run]) -> list[FloatArray]:
    """Shortly before the end of every run that is shorter than it should be."""
    kept = []
    for run in runs:
        if run.steps_done < run.config.steps:
            for before in BEFORE_END_FS:
                frame = np.asarray(run.trajectory.positions[-1 - frames_in(run, before)])
                if sound(frame):
                    kept.append(frame)
    return kept


def safe_frames(run: Run) -> FloatArray:
    """Frames that are not near the end of the run."""
    return np.asarray(run.trajectory.positions[: -frames_in(run, SAFE_FS)])


def frames_in(run: Run, femtoseconds: float) -> int:
    """How many frames a run has in a time."""
    return round(femtoseconds / (run.trajectory.times_fs[1] - run.trajectory.times_fs[0]))


def sound(frame: FloatArray) -> bool:
    """Whether no two atoms meet."""
    return float(shortest_distances(frame)) * ANGSTROM > CLOSEST


def stretch(
    molecule: Molecule, base: FloatArray, bond: tuple[int, int], factor: float, generator: np.random.Generator
) -> FloatArray:
    """A frame with one bond stretched, and an angle at a hydrogen elsewhere squeezed."""
    wanted = factor * float(bond_lengths(np.array(molecule.positions), [bond])[0])
    angles = [a for a in angles_of(molecule) if "H" in (molecule.symbols[a[0]], molecule.symbols[a[2]])]
    far = [a for a in angles if not set(a) & set(bond)]
    for _ in range(TRIES):
        frame = molecule.with_positions(base[generator.integers(len(base))])
        squeezed = far[generator.integers(len(far))]
        now = float(bond_lengths(np.array(frame.positions), [bond])[0])
        changed = distort(frame, [Change(bond, wanted / now), Change(squeezed, generator.uniform(*SQUEEZED))])
        if sound(changed):
            return changed
    raise SystemExit(f"no frame of {TRIES} keeps atoms apart when bond {bond} is stretched")


if __name__ == "__main__":
    main()
