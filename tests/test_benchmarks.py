"""Every benchmark that a page names is there, and takes the options that the page gives it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY

BENCHMARKS = REPOSITORY / "benchmarks"
# A path below benchmarks/, and what follows it up to the end of the line, of the code or before a comment.
COMMAND = re.compile(r"(?<![\w/.])(?P<path>benchmarks/[\w/.*]*[\w*])(?=(?P<arguments>(?:[^`\n#&\\\"']|\\\n)*))")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")


def pages() -> list[Path]:
    """Files that name benchmarks: pages, the sources' docstrings and comments, and the results with their commands."""
    texts = [
        REPOSITORY / "README.md",
        REPOSITORY / "campaigns" / "README.md",
        *REPOSITORY.glob("docs/**/*.md"),
        *REPOSITORY.glob("training_data/*/README.md"),
        *REPOSITORY.glob("fflux_py/**/*.py"),
        *BENCHMARKS.glob("**/*.py"),
        *BENCHMARKS.glob("**/*.md"),
        *BENCHMARKS.glob("results/*.json"),
    ]
    return sorted(path for path in texts if "_build" not in path.parts and COMMAND.search(path.read_text("utf-8")))


def missing(text: str) -> list[str]:
    """What a text names that is not there: paths, and options of the commands."""
    absent = []
    for command in COMMAND.finditer(text):
        path = command["path"]
        if "*" in path:
            absent += [] if list(REPOSITORY.glob(path)) else [path]
            continue
        target = REPOSITORY / path
        if not target.exists():
            absent.append(path)
            continue
        if text[: command.start()].endswith("python "):
            sources = list(target.glob("*.py")) if target.is_dir() else [target]
            if target.is_dir() and not (target / "__main__.py").is_file():
                absent.append(f"{path}/__main__.py")
            program = "".join(
                source.read_text(encoding="utf-8") for source in [*sources, *BENCHMARKS.glob("support/*.py")]
            )
            absent += [f"{path} {o}" for o in OPTION.findall(command["arguments"]) if f'"{o}"' not in program]
    return absent


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_benchmarks_that_a_page_names_exist(page: Path) -> None:
    assert not missing(page.read_text(encoding="utf-8"))


def test_readme_names_every_benchmark() -> None:
    """The table of benchmarks/README.md is whole, and each command of it begins with a path that exists."""
    named = {command["path"] for command in COMMAND.finditer((BENCHMARKS / "README.md").read_text(encoding="utf-8"))}
    folders = {path.parent for path in BENCHMARKS.glob("**/__main__.py")}
    scripts = {
        path
        for path in BENCHMARKS.glob("*/*.py")
        if path.parent not in folders and path.parent.name != "support" and "__main__" in path.read_text("utf-8")
    }
    assert {str(path.relative_to(REPOSITORY)) for path in folders | scripts} == named


@pytest.mark.parametrize(
    ("text", "absent"),
    [
        ("`python benchmarks/accuracy/held_out.py --energies-only`", []),
        ("`benchmarks/accuracy.py`", ["benchmarks/accuracy.py"]),
        ("python benchmarks/accuracy/held_out.py --widdershins 3", ["benchmarks/accuracy/held_out.py --widdershins"]),
        ("python benchmarks/results page", ["benchmarks/results/__main__.py"]),
        ("see benchmarks/accuracy/alanine_dipeptide/C*.xyz and benchmarks/D*.xyz", ["benchmarks/D*.xyz"]),
    ],
)
def test_names_that_do_not_exist_are_seen(text: str, absent: list[str]) -> None:
    assert missing(text) == absent
