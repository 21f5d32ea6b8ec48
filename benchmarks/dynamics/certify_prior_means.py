"""Prior means compared by dynamics: do runs of malondialdehyde survive, and are they right where they go?

    python benchmarks/dynamics/certify_prior_means.py --fit energies --folder means-e --write docs/figures/prior_means
    python benchmarks/dynamics/certify_prior_means.py --fit jointly --folder means-j --write docs/figures/prior_means
    python benchmarks/dynamics/certify_prior_means.py --model model.npz --seeds 1 --frames 10

The same hyperparameters under MF1 to MF5, `max` and MF4 with kappa 50, at 300, 500 and 1000 K: the thin form of
`fflux certify`, three runs of 10 ps each.  The models are of GFN2-xTB labels of the shipped geometries, so that twenty
visited frames of every mean and temperature are labelled again in a second; with --model it is the shipped one, and the
frames are labelled by DFT.  Interrupted, it goes on in its folder.
"""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the folder support

from support.figures import FOLDER, parser, show

import numpy as np

from fflux_py import model_file
from fflux_py.analysis.report.drawing import CYCLE, MUTED, new_figure, styled, to_svg
from fflux_py.certification import CertificationConfig, GFN2Labeller, Labeller, certify, labeller_of
from fflux_py.certification.judge import TemperatureFigures
from fflux_py.forcefield import ForceField
from fflux_py.molecules.dataset import Dataset
from fflux_py.training import TrainingConfig, train

MEANS = {"MF1": "MF1", "MF2": "MF2", "MF3": "MF3", "MF4": "MF4", "MF5": "MF5", "max": "max",
         "MF4, kappa 50": "mean+50*range"}  # fmt: skip
TEMPERATURES = (300.0, 500.0, 1000.0)
# Unpaired electrons of the free atoms.
UNPAIRED = {"H": 1, "C": 2, "O": 2}


def free_atoms(symbols: tuple[str, ...]) -> dict[str, float]:
    """GFN2-xTB energies (hartree) of the free atoms in their ground states."""
    from ase.data import atomic_numbers
    from tblite.interface import Calculator

    energies = {}
    for symbol in sorted(set(symbols)):
        numbers, place = np.array([atomic_numbers[symbol]]), np.zeros((1, 3))
        calculator = Calculator("GFN2-xTB", numbers, place, uhf=UNPAIRED[symbol])
        calculator.set("verbosity", 0)
        energies[symbol] = float(calculator.singlepoint().get("energy"))
    return energies


def gfn2_model(jointly: bool, n_train: int) -> ForceField:
    """A model of GFN2-xTB labels of the first training geometries."""
    data = Dataset.read(FOLDER / "data.extxyz").with_split("train").select(range(n_train))
    labels = GFN2Labeller().label(replace(data.geometries, metadata={}), Path())
    assert labels is not None
    labels = replace(labels, isolated_energies=free_atoms(labels.molecule.symbols))
    return train(labels, TrainingConfig(forces=jointly))


@styled
def draw(results: dict[str, tuple[TemperatureFigures, ...]]) -> object:
    """Energy MAE on visited frames by mean and temperature; open where a run was lost."""
    figure = new_figure(3.2, 6.4)
    axes = figure.subplots()
    for k, temperature in enumerate(TEMPERATURES):
        for x, entries in enumerate(results.values()):
            entry = next(e for e in entries if e.temperature_k == temperature)
            inside = CYCLE[k] if entry.n_survived == len(entry.runs) else "none"
            label = f"{temperature:g} K" if x == 0 else None
            place = x + 0.18 * (k - 1)
            axes.scatter(place, entry.energy_mae_kcal_mol, s=38, edgecolors=CYCLE[k], facecolors=inside, label=label)
    axes.axhline(1.0, color=MUTED, linewidth=0.8, linestyle="--")
    axes.set_yscale("log")
    axes.set_xticks(range(len(results)), list(results))
    axes.set_ylabel("energy MAE on visited frames (kcal/mol)")
    axes.legend(loc="best")
    return figure


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--fit", choices=["energies", "jointly"], default="jointly")
    options.add_argument("--model", help="a trained model instead, labelled again at its own level of theory")
    options.add_argument("--n-train", type=int, default=200)
    options.add_argument("--means", nargs="+", default=list(MEANS))
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--picoseconds", type=float, default=10.0)
    options.add_argument("--frames", type=int, default=20)
    options.add_argument("--workers", type=int, default=1)
    options.add_argument("--folder", type=Path, default=Path("prior-means"), help="runs, labels and the model")
    options.add_argument("--write", type=Path, help="folder for the picture (SVG)")
    chosen = options.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    labeller: Labeller = GFN2Labeller()
    if chosen.model:
        model = model_file.load(chosen.model)
        labeller = labeller_of(Dataset.read(FOLDER / "data.extxyz").metadata, workers=chosen.workers)
    else:
        kept = chosen.folder / "model.npz"
        if not kept.exists():
            model_file.save(gfn2_model(chosen.fit == "jointly", chosen.n_train), kept)
        model = model_file.load(kept)
    config = CertificationConfig(
        temperatures=TEMPERATURES, seeds=chosen.seeds, picoseconds=chosen.picoseconds, frames=chosen.frames, seed=1
    )
    figures: dict[str, object] = {}
    results = {}
    with open(chosen.folder / "means.csv", "w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        for number, mean in enumerate(chosen.means):
            folder = chosen.folder / MEANS[mean].replace("*", "")
            certificate = certify(
                model.with_prior_mean(MEANS[mean]), labeller, config, folder, label_folder=chosen.folder / "labels"
            )
            heads, rows = certificate.table()
            table.writerows([["mean", *heads]] * (number == 0) + [[mean, *row] for row in rows])
            stream.flush()
            results[mean] = certificate.figures
            for entry in certificate.figures:
                name = f"{mean} {entry.temperature_k:g}K".replace(",", "").replace(" ", "_")
                figures[f"{name}_survived"] = f"{entry.n_survived} of {len(entry.runs)}"
                figures[f"{name}_energy_mae_kcal_mol"] = entry.energy_mae_kcal_mol
                figures[f"{name}_force_mae_kcal_mol_angstrom"] = entry.force_mae_kcal_mol_angstrom
                figures[f"{name}_mean_energy_difference_kcal_mol"] = entry.mean_energy_difference_kcal_mol
                figures[f"{name}_lowest_above_minimum_kcal_mol"] = entry.lowest_energy_above_minimum_kcal_mol
            figures[f"{mean}_certified"] = certificate.passed
    if chosen.write is not None:
        chosen.write.mkdir(parents=True, exist_ok=True)
        name = "shipped" if chosen.model else chosen.fit
        (chosen.write / f"dynamics_{name}.svg").write_text(to_svg(draw(results)), encoding="utf-8")  # type: ignore[arg-type]
    show(figures, chosen.json)


if __name__ == "__main__":
    main()
