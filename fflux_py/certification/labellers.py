"""What models are judged by: labels of visited geometries at the model's own level of theory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from fflux_py.errors import ConvergenceError, GeometryError, InputError
from fflux_py.iqa.campaign import Campaign, Resources
from fflux_py.iqa.scf.level_of_theory import LevelOfTheory
from fflux_py.molecules.dataset import Dataset, GeometrySet

GFN2_METADATA: Final = {"method": "gfn2-xtb", "basis": "minimal valence basis", "partition": "gfn2-xtb"}
"""Header of data sets with labels of GFN2-xTB."""


class Labeller(Protocol):
    """Labels geometries; a geometry that has a label is not labelled again."""

    @property
    def name(self) -> str:
        """Level of theory in words."""
        ...

    def label(
        self, geometries: GeometrySet, folder: Path, progress: Callable[[int, int], None] | None = None
    ) -> Dataset | None:
        """The data set of all geometries that could be labelled; ``folder`` keeps the results of single ones.

        None if the method failed for every geometry: where a wrong model goes, no SCF may converge.
        """
        ...


@dataclass(frozen=True)
class KohnShamLabeller:
    """Labels by density functional theory, resumable (:mod:`fflux_py.iqa.campaign`).

    Parameters
    ----------
    level
        Level of theory.
    partition
        Partition of the atomic energies; ``"none"`` for energies and forces alone.
    resources
        Where to compute: processes and threads, or an executor.
    """

    level: LevelOfTheory
    partition: str = "none"
    resources: Resources = field(default_factory=Resources)

    @property
    def name(self) -> str:
        """Functional and basis."""
        return f"{self.level.method}/{self.level.basis}"

    def label(
        self, geometries: GeometrySet, folder: Path, progress: Callable[[int, int], None] | None = None
    ) -> Dataset | None:
        """Label every geometry that has no result in ``folder``; return the labels of all."""
        if len(geometries) == 0:
            return None
        campaign = Campaign(geometries, self.level, self.partition, folder)
        try:
            return campaign.run(self.resources, progress=progress)
        except InputError:
            if len(campaign.failures()) < len(geometries):
                raise
            return None


@dataclass(frozen=True)
class GFN2Labeller:
    """Labels by GFN2-xTB, milliseconds each: for models of GFN2-xTB data.  The folder is not used."""

    @property
    def name(self) -> str:
        """The method."""
        return "gfn2-xtb"

    def label(
        self, geometries: GeometrySet, folder: Path, progress: Callable[[int, int], None] | None = None
    ) -> Dataset | None:
        """Label every geometry."""
        from fflux_py.sampling.gfn2 import GFN2

        labels, indices = [], []
        potential = GFN2(geometries.molecule)
        for index, positions in enumerate(geometries.positions):
            try:
                energy, forces = potential.energy_and_forces(positions)
                atomic = potential.atomic_energies()
            except (ConvergenceError, GeometryError):
                continue
            finally:
                if progress is not None:
                    progress(index + 1, len(geometries))
            labels.append((energy, forces, atomic))
            indices.append(index)
        if not labels:
            return None
        unknown = np.full((len(labels), geometries.molecule.n_atoms), np.nan)
        return Dataset(
            geometries=geometries.select(indices),
            energies=np.array([energy for energy, _, _ in labels]),
            forces=np.array([forces for _, forces, _ in labels]),
            atomic_energies=np.array([atomic for _, _, atomic in labels]),
            atomic_errors=unknown,
            charges=unknown,
            metadata={**GFN2_METADATA, "failed_geometries": len(geometries) - len(labels)},
        )


def labeller_of(
    header: Mapping[str, Any],
    partition: str = "none",
    resources: Resources | None = None,
) -> Labeller:
    """The labeller of a data set's or a model's level of theory.

    Parameters
    ----------
    header
        Metadata with ``method`` and ``basis``; of the other settings what is missing is taken as the default.
    partition, resources
        As in :class:`KohnShamLabeller`.

    Raises
    ------
    InputError
        No level of theory, or one that nobody here computes.
    """
    for key in ("method", "basis"):
        if not header.get(key):
            raise InputError(f"header, key {key}", "the level of theory of the labels", "none", "give the data set")
    if str(header["method"]).lower() == GFN2_METADATA["method"]:
        return GFN2Labeller()
    return KohnShamLabeller(level_of(header), partition, resources or Resources())


def level_of(header: Mapping[str, Any]) -> LevelOfTheory:
    """The level of theory that a header describes."""
    standard = LevelOfTheory()
    grid = str(header.get("grid", f"pyscf level {standard.grid_level}"))
    program, _, number = grid.rpartition(" ")
    if program != "pyscf level" or not (number.isascii() and number.isdigit() and len(number) < 10):
        raise InputError("header, key grid", "'pyscf level N'", repr(grid))
    fitting = str(header.get("density_fit", standard.auxiliary_basis))
    return LevelOfTheory(
        method=str(header["method"]),
        basis=str(header["basis"]),
        basis_functions="spherical" if header.get("basis_functions") == "spherical" else "cartesian",
        density_fit=fitting != "none",
        auxiliary_basis=standard.auxiliary_basis if fitting == "none" else fitting,
        grid_level=int(number),
        convergence=float(header.get("scf_convergence", standard.convergence)),
    )
