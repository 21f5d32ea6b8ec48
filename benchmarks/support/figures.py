"""What the benchmarks share: the shipped data, and one way of printing."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

# Read by NumPy, Numba and PyTorch when they are imported.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "2")

FOLDER = Path(__file__).resolve().parents[2] / "training_data" / "malondialdehyde"


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has."""
    options = argparse.ArgumentParser(description=description.strip().splitlines()[0])
    options.add_argument("--json", action="store_true", help="one JSON object instead of lines of text")
    return options


def show(figures: Mapping[str, object], as_json: bool) -> None:
    """Print figures, whose names end in their units."""
    if as_json:
        print(json.dumps(dict(figures), default=float))
        return
    for name, value in figures.items():
        print(f"{name:<58} {value:.6g}" if isinstance(value, float) else f"{name:<58} {value}")
    sys.stdout.flush()


def show_rows(rows: Mapping[str, Callable[[], Mapping[str, object]]], as_json: bool) -> None:
    """Compute rows of figures one after the other; lines of text come as soon as they are known, JSON at the end."""
    figures: dict[str, object] = {}
    for row in rows.values():
        part = row()
        figures.update(part)
        if not as_json:
            show(part, False)
    if as_json:
        show(figures, True)
