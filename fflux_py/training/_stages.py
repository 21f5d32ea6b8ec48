"""Progress of work in several stages as one pair of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Final

from fflux_py.typing import Progress

_PARTS: Final = 1000


def stages(progress: Progress | None, shares: Sequence[float]) -> list[Progress]:
    """A callback (done, total) for each stage; the whole runs from 0 to 1000 and never goes back.

    Parameters
    ----------
    progress
        Called with the parts done and 1000; None: nobody is told.
    shares
        Estimated work of the stages, in any unit.
    """
    edges = [0.0, *accumulate(shares)]
    furthest = -1

    def stage(first: float, last: float) -> Progress:
        def report(done: int, total: int) -> None:
            nonlocal furthest
            parts = int(_PARTS * (first + (last - first) * min(done / total, 1.0)) / edges[-1])
            if progress is not None and parts > furthest:
                furthest = parts
                progress(parts, _PARTS)

        return report

    return [stage(first, last) for first, last in pairwise(edges)]
