"""Model files: one ``.npz`` without pickle, a JSON header with units, a checksum over everything.

Schema 3.  Entries: ``header`` (UTF-8 JSON as bytes), ``sha256`` (hexadecimal, over header and arrays in the order of
their names), ``positions`` (bohr, reference geometry) and for every atom ``NNN/points``, ``NNN/energies`` (hartree),
``NNN/w_y`` (hartree), ``NNN/w_1``, ``NNN/theta``.  A joint fit has its solution
(:class:`fflux_py.gp.joint_fit.JointFit`) under ``joint/`` instead of points and weights, which follow from it; with a
symmetry ``joint/permutations``, ``joint/mirrors`` and ``joint/rotors`` too.  A taught mean has its arrays under
``taught_mean/``; the header then names its level of theory.  Atoms are counted by the kernels of their frames
(``NNN``): with symmetry an atom may have several frames, and a frame stands once for each of its kernels.

Files whose frames have one kernel each, without a taught mean, are of schema 2, which earlier versions read.  Files of
older schemas are read too: :data:`_UPGRADES` brings their parts forward one schema at a time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from fflux_py.errors import FFLUXError, FileFormatError
from fflux_py.files import Sealed, check_numbers, json_array, read_sealed, sealed_npz, write_atomically
from fflux_py.forcefield import ForceField
from fflux_py.gp.atomic_model import AtomicModel
from fflux_py.gp.covariance import Covariance
from fflux_py.gp.features import FeatureSet
from fflux_py.gp.frame_queries import kernel_numbers
from fflux_py.gp.joint_atoms import JointFrame, joint_atoms
from fflux_py.gp.joint_fit import JointFit
from fflux_py.gp.polynomial_mean import DEGREES
from fflux_py.gp.radial_kernel import radial_kernel
from fflux_py.gp.taught_mean import TaughtMean
from fflux_py.gp.weights import PlainWeights
from fflux_py.molecules.local_frame import LocalFrame
from fflux_py.molecules.molecule import Molecule
from fflux_py.molecules.symmetry import Symmetry

SCHEMA: Final = 3
_SIMPLE: Final = 2
"""Schema of files whose frames have one kernel each, without a taught mean."""
_UNITS: Final = {
    "positions": "bohr", "points": "spherical: bohr, radian; unit-vector: 1/bohr, 1", "energies": "hartree",
    "w_y": "hartree", "w_1": "1", "mean": "hartree", "variance": "hartree^2", "isolated_energies": "hartree",
    "theta": "inverse square of the feature's unit", "taught_mean": "hartree, bohr",
}  # fmt: skip
_ARRAYS: Final = ("points", "energies", "w_y", "w_1", "theta")
_JOINT_ARRAYS: Final = ("positions", "partitioned", "centres", "variances", "coefficients")
_SYMMETRY_ARRAYS: Final = ("permutations", "mirrors", "rotors")
_REMEDY: Final = "train or copy it again"
# In a joint fit these follow from the solution.
_DERIVED: Final = ("/points", "/w_y", "/w_1")
_TAUGHT: Final = "taught_mean/"


def save(forcefield: ForceField, path: str | os.PathLike[str]) -> None:
    """Write a force field, whole or not at all."""
    first = forcefield.atoms[0]
    several_kernels = any(kernel_numbers([m.frame for m in forcefield.atoms]))
    header: dict[str, Any] = {
        "format": "fflux_py force field",
        "schema": SCHEMA if several_kernels or forcefield.taught_mean is not None else _SIMPLE,
        "units": _UNITS,
        "name": forcefield.molecule.name,
        "symbols": list(forcefield.molecule.symbols),
        "charge": forcefield.molecule.charge,
        "features": first.feature_kind,
        "covariance": {"shape": first.covariance.kernel.name, "azimuth": first.covariance.azimuth},
        "isolated_energies": dict(forcefield.isolated_energies),
        "metadata": dict(forcefield.metadata),
        "calibration": dict(forcefield.calibration),
        "taught_mean": None if forcefield.taught_mean is None else {"level": forcefield.taught_mean.level},
        "atoms": [
            {
                "frame": [m.frame.atom, m.frame.x_axis, m.frame.xy_plane],
                "mean_name": m.mean_name,
                "mean": m.mean,
                "variance": m.variance,
                "noise": m.noise,
                "jitter": m.jitter,
            }
            for m in forcefield.atoms
        ],
    }
    arrays = {"positions": np.asarray(forcefield.molecule.positions)}
    for k, model in enumerate(forcefield.atoms):
        parts = (model.points, model.energies, model.weights.w_y, model.weights.w_1, model.covariance.theta)
        arrays.update({f"{k:03d}/{name}": np.asarray(part) for name, part in zip(_ARRAYS, parts, strict=True)})
    if forcefield.joint is not None:
        header["joint"] = {"noises": list(forcefield.joint.noises)}
        for name in _JOINT_ARRAYS:
            arrays[f"joint/{name}"] = np.asarray(getattr(forcefield.joint, name))
        if forcefield.joint.symmetry is not None:
            for name in _SYMMETRY_ARRAYS:
                arrays[f"joint/{name}"] = np.asarray(getattr(forcefield.joint.symmetry, name))
        for name in [k for k in arrays if k.endswith(_DERIVED)]:
            del arrays[name]
    if forcefield.taught_mean is not None:
        arrays.update({f"{_TAUGHT}{name}": array for name, array in forcefield.taught_mean.entries().items()})
    arrays["header"] = json_array(json.dumps(header, indent=1))
    write_atomically(path, sealed_npz(arrays, compressed=True))


def load(path: str | os.PathLike[str]) -> ForceField:
    """Read a force field.

    Raises
    ------
    FileFormatError
        Not such a file, truncated, altered (checksum), or of a newer schema.
    """
    where = str(path)
    header, arrays, _ = _read(path)
    check_numbers(arrays, where, _REMEDY, may_be_missing=lambda name: name.endswith("/energies"))
    schema = header.get("schema")
    if type(schema) is not int or schema not in range(1, SCHEMA + 1):
        raise FileFormatError(where, f"schema 1 to {SCHEMA}", str(schema), "use a matching version of fflux_py")
    for older in range(schema, SCHEMA):
        header, arrays = _UPGRADES[older](header, arrays)
    try:
        return _from_parts(header, arrays)
    except KeyError as error:
        raise FileFormatError(where, f"the entry {error}", "none", "train again") from error
    except FFLUXError as error:
        raise FileFormatError(f"{where}, {error.where}", error.expected, error.found, error.remedy) from error
    except (TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
        # entries of another type or shape than save() writes
        raise FileFormatError(where, "the entries of a model", f"others ({error})", "train again") from error


def file_digest(path: str | os.PathLike[str]) -> str:
    """The checksum stored in a model file: the parent mark of a trajectory."""
    return _read(path).sha256


def _read(path: str | os.PathLike[str]) -> Sealed:
    return read_sealed(path, "a model written by 'fflux train' (.npz)", _REMEDY)


def _from_parts(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> ForceField:
    molecule = Molecule(tuple(header["symbols"]), arrays["positions"], int(header["charge"]), str(header["name"]))
    isolated, metadata = header["isolated_energies"], header["metadata"]
    taught = None
    if header["taught_mean"] is not None:
        entries = {name.removeprefix(_TAUGHT): a for name, a in arrays.items() if name.startswith(_TAUGHT)}
        taught = TaughtMean.from_entries(entries, str(header["taught_mean"]["level"]))
    if "joint" not in header:
        atoms = _atoms(header, arrays, molecule)
        return ForceField(molecule, atoms, isolated, metadata, None, header["calibration"], taught_mean=taught)
    joint = _joint_fit(header, arrays)
    frames = _joint_frames(header, arrays, molecule)
    energies = [isolated.get(molecule.symbols[part.frame.atom]) for part in frames]
    atoms = joint_atoms(joint, frames, header["atoms"][0]["mean_name"], energies)
    return ForceField(molecule, atoms, isolated, metadata, joint, header["calibration"], taught_mean=taught)


def _atoms(header: dict[str, Any], arrays: dict[str, np.ndarray], molecule: Molecule) -> tuple[AtomicModel, ...]:
    """Models of atomic energies; a polynomial mean follows from the training data."""
    atoms = []
    for k, entry in enumerate(header["atoms"]):
        points, energies, w_y, w_1 = (arrays[f"{k:03d}/{name}"] for name in ("points", "energies", "w_y", "w_1"))
        if not energies.size:
            raise ValueError(f"atom {k + 1} without training points")
        model = AtomicModel(
            frame=LocalFrame(*entry["frame"]),
            feature_kind=header["features"],
            covariance=_covariance(header, arrays[f"{k:03d}/theta"], molecule),
            points=points,
            energies=energies,
            weights=PlainWeights(w_y, w_1, float(energies.mean())),
            mean_name=entry["mean_name"],
            mean=entry["mean"],
            variance=entry["variance"],
            noise=entry["noise"],
            jitter=entry["jitter"],
        )
        atoms.append(model.with_prior_mean(model.mean_name) if model.mean_name in DEGREES else model)
    return tuple(atoms)


def _joint_frames(header: dict[str, Any], arrays: dict[str, np.ndarray], molecule: Molecule) -> list[JointFrame]:
    """The frames of a joint fit, whose points and weights follow from its solution."""
    return [
        JointFrame(
            frame=LocalFrame(*entry["frame"]),
            feature_kind=header["features"],
            covariance=_covariance(header, arrays[f"{k:03d}/theta"], molecule),
            energies=arrays[f"{k:03d}/energies"],
            variance=entry["variance"],
            noise=entry["noise"],
            jitter=entry["jitter"],
        )
        for k, entry in enumerate(header["atoms"])
    ]


def _covariance(header: dict[str, Any], theta: np.ndarray, molecule: Molecule) -> Covariance:
    azimuths = FeatureSet(header["features"], molecule.n_atoms).azimuths
    kernel = radial_kernel(header["covariance"]["shape"])
    return Covariance(theta, azimuths, kernel, header["covariance"]["azimuth"])


def _joint_fit(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> JointFit:
    parts = {name: arrays[f"joint/{name}"] for name in _JOINT_ARRAYS}
    symmetry = None
    if "joint/permutations" in arrays:
        symmetry = Symmetry(*(arrays[f"joint/{name}"] for name in _SYMMETRY_ARRAYS))
    return JointFit(**parts, noises=tuple(header["joint"]["noises"]), symmetry=symmetry)


_Parts = tuple[dict[str, Any], dict[str, np.ndarray]]


def _from_schema_1(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> _Parts:
    """Schema 2 added symmetry (absent: none) and calibration (absent: not calibrated)."""
    return {**header, "schema": 2, "calibration": {}}, arrays


def _from_schema_2(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> _Parts:
    """In schema 3 a frame may stand several times, once for each of its kernels, and a taught mean beside them."""
    return {**header, "schema": 3, "taught_mean": None}, arrays


_UPGRADES: Final[dict[int, Callable[[dict[str, Any], dict[str, np.ndarray]], _Parts]]] = {
    1: _from_schema_1,
    2: _from_schema_2,
}
