"""How far a build is: read from its folder, while it runs or after."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fflux_py.active_learning.build_config import BuildPlan
from fflux_py.active_learning.building import STATUS_FILE
from fflux_py.active_learning.rounds import TABLE_FILE
from fflux_py.errors import FileFormatError
from fflux_py.files import read_json, read_text

ENDED: Final = "done"
"""The stage of a build that has ended."""


@dataclass(frozen=True)
class BuildStatus:
    """How far a build is.

    Parameters
    ----------
    plan
        Its plan.
    stage, since
        What it is doing, or was when it was killed, and when that began (UTC); ``"done"`` at the end.
    passed
        Whether the last certificate holds; None before the end.
    rounds
        Rows of the tables of all rounds, as texts, with the cycle.
    """

    plan: BuildPlan
    stage: str
    since: str
    passed: bool | None
    rounds: tuple[Mapping[str, str], ...]

    @property
    def ended(self) -> bool:
        """Whether it has come to its end."""
        return self.stage == ENDED


def read_build_status(folder: Path) -> BuildStatus:
    """Read how far the build in a folder is.

    Raises
    ------
    InputError, FileFormatError
        There is no build, or its files are damaged.
    """
    plan = BuildPlan.read(folder)
    path = folder / STATUS_FILE
    # Before its first stage a build has a plan alone.
    content = (
        read_json(path, "give the folder of 'fflux build'") if path.exists() else {"stage": "planned", "since": "-"}
    )
    stage, since, passed = content.get("stage"), content.get("since"), content.get("passed")
    if not isinstance(stage, str) or not isinstance(since, str) or not (passed is None or isinstance(passed, bool)):
        raise FileFormatError(str(path), "stage and time of a build", repr(content)[:80])
    rounds: list[Mapping[str, str]] = []
    for table in sorted(folder.glob(f"cycle-*/rounds/{TABLE_FILE}"), key=lambda each: _number(each.parents[1])):
        cycle = str(_number(table.parents[1]))
        for row in csv.DictReader(read_text(table).splitlines()):
            rounds.append({"cycle": cycle, **{key: value for key, value in row.items() if key and value is not None}})
    return BuildStatus(plan, stage, since, passed, tuple(rounds))


def _number(folder: Path) -> int:
    text = folder.name.removeprefix("cycle-")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
