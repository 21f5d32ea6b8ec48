"""The field's text files: what is written is read, and what is wrong is refused with its line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fflux_py.errors import FileFormatError, InputError
from fflux_py.exchange.dl_fflux import BOHR, Config, format_config, parse_config
from fflux_py.exchange.ferebus.kernel import Composition, Kernel, Reading, parse
from fflux_py.exchange.ferebus.model_text import Mean, ModelText, format_model, parse_model
from fflux_py.exchange.ferebus.tables import FeatureTable, read_training_csv, write_training_csv
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM, KJ_MOL
from tests.support.ferebus_data import data, product, solved

PATH = "WATER_iqa_O1.model"
reals = st.floats(allow_nan=False, allow_infinity=False)
words = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,8}", fullmatch=True)


def refusal(read: Callable[[], object]) -> str:
    """Where the file is wrong, or the file itself if nothing is."""
    try:
        read()
    except FileFormatError as error:
        return error.where
    return PATH


def arrays(shape: tuple[int, ...], elements: st.SearchStrategy[float] = reals) -> st.SearchStrategy[FloatArray]:
    size = int(np.prod(shape))
    return st.lists(elements, min_size=size, max_size=size).map(lambda values: np.array(values).reshape(shape))


@st.composite
def models(draw: st.DrawFn) -> ModelText:
    n_atoms = draw(st.integers(2, 4))
    d, n = max(3 * n_atoms - 6, 1), draw(st.integers(1, 4))
    frame = draw(st.permutations(range(n_atoms)).map(lambda order: (order[0], order[1], *order[2:3])))
    first = draw(st.integers(1, d))
    every, thetas = np.arange(d), draw(arrays((d,), st.floats(0.0, 1e3)))
    kind = draw(st.sampled_from(["rbf", "rbf-cyclic", "periodic"]))
    kernels = [Kernel("k1", kind, every[:first], thetas[:first])]
    if first < d:
        kernels.append(Kernel("k2", "periodic", every[first:], thetas[first:]))
    if draw(st.booleans()):
        none = np.zeros(0, dtype=np.int64)
        kernels.append(Kernel("c", "constant", none, np.zeros(0), draw(st.floats(0.1, 10.0))))
    expression = draw(st.sampled_from("+*")).join(kernel.name for kernel in kernels)
    mean = draw(
        st.one_of(
            st.just(Mean("zero")),
            reals.map(lambda value: Mean("constant", value)),
            st.tuples(reals, arrays((d,)), arrays((d,))).map(lambda parts: Mean("linear", *parts)),
        )
    )
    remark = st.text("abcXYZ0159 ()=-+.,/", min_size=1).map(lambda s: " ".join(s.split()).lstrip("= "))
    remarks = draw(
        st.dictionaries(words.filter(lambda w: w not in ("nugget", "noise", "jitter", "likelihood")), remark)
    )
    metadata = {k: v for k, v in remarks.items() if v}
    if draw(st.booleans()):
        metadata |= {"nugget": repr(draw(reals)), "likelihood": repr(draw(reals))}
    return ModelText(
        draw(words), f"{draw(st.sampled_from(['H', 'Cl']))}{frame[0] + 1}", draw(words),
        frame if len(frame) == 3 else (*frame, None), n_atoms, mean,
        Composition(tuple(kernels), f"({expression})", draw(st.sampled_from([1.0, 2.5]))),
        draw(arrays((n, d))), draw(arrays((n,))), draw(arrays((n,))), metadata,
    )  # fmt: skip


def assert_same(one: ModelText, other: ModelText) -> None:
    for name in ("system", "atom", "property_name", "frame", "n_atoms", "metadata"):
        assert getattr(one, name) == getattr(other, name)
    for name in ("x", "y", "weights"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert (one.mean.kind, one.mean.value) == (other.mean.kind, other.mean.value)
    np.testing.assert_array_equal(one.mean.beta, other.mean.beta)
    np.testing.assert_array_equal(one.mean.x_0, other.mean.x_0)
    assert one.kernels.prefactor == other.kernels.prefactor
    assert parse(one.kernels.expression) == parse(other.kernels.expression)
    for a, b in zip(one.kernels.kernels, other.kernels.kernels, strict=True):
        assert (a.name, a.kind, a.value) == (b.name, b.kind, b.value)
        np.testing.assert_array_equal(a.dimensions, b.dimensions)
        np.testing.assert_array_equal(a.theta, b.theta)


@settings(deadline=None, max_examples=50)
@given(models())
def test_model_that_is_written_is_read(model: ModelText) -> None:
    text = format_model(model)
    read = parse_model(text, PATH)
    assert_same(model, read)
    assert format_model(read) == text


# In the layouts of other programs, with the same content: 2 geometries of water's oxygen.
VERSION_7 = """# [metadata]
# program ferebus
# version 7.2.0
# nugget .1000000000000000E-09
# likelihood 348.9145663746718
# method = B3LYP

[system]
name WATER
atom O1
property iqa
ALF 1 2 3

[dimensions]
number_of_atoms 3
number_of_features 3
number_of_training_points 2

[mean]
type constant
value -75.5

[kernels]
number_of_kernels 1
composition k1

[kernel.k1]
type rbf
number_of_dimensions 3
active_dimensions 1 2 3
theta .16 .4382800000000000E+00 1.9E-1

[training_data]
units.x bohr bohr radians
units.y Ha
scaling.x none
scaling.y none

[training_data.x]
1.8 1.9 1.7
1.7 .2000000000000000E+01 .1700000000000000D+01

[training_data.y]
-75.5
-75.45

[weights]
-.25
0.3E-1

"""
GPYTORCH = (
    VERSION_7.replace("# [metadata]", "# metadata").replace("ferebus", "gpytorch").replace("# version 7.2.0\n", "")
    .replace("nugget", "noise").replace("composition k1\n\n", "composition (k1)\n")
    .replace("bohr bohr radians", "bohr bohr radians bohr radians radians ")
)  # fmt: skip
OLDEST = (
    VERSION_7.replace("type rbf", "type rbf-cylic").replace("active_dimensions 1 2 3", "active_dimensions <TODO>")
    .replace("theta", "lengthscale").replace("number_of_atoms 3", "number_of_atoms 3.0")
    .replace("units.x bohr bohr radians", "units.x <TODO>").replace("scaling.x none\nscaling.y none", "scaling <TODO>")
)  # fmt: skip
VERSION_10 = (
    VERSION_7.replace(VERSION_7[: VERSION_7.index("[system]")], "")
    .replace("property iqa", "property iqa          ").replace("\n\n", "\n  \n")
    .replace("[mean]", "[regression.details]\nmodel full_GPR\nnugget -0.23E-7\n\n[mean]")
    .replace("composition k1\n", "composition (k1*k2)\nprefactor 1.0000000000000000\n")
    .replace("kernels 1", "kernels 2").replace("type rbf", "type rbf-cyclic")
    .replace("number_of_dimensions 3\nactive_dimensions 1 2 3", "number_of_dimensions 2\nactive_dimensions 1 2 ")
    .replace("theta .16 .4382800000000000E+00 1.9E-1", "theta   0.160000E+00   0.438280E+00  \n \n[kernel.k2]\ntype "
    "periodic\nnumber_of_dimensions 1\nactive_dimensions 3 \ntheta   0.19E+00  \n ")
)  # fmt: skip
VERSION_10 = (
    "[metadata]\nprogram FEREBUS\nversion 10.0.0\nCopyright QCT research group\nDate  15-04-2026\n" + VERSION_10
)


@pytest.mark.parametrize("text", [VERSION_7, GPYTORCH, OLDEST, VERSION_10], ids=["7", "gpytorch", "oldest", "10"])
def test_dialects(text: str) -> None:
    model = parse_model(text, PATH)
    assert (model.system, model.atom, model.property_name, model.frame, model.n_atoms) == (
        "WATER", "O1", "iqa", (0, 1, 2), 3,
    )  # fmt: skip
    np.testing.assert_array_equal(model.x, [[1.8, 1.9, 1.7], [1.7, 2.0, 1.7]])
    np.testing.assert_array_equal(model.y, [-75.5, -75.45])
    np.testing.assert_array_equal(model.weights, [-0.25, 0.03])
    theta = np.zeros(3)
    for kernel in model.kernels.kernels:
        theta[kernel.dimensions] = kernel.theta
    np.testing.assert_array_equal(theta, [0.16, 0.43828, 0.19])
    assert model.mean.value == -75.5
    kinds = [kernel.kind for kernel in model.kernels.kernels]
    if text == VERSION_10:
        assert model.nugget == -0.23e-7
        assert model.metadata["Copyright"] == "QCT research group"
        assert kinds == ["rbf-cyclic", "periodic"]
    else:
        assert model.nugget == 1e-10
        assert model.likelihood == 348.9145663746718
        assert model.metadata["method"] == "B3LYP"
        assert kinds == ["rbf-cyclic" if text == OLDEST else "rbf"]


def test_rbf_that_a_writer_called_constant() -> None:
    model = parse_model(VERSION_7.replace("type rbf", "type constant").replace("theta", "thetas"), PATH)
    assert model.kernels.kernels[0].kind == "rbf"


# What is replaced by what, the number of the line at fault, and a word of the message.
EDITS = {
    "a word among the features": ("1.8 1.9 1.7", "1.8 O1 1.7", 40, "O1"),
    "not a number": ("1.8 1.9 1.7", "1.8 nan 1.7", 40, "nan"),
    "underscores": ("1.8 1.9 1.7", "1_8 1.9 1.7", 40, "1_8"),
    "a feature too few": ("1.8 1.9 1.7", "1.8 1.9", 40, "3 numbers, found 2"),
    "a row too few": ("1.8 1.9 1.7\n", "", 39, "2 rows"),
    "a row too many": ("-75.45\n", "-75.45\n-75.4\n", 43, "2 rows"),
    "weights after the end": ("0.3E-1\n", "\n0.3E-1\n", 50, "the end of"),
    "no weights": ("[weights]", "[weight]", None, "[weights]"),
    "a section twice": ("[weights]", "[mean]", 47, "every section once"),
    "a key twice": ("atom O1", "atom O1\natom O1", 11, "every key once"),
    "unknown kernel": ("type rbf", "type linear", 28, "linear"),
    "unknown mean": ("type constant", "type cubic", 20, "cubic"),
    "kernel without theta": ("theta .16", "theta", 27, "3 theta"),
    "negative theta": (".16 .438", "-.16 .438", 27, "negative"),
    "features twice in a kernel": ("active_dimensions 1 2 3", "active_dimensions 1 2 2", 27, "every feature once"),
    "feature that is not there": ("active_dimensions 1 2 3", "active_dimensions 1 2 4", None, "features up to 3"),
    "dimensions": ("number_of_dimensions 3", "number_of_dimensions 2", 30, "2 features"),
    "number of kernels": ("number_of_kernels 1", "number_of_kernels 2", 24, "2 kernels"),
    "composition": ("composition k1", "composition k1*k3", 25, "k3"),
    "open parenthesis": ("composition k1", "composition (k1", 25, "closing parenthesis"),
    "scaled data": ("scaling.x none", "scaling.x standardise", 36, "standardise"),
    "half an atom": ("number_of_atoms 3", "number_of_atoms 2.5", 15, "whole number"),
    "no atoms": ("ALF 1 2 3", "ALF", 12, "ALF"),
    "an atom twice": ("ALF 1 2 3", "ALF 1 2 2", None, "different atoms"),
    "an atom that is not there": ("ALF 1 2 3", "ALF 1 2 4", None, "from 1 to 3"),
    "no training points": ("training_points 2", "training_points 0", 14, "at least one"),
    "nugget": (".1000000000000000E-09", "tiny", 4, "tiny"),
    "another kind of file": (VERSION_7, "3\nwater\nO 0 0 0\n", 1, "begins with a section"),
    "empty": (VERSION_7, "", None, "section [system]"),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_wrong_models_are_refused_with_their_line(name: str) -> None:
    old, new, line, word = EDITS[name]
    assert VERSION_7.count(old) >= 1
    with pytest.raises(FileFormatError) as caught:
        parse_model(VERSION_7.replace(old, new, 1), PATH)
    where = f"{PATH}:{line}" if line is not None else PATH
    assert re.match(re.escape(where) + r"\b", caught.value.where), caught.value.where
    assert word in str(caught.value)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_damaged_models_are_read_or_refused(source: st.DataObject) -> None:
    """Any text is a model or an error of ours that names the file, never anything else."""
    text = source.draw(st.sampled_from([VERSION_7, GPYTORCH, OLDEST, VERSION_10]))
    begin = source.draw(st.integers(0, len(text)))
    end = source.draw(st.integers(begin, min(len(text), begin + 40)))
    damaged = text[:begin] + source.draw(st.text(max_size=8)) + text[end:]
    assert refusal(lambda: parse_model(damaged, PATH)).startswith(PATH)


@given(st.recursive(st.sampled_from(["k1", "k2", "k3"]), lambda inner: st.tuples(st.sampled_from("+*"), inner, inner)))
def test_compositions_mean_what_arithmetic_means(tree: object) -> None:
    def text(node: object) -> str:
        return node if isinstance(node, str) else f"({text(node[1])} {node[0]}{text(node[2])})"  # type: ignore[index]

    expression = text(tree)
    used = sorted(set(re.findall(r"k\d", expression)))
    none = np.zeros(0, dtype=np.int64)
    kernels = tuple(Kernel(k, "constant", none, np.zeros(0), 1.0 + 0.37 * int(k[1])) for k in used)
    value = Composition(kernels, expression).diagonal()
    assert value == pytest.approx(eval(expression, {}, {kernel.name: kernel.value for kernel in kernels}))


def test_product_binds_closer_than_sum() -> None:
    assert parse("a+b*c+d") == ("+", ("+", "a", ("*", "b", "c")), "d")
    for wrong in ("", "a+", "*a", "a b", "a)", "(a", "a-b", "((" * 80 + "a"):
        with pytest.raises(InputError, match="composition"):
            parse(wrong)


@st.composite
def tables(draw: st.DrawFn) -> FeatureTable:
    n, d = draw(st.integers(1, 5)), draw(st.integers(1, 7))
    names = draw(st.lists(words.filter(lambda w: not re.match(r"f\d|iqa|point_", w)), max_size=3, unique=True))
    outputs = {name: draw(arrays((n,))) for name in names}
    return FeatureTable(tuple(f"f{k + 1}" for k in range(d)), draw(arrays((n, d))), draw(arrays((n,))), outputs)


@settings(deadline=None, max_examples=40)
@given(tables(), st.booleans())
def test_table_that_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, table: FeatureTable, index: bool
) -> None:
    path = tmp_path_factory.mktemp("table") / "WATER_O1_TRAINING_SET.csv"
    write_training_csv(path, table, index)
    read = read_training_csv(path)
    assert read.names == table.names
    np.testing.assert_array_equal(read.features, table.features)
    np.testing.assert_array_equal(read.energies, table.energies)
    assert list(read.outputs) == list(table.outputs)
    for name, column in table.outputs.items():
        np.testing.assert_array_equal(read.outputs[name], column)


def test_table_with_units_and_of_ichor(tmp_path: Path) -> None:
    path = tmp_path / "O1_processed_data_alf_1_2_3.csv"
    path.write_text(
        "point_id,point_name,f2_H3/angstrom,f1_H2/bohr,f3_H3/radians,-dE/df1,-dE/df2,q00/e,iqa/kJ/mol\n"
        "0,WATER0000,1.0,2.0,.15D+1,0.1,0.2,-1.1,-198000.0\n\n"
    )
    table = read_training_csv(path)
    assert table.names == ("f1_H2", "f2_H3", "f3_H3")
    np.testing.assert_allclose(table.features, [[2.0, 1.0 / ANGSTROM, 1.5]], rtol=1e-15)
    np.testing.assert_allclose(table.energies, [-198000.0 / KJ_MOL], rtol=1e-15)
    assert list(table.outputs) == ["q00"]
    charge = read_training_csv(path, "q00")
    assert (charge.energies, list(charge.outputs)) == (-1.1, ["iqa"])


TABLE = ",f1,f2,f3,iqa,q00\n0,1.8,1.9,1.7,-75.5,-1.1\n1,1.7,1.8,1.6,-75.4,-1.2\n"
TABLE_EDITS = {
    "a gap": ("f2", "f4", 1, "without a gap"),
    "a feature twice": ("f2", "f1", 1, "every feature once"),
    "no energy": ("iqa", "energy", 1, "'iqa'"),
    "a property twice": ("q00", "iqa", 1, "a name of its own"),
    "no name": ("q00", "", 1, "a name of its own"),
    "unit": ("f2", "f2/furlong", 1, "furlong"),
    "entry too few": ("-75.4,", "", 3, "6 entries"),
    "a word": ("-75.4", "low", 3, "low"),
    "empty entry": ("-75.4", "", 3, "a finite number"),
    "infinite": ("-75.4", "inf", 3, "inf"),
    "quotes": ("-75.4", '"-75.4', 3, "comma-separated"),
    "no rows": (TABLE[TABLE.index("\n") :], "\n", 1, "at least one row"),
    "no features": (",f1,f2,f3,", ",a,b,c,", 1, "f1, f2"),
    "empty": (TABLE, "", None, "a header line"),
}


@pytest.mark.parametrize("name", TABLE_EDITS)
def test_wrong_tables_are_refused_with_their_line(name: str, tmp_path: Path) -> None:
    old, new, line, word = TABLE_EDITS[name]
    assert old in TABLE
    path = tmp_path / "O1.csv"
    path.write_text(TABLE.replace(old, new, 1))
    with pytest.raises(FileFormatError) as caught:
        read_training_csv(path)
    assert caught.value.where.startswith(f"{path}:{line}" if line else str(path))
    assert word in str(caught.value)


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=60), st.integers(0, len(TABLE)), st.integers(0, 20))
def test_damaged_tables_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, inserted: str, begin: int, removed: int
) -> None:
    path = tmp_path_factory.mktemp("table") / "O1.csv"
    path.write_text(TABLE[:begin] + inserted + TABLE[begin + removed :], encoding="utf-8", errors="replace", newline="")
    assert refusal(lambda: read_training_csv(path)).startswith((str(path), PATH))


def test_tables_with_names_that_cannot_be_read_are_not_written(tmp_path: Path) -> None:
    for name in ("f1", "a,b", "iqa/Ha", ""):
        table = FeatureTable(("f1",), np.ones((1, 1)), np.ones(1), {name: np.ones(1)})
        with pytest.raises(InputError, match="name of a property"):
            write_training_csv(tmp_path / "O1.csv", table)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["H", "C", "Cl"]), arrays((3,), st.floats(-1e3, 1e3))), min_size=1, max_size=5),
    st.one_of(st.none(), st.floats(10.0, 200.0).map(lambda edge: edge * np.eye(3))),
)
def test_config_that_is_written_is_read(atoms: list[tuple[str, FloatArray]], cell: FloatArray | None) -> None:
    symbols = tuple(symbol for symbol, _ in atoms)
    labels = tuple(f"MOLECULE_{symbol}{k + 1}" for k, symbol in enumerate(symbols))
    positions = np.array([position for _, position in atoms])
    read = parse_config(format_config(Config("title", symbols, labels, positions, cell)), "CONFIG")
    assert (read.title, read.symbols, read.labels) == ("title", symbols, labels)
    np.testing.assert_allclose(read.positions, positions, rtol=0, atol=1e-12)
    if cell is None:
        assert read.cell is None
    else:
        np.testing.assert_allclose(read.cell, cell, atol=1e-11)


CONFIG = """Frame :         1
         1         1         3
       20.0        0.0        0.0
        0.0       20.0        0.0
        0.0        0.0       20.0
O  1  WATER_O1
     1.0  2.0  3.0
     0.1  0.1  0.1
H  2  WATER_H2
     2.0  2.0  3.0
     0.1  0.1  0.1
H  3  WATER_H3
     1.0  3.0  3.0
     0.1  0.1  0.1
"""


def test_config_with_velocities() -> None:
    config = parse_config(CONFIG, "CONFIG")
    np.testing.assert_allclose(config.positions * BOHR, [[1, 2, 3], [2, 2, 3], [1, 3, 3]])
    assert config.cell is not None
    np.testing.assert_allclose(config.cell * BOHR, 20.0 * np.eye(3))


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("1         1         3", "3         1         3", "CONFIG:2"),
        ("1         1         3", "1         1         4", "CONFIG:2"),
        ("20.0        0.0        0.0", "0.0        0.0        0.0", "CONFIG:3"),
        ("2.0  2.0  3.0", "2.0  two  3.0", "CONFIG:10"),
        ("2.0  2.0  3.0", "2.0  2.0", "CONFIG:10"),
        ("H  2  WATER_H2", "H  2", "CONFIG:9"),
        ("H  2  WATER_H2", "H  two  WATER_H2", "CONFIG:9"),
        (CONFIG[-40:], "", "CONFIG:12"),
        (CONFIG, "", "CONFIG"),
    ],
)
def test_wrong_config_is_refused(old: str, new: str, where: str) -> None:
    assert old in CONFIG
    with pytest.raises(FileFormatError) as caught:
        parse_config(CONFIG.replace(old, new, 1), "CONFIG")
    assert caught.value.where == where


def test_all_digits_survive_the_file() -> None:
    """Also of NumPy's numbers, which print with their type."""
    mean = Mean("constant", np.float64(-37.8123456789012345))
    text = solved(product(data()[0]), Reading(), mean=mean, metadata={"nugget": "1e-08"})
    assert_same(text, parse_model(format_model(text), PATH))
