"""The force field in OpenMM, through ``openmm.PythonForce`` (OpenMM 8.4 and later).

OpenMM then moves the atoms with its own integrators, restraints and enhanced sampling.  Each evaluation goes through
Python, so that a run is as fast as the force field allows, not as OpenMM's own forces are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fflux_py.errors import MissingDependencyError, ModelMismatchError
from fflux_py.forcefield import ForceField
from fflux_py.interfaces.evaluator import Evaluator, Outside
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM, DALTON, KJ_MOL

if TYPE_CHECKING:
    import openmm

_NANOMETER = 0.1 * ANGSTROM


def openmm_force(forcefield: ForceField, outside: Outside = "warn") -> openmm.PythonForce:
    """A force for a ``System`` whose particles are the model's atoms, in their order.

    ``outside`` says what happens at a geometry that the model does not know
    (:class:`~fflux_py.interfaces.evaluator.Evaluator`).
    Without periodic boundaries.  In a larger system it can be given to some particles (``setParticles``).  It cannot be
    serialised: the model has a file of its own.

    Raises
    ------
    MissingDependencyError
        OpenMM is not installed, or too old to have ``PythonForce``.
    """
    module = _openmm()
    n_atoms, evaluator = forcefield.molecule.n_atoms, Evaluator(forcefield, outside)

    def compute(state: Any) -> tuple[float, FloatArray]:
        """Energy (kJ/mol) and forces (kJ/mol/nm) of a state in nanometer."""
        positions = state.getPositions(asNumpy=True)
        positions = np.asarray(positions.value_in_unit(module.unit.nanometer), dtype=np.float64)
        if len(positions) != n_atoms:
            raise ModelMismatchError("OpenMM system", f"{n_atoms} atoms as in the model", str(len(positions)))
        energies, forces = evaluator.evaluate(positions / _NANOMETER)
        return float(energies.sum()) * KJ_MOL, forces * (KJ_MOL / _NANOMETER)

    force = module.PythonForce(compute)
    force.setName("FFLUX")
    return force


def openmm_system(forcefield: ForceField) -> openmm.System:
    """A ``System`` of the model's molecule alone: its masses, and :func:`openmm_force`."""
    module = _openmm()
    system = module.System()
    for mass in forcefield.molecule.masses:
        system.addParticle(float(mass) * DALTON)
    system.addForce(openmm_force(forcefield))
    return system


def _openmm() -> Any:
    remedy = "pip install 'fflux_py[openmm]'"
    try:
        import openmm
        import openmm.unit
    except ImportError as error:
        raise MissingDependencyError("OpenMM", "the package openmm", "it is not installed", remedy) from error
    if not hasattr(openmm, "PythonForce"):
        raise MissingDependencyError("OpenMM", "PythonForce (8.4 or later)", openmm.__version__, remedy)
    return openmm
