"""Data sets from labels: of geometries that are at hand, and of all geometries in a folder of results or an archive."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fflux_py.errors import FileFormatError, InputError
from fflux_py.files import stem
from fflux_py.iqa.labelling import SCHEMA, Label
from fflux_py.iqa.partition import NO_PARTITION
from fflux_py.iqa.result_archive import Result, read_archive
from fflux_py.iqa.result_folder import ISOLATED_ATOMS, ResultFolder
from fflux_py.iqa.scf.level_of_theory import LevelOfTheory
from fflux_py.molecules.dataset import Dataset, GeometrySet
from fflux_py.molecules.molecule import Molecule

# Positions that differ by less, in bohr, are one geometry: the digits that the name of a result counts.
_DECIMALS = 9


def build_dataset(
    geometries: GeometrySet,
    labels: list[Label],
    level: LevelOfTheory,
    partition: str,
    isolated: Mapping[str, float],
    counts: Mapping[str, int] | None = None,
) -> Dataset:
    """Put geometries and their labels together.

    Parameters
    ----------
    geometries, labels
        As many labels as geometries, in the same order.
    level, partition
        What the labels were computed with.
    isolated
        Energies of the free atoms by element, hartree.
    counts
        Further numbers for the header.
    """
    return Dataset(
        geometries=geometries,
        energies=np.array([label.energy for label in labels]),
        forces=np.array([label.forces for label in labels]),
        atomic_energies=np.array([label.atomic_energies for label in labels]),
        atomic_errors=np.array([label.atomic_errors for label in labels]),
        charges=np.array([label.charges for label in labels]),
        metadata={**_metadata(level, partition, labels), **(counts or {})},
        isolated_energies=isolated,
    )


@dataclass(frozen=True)
class LabelSelection:
    """Which of the labels in a folder; what is None follows from the labels, if they leave no choice.

    Parameters
    ----------
    method, basis
        Level of theory, PySCF's names.
    partition
        Name of a partition, or ``none``.
    """

    method: str | None = None
    basis: str | None = None
    partition: str | None = None


def read_labels(source: Path, selection: LabelSelection | None = None) -> Dataset:
    """Read all labelled geometries of a campaign, of which nothing but its results is at hand.

    Results do not say which trajectory a geometry is from.  All geometries are therefore marked ``train``, in the
    order of the results' names, which means nothing: with the file of geometries at hand, ``fflux label`` and
    :meth:`fflux_py.iqa.campaign.Campaign.collect` give the whole data set.  A geometry that has a label with the
    partition and one without gets the former.

    Parameters
    ----------
    source
        A folder of results, or an archive of them.
    selection
        Needed if there are several levels of theory or several partitions.

    Raises
    ------
    InputError
        No such labels, or labels that leave a choice which the selection does not make.
    FileFormatError
        A damaged archive.
    """
    selection = selection or LabelSelection()
    results = _read_results(source)
    geometries = [
        result for name, result in results.items() if not name.startswith(ISOLATED_ATOMS) and "label" in result
    ]
    for key in ("method", "basis"):
        value = getattr(selection, key)
        geometries = [r for r in geometries if value is None or r["level"][key] == value.strip().lower()]
    if not geometries:
        raise InputError(
            str(source), "labels of this level of theory", "none", "check the path, the method and the basis"
        )
    level = LevelOfTheory.from_dict(
        _the_only(source, "level of theory", [r["level"] for r in geometries], "method and basis")
    )
    first = geometries[0]
    molecule = {key: first[key] for key in ("symbols", "charge")}
    _the_only(source, "molecule", [{key: r[key] for key in molecule} for r in geometries], "a folder of one molecule")
    partition = _choose_partition(source, geometries, selection.partition)
    chosen: dict[bytes, Result] = {}
    for result in geometries:
        geometry = (np.round(np.array(result["positions"]), _DECIMALS) + 0.0).tobytes()
        if result["partition"] == partition or (result["partition"] == NO_PARTITION and geometry not in chosen):
            chosen[geometry] = result
    positions = np.array([result["positions"] for result in chosen.values()])
    name, m = stem(source.resolve()).removesuffix(".npz"), len(chosen)
    geometry_set = GeometrySet(
        Molecule(tuple(first["symbols"]), positions[0], first["charge"], name),
        positions,
        (name,) * m,
        np.full(m, np.nan),
        ("train",) * m,
    )
    labels = [Label.from_dict(result["label"]) for result in chosen.values()]
    return build_dataset(geometry_set, labels, level, partition, _isolated_energies(results, first, level))


def _read_results(source: Path) -> dict[str, Result]:
    """All results of a folder or of an archive that are whole, by name."""
    if source.is_file():
        archive = read_archive(source)
        return {name: result for name in archive.names if (result := archive.result(name)) is not None}
    if not source.is_dir():
        raise FileFormatError(str(source), "a folder of results or an archive of labels", "nothing", "check the path")
    folder = ResultFolder(source)
    return {name: result for name in folder.names() if (result := folder.read(name)) is not None}


def _the_only(source: Path, what: str, values: list[dict[str, Any]], remedy: str) -> dict[str, Any]:
    for value in values:
        if value != values[0]:
            key = next(k for k in value if value[k] != values[0][k])
            raise InputError(str(source), f"one {what}", f"{key} {values[0][key]} and {value[key]}", f"give {remedy}")
    return values[0]


def _choose_partition(source: Path, results: list[Result], partition: str | None) -> str:
    names = {str(result["partition"]) for result in results}
    if partition is None and len(names - {NO_PARTITION}) > 1:
        raise InputError("partition", f"one of {', '.join(sorted(names))}", "none given", f"{source} has all of them")
    if partition is not None and partition not in names:
        raise InputError("partition", f"one of {', '.join(sorted(names))} as in {source}", repr(partition))
    return partition or next(iter(sorted(names - {NO_PARTITION})), NO_PARTITION)


def _isolated_energies(results: Mapping[str, Result], first: Result, level: LevelOfTheory) -> dict[str, float]:
    """Energies of the free atoms of this molecule at this level, hartree; empty if they are not there."""
    for name, result in results.items():
        if name.startswith(ISOLATED_ATOMS) and result["level"] == level.as_dict():
            if result["symbols"] == sorted(set(first["symbols"])):
                return {str(symbol): float(energy) for symbol, energy in result["energies"].items()}
    return {}


def _metadata(level: LevelOfTheory, partition: str, labels: list[Label]) -> dict[str, str | int | float]:
    versions = sorted({f"{name} {version}" for label in labels for name, version in label.versions.items()})
    metadata: dict[str, str | int | float] = {
        "method": level.method,
        "basis": level.basis,
        "basis_functions": "cartesian" if level.cartesian else "spherical",
        "partition": partition,
        "density_fit": level.auxiliary_basis if level.density_fit else "none",
        "grid": f"pyscf level {level.grid_level}",
        "scf_convergence": level.convergence,
        "forces": "analytic, with grid response",
        "label_schema": SCHEMA,
        "programs": ", ".join(versions),
        "threads": ", ".join(str(n) for n in sorted({label.threads for label in labels})),
        "label_wall_time_s": round(math.fsum(t for label in labels for t in label.wall_times.values()), 1),
    }
    gaps = [label.stability["gap"] for label in labels if "gap" in label.stability]
    if gaps:
        metadata["smallest_orbital_gap_hartree"] = round(min(gaps), 4)
    if partition != NO_PARTITION:
        metadata["kinetic_energy_density"] = "G (positive definite)"
    return metadata
