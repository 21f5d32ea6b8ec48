"""Minima are held against labels at the same geometries; failed labels are missing, and none is taken for another's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from fflux_py.certification.minima import check_minima
from fflux_py.errors import InputError
from fflux_py.molecules.dataset import Dataset, GeometrySet
from fflux_py.molecules.molecule import Molecule
from fflux_py.optimization.basin_hopping import Minimum


@dataclass(frozen=True)
class Springs:
    """H2 on a spring, harder than the model's; some geometries fail."""

    sign: float = 1.0
    failing: tuple[int, ...] = ()

    name = "springs"

    def label(
        self, geometries: GeometrySet, folder: Path, progress: Callable[[int, int], None] | None = None
    ) -> Dataset | None:
        kept = [k for k in range(len(geometries)) if k not in self.failing]
        if not kept:
            return None
        chosen = geometries.select(kept)
        stretch = chosen.positions[:, 1, 2] - 1.4
        forces = np.zeros(chosen.positions.shape)
        forces[:, 1, 2] = -self.sign * stretch
        unknown = np.full((len(kept), 2), np.nan)
        return Dataset(
            chosen, 0.5 * self.sign * stretch**2, forces, unknown, unknown, unknown,
            {"method": "springs", "basis": "none", "partition": "none"},
        )  # fmt: skip


def minima() -> list[Minimum]:
    molecules = [Molecule(("H", "H"), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.4 + d]])) for d in (0.1, 0.2, 0.3)]
    return [Minimum(molecule, energy, 100.0) for molecule, energy in zip(molecules, (0.0, 0.01, 0.02), strict=True)]


def test_energies_forces_and_order_are_those_of_the_labels(tmp_path: Path) -> None:
    check = check_minima(minima(), Springs(), tmp_path)
    np.testing.assert_allclose(check.reference, [0.005, 0.02, 0.045], rtol=1e-12)
    np.testing.assert_allclose(check.relative_reference, [0.0, 0.015, 0.04], rtol=1e-12)
    np.testing.assert_allclose(check.relative_model, [0.0, 0.01, 0.02])
    np.testing.assert_allclose(check.largest_forces, [0.1, 0.2, 0.3], rtol=1e-12)
    assert check.kendall_tau == 1.0
    assert check_minima(minima(), Springs(-1.0), tmp_path).kendall_tau == -1.0


def test_failed_labels_are_missing(tmp_path: Path) -> None:
    check = check_minima(minima(), Springs(failing=(1,)), tmp_path)
    np.testing.assert_allclose(check.reference, [0.005, np.nan, 0.045], rtol=1e-12)
    assert check.kendall_tau == 1.0
    check = check_minima(minima(), Springs(failing=(0,)), tmp_path)
    np.testing.assert_allclose(check.reference, [np.nan, 0.02, 0.045], rtol=1e-12)
    assert np.isnan(check_minima(minima(), Springs(failing=(0, 1)), tmp_path).kendall_tau)
    with pytest.raises(InputError, match="springs at 3 minima: expected labels, found all failed"):
        check_minima(minima(), Springs(failing=(0, 1, 2)), tmp_path)
    with pytest.raises(InputError, match="at least one"):
        check_minima([], Springs(), tmp_path)
