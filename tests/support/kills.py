"""Runs of dynamics that are killed again and again."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

import numpy as np

from fflux_py.dynamics import CompiledPotential, MDConfig, checkpoint, resume, run_replicas
from fflux_py.dynamics.checkpoint import CHECKPOINT_FILE
from fflux_py.molecules.molecule import Molecule


def kill_eight_times(
    potential: CompiledPotential, molecule: Molecule, config: MDConfig, folder: Path, **settings: Any
) -> None:
    """Run in ``folder`` with SIGKILL at eight random moments; it stays unfinished.

    ``settings`` are for the first life.
    """
    rng = np.random.default_rng(11)
    context = multiprocessing.get_context("fork")

    def written() -> int:
        try:
            return (folder / CHECKPOINT_FILE).stat().st_ino
        except FileNotFoundError:  # not yet, or just then: the last one is renamed before the new one takes its place
            return 0

    reached: list[int] = []
    while len(reached) < 8:
        begun = any(folder.glob("checkpoint*.npz"))
        target: Any = resume if begun else run_replicas
        arguments = (potential, folder) if begun else (potential, molecule, config, folder)
        process = context.Process(target=target, args=arguments, kwargs={} if begun else settings)
        before = written()
        process.start()
        # two of three lives end after a new checkpoint, one at any moment, also while outputs are being cut
        while process.is_alive() and (written() == 0 or (len(reached) % 3 and written() == before)):
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.04))
        process.kill()
        process.join()
        reached.append(checkpoint.read_newest_checkpoint(folder)[0].step)
        assert process.exitcode == -9
    assert 0 < reached[-1] < config.steps
    assert len(set(reached)) > 3
