"""Biases on collective variables: well-tempered metadynamics, its files, and the free energies that follow.

Nothing here depends on what is biased; sampling and dynamics both use it.
"""

from fflux_py.bias.collective_variables import CollectiveVariable
from fflux_py.bias.grid import Grid
from fflux_py.bias.metadynamics import BiasSettings, HillParameters, Hills, Metadynamics

__all__ = ["BiasSettings", "CollectiveVariable", "Grid", "HillParameters", "Hills", "Metadynamics"]
