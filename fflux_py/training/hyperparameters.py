r"""Hyperparameters by the marginal likelihood, with gpytorch: the only module that imports torch.

The data are centred by their mean and scaled by their standard deviation; a shifted prior mean never enters, because it
would collapse the length scales.  Maximised is the exact log marginal likelihood of a Gaussian process with one length
for every feature, a prior variance and a noise variance, in float64 with Cholesky factorisations, by L-BFGS from a
start at which every feature counts equally.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from fflux_py import __version__
from fflux_py.covariance import Covariance
from fflux_py.errors import ConvergenceError, MissingDependencyError
from fflux_py.potential import FloatArray

_SMALLEST_RELATIVE_NOISE: Final = 1e-8
_LENGTH_RANGE: Final = (0.05, 100.0)


@dataclass(frozen=True)
class Hyperparameters:
    r"""The optimum of one atom.

    Parameters
    ----------
    theta
        :math:`1/(2 l^2)` of every feature, shape ``(n_features,)``.
    variance
        Prior variance in hartree^2.
    noise
        Noise variance over the prior variance.
    log_likelihood
        Log marginal likelihood of the standardised data at the optimum.
    iterations
        Evaluations of the likelihood.
    """

    theta: FloatArray
    variance: float
    noise: float
    log_likelihood: float
    iterations: int


def _torch() -> tuple[Any, Any]:
    try:
        import gpytorch
        import torch
    except ImportError as error:
        raise MissingDependencyError(
            "training", "gpytorch and torch", f"no module {error.name!r}", "pip install 'fflux_py[train]'"
        ) from error
    return gpytorch, torch


def program_versions(forces: bool) -> dict[str, str]:
    """Versions of the programs that took part; the joint fit needs no torch."""
    versions = {"fflux_py": __version__, "numpy": np.__version__, "python": platform.python_version()}
    if not forces:
        gpytorch, torch = _torch()
        versions |= {"gpytorch": str(gpytorch.__version__), "torch": str(torch.__version__)}
    return versions


def maximise_likelihood(
    covariance: Covariance, points: FloatArray, energies: FloatArray, max_iterations: int, threads: int = 1
) -> Hyperparameters:
    """Fit theta, prior variance and noise of one atom.

    Parameters
    ----------
    covariance
        Kernel whose ``theta`` is the start.
    points, energies
        Features, shape ``(n_train, n_features)``, and energies in hartree, shape ``(n_train,)``.
    max_iterations
        Most evaluations of the likelihood.
    threads
        Threads for torch.

    Raises
    ------
    ConvergenceError
        The likelihood became not-a-number.
    """
    gpytorch, torch = _torch()
    torch.set_num_threads(threads)
    scale = float(energies.std())
    x = torch.as_tensor(np.array(points), dtype=torch.float64)
    y = torch.as_tensor((energies - energies.mean()) / scale, dtype=torch.float64)
    likelihood = gpytorch.likelihoods.GaussianLikelihood(
        noise_constraint=gpytorch.constraints.GreaterThan(_SMALLEST_RELATIVE_NOISE)
    ).double()
    model = _exact_gp(gpytorch, torch, covariance, x, y, likelihood)
    likelihood.noise = 1e-4
    model.train()
    likelihood.train()
    objective = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)
    parameters = list(model.parameters())
    optimiser = torch.optim.LBFGS(
        parameters,
        max_iter=max_iterations,
        max_eval=max_iterations,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-5,
        tolerance_change=1e-7,
        history_size=20,
    )
    calls = 0
    last = float("nan")

    def closure() -> Any:
        nonlocal calls, last
        optimiser.zero_grad()
        loss = -objective(model(x), y)
        loss.backward()
        calls += 1
        last = float(loss.detach())
        return loss

    with (
        gpytorch.settings.fast_computations(covar_root_decomposition=False, log_prob=False, solves=False),
        gpytorch.settings.cholesky_jitter(double_value=1e-9),
    ):
        optimiser.step(closure)
        closure()
        final = -last * len(energies)
    lengths = model.covar_module.base_kernel.lengthscale.detach().numpy().ravel()
    variance = float(model.covar_module.outputscale.detach())
    if not (np.isfinite(final) and np.isfinite(lengths).all()):
        raise ConvergenceError(
            "hyperparameters", "a finite marginal likelihood", str(last), "check the data for outliers"
        )
    return Hyperparameters(
        theta=0.5 / lengths**2,
        variance=variance * scale**2,
        noise=float(likelihood.noise.detach()) / variance,
        log_likelihood=final,
        iterations=calls,
    )


def _exact_gp(gpytorch: Any, torch: Any, covariance: Covariance, x: Any, y: Any, likelihood: Any) -> Any:
    """The gpytorch model: zero mean (the data are centred), scaled ARD kernel on embedded features."""
    azimuths = torch.as_tensor(np.array(covariance.expanded))
    matern = covariance.shape == "matern52"

    class EmbeddedKernel(gpytorch.kernels.Kernel):  # type: ignore[misc]
        has_lengthscale = True

        def forward(self, x1: Any, x2: Any, diag: bool = False, **params: Any) -> Any:
            distance = self.covar_dist(self._embed(x1), self._embed(x2), square_dist=True, diag=diag, **params)
            if not matern:
                return distance.mul(-0.5).exp()
            root = torch.sqrt(5.0 * distance + 1e-20)
            return (1.0 + root + root * root / 3.0) * torch.exp(-root)

        def _embed(self, features: Any) -> Any:
            scaled = features / self.lengthscale
            if not len(azimuths):
                return scaled
            phi, inverse = features[..., azimuths], 1.0 / self.lengthscale[..., azimuths]
            scaled = scaled.index_copy(-1, azimuths, torch.cos(phi) * inverse)
            return torch.cat([scaled, torch.sin(phi) * inverse], dim=-1)

    class AtomGP(gpytorch.models.ExactGP):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(x, y, likelihood)
            self.mean_module = gpytorch.means.ZeroMean()
            start = np.sqrt(0.5 / np.maximum(covariance.theta, 1e-12))
            kernel = EmbeddedKernel(
                ard_num_dims=len(start),
                lengthscale_constraint=gpytorch.constraints.GreaterThan(_LENGTH_RANGE[0] * float(start.min())),
            )
            kernel.lengthscale = torch.as_tensor(start)
            self.covar_module = gpytorch.kernels.ScaleKernel(kernel)
            self.covar_module.outputscale = 4.0

        def forward(self, inputs: Any) -> Any:
            return gpytorch.distributions.MultivariateNormal(self.mean_module(inputs), self.covar_module(inputs))

    return AtomGP().double()
