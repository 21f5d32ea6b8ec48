"""The label of one geometry: total energy, forces and atomic energies, with where they come from."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

import numpy as np

from fflux_py.iqa.partition import NO_PARTITION, PARTITIONS, check_partition
from fflux_py.iqa.scf.dispersion import dispersion_version
from fflux_py.iqa.scf.electronic_structure import GroundState, program_versions, threads_in_use
from fflux_py.iqa.scf.functionals import check_atomic_energies
from fflux_py.iqa.scf.level_of_theory import LevelOfTheory
from fflux_py.iqa.scf.orbitals import OrbitalFile
from fflux_py.molecules.molecule import Molecule, read_only
from fflux_py.typing import FloatArray

SCHEMA: Final = "fflux-label-1"


@dataclass(frozen=True)
class Label:
    """Energies and forces of one geometry.

    Parameters
    ----------
    energy
        SCF energy in hartree.
    forces
        Forces in hartree/bohr, shape ``(n_atoms, 3)``.
    atomic_energies
        IQA energies in hartree, ``(n_atoms,)``, summing to ``energy``; NaN without a partition.
    atomic_errors
        Size of the integration residuals given to each atom, hartree, ``(n_atoms,)``; NaN without a partition.
    charges
        Atomic charges in elementary charges, ``(n_atoms,)``; NaN without a partition.
    components
        Parts of the atomic energies by name, hartree, each ``(n_atoms,)``.
    residuals
        Analytic minus integrated value of each component, hartree.
    integrals
        Further integrals over the atoms: ``population`` (electrons, ``(n_atoms,)``), ``dipole`` (e bohr, ``(n_atoms,
        3)``) and ``quadrupole`` (Q20, Q21c, Q21s, Q22c, Q22s, e bohr^2, ``(n_atoms, 5)``) of the electrons about the
        nucleus in global axes, ``laplacian`` (L(A) = K - G, hartree, ``(n_atoms,)``), ``attraction`` (of the electrons
        of an atom, columns, by every nucleus, rows, hartree, ``(n_atoms, n_atoms)``: within atoms on the diagonal,
        between atoms elsewhere).  Results of earlier versions lack some or all.
    wall_times
        Seconds spent in ``scf``, ``forces`` and ``partition``.
    threads
        Threads of PySCF.
    versions
        Versions of the programs.
    stability
        ``gap`` between occupied and empty orbitals and, where it was looked into, the lowest ``eigenvalue`` for
        unpaired spins (:mod:`fflux_py.iqa.scf.stability`), hartree.  Results of earlier versions have none.
    """

    energy: float
    forces: FloatArray
    atomic_energies: FloatArray
    atomic_errors: FloatArray
    charges: FloatArray
    components: Mapping[str, FloatArray] = field(default_factory=dict)
    residuals: Mapping[str, float] = field(default_factory=dict)
    integrals: Mapping[str, FloatArray] = field(default_factory=dict)
    wall_times: Mapping[str, float] = field(default_factory=dict)
    threads: int = 1
    versions: Mapping[str, str] = field(default_factory=dict)
    stability: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("forces", "atomic_energies", "atomic_errors", "charges"):
            object.__setattr__(self, name, read_only(getattr(self, name)))
        for name in ("components", "integrals"):
            object.__setattr__(self, name, {k: read_only(v) for k, v in getattr(self, name).items()})

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and texts that JSON keeps exactly (NaN as ``null``); units as in the class."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Label:
        """Inverse of :meth:`as_dict`; a missing or unknown field is a ``KeyError`` or ``TypeError``."""
        values = dict(values)
        for name in ("forces", "atomic_energies", "atomic_errors", "charges"):
            values[name] = np.array(values[name], dtype=np.float64)
        for name in ("components", "integrals"):
            values[name] = {k: np.array(v, dtype=np.float64) for k, v in values.get(name, {}).items()}
        return cls(**values)


def label_geometry(
    molecule: Molecule,
    level: LevelOfTheory,
    partition: str = "hirshfeld",
    orbitals: OrbitalFile | None = None,
    keep_orbitals: bool = False,
    earlier: Label | None = None,
    judge_always: bool = False,
    keep_unstable: bool = False,
) -> Label:
    """Compute the label of one geometry.

    Parameters
    ----------
    molecule
        Elements, positions and charge; closed shell.
    level
        Level of theory.
    partition
        Name of a partition of space, or ``none`` for energy and forces alone.
    orbitals
        File of this geometry's orbitals; if it is there, no SCF is needed.  The label is the same with and without it
        (bit for bit with density fitting, else to the SCF's threshold).
    keep_orbitals
        Write that file as soon as the SCF is done.
    earlier
        Label of this geometry without a partition.  Its forces are taken if the orbitals are, and versions and threads
        are the same.
    judge_always
        Look into the stability of the restricted solution whatever its gap; else only where the gap is small.
    keep_unstable
        Label geometries whose restricted solution is unstable.

    Raises
    ------
    ConvergenceError
        The SCF does not converge, its solution is unstable, or the partition finds no atoms.
    InputError
        An unknown method, basis or partition, or an odd number of electrons.
    """
    check_partition(partition)
    if partition != NO_PARTITION:
        check_atomic_energies(level.method)
    started = time.perf_counter()
    state = GroundState(molecule, level, orbitals.read() if orbitals else None)
    if orbitals and keep_orbitals and not state.from_stored_orbitals:
        orbitals.write(state.occupied_orbitals())
    stability = state.stability(judge_always)
    if not keep_unstable:
        stability.require_stable(f"{molecule.name!r} ({molecule.formula})")
    after_scf = time.perf_counter()
    versions = {**program_versions(), **dispersion_version(level.method)}
    reusable = earlier is not None and (earlier.versions, earlier.threads) == (versions, threads_in_use())
    forces = earlier.forces if earlier and reusable and state.from_stored_orbitals else state.forces()
    after_forces = time.perf_counter()
    unknown = np.full(molecule.n_atoms, np.nan)
    common: dict[str, Any] = {"energy": state.energy, "forces": forces}
    times = {"scf": after_scf - started, "forces": after_forces - after_scf}
    if partition == NO_PARTITION:
        common.update(atomic_energies=unknown, atomic_errors=unknown, charges=unknown)
    else:
        atoms = PARTITIONS[partition].integrate(state)
        times["partition"] = time.perf_counter() - after_forces
        common.update(atomic_energies=atoms.energies, atomic_errors=atoms.errors, charges=atoms.charges)
        common.update(components=atoms.components, residuals=atoms.residuals, integrals=atoms.integrals())
    times = {name: round(seconds, 3) for name, seconds in times.items()}
    return Label(
        **common,
        wall_times=times,
        threads=threads_in_use(),
        versions=versions,
        stability=stability.as_dict(),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return json.loads(json.dumps(value.tolist()).replace("NaN", "null"))
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return value
