"""Files of PLUMED: HILLS, COLVAR and free energies as it writes them, and its input language."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fflux_py.bias import BiasSettings, CollectiveVariable, Grid, HillParameters, Hills
from fflux_py.bias.free_energy import FreeEnergy, free_energy_of_hills
from fflux_py.bias.plumed_files import (
    PlumedUnits,
    number,
    read_colvar,
    read_free_energy,
    read_hills,
    read_table,
    write_colvar,
    write_free_energy,
    write_hills,
)
from fflux_py.bias.plumed_input import PlumedInput, parse_plumed_input, read_plumed_input
from fflux_py.errors import FileFormatError, InputError
from fflux_py.units import ANGSTROM, FEMTOSECOND, KCAL_MOL, KJ_MOL

PHI = CollectiveVariable("torsion", (4, 6, 8, 14), "phi")
PSI = CollectiveVariable("torsion", (6, 8, 14, 16), "psi")
FAR = CollectiveVariable("distance", (0, 9), "d1")
BEND = CollectiveVariable("angle", (0, 1, 2), "bend")


def some_hills(variables: tuple[CollectiveVariable, ...], n: int = 7, gamma: float = 8.0) -> Hills:
    rng = np.random.default_rng(n)
    shape = (n, len(variables))
    return Hills(variables, np.arange(1.0, n + 1.0) * 20.0 / FEMTOSECOND, rng.uniform(-3, 3, shape),
                 np.full(shape, 0.3), rng.uniform(1e-4, 1e-3, n), gamma)  # fmt: skip


# Lines as PLUMED 2.9 writes them, of an alanine dipeptide of our own numbers.
HILLS_OF_PLUMED = """#! FIELDS time phi psi sigma_phi sigma_psi height biasf
#! SET multivariate false
#! SET kerneltype stretched-gaussian
#! SET min_phi -pi
#! SET max_phi pi
#! SET min_psi -pi
#! SET max_psi pi
      1.000000047497451     -1.412637894570327      1.106237456098231                   0.35                   0.35      1.371428571428571                      8
      2.000000094994903     -1.203458712345678      0.983451234567891                   0.35                   0.35      1.302345678901234                      8
"""  # noqa: E501


def test_hills_of_plumed_are_read(tmp_path: Path) -> None:
    path = tmp_path / "HILLS"
    path.write_text(HILLS_OF_PLUMED)
    hills = read_hills(path, (PHI, PSI))
    assert len(hills) == 2
    assert hills.shape == "stretched-gaussian"
    assert hills.bias_factor == 8.0
    np.testing.assert_allclose(hills.centres[0], [-1.412637894570327, 1.106237456098231], rtol=1e-15)
    np.testing.assert_allclose(hills.times * FEMTOSECOND, [1000.0, 2000.0], rtol=1e-6)
    # A first hill of 1.2 kJ/mol stands in the file as 1.2 * 8 / 7.
    assert hills.heights[0] * KJ_MOL == pytest.approx(1.2, rel=1e-14)
    # The negative sum of the file's own heights is the free energy: what sum_hills prints.
    grid = Grid((PHI, PSI), (-np.pi, -np.pi), (np.pi, np.pi), (50, 40))
    surface = free_energy_of_hills(hills, grid)
    scaled = (grid.points(0)[:, None, None] - hills.centres[:, 0]) ** 2 + (
        grid.points(1)[:, None] - hills.centres[:, 1]
    ) ** 2
    exponent = scaled / (2.0 * 0.35**2)
    stretched = (np.exp(-exponent) - np.exp(-6.25)) / (1.0 - np.exp(-6.25))
    expected = -np.sum(
        np.array([1.371428571428571, 1.302345678901234]) * np.where(exponent < 6.25, stretched, 0), axis=-1
    )
    inside = np.abs(grid.points(0)) < 2.9
    np.testing.assert_allclose(surface.values[inside] * KJ_MOL, expected[inside], atol=1e-12)


@pytest.mark.parametrize("gamma", [8.0, np.inf])
@pytest.mark.parametrize("units", [PlumedUnits(), PlumedUnits(ANGSTROM, KCAL_MOL, FEMTOSECOND)])
def test_hills_round_trip(gamma: float, units: PlumedUnits, tmp_path: Path) -> None:
    hills = some_hills((PHI, FAR, BEND), gamma=gamma)
    write_hills(tmp_path / "HILLS", hills, units)
    again = read_hills(tmp_path / "HILLS", (PHI, FAR, BEND), units)
    assert again.bias_factor == gamma
    assert again.shape == "gaussian"
    for name in ("times", "centres", "sigmas", "heights"):
        np.testing.assert_allclose(getattr(again, name), getattr(hills, name), rtol=1e-15)
    # What was read is written with the same bytes but for the last bits of a change of unit.
    first = np.loadtxt(tmp_path / "HILLS")
    write_hills(tmp_path / "HILLS", again, units)
    np.testing.assert_allclose(np.loadtxt(tmp_path / "HILLS"), first, rtol=1e-15)


def test_hills_are_written_as_plumed_writes_them(tmp_path: Path) -> None:
    write_hills(tmp_path / "HILLS", some_hills((PHI, FAR), 3))
    lines = (tmp_path / "HILLS").read_text().splitlines()
    assert lines[:5] == [
        "#! FIELDS time phi d1 sigma_phi sigma_d1 height biasf",
        "#! SET multivariate false",
        "#! SET kerneltype gaussian",
        "#! SET min_phi -pi",
        "#! SET max_phi pi",
    ]
    hills = some_hills((PHI, FAR), 3)
    row = [float(word) for word in lines[5].split()]
    expected = [0.02, hills.centres[0, 0], hills.centres[0, 1] * ANGSTROM / 10, 0.3, 0.03 * ANGSTROM,
                hills.heights[0] * KJ_MOL * 8 / 7, 8]  # fmt: skip
    np.testing.assert_allclose(row, expected, rtol=1e-14)
    assert len(lines) == 8


def test_a_bias_restarts_from_its_hills_file(tmp_path: Path) -> None:
    """To the last bits, through nm and kJ/mol."""
    plan = BiasSettings((PHI, FAR), HillParameters(1e-3, (0.3, 0.5), 6.0, 40))
    bias = plan.build(300.0)
    rng = np.random.default_rng(3)
    for _ in range(50):
        bias.deposit_at(rng.uniform([-np.pi, 3.0], [np.pi, 5.0]))
    write_hills(tmp_path / "HILLS", bias.hills(20.0)[0])
    hills = read_hills(tmp_path / "HILLS", (PHI, FAR))
    again = plan.build(300.0)
    again.restore(hills.centres, hills.heights[:, None])
    place = np.array([0.5, 4.0])
    assert bias.bias(place)[0] > 1e-4
    assert again.bias(place)[0] == pytest.approx(bias.bias(place)[0], rel=1e-13)
    assert again.deposit_at(place) == pytest.approx(bias.deposit_at(place), rel=1e-13)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-np.pi, np.pi), st.floats(0.5, 50.0), st.floats(-1.0, 1.0)), min_size=1, max_size=6)
)
def test_colvar_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, float, float]]) -> None:
    path = tmp_path_factory.mktemp("colvar") / "COLVAR"
    table = np.array(rows)
    times = 41.3 * np.arange(len(rows))
    write_colvar(path, times, (PHI, FAR), table[:, :2], {"metad.bias": table[:, 2]})
    found_times, values, energies = read_colvar(path, (FAR, PHI), ["metad.bias"])
    # Nine decimals of ps, radian, nm and kJ/mol.
    np.testing.assert_allclose(found_times, times, atol=1e-9 * 1e3 / FEMTOSECOND)
    np.testing.assert_allclose(values, table[:, [1, 0]], atol=1e-8 / ANGSTROM)
    np.testing.assert_allclose(energies["metad.bias"], table[:, 2], atol=1e-9 / KJ_MOL)


def test_free_energy_is_written_as_sum_hills_does(tmp_path: Path) -> None:
    """First variable fastest, a blank line after each round, the derivatives behind."""
    grid = Grid((PHI, FAR), (-np.pi, 2.0 / ANGSTROM), (np.pi, 4.0 / ANGSTROM), (4, 2))
    values = np.arange(12.0).reshape(4, 3) / KJ_MOL
    gradients = np.stack([values + 1.0 / KJ_MOL, (values + 2.0 / KJ_MOL) * ANGSTROM / 10.0])
    write_free_energy(tmp_path / "fes.dat", FreeEnergy(grid, values, gradients))
    text = (tmp_path / "fes.dat").read_text()
    assert text.startswith(
        "#! FIELDS phi d1 file.free der_phi der_d1\n#! SET min_phi -pi\n#! SET max_phi pi\n#! SET nbins_phi 4\n"
        "#! SET periodic_phi true\n#! SET min_d1 0.2\n#! SET max_d1 0.4\n#! SET nbins_d1 3\n#! SET periodic_d1 false\n"
    )
    body = text.split("periodic_d1 false\n")[1]
    blocks = body.rstrip("\n").split("\n\n")
    assert [len(block.splitlines()) for block in blocks] == [4, 4, 4]
    assert [float(x) for x in blocks[1].splitlines()[2].split()] == pytest.approx([0.0, 0.3, 7.0, 8.0, 9.0], abs=1e-8)


@pytest.mark.parametrize("variables", [(PHI,), (FAR,), (PHI, PSI), (BEND, PHI), (PHI, FAR, BEND)])
def test_free_energy_round_trip(variables: tuple[CollectiveVariable, ...], tmp_path: Path) -> None:
    k = len(variables)
    low = tuple(-np.pi if v.period else 0.7 for v in variables)
    high = tuple(np.pi if v.period else 2.9 for v in variables)
    grid = Grid(variables, low, high, tuple(range(5, 5 + k)))
    rng = np.random.default_rng(k)
    values = rng.normal(size=grid.shape)
    gradients, errors = rng.normal(size=(k, *grid.shape)), np.abs(rng.normal(size=grid.shape))
    values.flat[3] = np.inf
    write_free_energy(tmp_path / "fes.dat", FreeEnergy(grid, values, gradients, errors))
    again = read_free_energy(tmp_path / "fes.dat", variables)
    assert again.gradients is not None
    assert again.errors is not None
    np.testing.assert_allclose(again.values, values, atol=1e-9)
    np.testing.assert_allclose(again.gradients, gradients, atol=1e-9)
    np.testing.assert_allclose(again.errors, errors, atol=1e-9)
    assert again.grid.shape == grid.shape
    # Nine decimals of nm.
    np.testing.assert_allclose(again.grid.minima, low, atol=2e-8)
    np.testing.assert_allclose(again.grid.maxima, high, atol=2e-8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("height biasf", "height"), r"HILLS:8: expected 6 columns, found 7"),
        (("1.371428571428571 ", "1.37142x "), r"HILLS:8, column height: expected a number, found '1.37142x'"),
        (("1.371428571428571 ", "nan "), r"HILLS:8, column height: expected a number, found NaN"),
        (("multivariate false", "multivariate true"), "multivariate hills"),
        (("stretched-gaussian", "triangular"), "kerneltype.*triangular"),
        (("#! SET min_phi -pi\n", ""), "phi: expected a periodic variable"),
        (("#! FIELDS", "# FIELDS"), "HILLS:8: expected a line '#! FIELDS' before the numbers"),
        (("sigma_psi", "sigma_psy"), "a column sigma_psi"),
        (("#! SET max_psi pi", "#! SET max_psi"), "HILLS:7: expected #! SET name value"),
        (("1.302345678901234                      8", "1.302345678901234                      9"), "one bias factor"),
    ],
)
def test_broken_hills_files_are_refused_with_the_line(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    assert change[0] in HILLS_OF_PLUMED
    (tmp_path / "HILLS").write_text(HILLS_OF_PLUMED.replace(*change))
    with pytest.raises(FileFormatError, match=message) as caught:
        read_hills(tmp_path / "HILLS", (PHI, PSI))
    assert "\n" not in str(caught.value)


def test_a_restarted_file_repeats_its_header(tmp_path: Path) -> None:
    path = tmp_path / "HILLS"
    path.write_text(HILLS_OF_PLUMED + HILLS_OF_PLUMED)
    assert len(read_table(path).rows) == 4
    path.write_text(HILLS_OF_PLUMED + HILLS_OF_PLUMED.replace("phi psi", "psi phi"))
    with pytest.raises(FileFormatError, match="HILLS:10: expected the columns"):
        read_table(path)
    path.write_text("")
    with pytest.raises(FileFormatError, match="a line '#! FIELDS', found none"):
        read_table(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [("pi", np.pi), ("-pi", -np.pi), ("2*pi", 2 * np.pi), ("pi/2", np.pi / 2), ("-1.5e-1", -0.15), ("+3", 3.0)],
)
def test_numbers_with_pi(text: str, value: float) -> None:
    assert number(text) == pytest.approx(value, rel=1e-15)
    for bad in (text + "x", "", "pi/0"):
        with pytest.raises(InputError):
            number(bad)


INPUT = """# vim:ft=plumed
UNITS LENGTH=A ENERGY=kcal/mol TIME=fs
phi: TORSION ATOMS=5,7,9,15   # a comment
TORSION ATOMS=7,9,15,17 LABEL=psi
d1: DISTANCE ATOMS=1,10 NOPBC
METAD ...
  LABEL=metad
  ARG=phi,psi
  SIGMA=0.35,0.3 HEIGHT=1.2
  PACE=500 BIASFACTOR=10
  TEMP=300.0
  GRID_MIN=-pi,-pi GRID_MAX=pi,pi GRID_BIN=100,80
  FILE=HILLS.metad
  CALC_RCT
... METAD
PRINT ARG=phi,psi,metad.bias,metad.rct STRIDE=40 FILE=COLVAR
ENDPLUMED
anything here is not read
"""


def write_input(folder: Path, text: str) -> Path:
    path = folder / "plumed.dat"
    path.write_text(text)
    return path


def test_input_of_a_metadynamics(tmp_path: Path) -> None:
    found = read_plumed_input(write_input(tmp_path, INPUT))
    assert found.bias.variables == (PHI, PSI)
    assert found.variables == (PHI, PSI, FAR)
    assert not found.bias.parallel
    assert found.bias.hills.height * KCAL_MOL == pytest.approx(1.2)
    assert found.bias.hills.sigma == (0.35, 0.3)
    assert (found.bias.hills.pace, found.bias.hills.bias_factor, found.temperature) == (500, 10.0, 300.0)
    assert found.bias.grid is not None
    assert found.bias.grid.shape == (100, 80)
    assert (found.label, found.files) == ("metad", ("HILLS.metad",))
    assert [(p.columns, p.stride, p.file) for p in found.prints] == [
        (("phi", "psi", "metad.bias", "metad.rct"), 40, "COLVAR")
    ]
    assert found.units.length == ANGSTROM


def test_input_of_a_parallel_bias_in_the_units_of_plumed(tmp_path: Path) -> None:
    text = """phi: TORSION ATOMS=5,7,9,15
d1: DISTANCE ATOMS=1,10
bend: ANGLE ATOMS=1,2,3
pb: PBMETAD ARG=phi,d1,bend SIGMA=0.3,0.02,0.1 HEIGHT=2.0 PACE=100 BIASFACTOR=6 GRID_MIN=-pi,0.1,0 GRID_MAX=pi,1.1,pi
PRINT ARG=*,pb.* STRIDE=100
"""
    found = read_plumed_input(write_input(tmp_path, text))
    assert found.bias.parallel
    assert found.bias.variables == (PHI, FAR, BEND)
    assert found.bias.hills.height * KJ_MOL == pytest.approx(2.0)
    assert found.bias.hills.sigmas(found.bias.variables)[1] * ANGSTROM == pytest.approx(0.2)
    assert found.bias.grid is not None
    assert found.bias.grid.minima[1] * ANGSTROM == pytest.approx(1.0)
    # A fifth of sigma, rounded up.
    assert found.bias.grid.bins[1] in (250, 251)
    assert found.files == ("HILLS.phi", "HILLS.d1", "HILLS.bend")
    assert found.prints[0].columns == ("phi", "d1", "bend", "pb.bias")
    assert found.temperature is None


def test_no_bias_factor_is_plain_metadynamics(tmp_path: Path) -> None:
    text = "d: DISTANCE ATOMS=1,2\nMETAD ARG=d SIGMA=0.1 HEIGHT=1 PACE=10\n"
    found = read_plumed_input(write_input(tmp_path, text))
    assert np.isinf(found.bias.hills.bias_factor)
    assert found.files == ("HILLS",)
    # PLUMED reads UNITS LENGTH=x as x nm for one unit.
    twice = read_plumed_input(write_input(tmp_path, "UNITS LENGTH=2 ENERGY=Ha\n" + text))
    assert twice.bias.hills.sigmas(twice.bias.variables)[0] * ANGSTROM == pytest.approx(2.0)
    assert twice.bias.hills.height == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("d1: DISTANCE", "d1: COORDINATION"), r"plumed.dat:5: expected one of the actions .*, found COORDINATION"),
        (("PRINT", "FLUSH"), r"plumed.dat:16: .*found FLUSH; this action is not supported"),
        (("  CALC_RCT", "  WALKERS_ID=1"), r"plumed.dat:6, METAD: expected one of the keywords .*, found WALKERS_ID=1"),
        (("HEIGHT=1.2", "TAU=1.2"), r"plumed.dat:6, METAD.*found TAU=1.2"),
        (("HEIGHT=1.2", ""), r"plumed.dat:6, METAD: expected the keyword HEIGHT, found none"),
        (("ATOMS=5,7,9,15", "ATOMS=5,7,9"), r"plumed.dat:3, TORSION phi: expected 4 different atoms, found 5, 7, 9"),
        (("ATOMS=5,7,9,15", "ATOMS=5,7,9,x"), r"plumed.dat:3, ATOMS: expected whole numbers"),
        (("phi: TORSION", "TORSION"), r"plumed.dat:3, TORSION: expected a label"),
        (("LABEL=psi", "LABEL=phi"), r"plumed.dat:4: expected different labels"),
        (("ARG=phi,psi\n", "ARG=phi,chi\n"), r"plumed.dat:6, ARG: expected one of phi, psi, d1, found chi"),
        (("SIGMA=0.35,0.3", "SIGMA=0.35"), r"plumed.dat:6, SIGMA: expected 2 values"),
        (("SIGMA=0.35,0.3", "SIGMA=0.35,o.3"), r"plumed.dat:6, SIGMA: expected a number, also with pi, found 'o.3'"),
        (("SIGMA=0.35,0.3", "SIGMA=0.35,-0.3"), r"plumed.dat:6, METAD, hill parameter sigma"),
        (("GRID_MAX=pi,pi", "GRID_MAX=pi,3"), r"plumed.dat:6, METAD, grid of psi: expected the whole circle"),
        (("GRID_BIN=100,80", "GRID_SPACING=1e-320,1"), r"plumed.dat:6, METAD, grid of phi: expected at most 20000000"),
        (("TEMP=300.0", "TEMP=-3"), r"plumed.dat:6, TEMP: expected a positive number of kelvin"),
        (("metad.rct", "metad.work"), r"plumed.dat:16, ARG: expected one of .*metad.rct.*, found metad.work"),
        (("STRIDE=40", "STRIDE=0"), r"plumed.dat:16, STRIDE: expected at least 1"),
        (("LENGTH=A", "LENGTH=Angstrom"), r"plumed.dat:2, LENGTH: expected a number or one of nm, A, um, Bohr"),
        (("... METAD\n", ""), r"plumed.dat:6: expected a line '...' that ends the action"),
        (("... METAD\n", "... PBMETAD\n"), r"plumed.dat:15: expected the end of METAD"),
        (("ENDPLUMED", "METAD ARG=d1 SIGMA=1 HEIGHT=1 PACE=1"), r"plumed.dat:17: expected one METAD or PBMETAD"),
        (("UNITS LENGTH=A ENERGY=kcal/mol TIME=fs\nphi: TORSION ATOMS=5,7,9,15", "phi: TORSION ATOMS=5,7,9,15\nUNITS"),
         r"plumed.dat:3, UNITS: expected UNITS before all other actions"),
        (("PACE=500", "PACE=500 PACE=5"), r"plumed.dat:6, METAD: expected PACE once"),
        (("d1: DISTANCE ATOMS=1,10 NOPBC", "d1:"), r"plumed.dat:5: expected an action after the label"),
    ],
)  # fmt: skip
def test_input_that_is_not_understood_is_refused_with_the_line(
    change: tuple[str, str], message: str, tmp_path: Path
) -> None:
    assert change[0] in INPUT
    with pytest.raises(FileFormatError, match=message) as caught:
        read_plumed_input(write_input(tmp_path, INPUT.replace(*change)))
    assert "\n" not in str(caught.value)


def test_input_without_a_bias_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="an action METAD or PBMETAD, found none"):
        read_plumed_input(write_input(tmp_path, "phi: TORSION ATOMS=5,7,9,15\n"))


@settings(max_examples=80, deadline=None)
@given(st.text(alphabet="METADPB phi:=,.\n#1250x", max_size=80))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = write_input(tmp_path_factory.mktemp("input"), text)
    with pytest.raises(FileFormatError):
        read_plumed_input(path)


def test_walkers_are_told_apart_from_biases_of_their_own(tmp_path: Path) -> None:
    lines = "phi: TORSION ATOMS=1,2,3,4\n{} ARG=phi SIGMA=0.3 HEIGHT=1 PACE=10 {}\n"
    for name, flag in (("METAD", "WALKERS_MPI"), ("PBMETAD", "MULTIPLE_WALKERS")):
        path = tmp_path / "plumed.dat"
        path.write_text(lines.format(name, flag))
        found = read_plumed_input(path)
        assert found.walkers
        assert found.text == path.read_text()
        assert not read_plumed_input_of(lines.format(name, "")).walkers


def read_plumed_input_of(text: str) -> PlumedInput:
    return parse_plumed_input(text, "text")
