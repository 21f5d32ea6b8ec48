"""The numerical core once more as plain Python: with the compiler switched off, results must be the same.

Compiled code that reads beyond an array returns a number; Python raises.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_core_passes_with_the_compiler_switched_off() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "core and not slow", "-p", "no:cacheprovider", "-q", "tests"],
        cwd=Path(__file__).resolve().parent.parent,
        env={**environment, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
