"""Training data of one atom of synthetic methanol, and ``.model`` files solved from them in known ways."""

from __future__ import annotations

from functools import cache

import numpy as np

from fflux_py.exchange.ferebus.kernel import Composition, Kernel, Reading
from fflux_py.exchange.ferebus.model_text import Mean, ModelText
from fflux_py.gp.features import features
from fflux_py.molecules.local_frame import LocalFrame
from fflux_py.typing import FloatArray
from tests.support.synthetic import MethanolPotential, sample

TURNING = LocalFrame(0, 1, 5)
"""Seen from the carbon, in the plane of the hydroxyl hydrogen, methyl hydrogens pass 180 degrees as they turn."""

STAYING = LocalFrame(0, 1, 2)
"""In the plane of a methyl hydrogen the azimuths of the others stay within 180 degrees of each other."""

AZIMUTHS = (5, 8, 11)


@cache
def data(frame: LocalFrame = TURNING, n: int = 80, seed: int = 1) -> tuple[FloatArray, FloatArray]:
    """Spherical features, shape ``(n, 12)``, and energies of the frame's atom."""
    positions = sample(n, seed=seed)
    return features(positions, frame, "spherical"), MethanolPotential().atomic_energies(positions)[:, frame.atom]


def theta(x: FloatArray) -> FloatArray:
    """One inverse squared length for every feature, as wide as the data and a little wider."""
    spread = np.minimum(x.std(axis=0), 1.0)
    return np.asarray(0.02 / spread**2)


def product(x: FloatArray) -> Composition:
    """An rbf on distances and angles times a periodic kernel on azimuths."""
    every, phi = np.arange(x.shape[1]), np.array(AZIMUTHS)
    rest = np.setdiff1d(every, phi)
    t = theta(x)
    return Composition((Kernel("k1", "rbf", rest, t[rest]), Kernel("k2", "periodic", phi, t[phi])), "(k1*k2)")


def single(x: FloatArray, kind: str = "rbf") -> Composition:
    """One kernel on all features."""
    assert kind in ("rbf", "rbf-cyclic")
    return Composition((Kernel("k1", "rbf" if kind == "rbf" else "rbf-cyclic", np.arange(x.shape[1]), theta(x)),), "k1")


def solved(
    kernels: Composition,
    reading: Reading,
    nugget: float = 1e-8,
    mean: Mean | None = None,
    frame: LocalFrame = TURNING,
    metadata: dict[str, str] | None = None,
    n: int = 80,
) -> ModelText:
    """A file's content with the weights of this reading, nugget and mean; the header says ``metadata`` only."""
    x, y = data(frame, n)
    mean = mean or Mean("constant", float(y.mean()))
    matrix = kernels.matrix(x, x, reading) + nugget * np.eye(len(x))
    weights = np.linalg.solve(matrix, y - mean.at(x))
    return ModelText(
        "METHANOL", "C1", "iqa", (frame.atom, frame.x_axis, frame.xy_plane), 6, mean,
        kernels, x, y, weights, metadata or {},
    )  # fmt: skip


def predicted(text: ModelText, reading: Reading, x: FloatArray) -> FloatArray:
    """What the weights predict in a reading, term by term."""
    k = text.kernels.matrix(x, text.x, reading)
    return np.asarray(text.mean.at(x) + k @ text.weights)
