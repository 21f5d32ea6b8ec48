"""Damage files at random, for as long as one likes, and read them.

    python -m tests.fuzz [--minutes 30] [--seed 1] [--kinds model checkpoint ...] [--keep FOLDER]

A reader may give what the file says, or an error of the package in one line.  A traceback of any other kind, a warning
of another package, more than ten seconds or a gigabyte is a finding: its file is kept, the command ends with 1.  What
is tried follows from the seed alone.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from random import Random
from types import FrameType
from typing import Final

from fflux_py.errors import FFLUXError, FFLUXWarning
from tests.support.damaged_files import KINDS, damage_outside, damage_within, make_files, make_propagators

LONGEST_S: Final = 10
MEMORY: Final = 2**30


class Hang(Exception):
    """A reader took longer than any file of a test can need."""


def _raise_hang(number: int, frame: FrameType | None) -> None:
    raise Hang(f"more than {LONGEST_S} s")


def read_damaged(kind: str, original: bytes, path: Path, rng: Random) -> str | None:
    """Damage a file, read it, and put the original back; None, or the traceback of what must not happen."""
    wanted = KINDS[kind]
    damaged = damage_outside(rng, original) if rng.random() < 0.3 else damage_within(rng, original, wanted.seal)
    path.write_bytes(damaged)
    signal.alarm(LONGEST_S)
    try:
        wanted.read(path)
    except FFLUXError as error:
        return f"more than one line: {error}" if "\n" in str(error) else None
    except Exception:  # the purpose of the command: every other exception is a finding
        return traceback.format_exc()
    finally:
        signal.alarm(0)
    return None


def limit_memory() -> None:
    """Let an allocation beyond what is in use now and one gigabyte fail."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    size = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def main() -> int:
    options = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    options.add_argument("--minutes", type=float, default=30.0)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--kinds", nargs="+", choices=sorted(KINDS), default=sorted(KINDS))
    options.add_argument("--keep", type=Path, default=Path("fuzz-findings"), help="folder for files that were findings")
    arguments = options.parse_args()
    signal.signal(signal.SIGALRM, _raise_hang)
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", FFLUXWarning)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_files(folder)
        if "propagator" in arguments.kinds:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what torch warns about when it is loaded
                make_propagators(folder)
        limit_memory()
        tried, found = fuzz(arguments, folder)
    for kind in arguments.kinds:
        print(f"{kind:<24} {tried[kind]:8d} files {found[kind]:4d} findings")
    print(f"{'all':<24} {tried.total():8d} files {found.total():4d} findings")
    return 1 if found else 0


def fuzz(arguments: argparse.Namespace, folder: Path) -> tuple[Counter[str], Counter[str]]:
    """Files that were tried and findings, by kind."""
    tried: Counter[str] = Counter()
    found: Counter[str] = Counter()
    seen: set[str] = set()
    end = time.monotonic() + 60.0 * arguments.minutes
    work = folder / "work"
    while time.monotonic() < end:
        for kind in arguments.kinds:
            source = folder / KINDS[kind].name
            original = source.read_bytes()
            shutil.rmtree(work, ignore_errors=True)
            if source.parent in (folder, source.parents[-1]) or folder not in source.parents:
                work.mkdir()
            else:
                shutil.copytree(source.parent, work)
            path = work / source.name
            for _ in range(20):
                number = tried[kind]
                tried[kind] += 1
                said = read_damaged(kind, original, path, Random(f"{arguments.seed} {kind} {number}"))
                if said is None:
                    continue
                found[kind] += 1
                place = said.strip().splitlines()[-1][:60] + "".join(said.strip().splitlines()[-3:-1])
                if place in seen:
                    continue
                seen.add(place)
                arguments.keep.mkdir(exist_ok=True)
                kept = arguments.keep / f"{kind.replace(' ', '-')}-{number}{path.suffix}"
                if path.exists():
                    shutil.copy(path, kept)
                print(f"== {kind}, file {number}, kept as {kept}\n{said}", flush=True)
    return tried, found


if __name__ == "__main__":
    sys.exit(main())
