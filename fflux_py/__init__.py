"""fflux_py: physics-informed force fields from topological atoms, from an XYZ file to a trusted NVT run.

The names below are loaded when they are first used, so that ``import fflux_py`` stays light and needs none of the
optional packages.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from fflux_py.dynamics import MDConfig, Trajectory, run_nvt
    from fflux_py.forcefield import ForceField
    from fflux_py.interfaces.ase_calculator import FFLUXCalculator
    from fflux_py.iqa.campaign import label
    from fflux_py.iqa.scf.level_of_theory import LevelOfTheory
    from fflux_py.model_file import load, save
    from fflux_py.molecules.dataset import Dataset, GeometrySet
    from fflux_py.molecules.extended_xyz import read_molecule, write_molecule
    from fflux_py.molecules.molecule import Molecule
    from fflux_py.optimization.search import optimize
    from fflux_py.sampling.plan import SamplingConfig
    from fflux_py.sampling.sampler import sample
    from fflux_py.training.config import TrainingConfig
    from fflux_py.training.trainer import train

__version__ = "0.2.0"

_EXPORTS: Final = {
    "Dataset": "molecules.dataset",
    "FFLUXCalculator": "interfaces.ase_calculator",
    "ForceField": "forcefield",
    "GeometrySet": "molecules.dataset",
    "LevelOfTheory": "iqa.scf.level_of_theory",
    "MDConfig": "dynamics",
    "Molecule": "molecules.molecule",
    "SamplingConfig": "sampling",
    "TrainingConfig": "training",
    "Trajectory": "dynamics",
    "label": "iqa.campaign",
    "load": "model_file",
    "optimize": "optimization.search",
    "read_molecule": "molecules.extended_xyz",
    "run_nvt": "dynamics",
    "sample": "sampling",
    "save": "model_file",
    "train": "training",
    "write_molecule": "molecules.extended_xyz",
}

__all__ = [
    "Dataset",
    "FFLUXCalculator",
    "ForceField",
    "GeometrySet",
    "LevelOfTheory",
    "MDConfig",
    "Molecule",
    "SamplingConfig",
    "TrainingConfig",
    "Trajectory",
    "label",
    "load",
    "optimize",
    "read_molecule",
    "run_nvt",
    "sample",
    "save",
    "train",
    "write_molecule",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
