"""``fflux warmup``: compile everything once, so that no later command waits for it."""

from __future__ import annotations

import importlib.util
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fflux_py.cli._command import Outcome, command
from fflux_py.cli._options import JsonOption
from fflux_py.cli._progress import progress
from fflux_py.cli._threads import CACHE_VARIABLE, use_cache, use_threads

if TYPE_CHECKING:
    from fflux_py.forcefield import ForceField
    from fflux_py.molecules.dataset import Dataset
    from fflux_py.typing import FloatArray


@command(interrupted="what was compiled is kept")
def warmup(
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Keep what is compiled in this folder; without it, where NUMBA_CACHE_DIR says."
        ),
    ] = None,
    json_output: JsonOption = False,
) -> Outcome:
    """Compile the numerical functions and keep them on disk.

    Otherwise each is compiled when it is first needed. Needed again only after an update.
    """
    use_threads(1)
    if cache is not None:
        use_cache(cache)
    parts = [("training", _training), ("forces", _forces), ("dynamics", _dynamics)]
    if importlib.util.find_spec("pyscf") is not None:
        parts.append(("labels", _labels))
    seconds: dict[str, float] = {}
    with progress("compiling") as show:
        model = None
        for number, (name, compile_part) in enumerate(parts):
            show(number, len(parts))
            begin = time.perf_counter()
            model = compile_part(model)
            seconds[name] = round(time.perf_counter() - begin, 2)
        show(len(parts), len(parts))
    listed = ", ".join(f"{name} {duration:.1f} s" for name, duration in seconds.items())
    text = [f"Compiled and kept: {listed}."]
    folder = os.environ.get(CACHE_VARIABLE)
    if cache is not None:
        text.append(f"For the commands that are to find it: export {CACHE_VARIABLE}={folder}")
    return Outcome({"compile_time_s": seconds, "cache_folder": folder}, text)


def _training(model: ForceField | None) -> ForceField:
    from fflux_py.training import TrainingConfig, train

    return train(_springs(), TrainingConfig(max_iterations=1))


def _forces(model: ForceField | None) -> ForceField:
    assert model is not None
    model.compute(model.molecule.positions)
    model.predictive_deviations(model.molecule.positions)
    return model


def _dynamics(model: ForceField | None) -> ForceField:
    from fflux_py.dynamics import MDConfig, run_nvt

    assert model is not None
    config = MDConfig(steps=1, report_every=1, timestep=0.1, temperature=1.0)
    bias = "t: ANGLE ATOMS=2,1,3\nMETAD ARG=t SIGMA=0.2 HEIGHT=1e-6 PACE=1 GRID_MIN=0.1 GRID_MAX=3 GRID_BIN=50\n"
    for each in (None, bias):
        run_nvt(model, model.molecule, config, bias=each)
    return model


def _labels(model: ForceField | None) -> ForceField:
    from fflux_py.iqa.labelling import label_geometry
    from fflux_py.iqa.scf.level_of_theory import LevelOfTheory

    assert model is not None
    label_geometry(model.molecule, LevelOfTheory(basis="sto-3g", grid_level=0), "hirshfeld")
    return model


def _springs() -> Dataset:
    """Water of three springs at a few geometries: enough to compile for, and exact in its energies and forces."""
    import numpy as np

    from fflux_py.molecules.dataset import Dataset, GeometrySet
    from fflux_py.molecules.molecule import Molecule

    water = Molecule(("O", "H", "H"), np.array([[0.0, 0.0, 0.2], [0.0, 1.4, -0.9], [0.0, -1.4, -0.9]]), name="water")
    moved = water.positions + 0.05 * np.random.default_rng(0).standard_normal((8, 3, 3))
    values = [_spring_energies(positions, water.positions) for positions in moved]
    atomic = np.array([energies for energies, _ in values])
    m = len(moved)
    return Dataset(
        geometries=GeometrySet(water, moved, ("springs",) * m, np.full(m, 300.0), ("train",) * m),
        energies=atomic.sum(axis=1),
        forces=np.array([forces for _, forces in values]),
        atomic_energies=atomic,
        atomic_errors=np.zeros_like(atomic),
        charges=np.zeros_like(atomic),
        metadata={"method": "springs", "basis": "none", "partition": "half of each spring"},
    )


def _spring_energies(positions: FloatArray, reference: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Atomic energies (hartree; half of each spring of 0.5 hartree/bohr^2) and forces (hartree/bohr)."""
    import numpy as np

    energies, forces = np.zeros(len(positions)), np.zeros_like(positions)
    for i in range(len(positions)):
        for j in range(i):
            vector = positions[i] - positions[j]
            stretch = np.linalg.norm(vector) - np.linalg.norm(reference[i] - reference[j])
            energies[[i, j]] += 0.125 * stretch**2
            pull = -0.5 * stretch * vector / np.linalg.norm(vector)
            forces[i] += pull
            forces[j] -= pull
    return energies, forces
