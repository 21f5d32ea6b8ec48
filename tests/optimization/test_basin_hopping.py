"""Basin hopping finds minima that the model knows, each once, whatever the order of atoms of the start."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fflux_py import ForceField, load
from fflux_py.errors import InputError, ModelMismatchError
from fflux_py.molecules import shipped_data
from fflux_py.molecules.molecule import Molecule
from fflux_py.molecules.normal_modes import normal_modes
from fflux_py.optimization.basin_hopping import (
    BasinHoppingConfig,
    MinimaFound,
    find_minima,
    same_minimum,
)
from fflux_py.optimization.known_region import KnownRegion
from fflux_py.units import EV_ANGSTROM, KCAL_MOL

CONFIG = BasinHoppingConfig(n_searches=14, seed=1)


@pytest.fixture(scope="module")
def forcefield() -> ForceField:
    return load(shipped_data.path("malondialdehyde") / shipped_data.MODEL)


@pytest.fixture(scope="module")
def found(forcefield: ForceField) -> MinimaFound:
    return find_minima(forcefield, forcefield.molecule, CONFIG)


def test_every_minimum_is_one_and_stands_once(forcefield: ForceField, found: MinimaFound) -> None:
    assert len(found.minima) >= 3
    region = KnownRegion(forcefield)
    for each in found.minima:
        matched = forcefield.match(each.molecule).reorder(each.molecule)
        positions = np.array(matched.positions)
        energy, forces = forcefield.energy_and_forces(positions)
        assert energy == pytest.approx(each.energy, abs=1e-9)
        assert np.linalg.norm(forces, axis=1).max() < CONFIG.fmax
        modes = normal_modes(forcefield, positions, matched.masses)
        assert modes.wavenumbers[0] == pytest.approx(each.lowest_wavenumber, abs=0.5)
        assert each.lowest_wavenumber > 0.0
        assert not region.objections(positions, energy)
    for i, first in enumerate(found.minima):
        for second in found.minima[:i]:
            assert not same_minimum(first.molecule, first.energy, second.molecule, second.energy)
    assert (np.diff(found.relative_energies) >= 0.0).all()


def test_every_search_is_counted_once(found: MinimaFound) -> None:
    assert found.n_searches == CONFIG.n_searches + 1
    assert sum(each.n_found for each in found.minima) + found.n_outside + found.n_failed == found.n_searches
    assert 1 < found.last_new <= found.n_searches


def test_a_window_leaves_out_what_is_above_it(forcefield: ForceField, found: MinimaFound) -> None:
    between = 0.5 * float(found.relative_energies[:2].sum())
    narrow = find_minima(forcefield, forcefield.molecule, replace(CONFIG, window=between))
    assert [each.energy for each in narrow.minima] == [found.minima[0].energy]


def test_minima_are_in_the_order_and_hand_of_the_start(forcefield: ForceField, found: MinimaFound) -> None:
    order = np.array([4, 0, 1, 2, 3, 8, 7, 6, 5])
    molecule = forcefield.molecule
    mirrored = np.array(molecule.positions)[order] * [1.0, 1.0, -1.0]
    start = Molecule(tuple(molecule.symbols[i] for i in order), mirrored, molecule.charge, molecule.name)
    other = find_minima(forcefield, start, replace(CONFIG, n_searches=3))
    assert all(each.molecule.symbols == start.symbols for each in other.minima)
    assert any(
        same_minimum(each.molecule, each.energy, known.molecule, known.energy)
        for each in other.minima
        for known in found.minima
    )


def test_copies_with_like_atoms_exchanged_or_mirrored_are_one_minimum(found: MinimaFound) -> None:
    molecule, energy = found.minima[0].molecule, found.minima[0].energy
    hydrogens = [i for i, symbol in enumerate(molecule.symbols) if symbol == "H"]
    order = np.arange(molecule.n_atoms)
    order[hydrogens] = np.roll(hydrogens, 1)
    exchanged = molecule.with_positions(np.array(molecule.positions)[order] * [-1.0, 1.0, 1.0])
    assert same_minimum(molecule, energy, exchanged, energy)
    assert not same_minimum(molecule, energy, exchanged, energy + 0.05 / KCAL_MOL)
    assert not same_minimum(molecule, energy, molecule.with_positions(1.03 * molecule.positions), energy)


def test_bad_settings_and_other_molecules_are_refused(forcefield: ForceField) -> None:
    for setting in ({"n_searches": 0}, {"window": 0.0}, {"temperature": float("nan")}, {"fmax": -0.01 / EV_ANGSTROM}):
        with pytest.raises(InputError, match=next(iter(setting))):
            BasinHoppingConfig(**setting)  # type: ignore[arg-type]
    with pytest.raises(ModelMismatchError):
        find_minima(forcefield, Molecule(("O", "H", "H"), np.eye(3) * 1.8))
