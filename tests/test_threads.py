"""Processor times, with clocks fine and coarse."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from fflux_py.threads import processor_times

TICK = 0.01


def work(size: int) -> None:
    np.linalg.eigvalsh(np.eye(size) + 0.1)


def test_a_coarse_clock_and_a_fine_one_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    fine = time.thread_time
    (expected,) = processor_times(lambda: work(20))
    # a call takes a thousandth of a tick
    monkeypatch.setattr(time, "thread_time", lambda: TICK * math.floor(fine() / TICK))
    (coarse,) = processor_times(lambda: work(20))
    assert 0.0 < expected < TICK
    assert coarse == pytest.approx(expected, rel=0.9)


def test_exact_times_of_a_clock_that_counts_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def spend(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(time, "thread_time", lambda: TICK * math.floor(now / TICK + 1e-9))
    found = processor_times(lambda: spend(3e-5), lambda: spend(2e-2), seconds=1.0)
    assert found == pytest.approx((3e-5, 2e-2), rel=0.02)
    assert processor_times() == ()


@pytest.mark.parametrize(("seconds", "rounds"), [(0.0, 5), (0.1, 0)])
def test_arguments(seconds: float, rounds: int) -> None:
    with pytest.raises(ValueError, match="expected both positive"):
        processor_times(lambda: None, seconds=seconds, rounds=rounds)
