"""What each prior mean does inside, at the edge of and outside the training region of malondialdehyde.

    python benchmarks/accuracy/prior_means.py                              # prints the figures of docs/prior_means.md
    python benchmarks/accuracy/prior_means.py --write docs/figures/prior_means

Two models of the shipped B3LYP data, trained on its first 400 geometries: by atomic energies alone, and by energies and
forces together.  The mean is chosen after training.  Geometries: held-out frames at 300-500 K (inside) and at 1000 K
(the edge); random displacements of the minimum; a C-H bond from 0.8 to 3 times its length; a full turn about a
C-C bond.  GFN2-xTB (if tblite is installed) shows where the energy should go, roughly.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the folder support

from support.figures import FOLDER, parser, show

import numpy as np

from fflux_py.forcefield import ForceField
from fflux_py.molecules.dataset import Dataset
from fflux_py.molecules.extended_xyz import read_frames
from fflux_py.training import TrainingConfig, train
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM, KCAL_MOL

MEANS = ("MF1", "MF2", "MF3", "MF4", "MF5", "max", "gls")
COLOURS = dict(zip(MEANS, ("#7f7f7f", "#1f77b4", "#17becf", "#d62728", "#ff7f0e", "#2ca02c", "#9467bd"), strict=True))
CARBON, HYDROGEN = 1, 5  # an aldehyde's C-H
AXIS, TURNED = (2, 1), (0, 5)  # the bond C-C, and what turns about it: O and H of that aldehyde
SHOWN_KCAL_MOL = (-40.0, 400.0)


def stretched(x: FloatArray, factors: FloatArray) -> FloatArray:
    """The minimum with its C-H bond at these multiples of its length, the hydrogen moved."""
    scan = np.repeat(x[None], len(factors), axis=0)
    scan[:, HYDROGEN] = x[CARBON] + factors[:, None] * (x[HYDROGEN] - x[CARBON])
    return scan


def turned(x: FloatArray, angles: FloatArray) -> FloatArray:
    """The minimum with one aldehyde group turned by these angles (radian) about its C-C bond."""
    axis = (x[AXIS[1]] - x[AXIS[0]]) / np.linalg.norm(x[AXIS[1]] - x[AXIS[0]])
    scan = np.repeat(x[None], len(angles), axis=0)
    c, s = np.cos(angles)[:, None], np.sin(angles)[:, None]
    for atom in TURNED:
        d = x[atom] - x[AXIS[1]]
        scan[:, atom] = x[AXIS[1]] + d * c + np.cross(axis, d) * s + axis * (axis @ d) * (1.0 - c)
    return scan


def gfn2(dataset: Dataset, scan: FloatArray) -> FloatArray | None:
    """GFN2-xTB energies (hartree), or None without tblite."""
    try:
        from tblite.interface import Calculator
    except ImportError:
        return None
    calculator = Calculator("GFN2-xTB", np.array(dataset.molecule.numbers), scan[0])
    calculator.set("verbosity", 0)
    energies = []
    for geometry in scan:
        calculator.update(np.ascontiguousarray(geometry))
        energies.append(float(calculator.singlepoint().get("energy")))
    return np.array(energies)


def inside_and_edge(model: ForceField, dataset: Dataset) -> dict[str, float]:
    """Errors on held-out frames with every mean, and s there."""
    held = dataset.with_split("test")
    groups = {
        "300_500K": np.isin(held.geometries.temperature, (300.0, 500.0)),
        "1000K": held.geometries.temperature == 1000.0,
    }
    figures = {}
    for group, chosen in groups.items():
        x, y = held.positions[chosen], held.energies[chosen]
        s = model.unmatched.coverage(x)
        figures[f"{group}_largest_deviation_of_s_from_1"] = float(np.abs(s - 1.0).max())
        for mean in MEANS:
            error = model.with_prior_mean(mean).unmatched.compute(x, deriv=0)[0] - y
            figures[f"{group}_{mean}_energy_mae_kcal_mol"] = float(np.abs(error).mean()) * KCAL_MOL
    return figures


def displaced(model: ForceField, x: FloatArray) -> dict[str, float]:
    """Random displacements: how far s overshoots, and what that does to the energy under a high mean."""
    figures = {}
    rng = np.random.default_rng(1)
    for width in (0.05, 0.1, 0.2, 0.4):
        cloud = x + width / ANGSTROM * rng.standard_normal((400, *x.shape))
        s = model.unmatched.coverage(cloud)
        label = f"displaced_{width:g}_angstrom"
        figures[f"{label}_smallest_s"] = float(s.min())
        figures[f"{label}_largest_s"] = float(s.max())
        figures[f"{label}_share_of_geometries_with_an_s_above_1.001"] = float((s > 1.001).any(axis=1).mean())
        low = model.with_prior_mean("MF2").unmatched.compute(cloud, deriv=0)[0]
        for mean in ("MF1", "MF4", "MF5"):
            lowered = (model.with_prior_mean(mean).unmatched.compute(cloud, deriv=0)[0] - low) * KCAL_MOL
            figures[f"{label}_{mean}_lowest_shift_against_MF2_kcal_mol"] = float(lowered.min())
            figures[f"{label}_{mean}_median_shift_against_MF2_kcal_mol"] = float(np.median(lowered))
    return figures


def along(
    model: ForceField, scan: FloatArray, label: str
) -> tuple[dict[str, float], dict[str, FloatArray], FloatArray]:
    """Energies (kcal/mol above the minimum) along a scan with every mean, and s of all atoms."""
    figures, curves = {}, {}
    for mean in MEANS:
        energies = model.with_prior_mean(mean).unmatched.compute(scan, deriv=0)[0]
        at_minimum = model.with_prior_mean(mean).unmatched.compute(MINIMUM, deriv=0)[0]
        curves[mean] = (energies - at_minimum) * KCAL_MOL
        figures[f"{label}_{mean}_lowest_kcal_mol"] = float(curves[mean].min())
        figures[f"{label}_{mean}_highest_kcal_mol"] = float(curves[mean].max())
    s = model.unmatched.coverage(scan)
    figures[f"{label}_largest_s"], figures[f"{label}_smallest_s"] = float(s.max()), float(s.min())
    return figures, curves, s


def draw(path: Path, abscissa: FloatArray, name: str, panels: list, reference: FloatArray | None, span: tuple) -> None:
    """Energies above, s below; one column for each model."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    mpl.rcParams.update({"svg.hashsalt": "fflux_py", "svg.fonttype": "none", "font.size": 9})
    figure, axes = plt.subplots(2, len(panels), figsize=(8.6, 5.6), sharex=True, sharey="row", constrained_layout=True)
    for column, (title, curves, s) in enumerate(panels):
        top, bottom = axes[:, column]
        if reference is not None:
            top.plot(abscissa, reference, color="black", linestyle=":", label="GFN2-xTB")
        for mean, curve in curves.items():
            top.plot(abscissa, curve, color=COLOURS[mean], label=mean, linewidth=1.2)
        top.axhline(0.0, color="0.8", linewidth=0.6, zorder=0)
        top.set_ylim(*span)
        top.set_title(title)
        for atom in range(s.shape[1]):
            bottom.plot(abscissa, s[:, atom], color="0.6", linewidth=0.8)
        bottom.plot(abscissa, s[:, HYDROGEN], color="black", linewidth=1.2, label="the moved H")
        bottom.axhline(1.0, color="#d62728", linewidth=0.6)
        bottom.set_xlabel(name)
    axes[0, 0].set_ylabel("energy above the minimum (kcal/mol)")
    axes[1, 0].set_ylabel("s of every atom")
    axes[0, -1].legend(fontsize=7, ncols=2)
    axes[1, -1].legend(fontsize=7)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    global MINIMUM
    options = parser(__doc__ or "")
    options.add_argument("--write", type=Path, help="folder for the pictures (SVG)")
    options.add_argument("--n-train", type=int, default=400)
    chosen = options.parse_args()
    dataset = Dataset.read(FOLDER / "data.extxyz")
    MINIMUM = read_frames(FOLDER / "minimum_b3lyp.xyz")[0].positions / ANGSTROM
    config = TrainingConfig(n_train=chosen.n_train, forces=False)
    models = {"energies only": train(dataset, config), "energies and forces": _with_forces(dataset, chosen.n_train)}
    factors, angles = np.linspace(0.8, 3.0, 133), np.linspace(0.0, 2.0 * np.pi, 145)
    scans = {"stretch": stretched(MINIMUM, factors), "turn": turned(MINIMUM, angles)}
    panels: dict[str, list] = {name: [] for name in scans}
    figures: dict[str, object] = {}
    for title, model in models.items():
        prefix = title.replace(" ", "_")
        for mean in MEANS:
            shifted = model.with_prior_mean(mean)
            above = sum(atom.share * atom.mean for atom in shifted.atoms) - dataset.energies.mean()
            figures[f"{prefix}_{mean}_sum_of_means_above_mean_energy_kcal_mol"] = float(above) * KCAL_MOL
        found = inside_and_edge(model, dataset) | displaced(model, MINIMUM)
        for name, scan in scans.items():
            scanned, curves, s = along(model, scan, name)
            found |= scanned
            panels[name].append((f"trained by {title}", curves, s))
        figures |= {f"{prefix}_{k}": v for k, v in found.items()}
    if chosen.write is not None:
        chosen.write.mkdir(parents=True, exist_ok=True)
        zero = gfn2(dataset, MINIMUM[None])
        for name, (abscissa, label, span) in {
            "stretch": (factors, "C-H distance over its length at the minimum", SHOWN_KCAL_MOL),
            "turn": (np.degrees(angles), "turn about the C-C bond (degree)", (-30.0, 60.0)),
        }.items():
            energies = gfn2(dataset, scans[name])
            reference = None if energies is None or zero is None else (energies - zero[0]) * KCAL_MOL
            draw(chosen.write / f"{name}.svg", abscissa, label, panels[name], reference, span)
    show(figures, chosen.json)


def _with_forces(dataset: Dataset, n_train: int) -> ForceField:
    """The shipped model, if it is of the size that is wanted."""
    from fflux_py import model_file

    shipped = model_file.load(FOLDER / "model.npz")
    if shipped.metadata["n_train"] == n_train and shipped.metadata["data_digest"] == dataset.digest():
        return shipped
    return train(dataset, TrainingConfig(n_train=n_train))


if __name__ == "__main__":
    main()
