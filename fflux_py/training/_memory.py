"""Memory that is free on this machine, for the process and its group of processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from fflux_py.errors import InputError

_MEMINFO: Final = Path("/proc/meminfo")
_GROUPS: Final = Path("/proc/self/cgroup")
_GROUP_FOLDER: Final = Path("/sys/fs/cgroup")


def free_memory() -> float:
    """Bytes that can be taken without swapping.

    Linux: ``MemAvailable``, or what the limit of a control group (a batch system's, a container's) leaves if that is
    less.  Elsewhere: the physical memory, of which the system does not say how much is free.

    Raises
    ------
    InputError
        A system that says nothing about its memory.
    """
    available = _available(_MEMINFO)
    if available is None:
        available = _physical()
    return min([available, *_left_in_groups(_GROUPS, _GROUP_FOLDER)])


def _available(meminfo: Path) -> float | None:
    """``MemAvailable`` of /proc/meminfo in bytes; None where there is no such line."""
    text = _read(meminfo)
    for line in "" if text is None else text.splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return 1024.0 * float(value.split()[0])
    return None


def _physical() -> float:
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names or "SC_PAGE_SIZE" not in names:
        raise InputError(
            "memory", "a number of gigabytes", "none, on a system that does not tell its memory", "give it"
        )
    return float(os.sysconf("SC_PHYS_PAGES")) * float(os.sysconf("SC_PAGE_SIZE"))


def _left_in_groups(groups: Path, root: Path) -> list[float]:
    """Bytes that the limits of the process's control groups leave; pages of files that can be dropped count as left."""
    left = []
    for line in (_read(groups) or "").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            folder, limit_name, usage_name, files_name = root, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            folder, limit_name = root / "memory", "memory.limit_in_bytes"
            usage_name, files_name = "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        inner = folder / path.strip("/")
        for group in (inner, *inner.parents):
            if not group.is_relative_to(folder):
                break
            limit, usage = _read(group / limit_name), _read(group / usage_name)
            if limit is None or usage is None or limit.strip() == "max":
                continue
            statistics = dict(entry.split() for entry in (_read(group / "memory.stat") or "").splitlines())
            left.append(max(float(limit) - float(usage) + float(statistics.get(files_name, 0)), 0.0))
    return left


def _read(path: Path) -> str | None:
    """The text of a file of the system; None where there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None
