"""Ramachandran maps of a capped residue: unbiased replicas against well-tempered metadynamics on phi and psi.

    python benchmarks/dynamics/ramachandran.py model.npz start.xyz --temperatures 300 500 1000 --replicas 8 \
        --picoseconds 500 --metadynamics-picoseconds 200 --folder maps --picture maps.png

Replicas of the metadynamics have a bias each; their frames count with exp((V - c(t)) / kT), and the third column is the
free energy of their hills.  Standard errors are from the spread of the replicas.  Runs that are in the folder already
go on to the length that is asked for.  With --unbiased certificate/runs the long runs of 'fflux certify' are taken at
the temperatures that it has.  START may be a file of geometries: --frame then names the source of one.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the folder support

from support.figures import parser, show

import numpy as np

from fflux_py import model_file
from fflux_py.analysis.criteria import with_error
from fflux_py.analysis.geometry import torsions
from fflux_py.analysis.ramachandran.comparison import compare_maps
from fflux_py.analysis.ramachandran.map import RamachandranMap, jensen_shannon
from fflux_py.analysis.ramachandran.regions import REGIONS, without_handedness
from fflux_py.analysis.ramachandran.runs import Pair, map_of_hills, map_of_runs, residues
from fflux_py.analysis.report.drawing import to_png
from fflux_py.analysis.report.ramachandran_plots import Mark, ramachandran_figure
from fflux_py.analysis.runs import MINIMUM_REPORTS, Run, read_runs
from fflux_py.bias import BiasSettings, CollectiveVariable, HillParameters
from fflux_py.bias.plumed_writer import plumed_text
from fflux_py.certification.replicas import simulate
from fflux_py.dynamics import MDConfig
from fflux_py.files import write_atomically
from fflux_py.molecules.dataset import GeometrySet
from fflux_py.molecules.extended_xyz import read_molecule
from fflux_py.molecules.molecule import Molecule
from fflux_py.units import BOLTZMANN, KCAL_MOL

NAMES = ("unbiased", "metadynamics", "hills")
HIGHEST = 4.0
STRIDE_FS = 20.0
# A hill of 0.25 kcal/mol and 20 degrees in 100 fs.  The bias factor is 1 + BOOST / kT, so that the torsions move over
# the map as at 2000 K more than the rest of the molecule, whatever its temperature.
HILL_KCAL_MOL, SIGMA, PACE_FS, BOOST_KCAL_MOL = 0.25, 0.35, 100.0, 4.0


def main() -> None:
    options = the_options()
    chosen = options.parse_args()
    forcefield, start = model_file.load(chosen.model), start_of(chosen.start, chosen.frame)
    if not residues(start):
        options.error(f"{chosen.start}: no residue between two amide bonds")
    pair = residues(start)[0]
    achiral = without_handedness(start, pair)
    if chosen.symmetrise and not achiral:
        options.error(f"--symmetrise: {start.name} is not its own mirror image")
    stride = round(STRIDE_FS / chosen.timestep)

    def runs(temperature: float, picoseconds: float, seed: int, bias: str | None) -> tuple[Run, ...]:
        config = MDConfig(
            steps=round(1000.0 * picoseconds / chosen.timestep), temperature=temperature, thermostat="langevin",
            timestep=chosen.timestep, hydrogen_mass=chosen.hydrogen_mass, replicas=chosen.replicas, seed=seed,
            report_every=stride, checkpoint_every=20_000,
        )  # fmt: skip
        folder = chosen.folder / f"{temperature:g}K-{'unbiased' if bias is None else 'metadynamics'}"
        return simulate(forcefield, start, config, folder, threads=chosen.threads, bias=bias)

    columns: list[list[RamachandranMap]] = []
    everything: dict[str, object] = {"molecule": start.name}
    for temperature in chosen.temperatures:
        begin = time.process_time()
        free = found_runs(chosen.unbiased, temperature) or runs(temperature, chosen.picoseconds, 1, None)
        biased = runs(temperature, chosen.metadynamics_picoseconds, 2, bias_text(pair, temperature, chosen.timestep))
        seconds = time.process_time() - begin
        smoothing = np.radians(chosen.smoothing)
        maps = [map_of_runs(long_enough(r), pair, bins=chosen.bins, smoothing=smoothing) for r in (free, biased)]
        maps.append(map_of_hills(long_enough(biased), pair, bins=chosen.bins))
        mirror = {f"asymmetry_{name}": vars(m.asymmetry()) for name, m in zip(NAMES, maps, strict=True)}
        if chosen.symmetrise:
            maps = [each.symmetrised() for each in maps]
        figures = {
            "lost_unbiased": sum(run.status == "stopped" for run in free),
            "lost_metadynamics": sum(run.status == "stopped" for run in biased),
            "processor_time_s": seconds,
            **compared(maps),
        }
        if achiral:
            for name, found in mirror.items():
                figures[f"{name}_jensen_shannon"] = found["jensen_shannon"]
                figures[f"{name}_population_percent"] = 100.0 * found["population"]
                figures[f"{name}_population_error_percent"] = 100.0 * found["population_error"]
        if not chosen.json:
            print_table(temperature, maps)
            show(figures, False)
            print()
        details = {name: each.as_dict() for name, each in zip(NAMES, maps, strict=True)}
        everything[f"{temperature:g}_k"] = {**figures, **details}
        columns.append(maps)
    if chosen.json:
        show(everything, True)
    if chosen.picture is not None:
        rows = [[maps[k] for maps in columns] for k in (0, 1)]
        heads = [f"{temperature:g} K" for temperature in chosen.temperatures]
        figure = ramachandran_figure(rows, heads, ("unbiased", "metadynamics"), marks_of(chosen.minima))
        write_atomically(chosen.picture, to_png(figure))


def the_options() -> argparse.ArgumentParser:
    options = parser(__doc__ or "")
    options.add_argument("model")
    options.add_argument("start", type=Path, help="XYZ file of the start, or a file of geometries with --frame")
    options.add_argument("--frame", metavar="SOURCE", help="source of the start in a file of geometries: minimum-c1")
    options.add_argument("--temperatures", type=float, nargs="+", default=[300.0, 500.0, 1000.0])
    options.add_argument("--replicas", type=int, default=8, help="of each kind")
    options.add_argument("--unbiased", type=Path, metavar="DIR", help="take unbiased runs from DIR/300K and so on")
    options.add_argument("--picoseconds", type=float, default=500.0, help="of every unbiased replica")
    options.add_argument("--metadynamics-picoseconds", type=float, default=200.0, help="of every replica with a bias")
    options.add_argument("--timestep", type=float, default=1.0, help="femtosecond")
    options.add_argument("--hydrogen-mass", type=float, default=3.0, help="dalton")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--bins", type=int, default=36, help="of the whole circle")
    options.add_argument("--smoothing", type=float, default=0.0, help="width of the kernel, degrees; 0 for none")
    options.add_argument("--symmetrise", action="store_true", help="count mirror images too (capped glycine)")
    options.add_argument("--minima", type=Path, nargs="+", default=[], help="XYZ files to be marked in the picture")
    options.add_argument("--folder", type=Path, default=Path("ramachandran"))
    options.add_argument("--picture", type=Path)
    return options


def found_runs(folder: Path | None, temperature: float) -> tuple[Run, ...]:
    """Runs of one temperature that another command has made; none if there is no folder of them."""
    place = None if folder is None else folder / f"{temperature:g}K"
    return () if place is None or not place.is_dir() else read_runs(place)


def start_of(path: Path, source: str | None) -> Molecule:
    """The first geometry of a file, or the first training geometry of a source."""
    if source is None:
        return read_molecule(path)
    geometries = GeometrySet.read(path)
    found = [k for k, name in enumerate(geometries.source) if name == source and geometries.split[k] == "train"]
    if not found:
        raise SystemExit(f"{path}: no training geometry of the source {source}")
    return geometries.molecule.with_positions(geometries.positions[found[0]])


def bias_text(pair: Pair, temperature: float, timestep: float) -> str:
    """Well-tempered metadynamics on phi and psi as a PLUMED input."""
    variables = tuple(
        CollectiveVariable("torsion", atoms, name) for atoms, name in zip(pair, ("phi", "psi"), strict=True)
    )
    gamma = 1.0 + BOOST_KCAL_MOL / (BOLTZMANN * temperature * KCAL_MOL)
    hills = HillParameters(HILL_KCAL_MOL / KCAL_MOL, SIGMA, gamma, round(PACE_FS / timestep))
    return plumed_text(BiasSettings(variables, hills), temperature)


def long_enough(runs: tuple[Run, ...]) -> tuple[Run, ...]:
    """Without those that a guard stopped at once."""
    return tuple(run for run in runs if len(run.trajectory) >= MINIMUM_REPORTS)


def compared(maps: list[RamachandranMap]) -> dict[str, object]:
    """Metadynamics (frames, hills) against unbiased replicas below 4 kcal/mol, beside halves of the replicas."""
    figures: dict[str, object] = {}
    for name, found in zip(NAMES[1:], maps[1:], strict=True):
        gap = compare_maps(maps[0], found, HIGHEST)
        figures |= {
            f"{name}_cells_below_4_kcal_mol": gap.n_cells + gap.n_missing,
            f"{name}_cells_not_visited_unbiased": gap.n_missing,
            f"{name}_difference_rms_kcal_mol": gap.rms_kcal_mol,
            f"{name}_difference_largest_kcal_mol": gap.largest_kcal_mol,
            f"{name}_difference_over_error_rms": gap.rms_over_error,
            f"{name}_jensen_shannon": gap.jensen_shannon,
        }
    for name, found in zip(NAMES[:2], maps[:2], strict=True):
        if len(found.blocks) > 1:
            halves = found.part(slice(0, None, 2)), found.part(slice(1, None, 2))
            figures[f"{name}_halves_jensen_shannon"] = jensen_shannon(*halves)
    return figures


def print_table(temperature: float, maps: list[RamachandranMap]) -> None:
    """Populations in per cent; in brackets how many replicas visited."""
    print(f"{f'{temperature:g} K, population / %':<26}" + "".join(f"{name:>24}" for name in NAMES))
    for k, region in enumerate(REGIONS):
        cells = []
        for found in maps:
            value = with_error(100.0 * found.populations[k], 100.0 * found.population_errors[k])
            cells.append(f"{value} ({found.visits[k]})" if found.visits[k] else "- (0)")
        print(f"{region.name:<26}" + "".join(f"{cell:>24}" for cell in cells))
    frames = [f"{m.n_frames} ({m.n_effective:.0f})" if m.n_frames else "-" for m in maps]
    print(f"{'frames (effective)':<26}" + "".join(f"{cell:>24}" for cell in frames))


def marks_of(paths: list[Path]) -> list[Mark]:
    """Structures to be marked by the names of their files."""
    marks = []
    for path in paths:
        molecule = read_molecule(path)
        phi, psi = np.degrees(torsions(molecule.positions, residues(molecule)[0]))
        marks.append((path.stem, float(phi), float(psi)))
    return marks


if __name__ == "__main__":
    main()
