"""Training of the atomic Gaussian processes (extra ``train``: gpytorch and torch)."""

from fflux_py.training.train import TrainingConfig, train

__all__ = ["TrainingConfig", "train"]
