"""The counter-based generator: published vectors, distribution, independence of streams."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fflux_py.dynamics._random import philox, standard_normals, stream_key, uniform


def words(counter: list[int], key: list[int]) -> str:
    out = np.empty(4, dtype=np.uint64)
    philox(np.array(counter, dtype=np.uint64), np.array(key, dtype=np.uint64), out)
    return " ".join(f"{int(word):08x}" for word in out)


@pytest.mark.core
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_known_answers_of_the_authors_library(counter: list[int], key: list[int], expected: str) -> None:
    """The vectors for philox4x32-10 of Random123."""
    assert words(counter, key) == expected


@pytest.mark.core
def test_uniform_numbers_never_reach_their_ends() -> None:
    smallest, largest = np.uint64(0), np.uint64(0xFFFFFFFF)
    assert 0.0 < uniform(smallest, smallest) < 1e-15
    assert 1.0 - 1e-15 < uniform(largest, largest) < 1.0


def normals(n: int, seed: int = 1, replica: int = 0, step: int = 5, stream: int = 0) -> np.ndarray:
    out = np.empty(n)
    standard_normals(stream_key(seed, replica), step, stream, out)
    return out


def test_normals_are_normal_and_uncorrelated() -> None:
    numbers = normals(200_001)
    assert stats.kstest(numbers, stats.norm.cdf).pvalue > 1e-3
    assert abs(np.corrcoef(numbers[:-1:2], numbers[1::2])[0, 1]) < 0.015
    # the first number of successive steps: that is what an atom sees in the course of a run
    along = np.array([normals(1, step=step)[0] for step in range(4000)])
    assert stats.kstest(along, stats.norm.cdf).pvalue > 1e-3
    assert abs(np.corrcoef(along[:-1], along[1:])[0, 1]) < 0.06


def test_every_place_has_numbers_of_its_own() -> None:
    base = {"seed": 1, "replica": 0, "step": 5, "stream": 0}
    places = [base, *({**base, name: base[name] + 1} for name in base), {**base, "step": 5 + 2**32}]
    series = [normals(500, **place) for place in places]
    for i in range(len(series)):
        assert np.array_equal(series[i], normals(500, **places[i]))
        for j in range(i):
            assert abs(np.corrcoef(series[i], series[j])[0, 1]) < 0.2
            assert not np.isin(series[i], series[j]).any()


def test_an_odd_count_is_the_start_of_the_even_one() -> None:
    assert np.array_equal(normals(7), normals(8)[:7])
