"""Ramachandran maps against known densities, their errors against the spread of repeated runs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import vonmises

from fflux_py.analysis.ramachandran.comparison import compare_maps
from fflux_py.analysis.ramachandran.estimates import map_of_free_energy, ramachandran_map
from fflux_py.analysis.ramachandran.map import jensen_shannon
from fflux_py.analysis.ramachandran.regions import MIRROR, REGIONS, is_achiral, region_numbers
from fflux_py.analysis.ramachandran.runs import residues
from fflux_py.analysis.report.ramachandran_plots import HIGHEST, ramachandran_figure
from fflux_py.bias import CollectiveVariable, Grid
from fflux_py.bias.free_energy import FreeEnergy, frame_weights, weighted_free_energy
from fflux_py.errors import InputError
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM, BOLTZMANN, KCAL_MOL
from tests.molecules.test_molecule import alanine_dipeptide
from tests.support.synthetic import malondialdehyde

T = 500.0
KT = BOLTZMANN * T
C7EQ, C5, C7AX = ((np.radians(phi), np.radians(psi)) for phi, psi in ((-83.0, 73.0), (-157.0, 162.0), (73.0, -54.0)))
VARIABLES = (CollectiveVariable("torsion", (0, 1, 2, 3), "phi"), CollectiveVariable("torsion", (1, 2, 3, 4), "psi"))


def peaked(m: int, seed: int, centre: tuple[float, float] = C7EQ, kappa: float = 4.0) -> FloatArray:
    """Torsions of the density of a product of von Mises distributions, ``(2, m)``."""
    rng = np.random.default_rng(seed)
    return np.array([rng.vonmises(angle, kappa, m) for angle in centre])


def cells(kappa: float, angle: float, bins: int) -> FloatArray:
    """Exact probabilities of cells around -180, -180 + h, ... degrees."""
    step = 2.0 * np.pi / bins
    low = -np.pi + step * (np.arange(bins) - 0.5)
    return np.array([vonmises.cdf(x + step - angle, kappa) - vonmises.cdf(x - angle, kappa) for x in low])


def switching(m: int, runs: int, rate: float, rng: np.random.Generator) -> FloatArray:
    """Runs of a process that jumps between C7eq (a third of the time) and C7ax, phi and psi, ``(2, runs, m)``."""
    state = np.empty((runs, m), dtype=bool)
    state[:, 0] = rng.random(runs) < 1.0 / 3.0
    for k in range(1, m):
        state[:, k] = np.where(rng.random(runs) < rate, rng.random(runs) < 1.0 / 3.0, state[:, k - 1])
    return np.array([np.where(state, a, b) for a, b in zip(C7EQ, C7AX, strict=True)])


def grid(bins: int) -> Grid:
    return Grid(VARIABLES, (-np.pi,) * 2, (np.pi,) * 2, (bins,) * 2)


def test_a_known_density_comes_back():
    phi, psi = peaked(300_000, 1)
    found = ramachandran_map(phi, psi, T, bins=24)
    exact = np.outer(cells(4.0, C7EQ[0], 24), cells(4.0, C7EQ[1], 24))
    assert exact.sum() == pytest.approx(1.0, abs=1e-12)
    assert found.probability.sum() == pytest.approx(1.0, abs=1e-12)
    assert found.density.sum() * (2.0 * np.pi / 24) ** 2 == pytest.approx(1.0, abs=1e-12)
    free = -KT * KCAL_MOL * np.log(exact / exact.max())
    low = free < 3.0
    assert low.sum() > 60
    gap = (found.free_energy_kcal_mol - free)[low]
    np.testing.assert_allclose(gap, 0.0, atol=0.15)
    # and the error bars say so; the lowest cell is zero by construction
    assert 0.7 < np.sqrt(np.mean((gap - gap.mean()) ** 2 / found.errors_kcal_mol[low] ** 2)) < 1.4
    assert np.nanmin(found.free_energy_kcal_mol) == 0.0
    lowest = found.minima()[0]
    assert np.hypot(lowest[1] + 83.0, lowest[2] - 73.0) < 25.0
    assert found.n_effective == pytest.approx(found.n_frames) == 300_000


def test_whole_turns_change_nothing():
    phi, psi = peaked(2000, 2)
    turns = 2.0 * np.pi * np.random.default_rng(0).integers(-2, 3, 2000)
    first, second = ramachandran_map(phi, psi, T), ramachandran_map(phi + turns, psi - turns, T)
    np.testing.assert_allclose(first.probability, second.probability, atol=1e-3)
    assert jensen_shannon(first, second) < 0.02  # rounding at the borders of cells at most
    np.testing.assert_allclose(first.populations, second.populations, atol=1e-3)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_no_place_of_the_circle_is_special(smoothing):
    phi, psi = peaked(2000, 2)
    first = ramachandran_map(phi, psi, T, smoothing=smoothing)
    turned = ramachandran_map(phi + np.radians(150.0), psi - np.radians(90.0), T, smoothing=smoothing)
    np.testing.assert_allclose(np.roll(first.probability, (15, -9), (0, 1)), turned.probability, atol=1e-12)


def test_regions_cover_the_circle_once():
    """Against the limits as they are written; mirror images have the opposite centres."""
    rng = np.random.default_rng(5)
    phi, psi = rng.uniform(-180.0, 180.0, (2, 5000))
    number = region_numbers(np.radians(phi), np.radians(psi))
    inside = np.array(
        [
            ((phi - r.phi[0]) % 360.0 < r.phi[1] - r.phi[0]) & ((psi - r.psi[0]) % 360.0 < r.psi[1] - r.psi[0])
            for r in REGIONS
        ]
    )
    assert (inside.sum(axis=0) == 1).all()
    np.testing.assert_array_equal(inside.argmax(axis=0), number)
    np.testing.assert_array_equal(MIRROR[number], region_numbers(-np.radians(phi), -np.radians(psi)))
    names = [r.name for r in REGIONS]
    places = {"C7eq": C7EQ, "C5": C5, "C7ax": C7AX, "alphaR": (-1.05, -0.79), "alphaL": (1.0, 0.8), "PII": (-1.3, 2.6)}
    for name, (a, b) in places.items():
        assert names[int(region_numbers(np.array(a), np.array(b)))] == name


def test_populations_sum_to_one_and_are_those_of_the_cells():
    phi, psi = np.random.default_rng(3).uniform(-np.pi, np.pi, (2, 4000))
    # 120 degrees are whole cells here, but their borders lie half a cell beside those of the regions
    found = ramachandran_map(phi, psi, T, bins=36)
    assert found.populations.sum() == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(found.populations, 1.0 / 9.0, atol=0.03)
    flat = map_of_free_energy(FreeEnergy(grid(40), np.zeros((40, 40))), T)
    np.testing.assert_allclose(flat.populations, 1.0 / 9.0, atol=1e-12)
    assert np.isnan(flat.population_errors).all()


def test_weights_count_as_repetitions():
    phi, psi = np.random.default_rng(6).uniform(-np.pi, np.pi, (2, 400))
    count = np.random.default_rng(7).integers(0, 4, 400)
    weighted = ramachandran_map(phi, psi, T, count.astype(float))
    repeated = ramachandran_map(np.repeat(phi, count), np.repeat(psi, count), T)
    np.testing.assert_allclose(weighted.probability, repeated.probability, atol=1e-14)
    np.testing.assert_allclose(weighted.populations, repeated.populations, atol=1e-14)
    assert weighted.n_effective == pytest.approx(count.sum() ** 2 / (count**2).sum())


def test_weighted_frames_of_a_flat_density_give_the_energy_back():
    """Uniform torsions with exp(-U/kT), U of two wells; the same as the histogram of the package's free energies."""
    phi, psi = np.random.default_rng(8).uniform(-np.pi, np.pi, (2, 200_000))

    def energy(a, b):
        return 2.0 * KT * (1.0 - np.cos(a + 1.0)) + KT * np.cos(2.0 * b)

    weights = frame_weights(-energy(phi, psi), 0.0, T)
    found = ramachandran_map(phi, psi, T, weights, bins=24)
    a, b = (np.radians(found.centres(axis)) for axis in (0, 1))
    exact = KCAL_MOL * energy(a[:, None], b[None, :])
    gap = found.free_energy_kcal_mol - exact
    assert np.std(gap) < 0.12
    other = weighted_free_energy(np.stack([phi, psi], axis=1), weights, grid(24), T, 10)
    np.testing.assert_allclose(found.free_energy_kcal_mol, other.values * KCAL_MOL, atol=1e-9)
    assert found.n_effective < 0.6 * found.n_frames


def test_errors_of_replicas_are_the_spread_of_repeated_experiments():
    rng = np.random.default_rng(11)
    experiments = [switching(200, 6, 0.05, rng) for _ in range(150)]
    maps = [ramachandran_map(list(phi), list(psi), T) for phi, psi in experiments]
    populations = np.array([m.populations[0] for m in maps])
    errors = np.array([m.population_errors[0] for m in maps])
    assert populations.mean() == pytest.approx(1.0 / 3.0, abs=0.02)
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(populations.std(), rel=0.2)
    assert all(m.independent for m in maps)
    # to first order, the free energy's error is that of the population
    cell = np.unravel_index(np.argmax(maps[0].probability), maps[0].probability.shape)
    share, thermal = maps[0].probability[cell], KT * KCAL_MOL
    spread = maps[0].population_errors.max()
    assert maps[0].errors_kcal_mol[cell] == pytest.approx(thermal * spread / share, rel=1e-9)


def test_errors_of_one_run_see_its_correlation():
    rng = np.random.default_rng(12)
    phi, psi = switching(4000, 60, 0.05, rng)
    maps = [ramachandran_map(a, b, T) for a, b in zip(phi, psi, strict=True)]
    populations = np.array([m.populations[0] for m in maps])
    errors = np.array([m.population_errors[0] for m in maps])
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(populations.std(), rel=0.3)
    assert not any(m.independent for m in maps)
    # A run that jumped a few times only does not know its error, and says so.
    short = [ramachandran_map(a[:100], b[:100], T).converged for a, b in zip(phi, psi, strict=True)]
    assert not all(short)


def test_longer_replicas_count_for_more():
    short, long = np.full(100, C7AX[0]), np.full(300, C7EQ[0])
    found = ramachandran_map([short, long], [np.full(100, C7AX[1]), np.full(300, C7EQ[1])], T)
    assert found.populations[0] == pytest.approx(0.75)
    assert found.visits.tolist() == [1, 0, 0, 0, 0, 1, 0, 0, 0]
    assert found.subset(slice(0, 1)).populations[0] == 0.0
    assert found.population_errors[0] == pytest.approx(np.sqrt(2.0 * (0.25**2 * 0.75**2 + 0.75**2 * 0.25**2)))


def test_limits_of_the_distance():
    here, there = (ramachandran_map(*peaked(500, 1, centre, 50.0), T) for centre in (C7EQ, C7AX))
    assert jensen_shannon(here, here) == 0.0
    assert jensen_shannon(here, there) == pytest.approx(1.0, abs=1e-12)
    half = ramachandran_map(*(np.concatenate([peaked(500, 1, c, 50.0)[k] for c in (C7EQ, C7AX)]) for k in (0, 1)), T)
    # two halves against one: 1/2 (log2 4/3 + (1 + log2 2/3)/2 ...) in closed form
    expected = 0.5 * np.log2(4.0 / 3.0) + 0.25 * np.log2(2.0 / 3.0) + 0.25
    assert jensen_shannon(here, half) == pytest.approx(np.sqrt(expected), abs=1e-9)
    with pytest.raises(InputError, match="bins"):
        jensen_shannon(here, ramachandran_map(*peaked(500, 1), T, bins=24))


def test_places_never_visited_have_no_free_energy():
    found = ramachandran_map(np.full(20, 0.3), np.full(20, 0.3), T, bins=12)
    assert np.isfinite(found.free_energy_kcal_mol).sum() == 1
    assert np.isnan(found.errors_kcal_mol).sum() == 143
    assert np.count_nonzero(found.visits) == 1
    assert np.isnan(found.minima()[0]).all()
    written = found.as_dict()["regions"]
    assert written["C7eq"]["population"] == 0.0
    assert "lowest_phi_degree" not in written["C7eq"]


def test_smoothing_is_a_probability_and_widens_by_its_variance():
    phi, psi = peaked(20_000, 9)
    width = 0.25
    plain, smooth = (ramachandran_map(phi, psi, T, bins=72, smoothing=s) for s in (0.0, width))
    assert smooth.probability.sum() == pytest.approx(1.0, abs=1e-12)
    assert (smooth.probability >= 0.0).all()
    centres = np.radians(plain.centres(0))
    moments = [abs((m.probability.sum(axis=1) * np.exp(1j * centres)).sum()) for m in (plain, smooth)]
    # A Gaussian on the circle multiplies the first moment with exp(-width^2/2), but for the cut at 3 widths.
    assert np.log(moments[0] / moments[1]) == pytest.approx(0.5 * width**2, rel=0.05)
    np.testing.assert_array_equal(plain.populations, smooth.populations)
    # One frame is visited where it is, and nowhere else.
    two = ramachandran_map([np.zeros(1), np.full(1, np.pi)], [np.zeros(1), np.full(1, np.pi)], T, smoothing=0.3)
    assert np.argwhere(two.visited).tolist() == [[0, 0], [18, 18]]
    assert (two.probability > 0.0).sum() > 9
    # what is visited anyway stays so
    assert (smooth.visited | ~plain.visited).all()


def capped_glycine() -> Molecule:
    """The alanine dipeptide with a hydrogen in place of its side chain."""
    alanine = alanine_dipeptide()
    alpha, beta = alanine.positions[4], alanine.positions[5]
    kept = [k for k in range(alanine.n_atoms) if k not in (15, 16, 17)]
    positions = np.array(alanine.positions)
    positions[5] = alpha + (beta - alpha) * (1.09 / ANGSTROM / np.linalg.norm(beta - alpha))
    symbols = tuple("H" if k == 5 else alanine.symbols[k] for k in kept)
    return Molecule(symbols, positions[kept], name="capped glycine")


def test_glycine_has_no_handedness_and_alanine_has():
    (pair,) = residues(capped_glycine())
    assert is_achiral(capped_glycine(), pair)
    (pair,) = residues(alanine_dipeptide())
    assert not is_achiral(alanine_dipeptide(), pair)
    assert residues(malondialdehyde()) == []


def test_mirror_image_of_glycine():
    """All frames at one side of a symmetric density: asymmetry at its largest, none after both sides are counted."""
    sets = [peaked(3000, seed, C7EQ, 20.0) for seed in range(4)]
    found = ramachandran_map([s[0] for s in sets], [s[1] for s in sets], T, bins=36)
    mirror = ramachandran_map([-s[0] for s in sets], [-s[1] for s in sets], T, bins=36)
    np.testing.assert_allclose(found.mirrored().probability, mirror.probability, atol=1e-12)
    np.testing.assert_allclose(found.mirrored().populations, mirror.populations, atol=1e-12)
    assert found.asymmetry().jensen_shannon == pytest.approx(1.0, abs=0.02)
    assert found.asymmetry().population == pytest.approx(found.populations[0])
    assert found.asymmetry().region.name == "C7eq"
    both = found.symmetrised()
    np.testing.assert_allclose(both.probability, both.mirrored().probability, atol=1e-15)
    assert both.asymmetry().jensen_shannon == pytest.approx(0.0, abs=1e-7)
    assert both.asymmetry().population == pytest.approx(0.0, abs=1e-12)
    assert both.populations[0] == pytest.approx(found.populations[0] / 2.0)
    assert (both.visited == (found.visited | mirror.visited)).all()
    # odd numbers of cells too
    odd = ramachandran_map(sets[0][0], sets[0][1], T, bins=35)
    reverse = ramachandran_map(-sets[0][0], -sets[0][1], T, bins=35)
    np.testing.assert_allclose(odd.mirrored().probability, reverse.probability, atol=1e-12)


def test_a_free_energy_on_a_grid_is_a_map():
    phi, psi = peaked(5000, 4)
    values = np.stack([phi, psi], axis=1)
    surface = weighted_free_energy(values, np.ones(5000), grid(36), T, 10)
    found, frames = map_of_free_energy(surface, T), ramachandran_map(phi, psi, T)
    np.testing.assert_allclose(found.probability, frames.probability, atol=1e-12)
    np.testing.assert_allclose(found.populations, frames.populations, atol=0.02)
    np.testing.assert_array_equal(found.visited, frames.visited)
    np.testing.assert_allclose(found.errors_kcal_mol[found.visited], KCAL_MOL * surface.errors[found.visited])
    assert found.n_effective == 0.0
    # the constant of a free energy means nothing
    higher = FreeEnergy(surface.grid, surface.values + 3.0)
    pair = map_of_free_energy([surface, higher], T)
    np.testing.assert_allclose(pair.population_errors, 0.0, atol=1e-12)
    distance = (CollectiveVariable("distance", (0, 1)),)
    with pytest.raises(InputError, match="torsion"):
        map_of_free_energy(FreeEnergy(Grid(distance, (0.0,), (1.0,), (4,)), np.zeros(5)), T)


def test_comparison_of_maps():
    phi, psi = np.random.default_rng(3).uniform(-np.pi, np.pi, (2, 5000))
    first = map_of_free_energy(FreeEnergy(grid(12), np.zeros((12, 12))), T)
    bump = np.zeros((12, 12))
    bump[3, 4] = 0.144 / KCAL_MOL
    bump[5, 5] = np.inf
    bump[6, 6] = 6.0 / KCAL_MOL
    second = map_of_free_energy(FreeEnergy(grid(12), bump), T)
    same = compare_maps(first, first)
    assert (same.rms_kcal_mol, same.largest_kcal_mol, same.jensen_shannon) == (0.0, 0.0, 0.0)
    gap = compare_maps(second, first, 8.0)
    assert (gap.n_cells, gap.n_missing) == (143, 1)
    assert np.isnan(gap.rms_over_error)
    # what is above the limit in the reference is not compared
    gap = compare_maps(first, second, 4.0)
    assert (gap.n_cells, gap.n_missing) == (142, 0)
    assert gap.largest_kcal_mol == pytest.approx(0.144 * 141 / 142)
    assert gap.rms_kcal_mol == pytest.approx(0.144 * np.sqrt(141) / 142)
    halves = [ramachandran_map(list(p[::2].reshape(10, -1)), list(p[1::2].reshape(10, -1)), T, bins=12)
              for p in (phi, psi)]  # fmt: skip
    assert compare_maps(*halves).rms_over_error == pytest.approx(1.0, abs=0.3)
    with pytest.raises(InputError, match="same grid"):
        compare_maps(first, ramachandran_map(phi, psi, 300.0, bins=12))


def test_bad_input_is_refused():
    phi, psi = peaked(50, 1)
    for arguments, words in [
        ((phi, psi[:40], T), "equal lengths"),
        ((phi, psi, 0.0), "kelvin"),
        ((phi, psi, T, -np.ones(50)), "not negative"),
        ((phi * np.nan, psi, T), "finite"),
        ((phi[:5], psi[:5], T), "16"),
        (([phi, phi[:0]], [psi, psi[:0]], T), "each run"),
    ]:
        with pytest.raises(InputError, match=words):
            ramachandran_map(*arguments)
    with pytest.raises(InputError, match="width"):
        ramachandran_map(phi, psi, T, smoothing=2.0)
    with pytest.raises(InputError, match="bins"):
        ramachandran_map(phi, psi, T, bins=3)


def test_picture_shows_the_map_at_its_place():
    found = ramachandran_map(*peaked(5000, 1, C5, 20.0), T)
    figure = ramachandran_figure([[found, None]], ["500 K", "none"], ["unbiased"], [("C5", -157.0, 162.0)])
    axes = figure.axes[0]
    mesh = axes.collections[0]
    corners = mesh.get_coordinates()
    centres = 0.25 * (corners[1:, 1:] + corners[:-1, 1:] + corners[1:, :-1] + corners[:-1, :-1])
    lowest = centres.reshape(-1, 2)[int(np.ma.argmin(mesh.get_array()))]
    assert np.abs(lowest - [-157.0, 162.0]).max() <= 15.0
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("φ (°)", "unbiased\nψ (°)")
    assert axes.get_xlim() == axes.get_ylim() == (-180.0, 180.0)
    assert mesh.norm.vmax == HIGHEST
    # cells at -180 stand at 180 too
    shown = np.ma.filled(mesh.get_array().reshape(37, 37), -1.0)
    np.testing.assert_array_equal(shown[0], shown[-1])
    np.testing.assert_array_equal(shown[:, 0], shown[:, -1])
    assert any("kcal/mol" in (a.get_ylabel() or "") for a in figure.axes)
