"""Propagators as dynamics of the Atomic Simulation Environment (eV, angstrom, ASE's unit of time)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import ase.units
from ase import Atoms
from ase.md.md import MolecularDynamics

from fflux_py.errors import InputError
from fflux_py.forcefield import ForceField
from fflux_py.interfaces.ase_calculator import FFLUXCalculator
from fflux_py.molecules.molecule import Molecule, symbols_of
from fflux_py.propagators.propagator import Propagator
from fflux_py.propagators.run import PropagationConfig, Stepper
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM, DALTON, FEMTOSECOND

# ASE's velocity (angstrom per its unit of time) in bohr per atomic unit of time.
_VELOCITY = ase.units.fs * FEMTOSECOND / ANGSTROM


class PropagatorDynamics(MolecularDynamics):
    """Dynamics in which a propagator takes the steps; no forces are computed.

    A calculator is not needed, only observers that read energies need one.

    Parameters
    ----------
    atoms
        The molecule of the propagator, with its masses: ``atoms.set_masses(propagator.header.masses * DALTON)`` after
        a training with heavy hydrogen.
    propagator
        Any of the three kinds.
    config
        Step, ensemble and corrections; its number of steps does not count, as :meth:`run` is told that.  What the
        corrections did is in ``corrections``.
    forcefield
        For the energy correction; that of the atoms' :class:`~fflux_py.interfaces.ase_calculator.FFLUXCalculator` if
        not given.
    options
        Of ASE's class: ``trajectory``, ``logfile``, ``loginterval``, ...

    Raises
    ------
    ModelMismatchError
        Another molecule, order of atoms, masses or step than the propagator's.
    """

    def __init__(
        self,
        atoms: Atoms,
        propagator: Propagator,
        config: PropagationConfig,
        forcefield: ForceField | None = None,
        **options: Any,
    ) -> None:
        header = propagator.header
        charge = int(atoms.info.get("total_charge", header.molecule.charge))
        molecule = Molecule(symbols_of(atoms.numbers), atoms.positions / ANGSTROM, charge, "atoms")
        header.check(molecule, atoms.get_masses() / DALTON, config.step)
        if atoms.pbc.any():
            raise InputError("atoms.pbc", "no periodic boundaries", str(atoms.pbc), "set atoms.pbc = False")
        if forcefield is None and isinstance(atoms.calc, FFLUXCalculator):
            forcefield = atoms.calc.forcefield
        self.stepper = Stepper(propagator, config, forcefield)
        super().__init__(atoms, config.step * ase.units.fs, **options)

    @property
    def corrections(self) -> dict[str, float]:
        """Largest relative change of the kinetic energy that each correction made in a step."""
        return self.stepper.corrections

    def todict(self) -> dict[str, Any]:
        """What ASE writes into trajectories: the settings, corrections included."""
        config = self.stepper.config
        names = ["ensemble", "temperature", *(f"correct_{name}" for name in self.corrections)]
        return {**super().todict(),  # type: ignore[no-untyped-call]
                "kind": self.stepper.propagator.header.kind,
                **{name: getattr(config, name) for name in names}}  # fmt: skip

    def step(self, forces: FloatArray | None = None) -> FloatArray | None:
        """One step; ``forces`` is there for ASE and stays unused."""
        atoms: Any = self.atoms
        positions = atoms.get_positions() / ANGSTROM
        velocities = atoms.get_velocities() * _VELOCITY
        positions, velocities = (a[0] for a in self.stepper.step(positions[None], velocities[None]))
        atoms.set_positions(positions * ANGSTROM)
        atoms.set_velocities(velocities / _VELOCITY)
        return None

    def irun(self, steps: int = 50) -> Iterator[bool]:
        """As ASE's, without a call for forces before each step."""
        self.max_steps = self.nsteps + steps
        if self.nsteps == 0:
            self.call_observers()  # type: ignore[no-untyped-call]
        yield self.nsteps == self.max_steps
        while self.nsteps < self.max_steps:
            self.step()
            self.nsteps += 1
            self.call_observers()  # type: ignore[no-untyped-call]
            yield self.nsteps == self.max_steps

    def run(self, steps: int = 50) -> bool:
        """Run a number of steps; true at the end."""
        done = steps == 0
        for done in self.irun(steps):  # noqa: B007
            pass
        return done


_SETTINGS: Final = (
    "temperature", "relaxation_time", "correct_momentum", "correct_angular_momentum", "correct_energy",
    "correct_variance", "seed",
)  # fmt: skip
"""Settings of :class:`PropagationConfig` that the classes of one ensemble take by name."""


def _config_of(
    propagator: Propagator, ensemble: str, step_fs: float | None, options: dict[str, Any]
) -> PropagationConfig:
    """The configuration of an ensemble; its settings are taken out of ``options``, and the rest is ASE's."""
    settings = {name: options.pop(name) for name in _SETTINGS if name in options}
    step = propagator.header.step if step_fs is None else step_fs
    return PropagationConfig(steps=1, step=step, ensemble=ensemble, **settings)


class PropagatorNVE(PropagatorDynamics):
    """Constant energy: the propagator alone, and what corrections are switched on.

    Parameters
    ----------
    atoms, propagator
        As in :class:`PropagatorDynamics`.
    step_fs
        Time of a step in femtosecond; None takes the model's.
    options
        ``forcefield``, the corrections of :class:`~fflux_py.propagators.run.PropagationConfig` by their names, and
        those of ASE.
    """

    def __init__(self, atoms: Atoms, propagator: Propagator, step_fs: float | None = None, **options: Any) -> None:
        config = _config_of(propagator, "nve", step_fs, options)
        super().__init__(atoms, propagator, config, **options)


class PropagatorLangevin(PropagatorDynamics):
    """Constant temperature by friction and noise on every atom, at P = 0 and L = 0.

    Parameters
    ----------
    atoms, propagator, step_fs, options
        As in :class:`PropagatorNVE`; ``seed`` is one of the options too.
    temperature_K, relaxation_time_fs
        Of the thermostat, kelvin and femtosecond.
    """

    def __init__(
        self, atoms: Atoms, propagator: Propagator, step_fs: float | None = None, *, temperature_K: float = 300.0,
        relaxation_time_fs: float = 100.0, **options: Any,
    ) -> None:  # fmt: skip
        options.update(temperature=temperature_K, relaxation_time=relaxation_time_fs)
        config = _config_of(propagator, "langevin", step_fs, options)
        super().__init__(atoms, propagator, config, **options)


class PropagatorVelocityRescaling(PropagatorDynamics):
    """Constant temperature by stochastic velocity rescaling; parameters as in :class:`PropagatorLangevin`."""

    def __init__(
        self, atoms: Atoms, propagator: Propagator, step_fs: float | None = None, *, temperature_K: float = 300.0,
        relaxation_time_fs: float = 100.0, **options: Any,
    ) -> None:  # fmt: skip
        options.update(temperature=temperature_K, relaxation_time=relaxation_time_fs)
        config = _config_of(propagator, "velocity-rescaling", step_fs, options)
        super().__init__(atoms, propagator, config, **options)
