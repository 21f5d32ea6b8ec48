"""Classes of equivalent atoms, and of pairs of them: what shares weights in the network of a taught mean."""

from __future__ import annotations

import numpy as np

from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import IntArray


def atom_classes(molecule: Molecule) -> IntArray:
    """Class of every atom, shape ``(n,)``, by its element and its neighbourhood in the graph of bonds.

    Atoms have one class if no number of steps along the bonds tells them apart (colour refinement: Weisfeiler, Leman,
    Nauchno-Technicheskaya Informatsiya, Seriya 2, 9, 12 (1968)).  Hydrogens of a methyl group are of one class, and so
    are the equivalent atoms of :mod:`fflux_py.molecules.symmetry`.
    """
    labels: list[object] = list(molecule.symbols)
    n_classes = 0
    while len(set(labels)) != n_classes:
        n_classes = len(set(labels))
        around = [
            (repr(label), tuple(sorted(repr(labels[j]) for j in molecule.neighbours[i])))
            for i, label in enumerate(labels)
        ]
        numbers = {entry: k for k, entry in enumerate(sorted(set(around)))}
        labels = [numbers[entry] for entry in around]
    first_seen = {label: k for k, label in enumerate(dict.fromkeys(labels))}
    return np.array([first_seen[label] for label in labels], dtype=np.int64)


def pair_classes(classes: IntArray) -> IntArray:
    """Class of every ordered pair of atoms, shape ``(n, n)``; on the diagonal stands a class of other atoms, or zero.

    Parameters
    ----------
    classes
        Class of every atom, shape ``(n,)``.
    """
    n = len(classes)
    numbers: dict[tuple[int, int], int] = {}
    pairs = np.zeros((n, n), dtype=np.int64)
    for i in range(n):
        for j in range(n):
            if i != j:
                pairs[i, j] = numbers.setdefault((int(classes[i]), int(classes[j])), len(numbers))
    return pairs


def distance_statistics(positions: np.ndarray, classes: IntArray, least_width: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean distance and its standard deviation of every pair of atoms, alike for pairs of one class.

    Parameters
    ----------
    positions
        Bohr, shape ``(m, n, 3)``.
    classes
        Class of every atom, shape ``(n,)``.
    least_width
        Lower bound of the standard deviations, bohr.

    Returns
    -------
    means, widths
        Bohr, symmetric, shapes ``(n, n)``.
    """
    n = len(classes)
    distances = np.linalg.norm(positions[:, :, None] - positions[:, None], axis=-1)
    means, widths = np.zeros((n, n)), np.full((n, n), least_width)
    for a in range(classes.max() + 1):
        for b in range(a, classes.max() + 1):
            chosen = (classes[:, None] == a) & (classes == b) & ~np.eye(n, dtype=bool)
            if chosen.any():
                values = distances[:, chosen]
                both = chosen | chosen.T
                means[both], widths[both] = values.mean(), max(float(values.std()), least_width)
    return means, widths
