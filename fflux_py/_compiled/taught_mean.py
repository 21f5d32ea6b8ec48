"""A prior mean of the total energy that was learned from a cheaper level of theory, in compiled code.

It is the sum of classical terms (:mod:`fflux_py._compiled.classical_terms`), a network
(:mod:`fflux_py._compiled.network`) and a constant.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fflux_py._compiled.classical_terms import ClassicalTerms, add_classical_terms, no_terms
from fflux_py._compiled.jit import njit
from fflux_py._compiled.network import Network, add_network, no_network
from fflux_py.typing import FloatArray


class TaughtMeanArrays(NamedTuple):
    """What the mean is computed from.

    Parameters
    ----------
    terms
        Classical terms.
    network
        The network; one of no atoms says that there is no taught mean at all.
    constant
        Hartree, shape ``(1,)``.
    """

    terms: ClassicalTerms
    network: Network
    constant: FloatArray


def no_taught_mean() -> TaughtMeanArrays:
    """The arrays of a force field without a taught mean."""
    return TaughtMeanArrays(no_terms(), no_network(), np.zeros(1))


@njit(cache=True, error_model="numpy", nogil=True)
def taught_energy(x: FloatArray, mean: TaughtMeanArrays, gradient: FloatArray | None) -> float:
    """Return the energy (hartree) at positions (bohr, ``(n, 3)``) and add its gradient (hartree/bohr), if asked for.

    Parameters
    ----------
    x
        Positions in bohr, shape ``(n, 3)``.
    mean
        With a network of n atoms.
    gradient
        Shape ``(n, 3)``; with None nothing of it is computed.
    """
    if gradient is None:
        energy = add_classical_terms(x, mean.terms, np.zeros_like(x))
        return mean.constant[0] + energy + add_network(x, mean.network, None)  # type: ignore[no-any-return]
    energy = add_classical_terms(x, mean.terms, gradient)
    return mean.constant[0] + energy + add_network(x, mean.network, gradient)  # type: ignore[no-any-return]


@njit(cache=True, error_model="numpy", nogil=True)
def taught_batch(positions: FloatArray, mean: TaughtMeanArrays, energies: FloatArray, gradient: FloatArray) -> None:
    """Write energies (hartree, ``(k,)``) and gradients (hartree/bohr) of geometries (bohr), shapes ``(k, n, 3)``."""
    gradient[:] = 0.0
    for k in range(len(positions)):
        energies[k] = taught_energy(positions[k], mean, gradient[k])
