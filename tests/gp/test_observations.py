"""The order of the observations of a joint fit, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fflux_py.errors import InputError
from fflux_py.gp.observations import Observations

pytestmark = pytest.mark.core

PARTITIONED = np.array([True, False, True, False, False])
OBSERVATIONS = Observations(PARTITIONED, 3)
# Two geometries with three atomic energies each, five total energies, five times nine forces.
NAMES = (
    [f"atom {a} of {g}" for a in range(3) for g in (0, 2)]
    + [f"total of {g}" for g in range(5)]
    + [f"force {a}{c} of {g}" for g in range(5) for a in range(3) for c in "xyz"]
)


def test_numbers_and_slices() -> None:
    assert (OBSERVATIONS.n_geometries, OBSERVATIONS.n_partitioned, OBSERVATIONS.count) == (5, 2, len(NAMES))
    assert OBSERVATIONS.with_atoms.tolist() == [0, 2]
    assert NAMES[OBSERVATIONS.atom(1)] == ["atom 1 of 0", "atom 1 of 2"]
    assert NAMES[OBSERVATIONS.totals] == [f"total of {g}" for g in range(5)]
    assert NAMES[OBSERVATIONS.forces][0] == "force 0x of 0"
    assert NAMES[OBSERVATIONS.atoms] + NAMES[OBSERVATIONS.totals] + NAMES[OBSERVATIONS.forces] == NAMES


def test_observations_of_some_geometries() -> None:
    places = OBSERVATIONS.of_geometries(np.array([1, 2]))
    expected = [name for name in NAMES if name.endswith((" of 1", " of 2"))]
    assert [NAMES[place] for place in places] == expected
    everything = OBSERVATIONS.of_geometries(np.arange(5))
    np.testing.assert_array_equal(everything, np.arange(OBSERVATIONS.count))


@pytest.mark.parametrize("rest", [(), (4,)])
def test_parts_of_values(rest: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).standard_normal((OBSERVATIONS.count, *rest))
    place = {name: k for k, name in enumerate(NAMES)}
    atomic, totals, forces = OBSERVATIONS.split(values)
    assert (atomic.shape, totals.shape, forces.shape) == ((3, 5, *rest), (5, *rest), (5, 3, 3, *rest))
    assert (atomic[2, 2] == values[place["atom 2 of 2"]]).all()
    assert not atomic[:, ~PARTITIONED].any()
    assert (totals[4] == values[place["total of 4"]]).all()
    assert (forces[3, 1, 2] == values[place["force 1z of 3"]]).all()
    np.testing.assert_array_equal(OBSERVATIONS.atomic_part(values), atomic[:, PARTITIONED])


def test_without_any_partition() -> None:
    observations = Observations(np.zeros(2, dtype=bool), 4)
    assert (observations.count, observations.totals) == (2 + 24, slice(0, 2))
    atomic, totals, forces = observations.split(np.arange(26.0))
    assert not atomic.any()
    assert totals.tolist() == [0.0, 1.0]
    assert forces[1, 3].tolist() == [23.0, 24.0, 25.0]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="partitioned: expected one value for each geometry"):
        Observations(np.zeros((2, 3), dtype=bool), 4)
    with pytest.raises(ValueError, match="read-only"):
        OBSERVATIONS.partitioned[0] = False
