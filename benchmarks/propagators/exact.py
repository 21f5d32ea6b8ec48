"""Exact limits of the action, on the harmonic molecule of the force field itself."""

from __future__ import annotations

import numpy as np
import torch
from common import TEMPERATURE, Setting

from fflux_py.propagators._torch.action import Generator, solve_step
from fflux_py.typing import FloatArray
from fflux_py.units import BOLTZMANN, FEMTOSECOND, WAVENUMBER


def exact(setting: Setting) -> dict[str, object]:
    """Newton's map of the tangent against cosine and sine; of T + V against the midpoint rule solved otherwise."""
    modes, masses = setting.modes, setting.data.masses
    n = len(masses)
    figures: dict[str, object] = {}
    v = setting.starts(8)[1]
    unit = np.sqrt(BOLTZMANN * TEMPERATURE)
    root = np.sqrt(masses)[:, None]
    for step in (1.0, 3.0, 5.0):
        h = step / FEMTOSECOND
        wh = modes.wavenumbers / WAVENUMBER * h
        generator = np.random.default_rng(0)
        # displacements along the modes only: rigid motions have no frequency
        b = (v * root / unit).reshape(8, -1) @ modes.vectors
        a = generator.standard_normal(b.shape) / wh
        y, u = ((part @ modes.vectors.T).reshape(8, n, 3) for part in (a, b))
        tangent = _quadratic(2.0 / wh * np.tan(0.5 * wh), wh, modes.vectors)
        solved = solve_step(tangent, torch.from_numpy(y), torch.from_numpy(u))
        a_next, b_next = np.cos(wh) * a + np.sin(wh) / wh * b, np.cos(wh) * b - wh * np.sin(wh) * a
        wrong = max(_off(solved.y, a_next, modes.vectors), _off(solved.u, b_next, modes.vectors))
        figures[f"harmonic_{step:g}fs_largest_wh"] = float(wh.max())
        figures[f"harmonic_{step:g}fs_tangent_against_exact_flow"] = wrong
        midpoint = solve_step(_quadratic(np.ones_like(wh), wh, modes.vectors), torch.from_numpy(y), torch.from_numpy(u))
        turned = 2.0 * np.arctan(0.5 * wh)
        a_next = np.cos(turned) * a + np.sin(turned) / wh * b
        b_next = np.cos(turned) * b - wh * np.sin(turned) * a
        wrong = max(_off(midpoint.y, a_next, modes.vectors), _off(midpoint.u, b_next, modes.vectors))
        figures[f"harmonic_{step:g}fs_zero_residual_against_midpoint_rule"] = wrong
    return figures


def _quadratic(factors: FloatArray, wh: FloatArray, vectors: FloatArray) -> Generator:
    rest = torch.from_numpy(np.eye(len(vectors)) - vectors @ vectors.T)
    kinetic = torch.from_numpy(vectors @ np.diag(factors) @ vectors.T) + rest
    potential = torch.from_numpy(vectors @ np.diag(factors * wh**2) @ vectors.T)

    def generator(y: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        y, u = y.flatten(), u.flatten()
        return 0.5 * (u @ kinetic @ u + y @ potential @ y)

    return generator


def _off(found: torch.Tensor, wanted: FloatArray, vectors: FloatArray) -> float:
    return float(np.abs(found.numpy().reshape(len(wanted), -1) - wanted @ vectors.T).max())
