"""Where the repository and the tests' data are."""

from __future__ import annotations

from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parent.parent.parent
TEST_DATA: Final = REPOSITORY / "tests" / "data"
