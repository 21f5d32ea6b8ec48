"""What a predictor does not know: the covariance of its errors of velocity, in local frames.

Least squares learns the mean of what can follow, and a mean varies less than what it is the mean of: where the relative
error of velocity is d, each step takes d^2 of the kinetic energy.  Noise with the covariance of the error, independent
of everything before, has in the mean just this energy, in every direction that it is missing in.  Covariances of
components along z of local frames, which are odd under reflection, with the others vanish, so that the noise has no
handedness.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fflux_py.propagators._torch.frames import into_local, local_axes, out_of_local


class Residual(nn.Module):
    """The symmetric root of the covariance of mass-weighted errors of velocity, from a buffer that :meth:`fit` fills.

    Parameters
    ----------
    frames
        Local frames (atom, x axis, xy plane), shape ``(n_atoms, 3)``.
    """

    frames: Tensor
    root: Tensor

    def __init__(self, frames: Tensor) -> None:
        super().__init__()
        n = 3 * len(frames)
        self.register_buffer("frames", frames, persistent=False)  # the response has them
        self.register_buffer("root", torch.zeros(n, n, dtype=torch.float64))

    def fit(self, q: Tensor, errors: Tensor) -> None:
        """From predicted positions (bohr) and errors of mass-weighted velocities, shape ``(b, n_atoms, 3)``."""
        local = into_local(local_axes(q, self.frames), errors).flatten(1)
        odd = torch.arange(local.shape[1]) % 3 == 2
        covariance = (local.T @ local / len(local)) * (odd[:, None] == odd)
        values, vectors = torch.linalg.eigh(covariance)
        self.root.copy_(vectors * values.clamp_min(0.0).sqrt() @ vectors.T)

    def forward(self, q: Tensor, normal: Tensor) -> Tensor:
        """Mass-weighted velocities of that covariance from standard normal numbers, both ``(b, n_atoms, 3)``."""
        local = (normal.flatten(1) @ self.root).reshape(normal.shape)
        return out_of_local(local_axes(q, self.frames), local)
