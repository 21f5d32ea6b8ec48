"""Pictures and the report: valid, self-contained, complete."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np
import pytest

from fflux_py.analysis.criteria import Criterion, with_error
from fflux_py.analysis.prediction_errors import ALL, ROOM
from fflux_py.analysis.report.drawing import INK, THEME, new_figure, scatter, styled, to_png, to_svg
from fflux_py.analysis.report.page import Picture, Section, Table, format_number, inline_svg, write_report
from fflux_py.analysis.report.page_style import STYLE
from fflux_py.analysis.report.prediction_plots import (
    atomic_energy_errors,
    error_s_curve,
    learning_curve,
    predicted_against_reference,
)
from fflux_py.analysis.report.sections import (
    dataset_section,
    level_of_theory,
    optimisation_criterion,
    optimisation_section,
    provenance,
    validation_section,
)
from fflux_py.analysis.report.trajectory_plots import bond_distributions, structure_overlay, torsion_map
from fflux_py.analysis.validate import Validation, validate
from fflux_py.errors import InputError
from fflux_py.units import ANGSTROM
from tests.support.synthetic import fitted, label, malondialdehyde, methanol, sample

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
# Elements without an end tag.
VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Checks that tags nest, and collects links, identifiers and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            assert name != "style" or "url(http" not in (value or "")
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "data", "action"):
                self.references.append(value or "")
            if name in ("clip-path", "style"):
                self.references += [f"#{m}" for m in re.findall(r"url\(#([^)]+)\)", value or "")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)


@pytest.fixture(scope="module")
def validation() -> Validation:
    return validate(fitted(), label(sample(40, seed=9), "nvt-500K-s9", "test"))


@pytest.fixture(scope="module")
def picture() -> str:
    return to_svg(learning_curve([100, 200, 400], {"a model": [0.3, 0.15, 0.07]}))


def written(tmp_path, *args, **kwargs) -> tuple[str, Page]:
    path = write_report(tmp_path / "report.html", *args, written=datetime(2025, 1, 2, tzinfo=UTC), **kwargs)
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def test_report_is_one_valid_self_contained_file(tmp_path, picture):
    sections = [
        Section("First", "One paragraph.\n\nAnother one.", [Picture(picture, "A curve.", "curve")]),
        Section("Second", items=[Picture(picture, "Again.", "the same"), Picture(PIXEL, "A dot.", "dot")]),
        Section("Third", items=[Table(["What", "Value (K)"], [["a", 1.0], ["b", 2.5]], "Two rows.")]),
    ]
    text, page = written(tmp_path, "A title", sections)
    assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]
    assert text.startswith("<!DOCTYPE html>")
    assert {"script", "iframe", "object", "base"}.isdisjoint(page.tags)
    # Nothing points outside: fragments of this page and data only.
    for reference in page.references:
        assert reference.startswith(("#", "data:")), reference
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    # every fragment exists, and only once
    assert len(set(page.ids)) == len(page.ids)
    assert {r[1:] for r in page.references if r.startswith("#")} <= set(page.ids)
    said = " ".join(page.text)
    for words in ("A title", "One paragraph.", "Another one.", "Figure 1.", "Figure 2.", "Figure 3.", "Table 1."):
        assert words in said
    assert page.tags.count("svg") == 2
    assert base64.b64encode(PIXEL).decode() in text


def test_report_contains_every_figure_that_was_given(tmp_path):
    criteria = [
        Criterion("Energy MAE", 0.0432, "kcal/mol", 1.0, "<", "Of 200 frames.", "Model"),
        Criterion("Closest pair", 0.55, "Å", 0.6, ">"),
        Criterion("Steps", 100000.0, "", 100000.0, "="),
    ]
    text, page = written(
        tmp_path, "T", [Section("S", items=[Table(["Group", "RMSE (kcal/mol)"], [["one", 12.345]], "C")])],
        summary=criteria, highlights=[("Force MAE", 0.31, "kcal/mol/Å")],
        provenance={"data set, SHA-256": "ab" * 32, "seed": 17, "level": "B3LYP/6-31+G(d,p)"}, subtitle="Sub",
    )  # fmt: skip
    said = " ".join(page.text)
    for expected in ("0.0432 kcal/mol", "< 1 kcal/mol", "Of 200 frames.", "Model", "0.550 Å", "> 0.6 Å", "12.3",
                     "0.310", "kcal/mol/Å", "100\u2009000", "= 100\u2009000", "ab" * 32, "17", "B3LYP/6-31+G(d,p)",
                     "Sub", "2025-01-02"):  # fmt: skip
        assert expected in said, expected
    assert "2 of 3 criteria met" in said
    assert text.count("✓ met") == 2
    assert text.count("✗ not met") == 1


def test_text_cannot_break_the_page(tmp_path):
    nasty = '<b>&"</figure><script>alert(1)</script>'
    _, page = written(
        tmp_path, nasty, [Section(nasty, nasty, [Table([nasty], [[nasty]], nasty), Picture(PIXEL, nasty, nasty)])],
        summary=[Criterion(nasty, 1.0, nasty, 2.0, "<", nasty, nasty)], provenance={nasty: nasty},
        highlights=[(nasty, nasty, nasty)], subtitle=nasty,
    )  # fmt: skip
    assert "script" not in page.tags
    assert "".join(page.text).count(nasty) >= 8


def test_same_input_gives_the_same_bytes(tmp_path, validation):
    pages = [written(tmp_path, "T", [validation_section(validation)])[0] for _ in range(2)]
    assert pages[0] == pages[1]


def test_pictures_follow_the_theme(picture):
    inlined = inline_svg(picture, "f1", "a curve")
    assert INK in picture
    for colour in THEME:
        assert colour not in inlined
    assert f"var({THEME[INK]})" in inlined
    # The page defines every variable, for light and for dark.
    for variable in THEME.values():
        assert STYLE.count(f"{variable}:") == 2
    assert "prefers-color-scheme: dark" in STYLE
    with pytest.raises(InputError, match="SVG"):
        inline_svg("<p>no picture</p>", "f1", "x")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.043210, "0.0432"), (12.345, "12.3"), (-1.5, "−1.50"), (0.0, "0"), (3, "3"), (12345, "12\u2009345"),
     (1.0, "1"), (float("nan"), "–"), (float("inf"), "∞"), (1.234e-7, "1.23 × 10⁻⁷"), (2.5e8, "250\u2009000\u2009000"),
     (0.00012345, "0.000123"), (123456.7, "123457"), ("text", "text")],
)  # fmt: skip
def test_numbers_as_they_are_printed(value, expected):
    assert format_number(value) == expected


def test_value_and_error_share_their_digits():
    assert with_error(300.04, 1.456) == "300.0 ± 1.5"
    assert with_error(-0.0518, 0.084) == "−0.052 ± 0.084"
    assert with_error(1013.4, 15.67) == "1013 ± 16"
    assert with_error(2.0, 0.0) == "2"


def test_criteria():
    assert Criterion("", 0.9, "", 1.0).passed
    assert not Criterion("", 1.0, "", 1.0).passed
    assert not Criterion("", float("nan"), "", 1.0).passed
    assert not Criterion("", float("nan"), "", 1.0, ">").passed
    assert Criterion("a", float("nan"), "", 1.0, group="run").as_dict()["value"] is None
    assert Criterion("a", 1.0, "", 1.0, group="run").as_dict()["name"] == "run: a"


def test_tables_and_pictures_that_are_none_are_refused(tmp_path):
    with pytest.raises(InputError, match="2 cells"):
        Table(["a", "b"], [[1.0]], "c")
    with pytest.raises(InputError, match="PNG"):
        write_report(tmp_path / "r.html", "T", [Section("S", items=[Picture(b"GIF89a", "c", "d")])])
    assert list(tmp_path.iterdir()) == []


def axes_of(figure):
    return [a for a in figure.axes if a.get_label() != "<colorbar>"]


def test_every_axis_has_its_unit(validation):
    positions, molecule = sample(120)[:50], methanol()
    pair = (2, 0, 1, 5), (3, 0, 1, 5)
    figures = {
        "kcal/mol": [predicted_against_reference(validation), error_s_curve(validation.errors),
                     atomic_energy_errors(validation), learning_curve([10, 20], {"x": [2.0, 1.0]})],
        "°": [torsion_map(molecule, pair, [("training", positions)], positions)],
        "Å": [bond_distributions(molecule, positions, positions)],
    }  # fmt: skip
    for unit, drawn in figures.items():
        for figure in drawn:
            labels = [t for a in axes_of(figure) for t in (a.get_xlabel(), a.get_ylabel()) if t]
            assert any(unit in text for text in labels), labels
            # and every picture is a document
            root = ET.fromstring(to_svg(figure))
            assert root.tag.endswith("svg")


def test_predicted_against_reference_shows_the_predictions(validation):
    figure = predicted_against_reference(validation)
    drawn = np.concatenate([c.get_offsets() for c in figure.axes[0].collections])
    lowest = validation.dataset.energies.min()
    expected = (
        np.stack([validation.dataset.energies - lowest, validation.energies - lowest], axis=1) * 627.5094740630558
    )
    np.testing.assert_allclose(drawn, expected, rtol=1e-9, atol=1e-9)
    assert figure.axes[0].get_xlim() == figure.axes[0].get_ylim()


def test_s_curve_picture_ends_at_one_hundred(validation):
    lines = [line for line in error_s_curve(validation.errors).axes[0].lines if len(line.get_xdata()) > 2]
    (line,) = lines
    x, percent = validation.errors.s_curve(ROOM)
    np.testing.assert_allclose(line.get_xdata()[1:-1], x)
    np.testing.assert_allclose(line.get_ydata()[1:], [*percent, 100.0])


def test_learning_and_overlay_show_all_that_was_given():
    a = methanol()
    b = a.with_positions(1.05 * a.positions)
    axes = structure_overlay([("reference", a), ("model", b)]).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["reference", "model"]
    assert len(axes.patches) == 2 * a.n_atoms


def test_many_points_become_a_bitmap():
    @styled
    def draw():
        figure = new_figure(2.0)
        values = np.linspace(0.0, 1.0, 5000)
        scatter(figure.subplots(), values, values, INK)
        return figure

    svg = to_svg(draw())
    assert "data:image/png;base64" in svg
    assert len(svg) < 200_000
    assert to_png(draw()).startswith(b"\x89PNG")


def test_sections_say_what_was_measured(tmp_path, validation):
    test, train = validation.dataset, label(sample(120)[:30])
    text, page = written(
        tmp_path, "Methanol", [dataset_section(train), validation_section(validation)],
        summary=validation.criteria(), provenance=provenance(test, fitted()),
    )  # fmt: skip
    said = " ".join(page.text)
    figures = validation.errors.groups[ALL]
    for value in (figures.energy_mae_kcal_mol, figures.energy_rmse_kcal_mol, figures.force_mae_kcal_mol_angstrom,
                  figures.energy_spread_kcal_mol):  # fmt: skip
        assert format_number(value) in said
    assert test.digest() in said
    assert str(fitted().metadata["data_digest"]) in said
    assert "numpy" in said
    assert "CH₄O" in said
    assert text.count('class="plot"') >= 3


def test_optimised_structures_are_compared():
    first = malondialdehyde()
    moved = np.array(first.positions)
    moved[0] += [0.0, 0.0, 0.3]
    second = first.with_positions(moved)
    section = optimisation_section([("B3LYP minimum", first), ("model minimum", second)])
    criterion = optimisation_criterion(first, second)
    assert 0.0 < criterion.value < 0.3 * ANGSTROM / 3.0
    assert optimisation_criterion(first, first).passed
    (table,) = [item for item in section.items if isinstance(item, Table)]
    rows = {str(row[0]): row[1:] for row in table.rows}
    assert rows["RMSD, all atoms (Å)"][1] == f"{criterion.value:.4f}"
    assert rows["O1–C2 (Å)"][0] == f"{np.hypot(1.027, 0.619):.4f}"
    assert float(str(rows["torsion O1–C2–C3–C4 (°)"][0]).replace("−", "-")) == pytest.approx(180.0, abs=0.1)


def test_level_of_theory_in_words():
    data = label(sample(120)[:2])
    assert level_of_theory(data).startswith("ANALYTIC/none")


def test_importing_the_package_imports_no_pictures():
    code = "import fflux_py, fflux_py.dynamics, fflux_py.analysis, sys; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_drawing_leaves_no_pyplot_behind(tmp_path):
    code = (
        "import sys\nfrom fflux_py.analysis.report.prediction_plots import learning_curve\n"
        "from fflux_py.analysis.report.drawing import to_svg\nto_svg(learning_curve([1, 2], {'x': [2.0, 1.0]}))\n"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
