"""From the solution of a joint fit to the models of all frames, for a prior mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fflux_py.gp.atomic_model import AtomicModel
from fflux_py.gp.covariance import Covariance
from fflux_py.gp.features import FeatureKind
from fflux_py.gp.joint_covariance import NOISE_ATOMIC, JointData, JointModel
from fflux_py.gp.joint_fit import JointFit, frame_basis, rotor_features, rotors_factorise
from fflux_py.gp.prior_mean import prior_mean
from fflux_py.gp.weights import DerivativeWeights
from fflux_py.molecules.local_frame import LocalFrame
from fflux_py.typing import FloatArray


@dataclass(frozen=True)
class JointFrame:
    """What a joint fit knows of one kernel of a frame besides its solution, from which the kernel's model follows.

    Parameters
    ----------
    frame, feature_kind, covariance
        The local frame, its set of features and its kernel.
    energies
        Training energies of the frame's atom, image by image, hartree, shape ``(n_images * N,)``; NaN where a geometry
        has no partition.
    variance, noise, jitter
        As of :class:`~fflux_py.gp.atomic_model.AtomicModel`.
    """

    frame: LocalFrame
    feature_kind: FeatureKind
    covariance: Covariance
    energies: FloatArray
    variance: float
    noise: float
    jitter: float = 0.0

    @classmethod
    def of(cls, model: AtomicModel) -> JointFrame:
        """The frame of a model."""
        return cls(
            frame=model.frame,
            feature_kind=model.feature_kind,
            covariance=model.covariance,
            energies=model.energies,
            variance=model.variance,
            noise=model.noise,
            jitter=model.jitter,
        )


def joint_frames(
    joint: JointFit,
    data: JointData,
    model: JointModel,
    kernels: Sequence[Covariance],
    variance: float | FloatArray,
) -> tuple[JointFrame, ...]:
    """The frames of a joint fit and their training energies.

    Without any partition each atom's energies are taken as their equal share, so that MF2 is the centre of the fit.

    Parameters
    ----------
    joint, data
        The solution, and the data that it was found from.
    model, kernels, variance
        The frames with their features and symmetry, their kernels, and the kernels' prior variances (hartree^2), one
        for all or one for each.
    """
    shares = np.broadcast_to(joint.centres, data.atomic_energies.shape)
    atomic_energies = data.atomic_energies if data.partitioned.any() else shares
    frames = []
    variances = np.broadcast_to(variance, len(kernels)).tolist()
    for frame, covariance, own in zip(model.frames, kernels, variances, strict=True):
        permutations, _ = model.symmetry.images(frame, rotors_factorise(model.kind, covariance.kernel))
        energies = np.concatenate([atomic_energies[:, permutation[frame.atom]] for permutation in permutations])
        frames.append(JointFrame(frame, model.kind, covariance, energies, own, NOISE_ATOMIC**2 / own))
    return tuple(frames)


def joint_atoms(
    joint: JointFit, frames: Sequence[JointFrame], name: str, isolated: Sequence[float | None]
) -> tuple[AtomicModel, ...]:
    """The models of all frames of a joint fit with a prior mean.

    All means shift together: the weights of one atom depend on the means of all.

    Parameters
    ----------
    joint, frames
        The solution, and frame, kernel and training energies of each model.
    name, isolated
        The prior mean, and the isolated atoms' energies (hartree) for MF5, one for each frame.
    """
    n_atoms = joint.positions.shape[1]
    means = np.zeros(n_atoms)
    for part, energy in zip(frames, isolated, strict=True):
        if name != "gls":
            means[part.frame.atom] = prior_mean(name, part.energies, energy)
    if name == "gls":
        means = joint.gls_means()
    coefficients = joint.shifted(means)
    owners = [part.frame.atom for part in frames]
    models = []
    for part in frames:
        atom = part.frame.atom
        basis = frame_basis(joint.operations, joint.positions, part.frame, part.feature_kind, part.covariance)
        w_y, u_y = joint.atom_basis(basis, part.variance, coefficients)
        w_1, u_1 = joint.atom_basis(basis, part.variance, joint.unit_mean(atom))
        mean = float(means[atom])
        models.append(
            AtomicModel(
                frame=part.frame,
                feature_kind=part.feature_kind,
                covariance=part.covariance,
                points=basis.features(),
                energies=part.energies,
                weights=DerivativeWeights(w_y, w_1, mean, u_y, u_1),
                mean_name=name,
                mean=mean,
                variance=part.variance,
                noise=part.noise,
                jitter=part.jitter,
                rotors=rotor_features(joint.operations, part.frame, part.feature_kind, part.covariance),
                share=1.0 / owners.count(atom),
            )
        )
    return tuple(models)
