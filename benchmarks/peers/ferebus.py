"""Public models of ICHOR, FEREBUS and DL_FFLUX: what they predict here, and what their files say.

    python benchmarks/peers/ferebus.py REFERENCE_FOLDER

The folder (not shipped) holds ``ichor_gpr``, ``ferebus_paper`` and ``dl_fflux_water``.
"""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the folder support

from support.figures import parser, show

import numpy as np

from fflux_py.exchange.dl_fflux import read_dl_fflux, total
from fflux_py.exchange.ferebus.consistency import read_model
from fflux_py.exchange.ferebus.folder import read_models
from fflux_py.exchange.ferebus.forcefield import count_common_geometries
from fflux_py.exchange.ferebus.model import ICHOR_JITTER
from fflux_py.exchange.ferebus.tables import read_training_csv
from fflux_py.units import KJ_MOL

Figures = dict[str, object]


def ichor(folder: Path) -> Figures:
    model = read_model(folder / "WATER_MONOMER_iqa_O1.model")
    table = read_training_csv(folder / "O1_features_with_properties.txt")
    predictions, variances = (np.loadtxt(folder / f"o1_{kind}.txt") for kind in ("predictions", "variance"))
    ammonia = read_model(folder / "AMMONIA_iqa_N1.model")
    return {
        "ichor water O1: test points": len(table),
        "ichor water O1: largest difference of a prediction, hartree": _largest(
            model.energies(table.features) - predictions
        ),
        "ichor water O1: largest difference of a variance": _largest(
            model.variances(table.features, ICHOR_JITTER) - variances
        ),
        "ichor water O1: the same with the nugget of the weights": _largest(
            model.variances(table.features) - variances
        ),
        "ichor ammonia N1: periodic factor found": ammonia.reading.periodic_factor,
        "ichor ammonia N1: nugget found (none in the header)": ammonia.nugget,
    }


def ferebus(folder: Path) -> Figures:
    figures: Figures = {}
    for name in ("WATER_iqa_O1", "AMMONIA_iqa_N1"):
        model = read_model(folder / f"{name}_marginal.model")
        header = model.text.likelihood
        assert header is not None
        figures[f"ferebus {name}: likelihood in the header"] = header
        figures[f"ferebus {name}: relative difference of the likelihood"] = abs(model.log_likelihood() / header - 1.0)
    table = read_training_csv(folder / "AMMONIA_N1_VALIDATION_SET.csv")
    error = (model.energies(table.features) - table.energies) * KJ_MOL
    figures["ferebus AMMONIA_iqa_N1: azimuths of its rbf are wrapped"] = model.reading.wrap_rbf
    figures["ferebus AMMONIA_iqa_N1: validation RMSE, kJ/mol"] = float(np.sqrt((error**2).mean()))
    return figures


def dl_fflux(folder: Path) -> Figures:
    (species,) = read_dl_fflux(folder)
    begin = time.perf_counter()
    energies, forces = species.forcefield.unmatched.compute(species.positions)
    elapsed = time.perf_counter() - begin
    assert forces is not None
    direction = np.random.default_rng(0).normal(size=species.positions.shape)

    def slope(h: float) -> np.ndarray:
        ahead, behind = (
            species.forcefield.unmatched.compute(species.positions + s * h * direction, 0)[0] for s in (1, -1)
        )
        return np.asarray((ahead - behind) / (2.0 * h))

    numerical = (4.0 * slope(1e-3) - slope(2e-3)) / 3.0
    counts = count_common_geometries(read_models(folder / "model_krig"))
    return {
        "dl_fflux water: molecules": len(species.positions),
        "dl_fflux water: sum of energies, hartree": f"{total([species]):.9f}",
        "dl_fflux water: lowest energy of a molecule, hartree": f"{energies.min():.9f}",
        "dl_fflux water: highest energy of a molecule, hartree": f"{energies.max():.9f}",
        "dl_fflux water: largest force, hartree/bohr": _largest(forces),
        "dl_fflux water: largest difference of a slope, hartree/bohr": _largest(
            (forces * direction).sum((1, 2)) + numerical
        ),
        "dl_fflux water: training geometries that confirm the frames": f"{min(counts[1:])} of {counts[0]}",
        "dl_fflux water: time of the first evaluation, s": elapsed,
    }


def _largest(values: np.ndarray) -> float:
    return float(np.abs(values).max())


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("folder", type=Path)
    chosen = options.parse_args()
    warnings.simplefilter("error")
    figures = ichor(chosen.folder / "ichor_gpr") | ferebus(chosen.folder / "ferebus_paper")
    show(figures | dl_fflux(chosen.folder / "dl_fflux_water"), chosen.json)


if __name__ == "__main__":
    main()
