"""Energy functions that the compiled loop can call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fflux_py._compiled import forces, reordered_forces
from fflux_py.errors import InputError
from fflux_py.files import sha256
from fflux_py.forcefield import ForceField
from fflux_py.molecules.matching import Matching
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray


@dataclass(frozen=True)
class CompiledPotential:
    """An energy function that the compiled loop can call.

    Parameters
    ----------
    molecule
        The molecule; the bonds of its geometry and their lengths are the reference of the guards.
    force_function
        Numba function ``(positions, arrays) -> (energy, forces)`` in hartree, bohr: shapes ``(n_atoms, 3)``, ``()``,
        ``(n_atoms, 3)``.
    arrays
        Its parameters, a named tuple of arrays.
    together
        Numba function of the same for ``g`` geometries at once, shapes ``(g, n_atoms, 3)``, ``(g,)``,
        ``(g, n_atoms, 3)``; replicas then run in groups.  None: one by one through ``force_function``.
    group
        Replicas in a group.  It is fixed, whatever the number of threads, so that the bits of a run are too.
    memory
        One of ``arrays`` that the function itself changes during the run (a bias that grows), or None.  It goes into
        the checkpoints and is put back on resuming; all replicas share it, in one group.
    identity
        What tells this potential from all others; made of function and arrays if empty.
    """

    molecule: Molecule
    force_function: Callable[..., Any]
    arrays: Any
    together: Callable[..., Any] | None = None
    group: int = 1
    memory: FloatArray | None = None
    identity: str = ""

    def __post_init__(self) -> None:
        if self.group < 1:
            raise InputError("group", "at least one replica", str(self.group))
        if self.memory is not None and not any(array is self.memory for array in self.arrays):
            raise InputError("memory", "one of the arrays of the potential", "another array")

    @classmethod
    def of(cls, potential: ForceField | CompiledPotential, matching: Matching | None = None) -> CompiledPotential:
        """A force field's compiled function and arrays, for atoms in the order and hand that a matching is of.

        Whatever the order, the digest is that of the force field.
        """
        if isinstance(potential, CompiledPotential):
            return potential
        matching = matching or Matching(np.arange(potential.molecule.n_atoms))
        order, sign = np.array(matching.order), -1.0 if matching.mirror else 1.0
        return cls(
            potential.molecule if matching.identity else matching.inverse.reorder(potential.molecule),
            reordered_forces.energy_and_forces,
            reordered_forces.ReorderedArrays(order, sign, potential.kernel_arrays()),
            together=reordered_forces.energies_and_forces,
            group=forces.TOGETHER,
            identity=identity_of(potential),
        )

    def energy_and_forces(self, positions: FloatArray) -> tuple[float, FloatArray]:
        """Energy (hartree) and forces (hartree/bohr) of one geometry, shape ``(n_atoms, 3)``."""
        energy, forces_of_one = self.force_function(np.array(positions, dtype=np.float64), self.arrays)
        return float(energy), np.asarray(forces_of_one)

    def digest(self) -> str:
        """SHA-256 that two potentials have in common only if they are the same."""
        if self.identity:
            return self.identity
        parts = [" ".join(self.molecule.symbols).encode(), getattr(self.force_function, "__name__", "").encode()]
        parts += [np.ascontiguousarray(array).tobytes() for array in self.arrays if array is not self.memory]
        return sha256(b"\n".join(parts))


def identity_of(forcefield: ForceField) -> str:
    """SHA-256 of what a model file holds of the energies.

    Not of the kernel's arrays: those are laid out anew in every version, and what follows from the solution of a joint
    fit (the atoms' points and weights) has other last bits on another processor.
    """
    parts: list[object] = [forcefield.molecule.symbols, forcefield.molecule.charge, forcefield.precision]
    parts.append(sorted(forcefield.isolated_energies.items()))  # of MF5
    joint = forcefield.joint
    for atom in forcefield.atoms:
        frame, covariance = atom.frame, atom.covariance
        parts += [(frame.atom, frame.x_axis, frame.xy_plane), atom.feature_kind]
        parts += [covariance.kernel.name, covariance.azimuth]
        parts += [covariance.theta, atom.mean_name]
        if joint is None:
            parts += [atom.mean, atom.points, atom.weights.w_y, atom.weights.w_1]
    if joint is not None:
        parts += [joint.positions, joint.centres, joint.coefficients]
    if forcefield.taught_mean is not None:
        parts.append(forcefield.taught_mean.digest())
    return sha256(b"\n".join(x.tobytes() if isinstance(x, np.ndarray) else repr(x).encode() for x in parts))
