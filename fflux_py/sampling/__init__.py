"""Sampling of geometries: thermostatted dynamics, metadynamics, distortions, and the choice of frames.

Nothing here imports an optional package until it is used.
"""

from fflux_py.bias import BiasSettings, HillParameters
from fflux_py.sampling.distortions import DistortionConfig
from fflux_py.sampling.plan import SamplingConfig, TrajectoryClass, standard_classes
from fflux_py.sampling.sampler import sample
from fflux_py.sampling.smiles import molecule_from_smiles

__all__ = [
    "BiasSettings",
    "DistortionConfig",
    "HillParameters",
    "SamplingConfig",
    "TrajectoryClass",
    "molecule_from_smiles",
    "sample",
    "standard_classes",
]
