"""The batched Gaussian process of gpytorch: the only module that imports torch and gpytorch."""

from __future__ import annotations

from typing import Any, Final

import gpytorch
import numpy as np
import torch

from fflux_py.gp.covariance import Covariance
from fflux_py.gp.radial_kernel import RadialKernel
from fflux_py.training._likelihood import Objective, Workspace, holdout_score, log_marginal_likelihood
from fflux_py.typing import FloatArray

VERSIONS: Final = {"gpytorch": str(gpytorch.__version__), "torch": str(torch.__version__)}
_SMALLEST_NOISE: Final = 1e-9
_SMALLEST_HOLDOUT_NOISE: Final = 1e-10  # the nugget of FEREBUS
_SHORTEST: Final = 0.01
_START_VARIANCE: Final = 50.0
_START_NOISE: Final = 1e-4


class _Factorised(torch.autograd.Function):
    """Objectives of a batch of processes: value and gradients come from one factorisation for each process."""

    @staticmethod
    def forward(ctx: Any, z: Any, variance: Any, noise: Any, y: Any, objective: Any) -> Any:
        rows: list[Objective] = [
            objective(*(np.ascontiguousarray(t[k].detach().numpy()) for t in (z, y, noise)), float(variance[k]))
            for k in range(len(y))
        ]
        ctx.save_for_backward(
            torch.as_tensor(np.stack([row.by_points for row in rows])),
            torch.tensor([row.by_variance for row in rows], dtype=torch.float64),
            torch.as_tensor(np.stack([row.by_noise for row in rows])),
        )
        return torch.tensor([row.value for row in rows], dtype=torch.float64)

    @staticmethod
    def backward(ctx: Any, *by_values: Any) -> Any:
        (by_value,) = by_values
        by_points, by_variance, by_noise = ctx.saved_tensors
        return by_value[:, None, None] * by_points, by_value * by_variance, by_value[:, None] * by_noise, None, None


def _logarithmic(lower: Any) -> Any:
    """A positive parameter, searched as its logarithm."""
    return gpytorch.constraints.GreaterThan(lower, transform=torch.exp, inv_transform=torch.log)


class _Radial(torch.autograd.Function):
    """A radial kernel of a tensor of scaled squared distances, with its slope as the derivative."""

    @staticmethod
    def forward(ctx: Any, s: Any, kernel: RadialKernel) -> Any:
        numbers = s.detach().numpy()
        ctx.save_for_backward(torch.as_tensor(kernel.slope(numbers)))
        return torch.as_tensor(kernel.value(numbers))

    @staticmethod
    def backward(ctx: Any, *by_values: Any) -> Any:
        (by_value,) = by_values
        (slope,) = ctx.saved_tensors
        return by_value * slope, None


class _EmbeddedKernel(gpytorch.kernels.Kernel):  # type: ignore[misc]
    """ARD kernel on features of which the azimuths stand as cosine and sine."""

    has_lengthscale = True

    def __init__(self, covariance: Covariance, **options: Any) -> None:
        super().__init__(ard_num_dims=len(covariance.theta), **options)
        self._azimuths = torch.as_tensor(np.array(covariance.expanded))
        self._radial = covariance.kernel

    def embed(self, features: Any) -> Any:
        """Coordinates whose squared distance is the sum of ``theta d^2``."""
        scale = torch.rsqrt(2.0 * self.lengthscale**2)
        scaled = features * scale
        if not len(self._azimuths):
            return scaled
        phi, root = features[..., self._azimuths], scale[..., self._azimuths]
        scaled = scaled.index_copy(-1, self._azimuths, torch.cos(phi) * root)
        return torch.cat([scaled, torch.sin(phi) * root], dim=-1)

    def forward(self, x1: Any, x2: Any, diag: bool = False, **params: Any) -> Any:
        s = self.covar_dist(self.embed(x1), self.embed(x2), square_dist=True, diag=diag, **params)
        return _Radial.apply(s, self._radial)  # type: ignore[no-untyped-call]


class AtomicProcesses(gpytorch.models.ExactGP):  # type: ignore[misc]
    """One process for each atom of a batch, with zero mean (the data are centred) and a scaled ARD kernel.

    Parameters
    ----------
    covariance
        Radial kernel and azimuths.
    lengths
        Start of the length scales, shape ``(b, n_features)``.
    points, energies
        Features, shape ``(b, n, n_features)``, and standardised energies, shape ``(b, n)``.
    known_noise
        Known noise variances over the variance of the energies, shape ``(b, n)``.
    held
        Which points are held out, shape ``(n,)``: the objective is the hold-out score, where only the noise over the
        prior variance counts, and the prior variance stays one.  None: the objective is the marginal likelihood.
    """

    def __init__(
        self, covariance: Covariance, lengths: FloatArray, points: FloatArray, energies: FloatArray,
        known_noise: FloatArray, held: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        batch = torch.Size([len(points)])
        with gpytorch.settings.min_fixed_noise(double_value=0.0):  # an exact label has no noise
            likelihood = gpytorch.likelihoods.FixedNoiseGaussianLikelihood(
                torch.as_tensor(known_noise),
                learn_additional_noise=True,
                batch_shape=batch,
                noise_constraint=_logarithmic(_SMALLEST_NOISE if held is None else _SMALLEST_HOLDOUT_NOISE),
            )
        super().__init__(torch.as_tensor(points), torch.as_tensor(energies), likelihood)
        shortest = torch.as_tensor(_SHORTEST * lengths.min(axis=1))[:, None, None]
        kernel = _EmbeddedKernel(covariance, batch_shape=batch, lengthscale_constraint=_logarithmic(shortest))
        self.mean_module = gpytorch.means.ZeroMean(batch_shape=batch)
        self.covar_module = gpytorch.kernels.ScaleKernel(
            kernel, batch_shape=batch, outputscale_constraint=_logarithmic(1e-6)
        )
        self.double()
        kernel.lengthscale = torch.as_tensor(lengths)[:, None, :]
        self.covar_module.outputscale = torch.full(batch, _START_VARIANCE if held is None else 1.0, dtype=torch.float64)
        likelihood.second_noise = torch.full((*batch, 1), _START_NOISE, dtype=torch.float64)
        self._covariance = covariance
        self._workspace = Workspace()
        self._held = held
        self._slots = (
            kernel.raw_lengthscale,
            self.covar_module.raw_outputscale,
            likelihood.second_noise_covar.raw_noise,
        )

    def forward(self, inputs: Any) -> Any:
        return gpytorch.distributions.MultivariateNormal(self.mean_module(inputs), self.covar_module(inputs))

    @property
    def parameters_of_rows(self) -> FloatArray:
        """Unconstrained parameters of every row: lengths, prior variance, noise; shape ``(b, n_features + 2)``."""
        count = len(self._slots[1])
        return np.hstack([slot.detach().numpy().reshape(count, -1) for slot in self._slots])

    @parameters_of_rows.setter
    def parameters_of_rows(self, values: FloatArray) -> None:
        first = 0
        for slot in self._slots:
            width = slot[0].numel()
            slot.data = torch.as_tensor(values[:, first : first + width]).reshape(slot.shape).clone()
            first += width

    def objective(self, parameters: FloatArray, rows: np.ndarray) -> tuple[FloatArray, FloatArray]:
        """Objectives of some rows, and their gradients by these rows of the parameters."""
        self.parameters_of_rows = parameters
        chosen = torch.as_tensor(rows)
        z = self.covar_module.base_kernel.embed(self.train_inputs[0])[chosen]
        values = _Factorised.apply(  # type: ignore[no-untyped-call]
            z,
            self.covar_module.outputscale[chosen],
            self.likelihood.noise[chosen],
            self.train_targets[chosen],
            self._compute,
        )
        self.zero_grad()
        values.sum().backward()
        count = len(self._slots[1])
        return values.detach().numpy(), np.hstack([s.grad.numpy().reshape(count, -1) for s in self._slots])[rows]

    def _compute(self, z: FloatArray, y: FloatArray, noise: FloatArray, variance: float) -> Objective:
        if self._held is None:
            return log_marginal_likelihood(self._covariance, z, y, variance, noise, self._workspace)
        return holdout_score(self._covariance, z, y, self._held, noise, self._workspace)

    def optimum(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Theta ``(b, n_features)``, prior variances ``(b,)`` and homoscedastic noise variances ``(b,)``."""
        lengths = self.covar_module.base_kernel.lengthscale.detach().numpy()[:, 0]
        noise = self.likelihood.second_noise.detach().numpy().ravel()
        return 0.5 / lengths**2, self.covar_module.outputscale.detach().numpy().copy(), noise.copy()
