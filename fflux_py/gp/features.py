"""Features of an atom in its local frame, their derivatives, and what is known of every set of features.

Two sets of features describe the same information (a and b are the distances to the frame's two other atoms):

``spherical``
    |a|, |b|, the angle chi between them, then for every other atom, ascending, R, theta, phi of its position in the
    frame (bohr, radian).  What FEREBUS, ICHOR and DL_FFLUX use; the order is ICHOR's.
``unit-vector``
    1/|a|, 1/|b|, cos chi, then 1/R and the unit vector (3 numbers) of every other atom in the frame.  No wrap, no pole.

``spherical-inverse-r`` and ``unit-vector-r`` are the same with 1/R in place of R, and R in place of 1/R.

What the columns of a set are, and how they behave, stands in one table (:data:`FORMS`), and :class:`FeatureSet` says it
of a molecule's atoms.  All functions are plain NumPy over any number of geometries; the fast, compiled counterpart is
:mod:`fflux_py._compiled.features`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Final, Literal, get_args

import numpy as np

from fflux_py.errors import InputError
from fflux_py.molecules.local_frame import LocalFrame, check_local_frames, local_axes
from fflux_py.molecules.molecule import read_only
from fflux_py.typing import FloatArray, IntArray

FeatureKind = Literal["spherical", "spherical-inverse-r", "unit-vector", "unit-vector-r"]
Distance = Literal["r", "inverse-r"]
FEATURE_KINDS: Final[tuple[str, ...]] = get_args(FeatureKind)
CLASSES: Final = ("frame distance", "chi", "distance", "in-plane direction", "out-of-plane direction")
"""Classes of features that share a factor of their length scales in the joint fit."""
_FRAME_DISTANCE, _CHI, _DISTANCE, _IN_PLANE, _OUT_OF_PLANE = range(len(CLASSES))
_POLE: Final = 1e-12


@dataclass(frozen=True)
class FeatureColumn:
    """One of an atom's features.

    Parameters
    ----------
    name
        As ``fflux prune`` calls it; the same for all other atoms.
    length_class
        Index into :data:`CLASSES`.
    azimuth
        Whether it has the period 2 pi.  An azimuth turns in the plane of the frame, so the mirror image leaves it.
    mirror
        Sign and shift: in the mirror image the feature f is ``sign * f + shift``.
    """

    name: str
    length_class: int
    azimuth: bool = False
    mirror: tuple[float, float] = (1.0, 0.0)


@dataclass(frozen=True)
class FeatureForm:
    """What the features of a kind are, whatever the molecule.

    Parameters
    ----------
    distance
        How distances stand: ``"r"`` as R, ``"inverse-r"`` as 1/R.
    directional
        Whether directions stand as unit vectors and not as angles.
    of_frame
        Columns of the frame's own atoms: the distances to its two other atoms, and the angle between them.
    of_other
        Columns of every other atom; the distance comes first.
    """

    distance: Distance
    directional: bool
    of_frame: tuple[FeatureColumn, ...]
    of_other: tuple[FeatureColumn, ...]


_OF_FRAME: Final = (
    FeatureColumn("first bond", _FRAME_DISTANCE),
    FeatureColumn("second bond", _FRAME_DISTANCE),
    FeatureColumn("chi", _CHI),
)
_ANGLES: Final = (
    FeatureColumn("distance", _DISTANCE),
    FeatureColumn("theta", _OUT_OF_PLANE, mirror=(-1.0, np.pi)),  # pi - theta
    FeatureColumn("phi", _IN_PLANE, azimuth=True),
)
_UNIT_VECTOR: Final = (
    FeatureColumn("distance", _DISTANCE),
    FeatureColumn("x", _IN_PLANE),
    FeatureColumn("y", _IN_PLANE),
    FeatureColumn("z", _OUT_OF_PLANE, mirror=(-1.0, 0.0)),
)

FORMS: Final[Mapping[FeatureKind, FeatureForm]] = MappingProxyType(
    {
        "spherical": FeatureForm("r", directional=False, of_frame=_OF_FRAME, of_other=_ANGLES),
        "spherical-inverse-r": FeatureForm("inverse-r", directional=False, of_frame=_OF_FRAME, of_other=_ANGLES),
        "unit-vector": FeatureForm("inverse-r", directional=True, of_frame=_OF_FRAME, of_other=_UNIT_VECTOR),
        "unit-vector-r": FeatureForm("r", directional=True, of_frame=_OF_FRAME, of_other=_UNIT_VECTOR),
    }
)
"""All kinds of features; numbers in compiled code: :data:`fflux_py._compiled.features.FEATURES`."""


def feature_form(kind: str) -> FeatureForm:
    """What the features of a kind are.

    Raises
    ------
    InputError
        There is no such kind.
    """
    for known, form in FORMS.items():
        if known == kind:
            return form
    raise InputError("features", f"one of {', '.join(FEATURE_KINDS)}", repr(kind))


@dataclass(frozen=True)
class FeatureSet:
    """The features of every atom of a molecule.

    Parameters
    ----------
    kind
        One of :data:`FEATURE_KINDS`.
    n_atoms
        Number of atoms of the molecule.

    Raises
    ------
    InputError
        There is no such kind.
    """

    kind: FeatureKind
    n_atoms: int

    def __post_init__(self) -> None:
        feature_form(self.kind)

    @property
    def form(self) -> FeatureForm:
        """What the features are, whatever the molecule."""
        return feature_form(self.kind)

    @cached_property
    def columns(self) -> tuple[FeatureColumn, ...]:
        """The features of one atom, in order."""
        return self.form.of_frame + self.form.of_other * (self.n_atoms - 3)

    @property
    def n_features(self) -> int:
        """Number of features of one atom: 3N-6 (spherical) or 3 + 4 (N-3) (unit-vector)."""
        return len(self.columns)

    @property
    def names(self) -> tuple[str, ...]:
        """What every feature is: first and second bond, chi, and of the other atoms distance and direction."""
        return tuple(column.name for column in self.columns)

    @cached_property
    def azimuths(self) -> IntArray:
        """Indices of the features that are azimuths with the period 2 pi."""
        return read_only(np.flatnonzero([column.azimuth for column in self.columns]), np.int64)

    @cached_property
    def classes(self) -> IntArray:
        """Class (index into :data:`CLASSES`) of every feature."""
        return read_only(np.array([column.length_class for column in self.columns]), np.int64)

    @cached_property
    def mirror_signs(self) -> FloatArray:
        """Signs that the mirror image gives the features."""
        return read_only(np.array([column.mirror[0] for column in self.columns]))

    @cached_property
    def mirror_shifts(self) -> FloatArray:
        """What the mirror image then adds to the features, in their units."""
        return read_only(np.array([column.mirror[1] for column in self.columns]))

    def columns_of_others(self, frame: LocalFrame) -> dict[int, IntArray]:
        """Indices of the features of every atom outside of the frame, by the atom's index."""
        first, width = len(self.form.of_frame), len(self.form.of_other)
        return {
            atom: np.arange(first + width * k, first + width * (k + 1))
            for k, atom in enumerate(frame.others(self.n_atoms))
        }

    @cached_property
    def distance_numbers(self) -> IntArray:
        """Place of every feature's atom among :meth:`distances`; the angle of the frame belongs to its second atom."""
        of_others = np.repeat(np.arange(2, self.n_atoms - 1), len(self.form.of_other))
        return read_only(np.concatenate([[0, 1, 1], of_others]), np.int64)

    def distances(self, values: FloatArray) -> FloatArray:
        """Distances of an atom to all others in bohr, the frame's atoms first, from features ``(..., n_features)``."""
        distances = [0, 1, *range(len(self.form.of_frame), self.n_features, len(self.form.of_other))]
        return _lengths(values[..., distances], self.form.distance)


def _of_lengths(r: FloatArray, distance: Distance) -> FloatArray:
    """How distances (bohr) stand among the features."""
    return np.asarray(1.0 / r) if distance == "inverse-r" else r


def _lengths(values: FloatArray, distance: Distance) -> FloatArray:
    """The way back: distances (bohr) from the features."""
    return np.asarray(1.0 / values) if distance == "inverse-r" else values


def _by_bond(r: FloatArray, distance: Distance) -> FloatArray:
    """Derivative of the feature by the distance r to an atom of the frame."""
    return np.asarray(-(r**-2)) if distance == "inverse-r" else np.ones_like(r)


def _by_position(unit: FloatArray, r: FloatArray, distance: Distance) -> FloatArray:
    """Derivative of the feature by the position of another atom, in the direction ``unit`` and at the distance r."""
    return np.asarray(-unit / r**2) if distance == "inverse-r" else unit


def needs_axes(n_atoms: int, kind: FeatureKind) -> bool:
    """Whether the features depend on all axes of a frame: not so the cosine of the one angle of three atoms.

    Then the three atoms may stand on a line, as those of CO2 and HCN do.
    """
    return n_atoms > 3 or not feature_form(kind).directional


def features(positions: FloatArray, frame: LocalFrame, kind: FeatureKind) -> FloatArray:
    """Features of one atom.

    Parameters
    ----------
    positions
        Positions in bohr, shape ``(..., n_atoms, 3)``.
    frame, kind
        The atom's frame, and the set of features.

    Returns
    -------
    FloatArray
        Shape ``(..., n_features)``; bohr or 1/bohr, and radian or pure numbers.

    Raises
    ------
    GeometryError
        The three atoms of the frame stand on a line.
    """
    form = feature_form(kind)
    positions = np.asarray(positions, dtype=np.float64)
    if needs_axes(positions.shape[-2], kind):
        check_local_frames(positions, [frame])
    axes = local_axes(positions, frame)
    origin = positions[..., frame.atom, :]
    a = np.linalg.norm(positions[..., frame.x_axis, :] - origin, axis=-1)
    b = positions[..., frame.xy_plane, :] - origin
    along, across = (axes[..., 0, :] * b).sum(-1), (axes[..., 1, :] * b).sum(-1)
    r_b = np.hypot(along, across)
    others = list(frame.others(positions.shape[-2]))
    local = np.einsum("...ij,...nj->...ni", axes, positions[..., others, :] - origin[..., None, :])
    radius = np.linalg.norm(local, axis=-1)
    a, r, distance = (_of_lengths(length, form.distance) for length in (a, r_b, radius))
    if form.directional:
        first = np.stack([a, r, along / r_b], axis=-1)
        rest = np.concatenate([distance[..., None], local / radius[..., None]], axis=-1)
    else:
        first = np.stack([a, r, np.arctan2(across, along)], axis=-1)
        theta = np.arctan2(np.hypot(local[..., 0], local[..., 1]), local[..., 2])
        rest = np.stack([distance, theta, np.arctan2(local[..., 1], local[..., 0])], axis=-1)
    return np.concatenate([first, rest.reshape((*rest.shape[:-2], -1))], axis=-1)


def feature_jacobian(positions: FloatArray, frame: LocalFrame, kind: FeatureKind) -> FloatArray:
    """Derivatives of the features of one atom by all positions.

    Free of avoidable singularities: chi by its sine and cosine, phi as (x dy - y dx)/(x^2 + y^2); at a pole (an atom on
    the z axis), where theta has a kink and phi no value, their derivatives by x and y are set to zero.

    Parameters
    ----------
    positions
        Positions in bohr, shape ``(..., n_atoms, 3)``.

    Returns
    -------
    FloatArray
        Shape ``(..., n_features, n_atoms, 3)``.
    """
    form = feature_form(kind)
    positions = np.asarray(positions, dtype=np.float64)
    if needs_axes(positions.shape[-2], kind):
        check_local_frames(positions, [frame])
    n_atoms = positions.shape[-2]
    axes = local_axes(positions, frame)
    e1, e2 = axes[..., 0, :], axes[..., 1, :]
    origin = positions[..., frame.atom, :]
    a = positions[..., frame.x_axis, :] - origin
    b = positions[..., frame.xy_plane, :] - origin
    by_a, by_b = _axes_derivatives(a, b, axes)
    r_a, along, across = np.linalg.norm(a, axis=-1), (e1 * b).sum(-1), (e2 * b).sum(-1)
    r_b = np.hypot(along, across)
    # along = e1.b and across = e2.b; e2.de2 = 0 and b = along e1 + across e2 leave these short forms.
    along_a = np.einsum("...i,...ij->...j", b, by_a[..., 0, :, :])
    across_a = np.einsum("...i,...ij->...j", b, by_a[..., 1, :, :])
    unit_b = b / r_b[..., None]
    jacobian = np.zeros((*positions.shape[:-2], FeatureSet(kind, n_atoms).n_features, n_atoms, 3))
    scale_a, scale_b = _by_bond(r_a, form.distance), _by_bond(r_b, form.distance)
    _add(jacobian, 0, frame.x_axis, frame.atom, scale_a[..., None] * e1)
    _add(jacobian, 1, frame.xy_plane, frame.atom, scale_b[..., None] * unit_b)
    if not form.directional:  # chi = atan2(across, along)
        chi_a = (along[..., None] * across_a - across[..., None] * along_a) / r_b[..., None] ** 2
        chi_b = (along[..., None] * e2 - across[..., None] * e1) / r_b[..., None] ** 2
    else:  # cos chi = along / r_b
        chi_a = along_a / r_b[..., None]
        chi_b = (e1 - (along / r_b)[..., None] * unit_b) / r_b[..., None]
    _add(jacobian, 2, frame.x_axis, frame.atom, chi_a)
    _add(jacobian, 2, frame.xy_plane, frame.atom, chi_b)
    for k, other in enumerate(frame.others(n_atoms)):
        d = positions[..., other, :] - origin
        local = np.einsum("...ij,...j->...i", axes, d)
        outer = _local_coordinate_features(local, form)
        first = 3 + k * outer.shape[-2]
        parts = (
            (frame.x_axis, np.einsum("...i,...kij->...kj", d, by_a)),
            (frame.xy_plane, np.einsum("...i,...kij->...kj", d, by_b)),
            (other, axes),
        )
        for atom, by_local in parts:
            rows = np.einsum("...fk,...kj->...fj", outer, by_local)
            for f in range(outer.shape[-2]):
                _add(jacobian, first + f, atom, frame.atom, rows[..., f, :])
    return jacobian


def _add(jacobian: FloatArray, feature: int, atom: int, origin: int, vector: FloatArray) -> None:
    """Add the derivative by ``R_atom - R_origin``."""
    jacobian[..., feature, atom, :] += vector
    jacobian[..., feature, origin, :] -= vector


def _axes_derivatives(a: FloatArray, b: FloatArray, axes: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Derivatives of the three axes by a and by b, each of shape ``(..., axis, component, component of a or b)``."""
    e1, e2 = axes[..., 0, :], axes[..., 1, :]
    identity = np.eye(3)
    across1 = identity - e1[..., :, None] * e1[..., None, :]
    across2 = identity - e2[..., :, None] * e2[..., None, :]
    along = (e1 * b).sum(-1)[..., None, None]
    width = (e2 * b).sum(-1)[..., None, None]
    # on a line (three atoms alone) these derivatives mean nothing, and no feature takes them
    least = _POLE * np.linalg.norm(b, axis=-1)[..., None, None]
    width = np.where(np.abs(width) > least, width, least)
    e1_a = across1 / np.linalg.norm(a, axis=-1)[..., None, None]
    y_a = -(e1[..., :, None] * np.einsum("...i,...ij->...j", b, e1_a)[..., None, :] + along * e1_a)
    e2_a = across2 @ y_a / width
    e2_b = across2 @ across1 / width
    e3_a = np.cross(e1_a, e2[..., :, None], axis=-2) + np.cross(e1[..., :, None], e2_a, axis=-2)
    e3_b = np.cross(e1[..., :, None], e2_b, axis=-2)
    return np.stack([e1_a, e2_a, e3_a], axis=-3), np.stack([np.zeros_like(e2_b), e2_b, e3_b], axis=-3)


def _local_coordinate_features(local: FloatArray, form: FeatureForm) -> FloatArray:
    """Derivatives of an atom's features by its local coordinates, shape ``(..., 3 or 4, 3)``."""
    radius = np.linalg.norm(local, axis=-1)[..., None]
    unit = local / radius
    by_distance = _by_position(unit, radius, form.distance)
    if form.directional:
        by_unit = (np.eye(3) - unit[..., :, None] * unit[..., None, :]) / radius[..., None]
        return np.concatenate([by_distance[..., None, :], by_unit], axis=-2)
    x, y, z = local[..., 0], local[..., 1], local[..., 2]
    rho2 = x * x + y * y
    on_pole = rho2 < _POLE * radius[..., 0] ** 2
    inverse = np.where(on_pole, 0.0, 1.0 / np.where(on_pole, 1.0, rho2))
    rho = np.sqrt(rho2)
    r2 = radius[..., 0] ** 2
    theta = np.stack([z * x * rho * inverse / r2, z * y * rho * inverse / r2, -rho / r2], axis=-1)
    phi = np.stack([-y * inverse, x * inverse, np.zeros_like(x)], axis=-1)
    return np.stack([by_distance, theta, phi], axis=-2)
