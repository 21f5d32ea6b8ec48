"""The covariance of all observations as an operator, and parts of it, without making the matrix."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from fflux_py._compiled.covariances import KernelForm
from fflux_py.gp.covariance import Covariance
from fflux_py.gp.joint_covariance import JointModel, frame_points, kernel_form
from fflux_py.gp.observations import Observations
from fflux_py.molecules.local_frame import LocalFrame
from fflux_py.training._joint_products import write_products
from fflux_py.training.joint_system import JointSystem, image_count
from fflux_py.typing import FloatArray, IntArray


class Embedded(NamedTuple):
    """One frame's embedded points, image by image, rotors last.

    Parameters
    ----------
    frame, form, permutations
        The frame, the form of its kernel, and the permutations of the images, ``(n_images, n_atoms)``.
    points, jacobians
        Shapes ``(n_images, N, d)`` and ``(n_images, N, d, 3n)``, by the coordinates of the geometries themselves.
    """

    frame: LocalFrame
    form: KernelForm
    permutations: IntArray
    points: FloatArray
    jacobians: FloatArray


def embed_frame(model: JointModel, frame: LocalFrame, kernel: Covariance, positions: FloatArray) -> Embedded:
    """Embed one frame's features of geometries in bohr, shape ``(N, n_atoms, 3)``."""
    features = frame_points(model, frame, positions)
    order, form = kernel_form(kernel, features.rotors)
    shape = (len(features.values), len(positions), len(order))
    points, jacobians = np.empty(shape), np.empty((*shape, positions[0].size))
    for k, (values, jacobian) in enumerate(zip(features.values, features.jacobians, strict=True)):
        points[k] = kernel.embed(values)[:, order]
        jacobians[k] = kernel.embed_jacobian(values, jacobian)[:, order].reshape(jacobians[k].shape)
    return Embedded(frame, form, features.permutations, points, jacobians)


class JointOperator:
    """Products of the covariance matrix of all observations (without noise) with vectors.

    Parameters
    ----------
    system
        The data, what is modelled, and the hyperparameters.
    threads
        Threads over the geometries; the result does not depend on them.
    memory
        Bytes for the derivatives of the features.  Where they are too many they are made anew for every product; the
        result does not depend on it.
    """

    def __init__(self, system: JointSystem, threads: int = 1, memory: float = np.inf) -> None:
        self.data, self.model, self.kernels, self.variances = (
            system.data,
            system.model,
            system.kernels,
            system.variances,
        )
        self.threads, self.observations, self.size = threads, self.data.observations, system.n_unknowns
        count, n_atoms, _ = self.data.positions.shape
        self._kept: list[Embedded] | None = None
        if 8.0 * image_count(self.model) * count * self.kernels[0].n_embedded * (3 * n_atoms + 1) <= memory:
            self._kept = list(self.frames())

    def frames(self) -> Iterator[Embedded]:
        """The frames' embedded points, one after the other."""
        if self._kept is not None:
            yield from self._kept
            return
        for frame, kernel in zip(self.model.frames, self.kernels, strict=True):
            yield embed_frame(self.model, frame, kernel, self.data.positions)

    def __call__(self, vectors: FloatArray) -> FloatArray:
        """The products with vectors, shape ``(n_observations, n_vectors)``."""
        everything = np.arange(len(self.data.positions))
        return self.products(everything, everything, vectors)

    def products(self, rows: IntArray, columns: IntArray, vectors: FloatArray) -> FloatArray:
        """Part of the matrix times vectors.

        Parameters
        ----------
        rows, columns
            Geometries (indices, ascending) whose observations are the part's rows and columns.
        vectors
            In the order of ``observations.of_geometries(columns)``, shape ``(n, n_vectors)``.

        Returns
        -------
        FloatArray
            In the order of ``observations.of_geometries(rows)``.
        """
        n_atoms, n_vectors = self.observations.n_atoms, vectors.shape[1]
        here, there = self.observations.partitioned[rows], self.observations.partitioned[columns]
        atom_vectors, total_vectors, force_vectors = Observations(there, n_atoms).split(vectors)
        force_vectors = force_vectors.reshape(len(columns), 3 * n_atoms, n_vectors)
        energies = np.zeros((n_atoms, len(rows), n_vectors))
        forces = np.zeros((len(rows), 3 * n_atoms, n_vectors))
        unit = self.variances[0]
        for embedded, variance in zip(self.frames(), self.variances, strict=True):
            z = embedded.points[0, rows]
            f, g = np.empty((len(rows), n_vectors)), np.empty((len(rows), z.shape[1], n_vectors))
            for points, jacobian, permutation in zip(
                embedded.points, embedded.jacobians, embedded.permutations, strict=True
            ):
                weights = total_vectors + atom_vectors[permutation[embedded.frame.atom]]
                self._write(z, points[columns], weights, -(jacobian[columns] @ force_vectors), embedded.form, f, g)
                if variance != unit:
                    f *= variance / unit
                    g *= variance / unit
                energies[embedded.frame.atom] += f
                forces -= embedded.jacobians[0, rows].transpose(0, 2, 1) @ g
        parts = (np.concatenate(energies[:, here]), energies.sum(axis=0), np.concatenate(forces))
        return np.asarray(unit * np.concatenate(parts))

    def _write(
        self,
        z: FloatArray,
        points: FloatArray,
        weights: FloatArray,
        slopes: FloatArray,
        form: KernelForm,
        f: FloatArray,
        g: FloatArray,
    ) -> None:
        if self.threads == 1 or len(z) < 2 * self.threads:
            write_products(z, points, weights, slopes, form, 0, len(z), f, g)
            return
        edges = np.linspace(0, len(z), 4 * self.threads + 1).astype(int).tolist()
        with ThreadPoolExecutor(self.threads) as pool:
            jobs = [
                pool.submit(write_products, z, points, weights, slopes, form, first, last, f, g)
                for first, last in pairwise(edges)
            ]
            for job in jobs:
                job.result()
