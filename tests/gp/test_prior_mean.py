"""Prior means: values by hand and what is refused."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from fflux_py.errors import InputError
from fflux_py.gp.prior_mean import MEANS, NAMES, POLYNOMIALS, ConstantMean, check_name, needs_isolated, prior_mean

pytestmark = pytest.mark.core

ENERGIES = np.array([-4.0, -1.0, -3.0, -2.5, -2.0])  # mean and median -2.5; after the next line they differ
SKEWED = np.array([-4.0, -1.0, -3.0, -2.5, 8.0])  # min -4, max 8, mean -0.5, median -2.5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MF1", 0.0),
        ("MF2", -0.5),
        ("MF3", -2.5),
        ("MF4", 8.0 + 5.0 * 12.0),
        ("MF5", -37.5),
        ("max", 8.0),
        ("mean+2*range", -0.5 + 2.0 * 12.0),
        ("mean+0.5*range", -0.5 + 6.0),
        ("constant:-1.25", -1.25),
        ("constant:+3e-2", 0.03),
    ],
)
def test_values_by_hand(name: str, value: float) -> None:
    assert prior_mean(name, SKEWED, isolated=-37.5) == pytest.approx(value, rel=1e-15, abs=1e-15)


def test_generalised_least_squares() -> None:
    # mu = 1^T K^-1 y / 1^T K^-1 1, which minimises (y - mu)^T K^-1 (y - mu)
    rng = np.random.default_rng(0)
    root = rng.standard_normal((5, 5))
    kernel = root @ root.T + np.eye(5)
    ones, mean = np.ones(5), SKEWED.mean()
    w_y, w_1 = np.linalg.solve(kernel, SKEWED - mean), np.linalg.solve(kernel, ones)
    mu = prior_mean("gls", SKEWED, w_y=w_y, w_1=w_1)
    assert mu == pytest.approx(ones @ np.linalg.solve(kernel, SKEWED) / (ones @ w_1), rel=1e-12)

    def loss(m: float) -> float:
        return float((SKEWED - m) @ np.linalg.solve(kernel, SKEWED - m))

    assert loss(mu) < min(loss(mu - 1e-3), loss(mu + 1e-3))


def test_all_means_of_equal_energies_are_that_energy() -> None:
    for name in ("MF2", "MF3", "MF4", "max", "mean+5*range"):
        assert prior_mean(name, np.full(3, -7.25)) == -7.25
    assert prior_mean("MF2", ENERGIES) == prior_mean("MF3", ENERGIES) == -2.5


def test_unknown_names_and_missing_parts_are_refused_with_one_line() -> None:
    for name in (
        "MF6",
        "mf2",
        "",
        "mean",
        "mean+x*range",
        "mean+-1*range",
        "constant:",
        "constant:abc",
        "constant:nan",
    ):
        with pytest.raises(InputError, match="MF1, MF2, MF3, MF4, MF5") as caught:
            check_name(name)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"MF5.*isolated_energy"):
        prior_mean("MF5", ENERGIES)
    with pytest.raises(InputError, match=r"gls.*w_y and w_1"):
        prior_mean("gls", ENERGIES)


def test_the_table_of_constant_means() -> None:
    names = [mean.name for mean in MEANS]
    assert len(set(names)) == len(names)
    assert [name for name in NAMES if name not in names] == list(POLYNOMIALS)
    for mean in MEANS:
        assert mean.number is None or mean.number.groups == 1
        name = mean.name.replace("K", "1.5").replace("VALUE", "-2e1") if mean.number else mean.name
        check_name(name)
        assert needs_isolated(name) == (name == "MF5")
        assert np.isfinite(prior_mean(name, ENERGIES, -3.0, np.ones(5), np.ones(5)))
    assert not any(needs_isolated(name) for name in POLYNOMIALS)
    for name in POLYNOMIALS:
        with pytest.raises(InputError, match=r"--no-forces"):
            prior_mean(name, ENERGIES)


def test_a_new_mean_is_one_entry_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("fflux_py.gp.prior_mean")
    lowest = ConstantMean("min", lambda data: float(data.energies.min()))
    monkeypatch.setattr(module, "MEANS", (*MEANS, lowest))
    check_name("min")
    assert prior_mean("min", SKEWED) == -4.0
