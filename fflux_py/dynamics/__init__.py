"""Molecular dynamics of one free molecule with the force field."""

from fflux_py.dynamics.config import GuardConfig, MDConfig
from fflux_py.dynamics.guards import GuardEvent, GuardTripped
from fflux_py.dynamics.potentials import CompiledPotential
from fflux_py.dynamics.run import resume, run_nvt, run_replicas
from fflux_py.dynamics.trajectory import Trajectory

__all__ = [
    "CompiledPotential",
    "GuardConfig",
    "GuardEvent",
    "GuardTripped",
    "MDConfig",
    "Trajectory",
    "resume",
    "run_nvt",
    "run_replicas",
]
