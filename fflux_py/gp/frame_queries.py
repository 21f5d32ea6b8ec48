r"""Queries: images of training points, seen as permuted coordinates of the geometry at hand.

For an operation g, frame v and training geometry x', the features of v in the image g x' are those of the frame
:math:`b = P_g(v)` in x' itself, permuted, and mirrored where g is.  So instead of storing all images, a kernel stores
the points of every frame once and passes over them with the features of all frames that g maps to it, permuted back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fflux_py.gp.atomic_model import AtomicModel
from fflux_py.gp.features import FeatureSet
from fflux_py.gp.joint_fit import rotors_factorise, rotors_last
from fflux_py.molecules.local_frame import LocalFrame
from fflux_py.molecules.symmetry import Symmetry
from fflux_py.typing import FloatArray, IntArray


@dataclass(frozen=True)
class FrameQueries:
    """The queries that pass over one frame's points.

    Parameters
    ----------
    sources
        Frame (its place among the models) whose features make the query, shape ``(q,)``.
    order, signs, shifts
        Coordinate h of the query is ``signs[h] * z[order[h]] + shifts[h]`` of the source's embedded coordinates, in the
        order in which the points' coordinates stand (rotors last), shapes ``(q, d)``.
    n_images
        Images that the frame's own model lists for every training geometry; the first is the geometry itself.
    """

    sources: IntArray
    order: IntArray
    signs: FloatArray
    shifts: FloatArray
    n_images: int


def frame_queries(symmetry: Symmetry, models: Sequence[AtomicModel]) -> list[FrameQueries]:
    """The queries of all frames' points, frame by frame."""
    numbers = kernel_numbers([model.frame for model in models])
    place = {(_key(model.frame), number): v for v, (model, number) in enumerate(zip(models, numbers, strict=True))}
    found: list[list[tuple[int, IntArray, FloatArray, FloatArray]]] = [[] for _ in models]
    n_images = []
    for v, model in enumerate(models):
        factorised = rotors_factorise(model.feature_kind, model.covariance.kernel)
        permutations, mirrors = symmetry.images(model.frame, factorised)
        n_images.append(len(permutations))
        for permutation, mirror in zip(permutations, mirrors, strict=True):
            p = place[_key(_moved(model.frame, permutation)), numbers[v]]
            target = models[p]
            order, signs, shifts = _permuted_back(model, target, permutation, bool(mirror))
            last = rotors_last(target.rotors, target.covariance.n_embedded)
            found[p].append((v, order[last], signs[last], shifts[last]))
    return [
        FrameQueries(
            sources=np.array([entry[0] for entry in queries], dtype=np.int64),
            order=np.array([entry[1] for entry in queries], dtype=np.int64),
            signs=np.array([entry[2] for entry in queries], dtype=np.float64),
            shifts=np.array([entry[3] for entry in queries], dtype=np.float64),
            n_images=count,
        )
        for queries, count in zip(found, n_images, strict=True)
    ]


def kernel_numbers(frames: Sequence[LocalFrame]) -> list[int]:
    """For every kernel of a list of frames, the how many-eth of its frame it is."""
    seen: dict[tuple[int, int, int], int] = {}
    numbers = []
    for frame in frames:
        numbers.append(seen.get(_key(frame), 0))
        seen[_key(frame)] = numbers[-1] + 1
    return numbers


def _key(frame: LocalFrame) -> tuple[int, int, int]:
    return frame.atom, frame.x_axis, frame.xy_plane


def _moved(frame: LocalFrame, permutation: IntArray) -> LocalFrame:
    return LocalFrame(*(int(permutation[i]) for i in _key(frame)))


def _permuted_back(
    source: AtomicModel, target: AtomicModel, permutation: IntArray, mirror: bool
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Order, signs and shifts of one query in the natural order of the target's embedded coordinates."""
    covariance, n_atoms = target.covariance, len(permutation)
    d, n_features = covariance.n_embedded, len(covariance.theta)
    order, signs, shifts = np.arange(d), np.ones(d), np.zeros(d)
    columns = FeatureSet(source.feature_kind, n_atoms)
    here = columns.columns_of_others(target.frame)
    for atom, there in columns.columns_of_others(source.frame).items():
        order[here[int(permutation[atom])]] = there
    if mirror:
        signs[:n_features] = columns.mirror_signs
        shifts[:n_features] = columns.mirror_shifts * np.sqrt(covariance.theta)
    sines = {int(h): n_features + k for k, h in enumerate(covariance.expanded)}
    for h, sine in sines.items():
        order[sine] = sines[int(order[h])]
    return order, signs, shifts
