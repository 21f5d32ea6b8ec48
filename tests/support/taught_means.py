"""A taught mean of methanol with random weights: what the code must do with any weights."""

import numpy as np

from fflux_py._compiled.network import N_RADIAL, Network
from fflux_py._compiled.taught_mean import TaughtMeanArrays
from fflux_py.molecules.molecule import Molecule
from fflux_py.teacher.classes import atom_classes, pair_classes
from fflux_py.teacher.classical import TermStructure

METHANOL = Molecule(
    ("C", "O", "H", "H", "H", "H"),
    np.array([
        [-1.3, 0.0, 0.1], [1.3, -0.1, 0.0], [-2.0, 1.9, 0.0], [-2.1, -0.9, 1.7], [-2.1, -1.0, -1.65], [1.9, 1.6, 0.1],
    ]),
    name="methanol",
)  # fmt: skip


def geometries(count: int, spread: float = 0.1) -> np.ndarray:
    """Distorted geometries of methanol, bohr, shape ``(count, 6, 3)``."""
    rng = np.random.default_rng(4)
    return METHANOL.positions + spread * rng.normal(size=(count, 6, 3))


def random_mean(scalars: int = 6, vectors: int = 5, hidden: int = 8) -> TaughtMeanArrays:
    """Classical terms and a network of methanol with random weights."""
    rng = np.random.default_rng(3)
    classes = atom_classes(METHANOL)
    pairs = pair_classes(classes)
    inputs = scalars + vectors * (vectors + 1) // 2
    inputs += -inputs % 4
    c, p = classes.max() + 1, pairs.max() + 1
    network = Network(
        classes=classes,
        pair_classes=pairs,
        means=np.linalg.norm(METHANOL.positions[:, None] - METHANOL.positions, axis=-1),
        inverse_widths=np.full((6, 6), 2.0),
        radial=0.4 * rng.normal(size=(p, N_RADIAL, scalars + vectors)),
        first=0.3 * rng.normal(size=(c, inputs, hidden)),
        first_bias=0.1 * rng.normal(size=(c, hidden)),
        second=0.4 * rng.normal(size=(c, hidden, hidden)),
        second_bias=0.1 * rng.normal(size=(c, hidden)),
        last=0.1 * rng.normal(size=(c, hidden)),
        n_vectors=vectors,
    )
    # distances of equivalent atoms have one mean
    means = network.means.copy()
    for k in range(p):
        means[pairs == k] = means[(pairs == k) & ~np.eye(6, dtype=bool)].mean() if (pairs == k).any() else 0.0
    structure = TermStructure.of(METHANOL, METHANOL.positions[None])
    coefficients = np.abs(rng.normal(size=structure.n_coefficients)) * 0.1
    return TaughtMeanArrays(
        structure.terms(coefficients), network._replace(means=0.5 * (means + means.T)), np.array([-115.0])
    )
