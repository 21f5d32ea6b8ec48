"""Training of the atomic Gaussian processes (extra ``train``: gpytorch and torch)."""

from fflux_py.training.joint_training import chosen_symmetry, images_per_atom
from fflux_py.training.train import TrainingConfig, train

__all__ = ["TrainingConfig", "chosen_symmetry", "images_per_atom", "train"]
