"""Temperature by normal mode and by element of the default thermostat, and of a single Nose-Hoover chain beside it.

python benchmarks/dynamics/equipartition.py
python benchmarks/dynamics/equipartition.py --molecule ethanol --thermostats langevin,nose-hoover

Each row is 5 runs of 20 ps at 300 K from the minimum.  Malondialdehyde is the shipped model; ethanol is trained here,
from labels of GFN2-xTB on geometries that are sampled here (two minutes).  Standard errors of the first figures are
from the scatter of the five runs alone, without the blocks of the criteria; those of the criteria stand below them.
"""

from __future__ import annotations

import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the folder support

from support.figures import FOLDER, parser, show_rows

import numpy as np
from scipy.stats import norm, t

from fflux_py import model_file
from fflux_py.analysis.energy_conservation import piece_drift, run_piece
from fflux_py.analysis.equipartition import equipartition
from fflux_py.analysis.runs import completed_run
from fflux_py.certification import GFN2Labeller
from fflux_py.dynamics import MDConfig, run_replicas
from fflux_py.dynamics.thermostats import DEFAULT_THERMOSTAT
from fflux_py.forcefield import ForceField
from fflux_py.molecules.extended_xyz import read_molecule
from fflux_py.molecules.mechanics import masses
from fflux_py.molecules.molecule import Molecule
from fflux_py.molecules.normal_modes import normal_modes
from fflux_py.optimization.search import optimize
from fflux_py.sampling import molecule_from_smiles, sample, standard_classes
from fflux_py.sampling.plan import SamplingConfig
from fflux_py.training import TrainingConfig, train


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--molecule", choices=("malondialdehyde", "ethanol", "both"), default="both")
    options.add_argument("--thermostats", default=f"{DEFAULT_THERMOSTAT},nose-hoover")
    options.add_argument("--relaxation-time", type=float, default=None, help="femtosecond; the thermostat's default")
    options.add_argument("--temperature", type=float, default=300.0)
    options.add_argument("--picoseconds", type=float, default=20.0)
    options.add_argument("--runs", type=int, default=5)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--model", type=Path, help="another model, with its reference geometry as the start")
    chosen = options.parse_args()
    rows: dict[str, Callable[[], dict[str, object]]] = {}
    for name, (forcefield, minimum) in systems(chosen).items():
        for thermostat in chosen.thermostats.split(","):
            rows[f"{name} {thermostat}"] = partial(judge, name, forcefield, minimum, thermostat, chosen)
    show_rows(rows, chosen.json)


def systems(chosen: Namespace) -> dict[str, tuple[ForceField, Molecule]]:
    """The models and the minima that runs start from."""
    if chosen.model is not None:
        model = model_file.load(chosen.model)
        return {model.molecule.name: (model, optimize(model, model.molecule, 1e-5).molecule)}
    table = {}
    if chosen.molecule in ("malondialdehyde", "both"):
        model = model_file.load(FOLDER / "model.npz")
        start = read_molecule(FOLDER / "minimum_b3lyp.xyz")
        table["malondialdehyde"] = (model, optimize(model, start, 1e-5).molecule)
    if chosen.molecule in ("ethanol", "both"):
        table["ethanol"] = ethanol()
    return table


def ethanol() -> tuple[ForceField, Molecule]:
    """A model of ethanol from 300 geometries with labels of GFN2-xTB, and its minimum."""
    start = molecule_from_smiles("CCO", name="ethanol")
    classes = standard_classes((300.0, 500.0), (300.0,), 300, 20)
    geometries = sample(start, SamplingConfig(classes=classes, seed=1))
    with tempfile.TemporaryDirectory() as folder:
        data = GFN2Labeller().label(geometries, Path(folder))
    if data is None:
        raise SystemExit("no geometry of ethanol could be labelled")
    model = train(data, TrainingConfig(n_train=300))
    return model, optimize(model, start, 1e-5).molecule


def judge(
    name: str, forcefield: ForceField, minimum: Molecule, thermostat: str, chosen: Namespace
) -> dict[str, object]:
    """One row: runs from the minimum, their temperatures, and a piece at constant energy."""
    config = MDConfig(
        steps=round(2000.0 * chosen.picoseconds), temperature=chosen.temperature, timestep=0.5, report_every=20,
        thermostat=thermostat, relaxation_time=chosen.relaxation_time, replicas=chosen.runs, seed=chosen.seed,
    )  # fmt: skip
    modes = normal_modes(forcefield, minimum.positions, masses(minimum))
    runs = run_replicas(forcefield, minimum, config)
    parts = equipartition(runs, config, modes)
    single = [equipartition([run], config, modes) for run in runs]
    if parts is None or any(one is None for one in single):
        raise SystemExit("runs are too short: give more --picoseconds")
    temperatures = np.array([one.temperatures_k for one in single if one is not None])
    mean, error = temperatures.mean(axis=0), temperatures.std(axis=0, ddof=1) / np.sqrt(len(runs))
    offset = np.abs(mean - chosen.temperature) / error
    # errors from few runs are uncertain themselves (Student); what a normal deviate of the same probability is
    normal = float(norm.isf(t.sf(offset.max(), len(runs) - 1)))
    worst = int(np.abs(mean - chosen.temperature).argmax())
    largest, rms = parts.criteria()
    head = f"{name}, {thermostat}"
    drift = piece_drift(run_piece(forcefield, completed_run(runs[0], config)))
    return {
        f"{head}: coldest mode or element, K": float(mean.min()),
        f"{head}: hottest mode or element, K": float(mean.max()),
        f"{head}: furthest off": f"{parts.names[worst]} at {mean[worst]:.0f} ± {error[worst]:.0f} K",
        f"{head}: largest deviation, errors of runs": float(offset.max()),
        f"{head}: the same as a normal deviate": normal,
        f"{head}: largest standard error, of runs, %": float(100.0 * error.max() / chosen.temperature),
        f"{head}: coldest in a single run, K": float(temperatures.min()),
        f"{head}: hottest in a single run, K": float(temperatures.max()),
        f"{head}: criterion, largest deviation": f"{largest.value:.2f} (< {largest.threshold:.2f})",
        f"{head}: criterion, root mean square": f"{rms.value:.2f} (< {rms.threshold:.2f})",
        f"{head}: criteria, largest standard error, %": 100.0 * parts.largest_relative_error,
        f"{head}: criteria met": "yes" if largest.passed and rms.passed else "no",
        f"{head}: drift at constant energy, kcal/mol": drift,
    }


if __name__ == "__main__":
    main()
