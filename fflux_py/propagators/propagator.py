"""What a trained propagator is, without the network in it: its header, its checks, and how it is used."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Final, Protocol

import numpy as np

from fflux_py.errors import InputError, MissingDependencyError, ModelMismatchError
from fflux_py.molecules.matching import Matching, match
from fflux_py.molecules.molecule import Molecule, check_same_molecule, read_only
from fflux_py.typing import FloatArray

KINDS: Final = ("direct", "continuous", "action")
_MASS_TOLERANCE: Final = 1e-6


@dataclass(frozen=True)
class Header:
    """What a file says about the propagator in it.

    Parameters
    ----------
    kind
        ``"direct"``, ``"continuous"`` or ``"action"``.
    molecule
        Elements, order of atoms, charge, reference geometry.
    masses
        Electron masses of the dynamics that was learned, shape ``(n_atoms,)``.
    step
        Time of one step in femtosecond; of a continuous one the longest time.
    temperature
        Kelvin; sets the unit of the velocities inside the network.
    settings
        Sizes of the network.
    metadata
        Where it comes from: digests, seeds, errors on held-out trajectories.
    """

    kind: str
    molecule: Molecule
    masses: FloatArray
    step: float
    temperature: float = 300.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "masses", read_only(self.masses))
        if self.kind not in KINDS:
            raise InputError("kind", f"one of {', '.join(KINDS)}", repr(self.kind))
        if not (np.isfinite(self.step) and self.step > 0.0):
            raise InputError("step", "a positive number of fs", f"{self.step:g}")
        if not (np.isfinite(self.temperature) and self.temperature > 0.0):
            raise InputError("temperature", "a positive number of kelvin", f"{self.temperature:g}")
        if self.masses.shape != (self.molecule.n_atoms,):
            raise InputError("masses", f"{self.molecule.n_atoms} numbers", f"shape {self.masses.shape}")
        if not (np.isfinite(self.masses) & (self.masses > 0.0)).all():
            raise InputError("masses", "positive numbers", str(self.masses))

    def match(self, molecule: Molecule) -> Matching:
        """How the atoms of a molecule must be reordered, and whether inverted, to be those of the propagator.

        Raises
        ------
        ModelMismatchError
            Other elements, charge, bonds or chirality.
        """
        return match(self.molecule, molecule)

    def check(self, molecule: Molecule, masses: FloatArray | None = None, step: float | None = None) -> None:
        """Refuse another molecule or order of atoms, other masses, another step.

        Parameters
        ----------
        molecule, masses, step
            Of the run; masses in electron masses, the step in femtosecond, None for whatever is in the file.

        Raises
        ------
        ModelMismatchError
            Naming what differs first.
        """
        check_same_molecule(self.molecule, molecule)
        if masses is not None:
            different = np.flatnonzero(np.abs(masses / self.masses - 1.0) > _MASS_TOLERANCE)
            if len(different):
                k = int(different[0])
                raise ModelMismatchError(
                    f"mass of atom {k + 1}", f"{self.masses[k]:.2f} electron masses as in the model",
                    f"{masses[k]:.2f}", "a step is learned for fixed masses: use a model made with these",
                )  # fmt: skip
        if step is None:
            return
        fits = step <= self.step * (1 + 1e-9) if self.kind == "continuous" else abs(step - self.step) < 1e-9
        if not (fits and step > 0.0):
            up_to = "up to " if self.kind == "continuous" else ""
            raise ModelMismatchError(
                "step", f"{up_to}{self.step:g} fs as in the model", f"{step:g} fs", "choose that step or another model"
            )


class Propagator(Protocol):
    """A map of positions and velocities over a long step.  All arrays in atomic units."""

    @property
    def header(self) -> Header:
        """What it was made for."""
        ...

    def advance(self, positions: FloatArray, velocities: FloatArray, step: float) -> tuple[FloatArray, FloatArray]:
        """Positions and velocities ``step`` femtosecond later, shape ``(replicas, n_atoms, 3)``.

        Raises
        ------
        ModelMismatchError
            Another step than the model's (a continuous one: a longer one).
        ConvergenceError
            The action's Newton iteration failed.
        """
        ...


def load_propagator(path: str | os.PathLike[str]) -> Propagator:
    """Read a model of any kind.

    Raises
    ------
    FileFormatError
        Another kind of file, a damaged one, or one of a newer schema.
    MissingDependencyError
        torch, e3nn or safetensors are not installed.
    """
    return networks().load(path)  # type: ignore[no-any-return]


def networks() -> Any:
    """The module that holds the networks; see :func:`optional_module`."""
    return optional_module("network")


def optional_module(name: str) -> Any:
    """A module of this package that needs torch, e3nn, safetensors or pytorch_optimizer: only these do.

    Raises
    ------
    MissingDependencyError
        One of them is not installed.
    """
    try:
        return import_module(f"fflux_py.propagators._torch.{name}")
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "propagators", "torch, e3nn, safetensors and pytorch_optimizer", f"no module {error.name!r}",
            "pip install 'fflux_py[propagate]'",
        ) from error  # fmt: skip
