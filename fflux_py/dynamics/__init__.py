"""Molecular dynamics of one free molecule with the force field."""

from fflux_py.dynamics.config import MDConfig
from fflux_py.dynamics.guards import GuardTripped
from fflux_py.dynamics.run import CompiledPotential, run_nvt, run_replicas
from fflux_py.dynamics.trajectory import Trajectory

__all__ = ["CompiledPotential", "GuardTripped", "MDConfig", "Trajectory", "run_nvt", "run_replicas"]
