"""Free energy over both torsions of malondialdehyde at 300 K: metadynamics on the model against unbiased replicas.

    python benchmarks/dynamics/free_energy.py [model.npz] --biased-picoseconds 100 --picoseconds 500 --folder runs

Every replica of the metadynamics has a bias of its own; its frames count with exp((V - c(t)) / kT).  Error bars are
those of independent replicas.  The molecule's symmetry (both ends are alike, and there is a mirror image) holds exactly
for a model with symmetry, so that every frame counts at all four places; --plain does without.  With --folder, runs
that are there already go on to the length that is asked for.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the folder support

from support.figures import FOLDER, parser, show

import numpy as np

from fflux_py import model_file
from fflux_py.analysis.geometry import torsions
from fflux_py.bias import CollectiveVariable, Grid
from fflux_py.bias.free_energy import FreeEnergy, frame_weights, weighted_free_energy
from fflux_py.bias.plumed_files import PlumedUnits, read_colvar
from fflux_py.dynamics import MDConfig, resume, run_replicas
from fflux_py.dynamics.dcd import read_dcd
from fflux_py.forcefield import ForceField
from fflux_py.molecules.extended_xyz import read_molecule
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray
from fflux_py.units import KCAL_MOL

TEMPERATURE = 300.0
VARIABLES = (CollectiveVariable("torsion", (0, 1, 2, 3), "a"), CollectiveVariable("torsion", (1, 2, 3, 4), "b"))
HIGHEST = 4.0
STRIDE_FS = 20.0
INPUT = """UNITS LENGTH=A ENERGY=kcal/mol
a: TORSION ATOMS=1,2,3,4
b: TORSION ATOMS=2,3,4,5
metad: METAD ARG=a,b SIGMA=0.3,0.3 HEIGHT=0.2 PACE={pace} BIASFACTOR=6 TEMP=300
PRINT ARG=a,b,metad.bias,metad.rct STRIDE={stride} FILE=COLVAR
"""


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("model", nargs="?", default=FOLDER / "model.npz")
    options.add_argument("--picoseconds", type=float, default=500.0, help="of every unbiased replica")
    options.add_argument("--biased-picoseconds", type=float, default=100.0, help="of every replica with a bias")
    options.add_argument("--replicas", type=int, default=8, help="of each kind")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--timestep", type=float, default=1.0, help="femtosecond")
    options.add_argument("--hydrogen-mass", type=float, default=3.0, help="dalton")
    options.add_argument("--bins", type=int, default=24, help="of the whole circle")
    options.add_argument("--plain", action="store_true", help="make no use of the molecule's symmetry")
    options.add_argument("--folder", type=Path, help="keep the runs here")
    options.add_argument("--picture", type=Path, help="draw both surfaces into this file")
    chosen = options.parse_args()
    with TemporaryDirectory() as scratch:
        folder = chosen.folder or Path(scratch)
        folder.mkdir(exist_ok=True)
        forcefield = model_file.load(chosen.model)
        start = read_molecule(FOLDER / "minimum_b3lyp.xyz")

        def config(picoseconds: float, seed: int) -> MDConfig:
            return MDConfig(
                steps=round(1000.0 * picoseconds / chosen.timestep), temperature=TEMPERATURE, thermostat="langevin",
                timestep=chosen.timestep, hydrogen_mass=chosen.hydrogen_mass, replicas=chosen.replicas, seed=seed,
                report_every=round(STRIDE_FS / chosen.timestep), checkpoint_every=20_000,
            )  # fmt: skip

        begin = time.process_time()
        stride = round(STRIDE_FS / chosen.timestep)
        text = INPUT.format(pace=2 * stride, stride=stride)
        run(forcefield, start, config(chosen.biased_picoseconds, 1), folder / "biased", text, chosen.threads)
        run(forcefield, start, config(chosen.picoseconds, 2), folder / "unbiased", None, chosen.threads)
        seconds = time.process_time() - begin
        biased = read_biased(folder / "biased", skipped=0.2)
        unbiased = read_unbiased(folder / "unbiased", skipped=0.1)
    if not chosen.plain:
        biased, unbiased = with_images(biased), with_images(unbiased)
    grid = Grid(VARIABLES, (-np.pi,) * 2, (np.pi,) * 2, (chosen.bins,) * 2)
    surfaces = [surface(part, grid) for part in (biased, unbiased)]
    figures = compared(*surfaces)
    figures.update(
        biased_ps=chosen.replicas * chosen.biased_picoseconds,
        unbiased_ps=chosen.replicas * chosen.picoseconds,
        processor_minutes=seconds / 60.0,
    )
    show(figures, chosen.json)
    if chosen.picture is not None:
        draw(surfaces, chosen.picture)


def run(
    forcefield: ForceField, start: Molecule, config: MDConfig, folder: Path, bias: str | None, threads: int
) -> None:
    """Run, or go on with what is in the folder."""
    if (folder / "checkpoint.npz").exists():
        resume(forcefield, folder, config.steps, threads=threads)
    else:
        run_replicas(forcefield, start, config, folder, threads=threads, bias=bias)


def read_biased(folder: Path, skipped: float) -> tuple[FloatArray, FloatArray]:
    """Torsions ``(replicas, frames, 2)`` and logarithms of weights; the start of each run is left out."""
    units = PlumedUnits(energy=KCAL_MOL)
    values, exponents = [], []
    for path in sorted(folder.glob("**/COLVAR")):
        _, found, energies = read_colvar(path, VARIABLES, ["metad.bias", "metad.rct"], units)
        first = int(skipped * len(found))
        values.append(found[first:])
        exponents.append((energies["metad.bias"] - energies["metad.rct"])[first:])
    return np.array(values), np.array(exponents)


def read_unbiased(folder: Path, skipped: float) -> tuple[FloatArray, FloatArray]:
    """The same of runs without bias."""
    values = []
    for path in sorted(folder.glob("**/trajectory.dcd")):
        positions = read_dcd(path).positions
        values.append(torsions(positions[int(skipped * len(positions)) :], [v.atoms for v in VARIABLES]))  # type: ignore[misc]
    return np.array(values), np.zeros((len(values), len(values[0])))


def with_images(frames: tuple[FloatArray, FloatArray]) -> tuple[FloatArray, FloatArray]:
    """Every frame at its four places: both ends exchanged, mirror image, both."""
    values, exponents = frames
    images = [sign * values[..., order] for sign in (1.0, -1.0) for order in ([0, 1], [1, 0])]
    return np.concatenate(images, axis=1), np.concatenate([exponents] * 4, axis=1)


def surface(frames: tuple[FloatArray, FloatArray], grid: Grid) -> FreeEnergy:
    """The free energy; blocks are replicas."""
    values, exponents = frames
    weights = frame_weights(exponents.ravel(), 0.0, TEMPERATURE)
    return weighted_free_energy(values.reshape(-1, 2), weights, grid, TEMPERATURE, len(values))


def compared(biased: FreeEnergy, unbiased: FreeEnergy) -> dict[str, object]:
    """Deviations in kcal/mol below 4 kcal/mol; the constant between both makes their weighted mean zero."""
    assert biased.errors is not None
    assert unbiased.errors is not None
    below = biased.values * KCAL_MOL < HIGHEST
    seen = below & np.isfinite(unbiased.errors) & np.isfinite(unbiased.values)
    errors = KCAL_MOL * np.hypot(biased.errors, unbiased.errors)[seen]
    gap = KCAL_MOL * (biased.values - unbiased.values)[seen]
    gap -= np.average(gap, weights=errors**-2)
    low = biased.values[seen] * KCAL_MOL < HIGHEST / 2.0
    return {
        "bins_below_4_kcal_mol": int(below.sum()),
        "bins_never_seen_without_bias": int((below & ~seen).sum()),
        "deviation_rms_kcal_mol": float(np.sqrt(np.mean(gap**2))),
        "deviation_largest_kcal_mol": float(np.abs(gap).max()),
        "deviation_rms_below_2_kcal_mol": float(np.sqrt(np.mean(gap[low] ** 2))),
        "deviation_largest_below_2_kcal_mol": float(np.abs(gap[low]).max()),
        "error_bar_biased_median_kcal_mol": float(np.median(KCAL_MOL * biased.errors[seen])),
        "error_bar_unbiased_median_kcal_mol": float(np.median(KCAL_MOL * unbiased.errors[seen])),
        "error_bar_unbiased_largest_kcal_mol": float(KCAL_MOL * unbiased.errors[seen].max()),
        "deviation_over_error_rms": float(np.sqrt(np.mean((gap / errors) ** 2))),
        "bins_further_than_0.3_kcal_mol": int((np.abs(gap) > 0.3).sum()),
    }


def draw(surfaces: list[FreeEnergy], path: Path) -> None:
    """Both surfaces side by side, degrees and kcal/mol."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained", sharey=True)
    for axis, each, title in zip(axes, surfaces, ("metadynamics", "without bias"), strict=True):
        degrees = np.degrees(each.grid.points(0))
        image = axis.contourf(degrees, degrees, np.minimum(each.values.T * KCAL_MOL, 8.0), np.arange(0.0, 8.1, 0.5))
        axis.set(title=title, xlabel="O1-C2-C3-C4 / degree", aspect="equal")
    axes[0].set_ylabel("C2-C3-C4-O5 / degree")
    figure.colorbar(image, ax=axes, label="F / kcal/mol")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
