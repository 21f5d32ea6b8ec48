"""What defines a run, whatever becomes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from fflux_py.bias.plumed_input import PlumedInput
from fflux_py.dynamics import _integrator as compiled
from fflux_py.dynamics import guards
from fflux_py.dynamics.checkpoint import Checkpoint
from fflux_py.dynamics.config import MDConfig
from fflux_py.dynamics.engine import Engine, initial_state, restored_state, system_of
from fflux_py.dynamics.guards import Inspector
from fflux_py.dynamics.potentials import CompiledPotential
from fflux_py.dynamics.run_bias import RunBias, plumed_input_of
from fflux_py.errors import InputError
from fflux_py.forcefield import ForceField
from fflux_py.molecules.matching import Matching
from fflux_py.molecules.molecule import Molecule, check_same_molecule
from fflux_py.molecules.normal_modes import NormalModes, hessian, modes_of_hessian
from fflux_py.units import ANGSTROM


@dataclass(frozen=True, kw_only=True)
class RunSetup:
    """All that defines a run of one or several replicas.

    Parameters
    ----------
    forcefield
        A force field, or any compiled potential.
    start
        Start geometry.  Its atoms are matched with those of a force field; the whole run is in their order and hand.
    config
        The settings.
    replicas
        Numbers of the replicas: of their streams of random numbers.
    folder
        Where the files of the run are written; None keeps the reports in memory.
    subfolders
        The folder of each replica, relative to ``folder``.
    model
        Path of the model's file, for resuming and for ``run.json``; empty if it has none.
    threads
        Groups of replicas that are advanced at the same time.
    bias
        The metadynamics; None without one.

    Raises
    ------
    ModelMismatchError
        The start is another molecule than the model's.
    """

    forcefield: ForceField | CompiledPotential
    start: Molecule
    config: MDConfig
    replicas: tuple[int, ...] = (0,)
    folder: Path | None = None
    subfolders: tuple[str, ...] = (".",)
    model: str = ""
    threads: int = 1
    bias: PlumedInput | None = None

    def __post_init__(self) -> None:
        if self.folder is not None:
            object.__setattr__(self, "folder", Path(self.folder))
        check_same_molecule(self.potential.molecule, self.start)

    @classmethod
    def of_checkpoint(
        cls,
        forcefield: ForceField | CompiledPotential,
        checkpoint: Checkpoint,
        config: MDConfig,
        folder: Path,
        threads: int,
    ) -> RunSetup:
        """The setup of the run that ``checkpoint`` in ``folder`` is of, with ``config`` in place of its settings."""
        return cls(
            forcefield=forcefield,
            start=checkpoint.molecule,
            config=config,
            replicas=tuple(record.number for record in checkpoint.replicas),
            folder=folder,
            subfolders=tuple(record.folder for record in checkpoint.replicas),
            model=checkpoint.model,
            threads=threads,
            bias=None if checkpoint.bias is None else plumed_input_of(checkpoint.bias.text),
        )

    @cached_property
    def potential(self) -> CompiledPotential:
        """The energy function for the compiled loop."""
        return CompiledPotential.of(self.forcefield, self.matching)

    @cached_property
    def matching(self) -> Matching | None:
        """How the atoms of the start become those of the force field; None of a bare potential."""
        if isinstance(self.forcefield, CompiledPotential):
            return None
        return self.forcefield.match_or_keep(self.start)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the potential."""
        return self.potential.digest()

    @cached_property
    def system(self) -> compiled.System:
        """Masses, thermostat and limits in atomic units."""
        return system_of(self.potential.molecule, self.config)

    def start_engine(self, checkpoint: Checkpoint | None) -> Engine:
        """The replicas at the start geometry with random velocities, or at a checkpoint; a bias has no hills yet.

        Raises
        ------
        GeometryError
            The start geometry is distorted beyond a limit that stops a run.
        InputError
            The checkpoint is of a potential with another memory; the bias does not fit the run.
        """
        potential = self.potential
        if checkpoint is None:
            state = initial_state(potential, self.start, self.system, self.config, self.replicas)
        else:
            if potential.memory is not None:
                if checkpoint.memory is None or checkpoint.memory.shape != potential.memory.shape:
                    raise InputError(
                        "memory of the potential", f"shape {potential.memory.shape}", "another in the checkpoint"
                    )
                potential.memory[...] = checkpoint.memory
            state = restored_state(checkpoint)
        bias = None if self.bias is None else RunBias(self.bias, self.start, self.config, self.replicas)
        engine = Engine(potential, self.system, state, self.threads, bias)
        if checkpoint is not None and checkpoint.events is not None:
            engine.go_on_with_events(checkpoint.events)
        return engine

    def normal_modes(self) -> NormalModes | None:
        """Normal modes at the start geometry, with the masses of the run.

        None for a potential that changes when it is called, and where its forces next to the start are not finite.
        """
        if self.potential.memory is not None:
            return None
        second = hessian(self.potential, self.start.positions)
        if not np.isfinite(second).all():
            return None
        return modes_of_hessian(second, self.start.positions, self.system.masses)

    def make_inspector(self) -> Inspector | None:
        """What looks at features and deviations; None if nothing is to be looked at.

        Raises
        ------
        InputError
            The guards ask for it, and the potential is no force field.
        """
        if not self.config.guards.inspects:
            return None
        if isinstance(self.forcefield, CompiledPotential):
            raise InputError(
                "guards", "a force field, which knows its training data", "a bare potential",
                "switch the guards 'features' and 'deviation' off",
            )  # fmt: skip
        return Inspector(self.forcefield, self.config.guards, self.matching)

    def description(self) -> Mapping[str, object]:
        """What ``run.json`` says about model, bias and limits."""
        system, limits = self.system, self.config.guards
        labels = [guards.label(self.potential.molecule, int(i), int(j)) for i, j in system.bonds]
        table = np.round(np.stack([system.bond_minima, system.bond_maxima], axis=1) * ANGSTROM, 6)
        return {
            "model": self.model,
            "model_sha256": self.digest,
            "degrees_of_freedom": system.degrees_of_freedom,
            "bias": None if self.bias is None else self.bias.text,
            "guards": {
                "bond_limits_angstrom": dict(zip(labels, table.tolist(), strict=True)),
                "contact_angstrom": round(limits.contact_distance, 6),
            },
        }
