"""Training of the atomic Gaussian processes (extra ``train``: gpytorch and torch)."""

from fflux_py.training.config import TrainingConfig
from fflux_py.training.joint import chosen_symmetry, images_per_atom
from fflux_py.training.trainer import train

__all__ = ["TrainingConfig", "chosen_symmetry", "images_per_atom", "train"]
