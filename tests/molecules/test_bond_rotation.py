"""Rotation about a bond changes its torsion by the angle, and nothing else inside either part."""

from __future__ import annotations

import numpy as np
import pytest

from fflux_py import read_molecule
from fflux_py.bias.collective_variables import torsion
from fflux_py.gp.distance_ranges import distances
from fflux_py.molecules import shipped_data
from fflux_py.molecules.bond_rotation import rotate_about_bond


@pytest.mark.parametrize("angle", [0.3, -2.0, np.pi])
def test_the_torsion_turns_by_the_angle_and_both_parts_stay(angle: float) -> None:
    molecule = read_molecule(shipped_data.path("alanine_dipeptide") / shipped_data.START)
    for atoms in molecule.torsions():
        _, j, k, _ = atoms
        turned = rotate_about_bond(molecule, (j, k), angle)
        before, after = torsion(np.array(molecule.positions), atoms), torsion(turned, atoms)
        assert (after - before - angle + np.pi) % (2.0 * np.pi) - np.pi == pytest.approx(0.0, abs=1e-9)
        moved = ~(turned == molecule.positions).all(axis=1)
        assert 0 < moved.sum() < molecule.n_atoms
        assert not moved[j]
        for part in (moved, ~moved):
            both = [distances(np.array(x)[part]) for x in (turned, molecule.positions)]
            np.testing.assert_allclose(*both, atol=1e-10)
        # k stands on the axis
        np.testing.assert_allclose(turned[k], molecule.positions[k], atol=1e-12)
        back = rotate_about_bond(molecule.with_positions(turned), (j, k), -angle)
        np.testing.assert_allclose(back, molecule.positions, atol=1e-10)
