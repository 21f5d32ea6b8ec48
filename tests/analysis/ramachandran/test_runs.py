"""Ramachandran maps of runs with and without metadynamics, against the engine's own log, and in a report."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from fflux_py.analysis.geometry import torsions
from fflux_py.analysis.ramachandran.estimates import ramachandran_map
from fflux_py.analysis.ramachandran.map import jensen_shannon
from fflux_py.analysis.ramachandran.runs import map_of_hills, map_of_runs, residues, reweighting_exponents
from fflux_py.analysis.report.page import Picture, Table
from fflux_py.analysis.report.ramachandran_section import ramachandran_sections
from fflux_py.analysis.report.runs import report_runs
from fflux_py.analysis.runs import Run, completed_run, read_runs
from fflux_py.bias import BiasSettings, CollectiveVariable, HillParameters
from fflux_py.bias.plumed_files import PlumedUnits, read_colvar, read_hills
from fflux_py.bias.plumed_writer import plumed_text
from fflux_py.certification.replicas import simulate
from fflux_py.dynamics import CompiledPotential, GuardConfig, MDConfig, Trajectory
from fflux_py.errors import FileFormatError, InputError
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM, KCAL_MOL
from tests.analysis.ramachandran.test_map import C5, KT, T, capped_glycine, peaked
from tests.molecules.test_molecule import alanine_dipeptide
from tests.support.compiled_potentials import Pairs, morse
from tests.support.synthetic import malondialdehyde

(PAIR,) = residues(alanine_dipeptide())
BACKBONE = tuple(CollectiveVariable("torsion", atoms, name) for atoms, name in zip(PAIR, ("phi", "psi"), strict=True))


def frozen_run(molecule: Molecule, angles: FloatArray, replica: int = 0, **config: object) -> Run:
    """A run in memory whose backbone takes given torsions, by rotations of whole ends."""
    m = angles.shape[1]
    positions = np.array([turned(molecule, phi, psi) for phi, psi in angles.T])
    quiet = np.zeros(m)
    trajectory = Trajectory(molecule, 10.0 * np.arange(m), positions, quiet, quiet, quiet,
                            np.random.default_rng(replica).normal(T, 5.0, m), 0, replica)  # fmt: skip
    return completed_run(trajectory, MDConfig(steps=20 * m, temperature=T, report_every=20, **config))


def turned(molecule: Molecule, phi: float, psi: float) -> FloatArray:
    """The molecule with these backbone torsions."""
    positions = np.array(molecule.positions)
    for torsion, goal in zip(residues(molecule)[0], (phi, psi), strict=True):
        angle = goal - float(torsions(positions, [torsion])[0])
        beyond, front = {torsion[2]}, [torsion[2]]
        while front:
            new = [b for b in molecule.neighbours[front.pop()] if b not in beyond and b != torsion[1]]
            beyond.update(new)
            front += new
        atoms = sorted(beyond)
        origin, axis = positions[torsion[2]], positions[torsion[2]] - positions[torsion[1]]
        axis = axis / np.linalg.norm(axis)
        arm = positions[atoms] - origin
        positions[atoms] = origin + (
            arm * np.cos(angle) + np.cross(axis, arm) * np.sin(angle)
            + np.outer(arm @ axis, axis) * (1.0 - np.cos(angle))
        )  # fmt: skip
    return positions


def test_report_of_a_peptide_has_a_map_and_populations():
    molecule = alanine_dipeptide()
    runs = [frozen_run(molecule, np.concatenate([peaked(150, r), peaked(50, r, C5)], axis=1), r) for r in range(3)]
    (section,) = ramachandran_sections(runs)
    assert section.title == "Backbone torsions at 500 K"
    assert "3 independent runs" in section.text
    assert "mirror" not in section.text
    assert [type(item) for item in section.items] == [Picture, Table]
    (table,) = (item for item in section.items if isinstance(item, Table))
    rows = {str(row[0]): row for row in table.rows}
    surface = map_of_runs(runs, residues(molecule)[0])
    assert surface.n_frames == 540  # the first tenth of each is left out
    assert str(rows["C7eq"][3]).startswith(f"{100.0 * surface.populations[0]:.0f}"[:1])
    assert rows["C7ax"][3] == "–"
    assert rows["C7ax"][4] == "0 of 3"
    # a run at another temperature is a section of its own, and few frames are none
    assert ramachandran_sections([frozen_run(molecule, peaked(30, 1))]) == []
    assert ramachandran_sections([frozen_run(molecule, peaked(200, 1), thermostat="none")]) == []


def test_report_of_glycine_tells_its_asymmetry():
    (section,) = ramachandran_sections([frozen_run(capped_glycine(), peaked(200, 1))])
    assert "its own mirror image" in section.text
    assert "parts of the run" in section.text


def test_no_map_without_a_backbone():
    quiet, m = np.zeros(200), 200
    molecule = malondialdehyde()
    trajectory = Trajectory(molecule, 10.0 * np.arange(m), np.repeat(molecule.positions[None], m, axis=0), quiet, quiet,
                            quiet, quiet, 0)  # fmt: skip
    run = completed_run(trajectory, MDConfig(steps=4000, temperature=T, report_every=20))
    assert ramachandran_sections([run]) == []


def springy(molecule: Molecule, attracted: tuple[int, int], depth: float) -> CompiledPotential:
    """Morse bonds and 1-3 distances, torsions free but for one soft attraction between two atoms."""
    bonds = list(molecule.bonds)
    ends = {(a, b) for around in molecule.neighbours for a in around for b in around if a < b}
    pairs = [*bonds, *sorted(ends - set(bonds)), attracted]
    x, n = molecule.positions, len(pairs) - 1
    arrays = Pairs(
        np.array(pairs, dtype=np.int64),
        np.array([0.17] * len(bonds) + [0.1] * (n - len(bonds)) + [depth / KCAL_MOL]),
        np.array([1.0] * n + [0.5]),
        np.array([np.linalg.norm(x[i] - x[j]) for i, j in pairs]),
    )
    return CompiledPotential(molecule, morse, arrays)


def canonical(folder: Path, steps: int, walkers: bool = False) -> tuple[Run, ...]:
    """Two replicas of alanine dipeptide in the springy potential, with metadynamics on phi and psi."""
    potential = springy(alanine_dipeptide(), (2, 18), 3.0)
    bias = plumed_text(BiasSettings(BACKBONE, HillParameters(0.25 / KCAL_MOL, 0.4, 4.0, 20)), T, 20)
    # Nothing keeps these atoms apart.
    guards = GuardConfig(bond="off", contact="off", conserved="off")
    config = MDConfig(steps=steps, temperature=T, timestep=1.0, thermostat="langevin", report_every=20, seed=5,
                      replicas=2, guards=guards)  # fmt: skip
    text = bias.replace("PACE=", "WALKERS_MPI PACE=") if walkers else bias
    return simulate(potential, potential.molecule, config, folder, bias=text)


def test_runs_with_a_bias_go_on_with_the_same_only(tmp_path):
    first = canonical(tmp_path / "run", 200)
    assert canonical(tmp_path / "run", 400)[1].trajectory.times_fs[-1] == 400.0
    assert len(first[1].trajectory) == 11
    with pytest.raises(InputError, match="settings asked for"):
        canonical(tmp_path / "run", 400, walkers=True)


@pytest.fixture(scope="module")
def biased(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, ...]:
    return canonical(tmp_path_factory.mktemp("peptide"), 4000)


def of_log(run: Run) -> tuple[FloatArray, FloatArray]:
    """Torsions and (V - c(t)) / kT as the engine printed them into COLVAR."""
    path, names = run.trajectory.folder / "COLVAR", ["metad.bias", "metad.rct"]
    _, values, energies = read_colvar(path, BACKBONE, names, PlumedUnits(ANGSTROM, KCAL_MOL))
    return values, (energies["metad.bias"] - energies["metad.rct"]) / KT


def test_weights_of_a_biased_run_are_those_of_its_own_log(biased):
    series, exponents = [], []
    for run in biased:
        values, exponent = of_log(run)
        np.testing.assert_allclose(torsions(run.trajectory.positions, PAIR), values, atol=1e-5)
        assert np.ptp(exponent) > 2.0
        np.testing.assert_allclose(reweighting_exponents(run), exponent, atol=1e-4)
        first = len(values) // 5  # the bias fills the first basin
        series.append(values[first:])
        exponents.append(exponent[first:])
    weights = np.split(np.exp(np.concatenate(exponents)), 2)
    expected = ramachandran_map([s[:, 0] for s in series], [s[:, 1] for s in series], T, weights)
    found = map_of_runs(biased, PAIR)
    np.testing.assert_allclose(found.populations, expected.populations, atol=1e-3)
    assert jensen_shannon(found, expected) < 0.05  # a frame at the border of two cells
    assert found.n_effective == pytest.approx(expected.n_effective, rel=1e-3)


def test_walkers_share_their_hills(tmp_path):
    for run in canonical(tmp_path / "walkers", 1000, walkers=True):
        np.testing.assert_allclose(reweighting_exponents(run), of_log(run)[1], atol=1e-4)
    runs = read_runs(tmp_path / "walkers")
    assert len(map_of_hills(runs, PAIR).blocks) == 1


def test_map_of_hills_is_that_of_the_biases(biased):
    found = map_of_hills(biased, PAIR, bins=12)
    hills = [read_hills(run.trajectory.folder / "HILLS", BACKBONE, PlumedUnits(ANGSTROM, KCAL_MOL)) for run in biased]
    phi, psi = np.meshgrid(*(np.radians(found.centres(axis)) for axis in (0, 1)), indexing="ij")
    bias = np.array([h.at(np.stack([phi, psi], axis=-1)).sum(axis=-1) for h in hills])
    filled = bias >= 0.25 / KCAL_MOL * (1.0 - 1e-6)
    np.testing.assert_array_equal(found.visited, filled.any(axis=0))
    each = np.where(filled, np.exp(4.0 / 3.0 * bias / KT), 0.0)
    each /= each.sum(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(found.probability, each.mean(axis=0), atol=1e-6)
    with pytest.raises(InputError, match="phi and psi"):
        map_of_hills(biased, PAIR[::-1])
    with pytest.raises(InputError, match="no bias"):
        map_of_hills([frozen_run(alanine_dipeptide(), peaked(20, 1))], PAIR)


def test_hills_that_are_not_those_of_the_run_are_refused(biased, tmp_path):
    path = tmp_path / "run" / "HILLS"
    shutil.copytree(biased[0].trajectory.folder, path.parent)
    lines = path.read_text(encoding="utf-8").split("\n")
    path.write_text("\n".join(lines[:40] + lines[41:]), encoding="utf-8")
    with pytest.raises(FileFormatError, match="HILLS"):
        map_of_runs(read_runs(path.parent), PAIR)
    path.unlink()
    with pytest.raises(FileFormatError, match="no such file"):
        map_of_runs(read_runs(path.parent), PAIR)
    (section,) = ramachandran_sections(read_runs(path.parent))
    assert section.text.startswith("No map: ")
    assert not section.items


def test_report_file_of_a_peptide(biased, tmp_path):
    path, _ = report_runs(biased[0].trajectory.folder, tmp_path / "report.html")
    text = path.read_text(encoding="utf-8")
    assert "Backbone torsions at 500 K, metadynamics<" in text
    assert "Populations of the nine regions" in text
    assert "weighted with exp" in text
    assert "parts of the run" in text
