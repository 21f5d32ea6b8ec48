"""What a model knows, and what it must not answer without a word."""

from __future__ import annotations

import numpy as np
import pytest

from fflux_py import Dataset, ForceField, load
from fflux_py.errors import GeometryError
from fflux_py.molecules import shipped_data
from fflux_py.optimization.known_region import KnownRegion
from fflux_py.units import ANGSTROM, KCAL_MOL


@pytest.fixture(scope="module")
def region() -> KnownRegion:
    return KnownRegion(load(shipped_data.path("malondialdehyde") / shipped_data.MODEL))


@pytest.mark.parametrize("molecule", shipped_data.molecules())
def test_held_out_geometries_up_to_1000_k_are_inside(molecule: str) -> None:
    field = load(shipped_data.path(molecule) / shipped_data.MODEL)
    data = Dataset.read(shipped_data.path(molecule) / shipped_data.DATA).with_split("test")
    known = KnownRegion(field)
    assert not [x for x, e in zip(data.positions, data.energies, strict=True) if known.objections(x, float(e))]


def test_a_stretched_bond_a_contact_and_a_far_atom_are_named(region: KnownRegion) -> None:
    field: ForceField = region.forcefield
    x = field.molecule.positions.copy()
    i, j = field.molecule.bonds[0]
    x[j] += 1.6 * (x[j] - x[i])
    assert any(line.startswith("bond ") for line in region.objections(x))
    y = field.molecule.positions.copy()
    far = max(((a, b) for a in range(9) for b in range(a)), key=lambda pair: np.linalg.norm(y[pair[0]] - y[pair[1]]))
    y[far[0]] = y[far[1]] + np.array([0.3, 0.0, 0.0]) / ANGSTROM
    assert any(line.startswith("contact ") for line in region.objections(y))


def test_energy_below_all_that_is_known_is_named_and_the_minimum_is_not(region: KnownRegion) -> None:
    x = region.forcefield.molecule.positions
    energy = float(region.forcefield.compute(x, 0)[0])
    assert not region.objections(x, energy)
    (line,) = region.objections(x, region.lowest_energy - 10.0 / KCAL_MOL)
    assert "10.0 kcal/mol below" in line
    assert region.objections(x, float("nan"))


def test_random_displacements_are_outside(region: KnownRegion) -> None:
    rng, x = np.random.default_rng(0), region.forcefield.molecule.positions
    outside = [
        bool(region.objections(x + rng.normal(scale=0.4 / ANGSTROM / np.sqrt(3.0), size=x.shape))) for _ in range(50)
    ]
    assert np.mean(outside) > 0.9


def test_no_number_is_an_error(region: KnownRegion) -> None:
    x = region.forcefield.molecule.positions.copy()
    x[3, 0] = np.nan
    with pytest.raises(GeometryError, match="NaN"):
        region.objections(x)
