"""Start geometries: relaxation, and conformers by turning the torsions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize

from fflux_py.bias.collective_variables import torsion
from fflux_py.errors import ConvergenceError, GeometryError, SimulationStopped
from fflux_py.molecules.bond_rotation import rotate_about_bond
from fflux_py.molecules.molecule import Molecule, Torsion
from fflux_py.molecules.potential import PotentialEnergy
from fflux_py.sampling.thermostatted import fault
from fflux_py.typing import FloatArray

_TRIALS = 50


def relax(molecule: Molecule, potential: PotentialEnergy, fmax: float = 1e-3, max_iterations: int = 500) -> Molecule:
    """The nearest minimum, by L-BFGS in Cartesian coordinates.

    Parameters
    ----------
    molecule
        Start geometry.
    potential
        Energy and forces.
    fmax
        Largest force component left, hartree/bohr.  The default is loose for soft torsions: it serves as the start
        of a thermostatted run, which forgets it.
    max_iterations
        Give up after this many iterations.

    Raises
    ------
    ConvergenceError
        If a force component above ``fmax`` is left.
    """
    shape = molecule.positions.shape
    # Fix the origin of energy: L-BFGS compares energies, whose digits the total energy of the molecule would eat.
    origin, _ = potential.energy_and_forces(molecule.positions)

    def energy_and_gradient(x: FloatArray) -> tuple[float, FloatArray]:
        energy, forces = potential.energy_and_forces(x.reshape(shape))
        return energy - origin, -forces.ravel()

    result = minimize(
        energy_and_gradient,
        molecule.positions.ravel(),
        jac=True,
        method="L-BFGS-B",
        options={"gtol": fmax, "ftol": 0.0, "maxiter": max_iterations},
    )
    left = float(np.abs(result.jac).max())
    if left > fmax:
        raise ConvergenceError(
            f"relaxation of {molecule.name!r}",
            f"forces under {fmax:g} hartree/bohr in {max_iterations} iterations",
            f"{left:.2g} hartree/bohr",
            "start from a better geometry",
        )
    return molecule.with_positions(result.x.reshape(shape))


def set_torsion(molecule: Molecule, atoms: Torsion, angle: float) -> Molecule:
    """Set the torsion ``atoms`` to ``angle`` (radian) by turning everything behind its axis rigidly."""
    turn = angle - torsion(np.array(molecule.positions), atoms)
    return molecule.with_positions(rotate_about_bond(molecule, (atoms[1], atoms[2]), turn))


def random_conformer(
    molecule: Molecule, potential: PotentialEnergy, torsions: Sequence[Torsion], rng: np.random.Generator
) -> Molecule:
    """A relaxed geometry from uniformly random torsions, with the bonds of ``molecule``.

    Raises
    ------
    SimulationStopped
        If 50 trials in a row clash, react or do not relax.
    """
    problem: str | None = None
    for _ in range(_TRIALS):
        trial = molecule
        angles = rng.uniform(-np.pi, np.pi, size=len(torsions))
        try:
            for atoms, angle in zip(torsions, angles, strict=True):
                trial = set_torsion(trial, atoms, float(angle))
            problem = fault(molecule, trial.positions)
            if problem is not None:
                continue
            relaxed = relax(trial, potential)
        except (ConvergenceError, GeometryError) as error:
            problem = str(error)
            continue
        problem = fault(molecule, relaxed.positions)
        if problem is None:
            return relaxed
    raise SimulationStopped(
        f"conformers of {molecule.name!r}", "a relaxed conformer", f"none in {_TRIALS} trials, the last: {problem}"
    )
