"""Random numbers as a function of where they are used: the counter-based generator Philox4x32-10 in compiled code.

A number depends on the key of its replica and on its counter (step, stream, index) and on nothing else: no state is
carried along, so that replicas may be spread over threads in any way, and a run that is taken up again at some step
draws the numbers that it would have drawn.  Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as
1, 2, 3", SC11 (2011), doi:10.1145/2063384.2063405.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fflux_py._compiled.jit import njit
from fflux_py.typing import FloatArray

_MASK: Final = np.uint64(0xFFFFFFFF)
_HALF: Final = np.uint64(32)
_MULTIPLIER_0: Final = np.uint64(0xD2511F53)
_MULTIPLIER_1: Final = np.uint64(0xCD9E8D57)
_WEYL_0: Final = np.uint64(0x9E3779B9)
_WEYL_1: Final = np.uint64(0xBB67AE85)
_ROUNDS: Final = 10
_DROPPED: Final = np.uint64(12)


def stream_key(seed: int, replica: int) -> NDArray[np.uint64]:
    """Key of one replica, two words of 32 bits; any seed and replica number give a key of their own."""
    return np.random.SeedSequence(seed, spawn_key=(replica,)).generate_state(2).astype(np.uint64)


@njit(cache=True)
def philox(counter: NDArray[np.uint64], key: NDArray[np.uint64], out: NDArray[np.uint64]) -> None:
    """Write four random words of 32 bits for a counter of four words and a key of two."""
    c0, c1, c2, c3 = counter[0], counter[1], counter[2], counter[3]
    k0, k1 = key[0], key[1]
    for _ in range(_ROUNDS):
        p0, p1 = _MULTIPLIER_0 * c0, _MULTIPLIER_1 * c2
        c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ k0, p1 & _MASK, (p0 >> _HALF) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _WEYL_0) & _MASK, (k1 + _WEYL_1) & _MASK
    out[0], out[1], out[2], out[3] = c0, c1, c2, c3


@njit(cache=True)
def uniform(high: Any, low: Any) -> Any:
    """A number in (0, 1) from two words of 32 bits; 52 bits of them are used, and neither end is reached."""
    return (np.float64(((high << _HALF) | low) >> _DROPPED) + 0.5) * 2.0**-52


@njit(cache=True)
def standard_normals(key: NDArray[np.uint64], step: int, stream: int, out: FloatArray) -> None:
    """Fill ``out`` with independent standard normal numbers (Box and Muller), from 52 bits each.

    Parameters
    ----------
    key
        Of the replica (:func:`stream_key`).
    step, stream
        The place at which they are used.
    out
        One-dimensional, at most 2^33 numbers.
    """
    counter, words = np.empty(4, dtype=np.uint64), np.empty(4, dtype=np.uint64)
    word = np.uint64(step)
    counter[0], counter[1], counter[2] = word & _MASK, word >> _HALF, np.uint64(stream)
    for pair in range((out.shape[0] + 1) // 2):
        counter[3] = np.uint64(pair)
        philox(counter, key, words)
        radius = np.sqrt(-2.0 * np.log(uniform(words[0], words[1])))
        angle = 2.0 * np.pi * uniform(words[2], words[3])
        out[2 * pair] = radius * np.cos(angle)
        if 2 * pair + 1 < out.shape[0]:
            out[2 * pair + 1] = radius * np.sin(angle)
