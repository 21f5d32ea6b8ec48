"""A figure, its threshold, and whether it passes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Criterion:
    """One line of a verdict.

    Parameters
    ----------
    name
        What was measured, in words.
    value
        The figure.
    unit
        Its unit, as it is printed; empty for a pure number.
    threshold
        What it is held against.
    relation
        ``"<"``: passes if value < threshold; ``">"``: if value > threshold; ``"="``: if equal.
    note
        How it was measured, in one sentence.
    group
        What it belongs to, for example a run; lines of one group stand together.
    """

    name: str
    value: float
    unit: str
    threshold: float
    relation: Literal["<", ">", "="] = "<"
    note: str = ""
    group: str = ""

    @property
    def passed(self) -> bool:
        """Whether the figure is on the right side; a figure that is not a number is not."""
        if self.relation == "<":
            return self.value < self.threshold
        if self.relation == ">":
            return self.value > self.threshold
        return self.value == self.threshold

    @property
    def full_name(self) -> str:
        """Group and name."""
        return f"{self.group}: {self.name}" if self.group else self.name

    def as_dict(self) -> dict[str, str | float | bool | None]:
        """For JSON; a value that is not a finite number becomes None."""
        return {
            "name": self.full_name,
            "value": self.value if math.isfinite(self.value) else None,
            "unit": self.unit,
            "relation": self.relation,
            "threshold": self.threshold,
            "passed": self.passed,
        }


def with_error(value: float, error: float) -> str:
    """Value and standard error, both to the second digit of the error."""
    if not error > 0.0:
        return f"{value:.4g}".replace("-", "−")
    digits = min(6, max(0, 1 - math.floor(math.log10(error))))
    return f"{value:.{digits}f} ± {error:.{digits}f}".replace("-", "−")
