"""How surely are wrong factors between forces and energies seen, and how often is a sound set refused?

    python benchmarks/labels/force_factors.py                     # the shipped data sets
    python benchmarks/labels/force_factors.py --data a.extxyz     # and others, as `fflux convert` writes them

For parts of each set, drawn at random, of 9 to 80 geometries: how many are judged, how many sound ones are refused, and
how many with wrong forces pass.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the folder support

from support.figures import parser, show

import numpy as np

from fflux_py.molecules import shipped_data
from fflux_py.molecules.dataset import Dataset
from fflux_py.molecules.label_checks import compare_forces
from fflux_py.units import ANGSTROM, EV

SIZES = (9, 12, 16, 25, 40, 80)
DRAWS = 20
FACTORS = {"-1": -1.0, "0.529": ANGSTROM, "1.89": 1.0 / ANGSTROM, "27.2": EV}


def count(data: Dataset, size: int, generator: np.random.Generator) -> dict[str, int]:
    """Verdicts on random parts of a set."""
    verdicts = dict.fromkeys(("judged", "refused", *FACTORS), 0)
    for _ in range(DRAWS):
        part = data.select(generator.choice(len(data), size, replace=False))
        arguments = (part.molecule, part.positions, part.energies)
        sound = compare_forces(*arguments, part.forces)
        verdicts["judged"] += sound.judged
        verdicts["refused"] += not sound.consistent
        for name, factor in FACTORS.items():
            verdicts[name] += compare_forces(*arguments, factor * part.forces).consistent
    return verdicts


def main() -> None:
    """Print the figures of every set."""
    options = parser(__doc__)
    options.add_argument("--data", type=Path, nargs="*", default=[])
    arguments = options.parse_args()
    paths = [shipped_data.path(name) / shipped_data.DATA for name in shipped_data.molecules()]
    figures: dict[str, object] = {}
    for path in [*paths, *arguments.data]:
        data, generator = Dataset.read(path), np.random.default_rng(0)
        whole = compare_forces(data.molecule, data.positions, data.energies, data.forces)
        figures[f"{data.molecule.name}, ratio of all {len(data)}"] = whole.ratio
        figures[f"{data.molecule.name}, correlation"] = whole.correlation
        for size in (size for size in SIZES if size <= len(data)):
            verdicts = count(data, size, generator)
            figures[f"{data.molecule.name}, parts of {size}: judged, of {DRAWS}"] = verdicts["judged"]
            figures[f"{data.molecule.name}, parts of {size}: sound ones refused"] = verdicts["refused"]
            for name in FACTORS:
                figures[f"{data.molecule.name}, parts of {size}: passed with {name}"] = verdicts[name]
    show(figures, arguments.json)


if __name__ == "__main__":
    main()
