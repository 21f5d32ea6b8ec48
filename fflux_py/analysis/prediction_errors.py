"""Errors of predictions against reference labels, in kcal/mol and kcal/mol/angstrom.

Energies are compared as they are, predicted minus reference, without any shift: the total energy of a sum of atomic
energies has no free constant.  The best constant shift, and what would be left after it, stand beside that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np

from fflux_py.errors import InputError
from fflux_py.molecules.dataset import Dataset, GeometrySet
from fflux_py.molecules.molecule import read_only
from fflux_py.typing import FloatArray
from fflux_py.units import KCAL_MOL, KCAL_MOL_ANGSTROM

ALL: Final = "all"
"""Name of the group of all frames."""

ROOM: Final = "300-500 K"
"""Unbiased frames at thermostats of 300 to 500 K: what simulations are run at."""

METADYNAMICS: Final = "metadynamics"
"""Frames of biased trajectories."""


@dataclass(frozen=True)
class GroupErrors:
    """Errors of one group of frames, predicted minus reference.

    MAE is the mean absolute error, RMSE the root-mean-square error; the force errors run over all Cartesian components
    of all atoms, the atomic errors over all atoms of the frames that carry atomic energies (NaN if none does).

    Parameters
    ----------
    n_frames
        Frames in the group.
    energy_mae_kcal_mol, energy_rmse_kcal_mol, energy_max_kcal_mol
        Total energy.
    energy_median_kcal_mol, energy_p95_kcal_mol
        Absolute errors below which 50 % and 95 % of the frames lie.
    energy_mean_signed_error_kcal_mol
        Mean of predicted minus reference: a systematic offset.
    energy_shift_kcal_mol
        The constant that, subtracted from the predictions, minimises the MAE: the median of the signed errors.
    energy_mae_after_shift_kcal_mol
        The MAE that would be left.
    energy_spread_kcal_mol
        Mean absolute deviation of the *reference* energies from their median, the MAE of the best constant: what a
        model must beat to know anything.
    force_mae_kcal_mol_angstrom, force_rmse_kcal_mol_angstrom, force_max_kcal_mol_angstrom
        Force components.
    force_spread_kcal_mol_angstrom
        Mean absolute value of the reference components.
    n_frames_atomic
        Frames with atomic energies.
    atomic_energy_mae_kcal_mol, atomic_energy_rmse_kcal_mol, atomic_energy_max_kcal_mol
        Atomic energies.
    """

    n_frames: int
    energy_mae_kcal_mol: float
    energy_rmse_kcal_mol: float
    energy_max_kcal_mol: float
    energy_median_kcal_mol: float
    energy_p95_kcal_mol: float
    energy_mean_signed_error_kcal_mol: float
    energy_shift_kcal_mol: float
    energy_mae_after_shift_kcal_mol: float
    energy_spread_kcal_mol: float
    force_mae_kcal_mol_angstrom: float
    force_rmse_kcal_mol_angstrom: float
    force_max_kcal_mol_angstrom: float
    force_spread_kcal_mol_angstrom: float
    n_frames_atomic: int
    atomic_energy_mae_kcal_mol: float
    atomic_energy_rmse_kcal_mol: float
    atomic_energy_max_kcal_mol: float

    def as_dict(self) -> dict[str, int | float | None]:
        """For JSON: units in the keys, None where there is no figure."""
        return {key: None if value != value else value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class ErrorTable:
    """Errors of all frames, and by group.

    Parameters
    ----------
    group
        Name of the group of every frame.
    energy_errors
        Predicted minus reference, hartree, shape ``(m,)``.
    force_errors
        Hartree/bohr, shape ``(m, n_atoms, 3)``.
    atomic_energy_errors
        Hartree, shape ``(m, n_atoms)``; NaN in the rows without atomic energies.
    groups
        Errors by group: ``"all"`` first, then in the order of temperature, metadynamics, others.
    """

    group: tuple[str, ...]
    energy_errors: FloatArray
    force_errors: FloatArray
    atomic_energy_errors: FloatArray
    groups: Mapping[str, GroupErrors]

    def __post_init__(self) -> None:
        for name in ("energy_errors", "force_errors", "atomic_energy_errors"):
            object.__setattr__(self, name, read_only(getattr(self, name)))
        object.__setattr__(self, "groups", dict(self.groups))

    def frames(self, group: str = ALL) -> np.ndarray:
        """Which frames belong to a group, bool, shape ``(m,)``."""
        if group != ALL and group not in self.groups:
            raise InputError("group", f"one of {', '.join(self.groups)}", repr(group))
        return np.array([group in (ALL, name) for name in self.group])

    def s_curve(self, group: str = ALL) -> tuple[FloatArray, FloatArray]:
        """The cumulative error curve, known as S-curve in the literature of FFLUX.

        Returns
        -------
        Absolute energy errors in kcal/mol, ascending, shape ``(k,)``; and the percentage of the group's frames whose
        error does not exceed each of them, up to 100.
        """
        error = np.sort(np.abs(self.energy_errors[self.frames(group)])) * KCAL_MOL
        return error, 100.0 * np.arange(1, len(error) + 1) / len(error)

    def atomic_energy_mae_kcal_mol(self, group: str = ALL) -> FloatArray:
        """MAE of every atom's energy in kcal/mol, shape ``(n_atoms,)``; NaN if no frame carries atomic energies."""
        rows = self.atomic_energy_errors[self.frames(group)]
        rows = rows[~np.isnan(rows).any(axis=1)]
        if not len(rows):
            return np.full(self.atomic_energy_errors.shape[1], np.nan)
        return np.asarray(np.abs(rows).mean(axis=0) * KCAL_MOL)

    def as_dict(self) -> dict[str, dict[str, int | float | None]]:
        """For JSON: the figures of every group."""
        return {name: errors.as_dict() for name, errors in self.groups.items()}


def frame_groups(geometries: GeometrySet) -> tuple[str, ...]:
    """Group of every frame, from its marks.

    Frames of biased trajectories (source ``wtmetad-...``) are ``"metadynamics"``; unbiased ones at 300 to 500 K are
    ``"300-500 K"``; other temperatures have a group each, ``"1000 K"``; frames without temperature go by the first
    word of their source, ``"distorted"``.
    """
    names = []
    for source, temperature in zip(geometries.source, geometries.temperature, strict=True):
        kind = source.split("-")[0]
        if "metad" in kind:
            names.append(METADYNAMICS)
        elif np.isnan(temperature):
            names.append(kind)
        elif 300.0 <= temperature <= 500.0:
            names.append(ROOM)
        else:
            names.append(f"{temperature:g} K")
    return tuple(names)


def prediction_errors(
    dataset: Dataset, energies: FloatArray, forces: FloatArray, atomic_energies: FloatArray | None = None
) -> ErrorTable:
    """Compare predictions with the labels of ``dataset``, frame by frame.

    Parameters
    ----------
    dataset
        Reference labels.
    energies
        Predicted total energies in hartree, shape ``(m,)``.
    forces
        Predicted forces in hartree/bohr, shape ``(m, n_atoms, 3)``.
    atomic_energies
        Predicted atomic energies in hartree, shape ``(m, n_atoms)``, if there are any.

    Raises
    ------
    InputError
        If there is no frame, or shapes differ.
    """
    if len(dataset) == 0:
        raise InputError("data set", "at least one labelled geometry", "none")
    for name, array, like in (("energies", energies, dataset.energies), ("forces", forces, dataset.forces)):
        if np.shape(array) != like.shape:
            raise InputError(f"predicted {name}", f"shape {like.shape}", f"shape {np.shape(array)}")
    atomic_errors = np.full(dataset.atomic_energies.shape, np.nan)
    if atomic_energies is not None:
        if np.shape(atomic_energies) != atomic_errors.shape:
            shape = f"shape {np.shape(atomic_energies)}"
            raise InputError("predicted atomic energies", f"shape {atomic_errors.shape}", shape)
        atomic_errors = np.asarray(atomic_energies) - dataset.atomic_energies
    energy_errors, force_errors = np.asarray(energies) - dataset.energies, np.asarray(forces) - dataset.forces
    group = frame_groups(dataset.geometries)
    selections = {ALL: np.ones(len(dataset), dtype=bool)}
    selections.update({name: np.array([name == g for g in group]) for name in sorted(set(group), key=group_order)})
    groups = {
        name: _group_errors(dataset, energy_errors, force_errors, atomic_errors, chosen)
        for name, chosen in selections.items()
    }
    return ErrorTable(group, energy_errors, force_errors, atomic_errors, groups)


def _group_errors(
    dataset: Dataset, energy: FloatArray, force: FloatArray, atomic: FloatArray, chosen: np.ndarray
) -> GroupErrors:
    """Figures of the chosen frames (errors in atomic units)."""
    e = energy[chosen] * KCAL_MOL
    reference = dataset.energies[chosen] * KCAL_MOL
    f = np.abs(force[chosen]) * KCAL_MOL_ANGSTROM
    rows = atomic[chosen]
    rows = np.abs(rows[~np.isnan(rows).any(axis=1)]) * KCAL_MOL
    size, shift = np.abs(e), float(np.median(e))
    nan = float("nan")
    return GroupErrors(
        n_frames=len(e),
        energy_mae_kcal_mol=float(size.mean()),
        energy_rmse_kcal_mol=_rms(size),
        energy_max_kcal_mol=float(size.max()),
        energy_median_kcal_mol=float(np.median(size)),
        energy_p95_kcal_mol=float(np.quantile(size, 0.95)),
        energy_mean_signed_error_kcal_mol=float(e.mean()),
        energy_shift_kcal_mol=shift,
        energy_mae_after_shift_kcal_mol=float(np.abs(e - shift).mean()),
        energy_spread_kcal_mol=float(np.abs(reference - np.median(reference)).mean()),
        force_mae_kcal_mol_angstrom=float(f.mean()),
        force_rmse_kcal_mol_angstrom=_rms(f),
        force_max_kcal_mol_angstrom=float(f.max()),
        force_spread_kcal_mol_angstrom=float(np.abs(dataset.forces[chosen]).mean() * KCAL_MOL_ANGSTROM),
        n_frames_atomic=len(rows),
        atomic_energy_mae_kcal_mol=float(rows.mean()) if len(rows) else nan,
        atomic_energy_rmse_kcal_mol=_rms(rows) if len(rows) else nan,
        atomic_energy_max_kcal_mol=float(rows.max()) if len(rows) else nan,
    )


def _rms(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def group_order(group: str) -> tuple[int, float, str]:
    """Sort key of groups: temperatures ascending, then metadynamics, then the rest by name."""
    if group == METADYNAMICS:
        return 1, 0.0, group
    head = group.removesuffix(" K").split("-")[0]
    if group.endswith(" K") and head.replace(".", "", 1).isdigit():
        return 0, float(head), group
    return 2, 0.0, group
