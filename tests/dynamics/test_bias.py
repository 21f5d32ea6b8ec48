"""Metadynamics in the compiled loop: its free energy, what it conserves, its files, and runs that are cut."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from fflux_py.analysis.geometry import torsions
from fflux_py.bias import BiasSettings, CollectiveVariable, Grid, HillParameters
from fflux_py.bias.free_energy import (
    bias_of_frames,
    frame_weights,
    free_energy_of_hills,
    reweighting_offset,
    weighted_free_energy,
)
from fflux_py.bias.grid import grid_around
from fflux_py.bias.plumed_files import PlumedUnits, read_colvar, read_hills, read_table
from fflux_py.bias.plumed_input import parse_plumed_input
from fflux_py.bias.plumed_writer import plumed_text
from fflux_py.dynamics import GuardTripped, MDConfig, Trajectory, resume, run_nvt, run_replicas
from fflux_py.errors import FFLUXError
from fflux_py.units import ANGSTROM, BOLTZMANN, FEMTOSECOND, KCAL_MOL
from tests.support.compiled_potentials import peroxide
from tests.support.kills import kill_eight_times
from tests.support.synthetic import fitted, methanol

PHI = CollectiveVariable("torsion", (0, 1, 2, 3), "phi")
BEND = CollectiveVariable("angle", (0, 1, 2), "bend")
UNITS = PlumedUnits(ANGSTROM, KCAL_MOL)
JOINT = """UNITS LENGTH=A ENERGY=kcal/mol
phi: TORSION ATOMS=1,2,3,4
bend: ANGLE ATOMS=1,2,3
d: DISTANCE ATOMS=1,4
m: METAD ARG=phi,bend SIGMA=0.3,0.2 HEIGHT=0.2 PACE=20 BIASFACTOR=8 GRID_MIN=-pi,0.5 GRID_MAX=pi,3 GRID_BIN=60,60
PRINT ARG=phi,d,m.bias,m.rct,m.rbias STRIDE=10 FILE=COLVAR
"""
PARALLEL = """UNITS LENGTH=A ENERGY=kcal/mol
phi: TORSION ATOMS=1,2,3,4
bend: ANGLE ATOMS=1,2,3
pb: PBMETAD ARG=phi,bend SIGMA=0.3,0.2 HEIGHT=0.2 PACE=20 BIASFACTOR=8 GRID_MIN=-pi,0.5 GRID_MAX=pi,3 GRID_BIN=60,60
PRINT ARG=bend,pb.bias STRIDE=15 FILE=COLVAR
"""
WALKERS = JOINT.replace("m: METAD", "m: METAD WALKERS_MPI")
INPUTS = {"joint": JOINT, "parallel": PARALLEL, "walkers": WALKERS}


def config_of(steps: int, **settings: object) -> MDConfig:
    given: dict[str, object] = {"steps": steps, "report_every": 10, "checkpoint_every": 50, "seed": 3, **settings}
    return MDConfig(**given)  # type: ignore[arg-type]


def outputs(folder: Path) -> dict[str, bytes]:
    """The bytes of everything that a run leaves, but for its checkpoints and its log of how it went."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix not in (".npz", ".json")
    }


@pytest.mark.exhaustive
def test_free_energy_of_a_torsion_is_that_of_unbiased_runs(tmp_path: Path) -> None:
    """Hills, reweighted frames and unbiased runs agree, over barriers of 2 kcal/mol."""
    temperature, grid = 300.0, Grid((PHI,), (-np.pi,), (np.pi,), (18,))
    hills = HillParameters(0.15 / KCAL_MOL, 0.3, 8.0, 50)
    text = plumed_text(BiasSettings((PHI,), hills), temperature, 25)
    config = config_of(
        60_000, thermostat="langevin", timestep=1.0, replicas=4, report_every=1000, checkpoint_every=10**6
    )
    run_replicas(peroxide(), peroxide().molecule, config, tmp_path / "biased", bias=text)
    values, logs, sums = [], [], []
    for r in range(4):
        folder = tmp_path / "biased" / f"replica-{r:03d}"
        _, found, energies = read_colvar(folder / "COLVAR", (PHI,), ["metad.bias", "metad.rct"], UNITS)
        values.append(found[400:])
        logs.append((energies["metad.bias"] - energies["metad.rct"])[400:])
        sums.append(free_energy_of_hills(read_hills(folder / "HILLS", (PHI,), UNITS), grid).relative().values)
    weights = frame_weights(np.concatenate(logs), 0.0, temperature)
    reweighted = weighted_free_energy(np.concatenate(values), weights, grid, temperature, 4)
    free = run_replicas(
        peroxide(), peroxide().molecule, dataclasses.replace(config, steps=100_000, report_every=25, seed=4)
    )
    angles = np.concatenate([torsions(run.positions[200:], [PHI.atoms]) for run in free])
    unbiased = weighted_free_energy(angles, np.ones(len(angles)), grid, temperature, 4)
    low = reweighted.values * KCAL_MOL < 2.0
    assert low.sum() > 12
    for surface, tolerance in ((unbiased.values, 0.3), (np.mean(sums, axis=0), 0.3)):
        gap = ((surface - reweighted.values) * KCAL_MOL)[low]
        assert np.abs(gap - gap.mean()).max() < tolerance
    # what the bias is for: it spends its time on the barriers too
    populations = [np.histogram(x, 18, (-np.pi, np.pi))[0] / x.size for x in (np.concatenate(values), angles)]
    assert populations[0].min() > 4.0 * populations[1].min()


@pytest.mark.parametrize("name", INPUTS)
def test_hills_are_booked_as_heat(name: str) -> None:
    """The conserved quantity is one although hills come down: its fluctuation falls as the square of the time step."""
    fluctuations = []
    for halved in (1, 2):
        text = INPUTS[name].replace("PACE=20", f"PACE={20 * halved}").replace("HEIGHT=0.2", "HEIGHT=0.4")
        config = config_of(
            400 * halved, thermostat="none", temperature=500.0, timestep=0.5 / halved, replicas=2,
            report_every=halved,
        )  # fmt: skip
        runs = run_replicas(peroxide(), peroxide().molecule, config, bias=text)
        fluctuations.append(np.array([run.conserved.std() for run in runs]))
        # without the bias, energy is not conserved: the bias did work
        assert min(np.ptp(run.potential + run.kinetic) for run in runs) * KCAL_MOL > 1.0
    assert np.abs(fluctuations[0] / fluctuations[1] - 4.0).max() < 0.4


def test_colvar_and_hills_say_what_the_bias_was(tmp_path: Path) -> None:
    run = run_nvt(peroxide(), peroxide().molecule, config_of(400), tmp_path, bias=JOINT)
    hills = read_hills(tmp_path / "HILLS", (PHI, BEND), UNITS)
    assert len(hills) == 20
    np.testing.assert_allclose(hills.times * FEMTOSECOND, 10.0 * np.arange(1, 21), rtol=1e-12)
    times, phi, energies = read_colvar(tmp_path / "COLVAR", (PHI,), ["m.bias", "m.rct", "m.rbias"], UNITS)
    assert len(times) == len(run) == 41
    np.testing.assert_allclose(times * FEMTOSECOND, run.times_fs, atol=1e-6)
    both = np.stack([torsions(run.positions, [PHI.atoms])[:, 0], _bends(run)], axis=1)
    np.testing.assert_allclose(phi[:, 0], both[:, 0], atol=1e-5)
    # as in PLUMED, a frame's bias is that before the hill of its own step
    counts = np.maximum((np.arange(0, 401, 10) - 1) // 20, 0)
    expected = bias_of_frames(hills, both, counts)
    np.testing.assert_allclose(energies["m.bias"], expected, atol=2e-4 / KCAL_MOL)
    assert energies["m.bias"].max() * KCAL_MOL > 0.5
    fine = grid_around((PHI, BEND), (0.3, 0.2), [None, (0.5, 3.0)])
    offsets = reweighting_offset(hills, 300.0, fine)
    np.testing.assert_allclose(energies["m.rct"], offsets[counts], atol=2e-4 / KCAL_MOL)
    np.testing.assert_allclose(energies["m.rbias"], energies["m.bias"] - energies["m.rct"], atol=2e-9 / KCAL_MOL)
    assert read_table(tmp_path / "COLVAR").fields == ("time", "phi", "d", "m.bias", "m.rct", "m.rbias")
    assert (tmp_path / "plumed.dat").read_text() == JOINT
    # heights are those of well-tempered metadynamics at the grid's bias
    before = bias_of_frames(hills, hills.centres, np.arange(20))
    heights = 0.2 / KCAL_MOL * np.exp(-before / (7.0 * BOLTZMANN * 300.0))
    np.testing.assert_allclose(hills.heights, heights, rtol=1e-4)


def _bends(run: Trajectory) -> np.ndarray:
    a, b = run.positions[:, 0] - run.positions[:, 1], run.positions[:, 2] - run.positions[:, 1]
    return np.arctan2(np.linalg.norm(np.cross(a, b), axis=1), (a * b).sum(axis=1))


def test_reported_energies_are_those_of_the_force_field() -> None:
    potential = peroxide()
    run = run_nvt(potential, potential.molecule, config_of(300), bias=JOINT)
    for k in (7, 20, 30):
        energy, _ = potential.force_function(np.array(run.positions[k]), potential.arrays)
        assert run.potential[k] == pytest.approx(energy, abs=1e-14)


def test_walkers_share_one_bias(tmp_path: Path) -> None:
    config = config_of(200, replicas=3)
    run_replicas(peroxide(), peroxide().molecule, config, tmp_path / "walkers", bias=WALKERS)
    run_replicas(peroxide(), peroxide().molecule, config, tmp_path / "alone", bias=JOINT)
    hills = read_hills(tmp_path / "walkers" / "HILLS", (PHI, BEND), UNITS)
    assert len(hills) == 3 * 10
    assert not list((tmp_path / "walkers").glob("replica-*/HILLS"))
    assert len(read_hills(tmp_path / "alone" / "replica-002" / "HILLS", (PHI, BEND), UNITS)) == 10
    for r in range(3):
        _, phi, energies = read_colvar(tmp_path / "walkers" / f"replica-{r:03d}" / "COLVAR", (PHI,), ["m.bias"], UNITS)
        run = Trajectory.read(tmp_path / "walkers" / f"replica-{r:03d}")
        both = np.stack([phi[:, 0], _bends(run)], axis=1)
        counts = 3 * np.maximum((np.arange(0, 201, 10) - 1) // 20, 0)
        np.testing.assert_allclose(energies["m.bias"], bias_of_frames(hills, both, counts), atol=2e-4 / KCAL_MOL)


@pytest.mark.parametrize("name", INPUTS)
def test_a_longer_run_is_the_run_of_that_length(tmp_path: Path, name: str) -> None:
    config = config_of(407, replicas=3)
    run_replicas(peroxide(), peroxide().molecule, config, tmp_path / "whole", bias=INPUTS[name])
    run_replicas(
        peroxide(), peroxide().molecule, dataclasses.replace(config, steps=183), tmp_path / "parts",
        bias=INPUTS[name],
    )  # fmt: skip
    resume(peroxide(), tmp_path / "parts", steps=290)
    resume(peroxide(), tmp_path / "parts", steps=407, threads=2)
    whole = outputs(tmp_path / "whole")
    assert sum("HILLS" in path for path in whole) == {"joint": 3, "parallel": 6, "walkers": 1}[name]
    assert outputs(tmp_path / "parts") == whole


@pytest.mark.parametrize("name", INPUTS)
def test_threads_change_no_bit(tmp_path: Path, name: str) -> None:
    config = config_of(120, replicas=5, thermostat="langevin")
    run_replicas(peroxide(), peroxide().molecule, config, tmp_path / "one", bias=INPUTS[name])
    run_replicas(peroxide(), peroxide().molecule, config, tmp_path / "many", bias=INPUTS[name], threads=3)
    assert outputs(tmp_path / "one") == outputs(tmp_path / "many")


def test_eight_kills_at_random_moments_change_no_bit(tmp_path: Path) -> None:
    config = config_of(12_000, replicas=2, checkpoint_every=200)
    molecule = peroxide().molecule
    run_replicas(peroxide(), molecule, config, tmp_path / "whole", bias=JOINT)
    folder = tmp_path / "killed"
    kill_eight_times(peroxide(), molecule, config, folder, bias=JOINT)
    resume(peroxide(), folder)
    assert outputs(folder) == outputs(tmp_path / "whole")


def test_force_field_with_bias_runs_in_groups_on_any_number_of_threads(tmp_path: Path) -> None:
    """Nine replicas are a group of eight and one of one."""
    text = "t: TORSION ATOMS=3,1,2,6\nMETAD ARG=t SIGMA=0.3 HEIGHT=1 PACE=5 BIASFACTOR=8\nPRINT ARG=* STRIDE=5\n"
    config = config_of(40, replicas=9)
    run_replicas(fitted(), methanol(), config, tmp_path / "one", bias=text)
    run_replicas(fitted(), methanol(), config, tmp_path / "two", bias=text, threads=2)
    run_replicas(fitted(), methanol(), dataclasses.replace(config, steps=20), tmp_path / "parts", bias=text)
    resume(fitted(), tmp_path / "parts", steps=40, threads=2)
    assert outputs(tmp_path / "one") == outputs(tmp_path / "two") == outputs(tmp_path / "parts")


def test_lost_hills_are_named_and_the_previous_checkpoint_is_used(tmp_path: Path) -> None:
    config = config_of(200)
    run_nvt(peroxide(), peroxide().molecule, config, tmp_path / "whole", bias=JOINT)
    run_nvt(peroxide(), peroxide().molecule, dataclasses.replace(config, steps=150), tmp_path / "run", bias=JOINT)
    hills = tmp_path / "run" / "HILLS"
    hills.write_bytes(hills.read_bytes()[:-20])
    notices: list[str] = []
    resume(peroxide(), tmp_path / "run", steps=200, on_notice=notices.append)
    assert f"{hills}: expected at least" in notices[0]
    assert "checkpoint-previous.npz, step 100" in notices[0]
    assert outputs(tmp_path / "run") == outputs(tmp_path / "whole")


def test_a_variable_that_leaves_its_grid_is_named(tmp_path: Path) -> None:
    narrow = JOINT.replace("GRID_MIN=-pi,0.5 GRID_MAX=pi,3", "GRID_MIN=-pi,1.65 GRID_MAX=pi,1.85")
    with pytest.raises(GuardTripped, match=r"variables inside the grid, found phi = .*bend = ") as error:
        run_nvt(peroxide(), peroxide().molecule, config_of(1000), tmp_path, bias=narrow)
    assert error.value.exit_code == 6


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("BIASFACTOR=8", "BIASFACTOR=8 TEMP=310", "the temperature of the run, 300 K, found 310"),
        ("ATOMS=1,2,3,4", "ATOMS=1,2,3,5", "atoms from 1 to 4"),
        ("GRID_MIN=-pi,0.5 GRID_MAX=pi,3 GRID_BIN=60,60", "", "GRID_MIN and GRID_MAX, as it is no torsion"),
        ("FILE=COLVAR", "FILE=thermo.csv", "thermo.csv, which is taken"),
        ("FILE=COLVAR", "FILE=HILLS", "HILLS, which is taken"),
        ("FILE=COLVAR", "FILE=../COLVAR", "a name without folders"),
        ("FILE=COLVAR", "FILE=checkpoint.npz", "a name without folders"),
        ("METAD", "METAD MULTIPLE_WALKERS", "one of the keywords"),
    ],
)
def test_an_input_that_does_not_fit_is_refused_before_any_file(tmp_path: Path, old: str, new: str, words: str) -> None:
    with pytest.raises(FFLUXError, match="expected") as error:
        run_nvt(peroxide(), peroxide().molecule, config_of(10), tmp_path / "run", bias=JOINT.replace(old, new))
    assert words in str(error.value)
    assert not (tmp_path / "run").exists()


def test_written_input_is_read_as_the_same_bias() -> None:
    far = CollectiveVariable("distance", (0, 3), "far")
    for variables in ((PHI,), (PHI, BEND, far)):
        for parallel in (False, True):
            grid = None if len(variables) == 1 else Grid(variables, (-np.pi, 0.5, 1.0), (np.pi, 3.0, 9.0), (60, 50, 40))
            sigma = (0.3, 0.2, 0.4)[: len(variables)]
            settings = BiasSettings(variables, HillParameters(0.001, sigma, 7.5, 20), parallel, grid)
            found = parse_plumed_input(plumed_text(settings, 310.0, 5), "text")
            assert (found.temperature, found.walkers, found.prints[0].stride) == (310.0, False, 5)
            assert found.bias.variables == variables
            assert found.bias.parallel == parallel
            assert found.bias.hills.height == pytest.approx(0.001, rel=1e-11)
            assert found.bias.hills.sigmas(variables) == pytest.approx(sigma, rel=1e-11)
            assert (found.bias.hills.bias_factor, found.bias.hills.pace) == (7.5, 20)
            if grid is not None:
                assert found.bias.grid is not None
                assert found.bias.grid.bins == grid.bins
                assert found.bias.grid.maxima == pytest.approx(grid.maxima, rel=1e-11)
    endless = BiasSettings((PHI,), HillParameters(0.001, 0.3, np.inf, 20))
    assert parse_plumed_input(plumed_text(endless), "text").bias.hills.bias_factor == np.inf
