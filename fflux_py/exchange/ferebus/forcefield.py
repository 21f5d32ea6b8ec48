"""From the models of ``.model`` files to a force field, and back.

A ``.model`` file knows features, not a molecule: its atom, two other atoms that span the local frame, and numbers.  The
models of all atoms of one molecule together are a force field.  A geometry for it follows from the features
themselves, which are complete.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from scipy.spatial import cKDTree

from fflux_py import __version__
from fflux_py.errors import ConvergenceError, InputError, ModelMismatchError, ReorderedAtomsWarning
from fflux_py.exchange.ferebus.kernel import Composition, Kernel, Reading
from fflux_py.exchange.ferebus.model import FerebusModel
from fflux_py.exchange.ferebus.model_text import FORMAT, Mean, ModelText, names_of
from fflux_py.exchange.ferebus.tables import ENERGY
from fflux_py.forcefield import ForceField
from fflux_py.gp.atomic_model import AtomicModel
from fflux_py.gp.covariance import Azimuth, Covariance
from fflux_py.gp.features import FeatureSet, features
from fflux_py.gp.radial_kernel import SQUARED_EXPONENTIAL
from fflux_py.gp.weights import DerivativeWeights, PlainWeights
from fflux_py.molecules.extended_xyz import Value
from fflux_py.molecules.local_frame import LocalFrame
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray

ASSUMED_FRAME: Final = "ALF_assumed"
"""Key in the metadata of a model whose frame was not known when it was trained."""

_ROUNDING: Final = 1e-9
_SAME_GEOMETRY: Final = 1e-4
_MOST_COMPARED: Final = 200
_FEW: Final = 5
_WHAT_TO_TRAIN: Final = "train with 'fflux train --no-forces --features spherical'"


def to_forcefield(models: Sequence[FerebusModel], molecule: Molecule | None = None) -> ForceField:
    """The force field of the models of all atoms.

    Parameters
    ----------
    models
        In the order of the atoms (:func:`fflux_py.exchange.ferebus.folder.read_models`).
    molecule
        Elements and a geometry, in any order of atoms.  Without it the elements are those in the atoms' names and the
        geometry is that of lowest energy among (at most two hundred) training geometries.

    Raises
    ------
    InputError
        Models that no force field can represent, each with its reason: another property or mean, sums of kernels,
        atoms with different kernels, a diatomic.
    ModelMismatchError
        Elements or bonds of ``molecule`` other than those of the models.
    """
    first = models[0].text
    symbols = tuple(_element(model.text, k) for k, model in enumerate(models))
    if molecule is not None:
        _check_symbols(symbols, molecule)
    atoms = tuple(atomic_model(model) for model in _with_common_wrapping(models))
    azimuths = FeatureSet("spherical", first.n_atoms).azimuths
    for atom in atoms:
        if atom.covariance.azimuth == "periodic" and not np.array_equal(atom.covariance.azimuths, azimuths):
            extra = np.setdiff1d(atom.covariance.azimuths, azimuths) + 1
            raise InputError(
                f"model of {models[atom.frame.atom].text.atom}",
                "a periodic kernel on azimuths only",
                f"one on feature {extra[0]}, which has no period",
                "read it as a single atom, or train again",
            )
    metadata: dict[str, Value] = {"source": "model files", "fit": "atomic energies", "system": first.system}
    metadata["n_train"] = max(len(model.text.y) for model in models)
    for key in ("program", "version", "method", "basis-set"):
        if key in first.metadata:
            metadata[f"source_{key}"] = first.metadata[key]
    sample = first.x[:: -(-len(first.x) // _MOST_COMPARED)]
    geometries = positions_from_features(sample, first.frame, first.n_atoms)
    guess = ForceField(Molecule(symbols, geometries[0], 0, first.system), atoms, {}, metadata)
    lowest = guess.molecule.with_positions(geometries[int(guess.unmatched.compute(geometries, 0)[0].argmin())])
    forcefield = replace(guess, molecule=lowest)
    if molecule is None:
        return forcefield
    matching = forcefield.match(molecule)
    if not matching.identity:
        text = f"{molecule.name}: {matching.describe()} to fit the models; all is in their order"
        warnings.warn(text, ReorderedAtomsWarning, stacklevel=2)
    return replace(forcefield, molecule=matching.reorder(molecule))


def atomic_model(model: FerebusModel) -> AtomicModel:
    r"""One atom's model over positions, with the weights of its file.

    A constant c in front of the kernel goes into the weights and the nugget: :math:`w' = c w`, :math:`\nu' = \nu/c`.

    Raises
    ------
    InputError
        With what cannot be represented.
    """
    text = model.text
    where = f"model of {text.atom}"
    frame = _local_frame(text, where)
    if text.property_name != ENERGY:
        raise InputError(where, f"the property {ENERGY!r}", repr(text.property_name))
    if text.mean.kind not in ("constant", "zero"):
        raise InputError(where, "a constant mean", f"a {text.mean.kind} one", "only constant means have a force field")
    if not text.kernels.is_product:
        raise InputError(where, "a product of kernels", text.kernels.expression, "sums cannot be converted")
    scale = text.kernels.diagonal()
    if scale <= 0.0:
        raise InputError(where, "a positive kernel", f"{scale:g} at its centre")
    covariance = _covariance(model, where)
    w_1 = model.solve(np.ones(len(text.y))) * scale
    weights, mean, centre = text.weights * scale, text.mean.value, float(text.y.mean())
    return AtomicModel(
        frame=frame,
        feature_kind="spherical",
        covariance=covariance,
        points=text.x,
        energies=text.y,
        weights=PlainWeights(weights + (mean - centre) * w_1, w_1, centre),
        mean_name=_mean_name(mean, text.y),
        mean=mean,
        variance=model.prior_variance() * scale or float(text.y.var()),
        noise=model.nugget / scale,
    )


def conversion_notes(models: Sequence[FerebusModel]) -> tuple[str, ...]:
    """Notes on the conversion of models into a force field, in sentences: repairs, local frames, kernels."""
    notes = [f"{model.text.atom}: {note}" for model in models for note in model.notes]
    common = count_common_geometries(models)
    assumed = [m.text.atom for m, n in zip(models, common, strict=True) if ASSUMED_FRAME in m.text.metadata and not n]
    if assumed:
        notes.append(f"the frames of {', '.join(assumed)} were not known at training and were assumed: check their ALF")
    jumps = [m.text.atom for m in _with_common_wrapping(models) if _azimuth(m) == "rbf" and m.text.n_atoms > 3]
    if jumps:
        notes.append(
            f"{', '.join(jumps)}: trained with azimuths that do not wrap, so the energy jumps where one passes 180 "
            "degrees; good for comparison, not for dynamics: train again with the periodic kernel"
        )
    return tuple(notes)


def count_common_geometries(models: Sequence[FerebusModel]) -> tuple[int, ...]:
    """How many training geometries of the first atom (of its first two hundred) each atom has among its own.

    Any at all means that its frame, and that of the first atom, are what their files say.
    """
    first = models[0].text
    positions = positions_from_features(first.x[:_MOST_COMPARED], first.frame, first.n_atoms)
    counts = []
    for model in models:
        frame = _local_frame(model.text, f"model of {model.text.atom}")
        distance, _ = cKDTree(model.text.x).query(features(positions, frame, "spherical"))
        counts.append(int((distance < _SAME_GEOMETRY).sum()))
    return tuple(counts) if len(models) > 1 else (0,)


def positions_from_features(spherical: FloatArray, frame: Sequence[int | None], n_atoms: int) -> FloatArray:
    """Positions (bohr, shape ``(m, n_atoms, 3)``) from spherical features, ``(m, 3 n_atoms - 6)``.

    The atom of the features stands at the origin, its x-axis atom on the x axis, its plane atom in the xy plane.
    """
    atom, x_axis, xy_plane = (-1 if k is None else k for k in frame)
    f = np.asarray(spherical, dtype=np.float64)
    positions = np.zeros((len(f), n_atoms, 3))
    positions[:, x_axis, 0] = f[:, 0]
    positions[:, xy_plane, 0] = f[:, 1] * np.cos(f[:, 2])
    positions[:, xy_plane, 1] = f[:, 1] * np.sin(f[:, 2])
    for k, other in enumerate(LocalFrame(atom, x_axis, xy_plane).others(n_atoms)):
        radius, theta, phi = f[:, 3 + 3 * k : 6 + 3 * k].T
        across = radius * np.sin(theta)
        positions[:, other] = np.stack([across * np.cos(phi), across * np.sin(phi), radius * np.cos(theta)], axis=-1)
    return positions


def model_text(model: AtomicModel, molecule: Molecule, remarks: Mapping[str, str] | None = None) -> ModelText:
    """One atom's model as a ``.model`` file holds it.

    Parameters
    ----------
    model, molecule
        The model, and the molecule for names.
    remarks
        Further metadata, words on one line.

    Raises
    ------
    InputError
        A model that a ``.model`` file cannot represent, with what to train instead.
    """
    atom = f"{molecule.symbols[model.frame.atom]}{model.frame.atom + 1}"
    where = f"model of {atom}"
    if model.feature_kind != "spherical":
        raise InputError(where, "spherical features", model.feature_kind, _WHAT_TO_TRAIN)
    if isinstance(model.weights, DerivativeWeights):
        raise InputError(where, "weights of energies", "weights of forces as well", _WHAT_TO_TRAIN)
    if model.covariance.kernel != SQUARED_EXPONENTIAL:
        raise InputError(where, "the squared exponential", model.covariance.kernel.name, "train with that kernel")
    if len(model.rotors) or model.share != 1.0:
        raise InputError(where, "one model without symmetry", "a sum over permutations", _WHAT_TO_TRAIN)
    text = single_atom_text(
        names=(system_name(molecule.name), atom),
        frame=(model.frame.atom, model.frame.x_axis, model.frame.xy_plane),
        n_atoms=molecule.n_atoms,
        covariance=model.covariance,
        data=(model.points, model.energies, model.point_weights),
        mean=(model.mean_name, model.mean),
        nugget=model.noise,
        remarks=remarks,
    )
    _check_same_energies(model, text, where)
    return text


def _check_same_energies(model: AtomicModel, text: ModelText, where: str) -> None:
    """Refuse a model with any term that the file does not hold, by its energies near the data and away from them."""
    positions = positions_from_features(text.x[:_FEW], text.frame, text.n_atoms)
    positions = np.concatenate([positions, 1.02 * positions, 2.0 * positions])
    held = FerebusModel(text).energies(features(positions, model.frame, "spherical"))
    error = float(np.abs(held - model.energy(positions)).max())
    if error > _ROUNDING:
        difference = f"other energies, by up to {error:.2g} hartree"
        raise InputError(where, "a constant mean and one kernel", difference, _WHAT_TO_TRAIN)


def single_atom_text(
    names: tuple[str, str],
    frame: tuple[int, int, int | None],
    n_atoms: int,
    covariance: Covariance,
    data: tuple[FloatArray, FloatArray, FloatArray],
    mean: tuple[str, float],
    nugget: float,
    remarks: Mapping[str, str] | None = None,
    property_name: str = ENERGY,
) -> ModelText:
    """A Gaussian process over spherical features as a ``.model`` file holds it.

    Parameters
    ----------
    names
        Of the system and of the atom, ``("WATER", "O1")``.
    frame, n_atoms
        As in :class:`fflux_py.exchange.ferebus.model_text.ModelText`.
    covariance
        A squared exponential.
    data
        Features, shape ``(n, d)``, values and weights, shape ``(n,)``.
    mean
        Name and value of the constant prior mean.
    nugget
        What was added to the diagonal of the kernel matrix, over the prior variance.
    remarks
        Further metadata, words on one line.
    property_name
        What the values are.
    """
    metadata = {"program": "fflux_py", "version": __version__, "nugget": repr(float(nugget)), "format": FORMAT}
    metadata |= {"prior_mean": mean[0], **(remarks or {})}
    text = ModelText(
        *names,
        property_name,
        frame,
        n_atoms,
        Mean("constant", mean[1]),
        kernels_of(covariance),
        *data,
        metadata=metadata,
    )
    with contextlib.suppress(ConvergenceError):  # a kernel that is no covariance has no likelihood
        metadata["likelihood"] = repr(FerebusModel(text, Reading(), nugget).log_likelihood())
    return replace(text, metadata=metadata)


def model_texts(forcefield: ForceField) -> tuple[ModelText, ...]:
    """The ``.model`` files of a force field, one for each atom.

    Raises
    ------
    InputError
        A model that ``.model`` files cannot represent, with what to train instead.
    """
    if forcefield.taught_mean is not None:
        raise InputError(
            "model",
            "a constant prior mean for each atom",
            f"a mean taught by {forcefield.taught_mean.level}, which .model files cannot hold",
            _WHAT_TO_TRAIN,
        )
    if forcefield.joint is not None or len(forcefield.atoms) != forcefield.molecule.n_atoms:
        raise InputError("model", "one model of atomic energies for each atom", "a joint fit", _WHAT_TO_TRAIN)
    remarks = {k: str(v) for k, v in forcefield.metadata.items() if k in ("method", "basis", "data_digest")}
    return tuple(model_text(model, forcefield.molecule, remarks) for model in forcefield.atoms)


def system_name(name: str) -> str:
    """A molecule's name as it stands in file names and labels: capitals, digits and hyphens."""
    return re.sub(r"[^A-Z0-9]+", "-", name.upper()).strip("-") or "MOLECULE"


def kernels_of(covariance: Covariance) -> Composition:
    """The kernels of a ``.model`` file for a squared exponential over spherical features."""
    every = np.arange(len(covariance.theta))
    phi = np.isin(every, covariance.azimuths)
    if covariance.azimuth != "periodic" or not phi.any():
        kind = covariance.azimuth if phi.any() and covariance.azimuth == "rbf-cyclic" else "rbf"
        return Composition((Kernel("k1", kind, every, covariance.theta),), "k1")
    first = Kernel("k1", "rbf", every[~phi], covariance.theta[~phi])
    return Composition((first, Kernel("k2", "periodic", every[phi], covariance.theta[phi])), "(k1*k2)")


def _covariance(model: FerebusModel, where: str) -> Covariance:
    """One theta for every feature, periodic theta in the convention of the factor 4."""
    theta = np.zeros(model.text.n_features)
    kinds: dict[int, str] = {}
    for kernel in model.text.kernels.kernels:
        factor = 0.25 * model.reading.periodic_factor if kernel.kind == "periodic" else 1.0
        for h, value in zip(kernel.dimensions.tolist(), kernel.theta, strict=True):
            kind = "periodic" if kernel.kind == "periodic" else "plain"
            if kinds.setdefault(h, kind) != kind:
                raise InputError(where, "one kind of kernel on each feature", f"two on feature {h + 1}")
            theta[h] += factor * value
    azimuth = _azimuth(model)
    azimuths = FeatureSet("spherical", model.text.n_atoms).azimuths
    if azimuth == "periodic":
        azimuths = np.union1d(azimuths, [h for h, kind in kinds.items() if kind == "periodic"]).astype(np.int64)
        plain = [h + 1 for h in azimuths.tolist() if kinds.get(h) == "plain"]
        if plain:
            raise InputError(
                where, "one kernel on all azimuths", f"an rbf on feature {plain[0]}, periodic ones elsewhere"
            )
    return Covariance(theta, azimuths, SQUARED_EXPONENTIAL, azimuth)


def _azimuth(model: FerebusModel) -> Azimuth:
    """What happens to the azimuths of a model."""
    phi = set(FeatureSet("spherical", model.text.n_atoms).azimuths.tolist())
    kinds: set[Azimuth] = set()
    for kernel in model.text.kernels.kernels:
        if kernel.kind == "periodic":
            kinds.add("periodic")
        elif kernel.kind != "constant" and phi & set(kernel.dimensions.tolist()):
            wraps = kernel.kind == "rbf-cyclic" or model.reading.wrap_rbf
            kinds.add("rbf-cyclic" if wraps else "rbf")
    if len(kinds) > 1:
        raise InputError(f"model of {model.text.atom}", "one kernel on all azimuths", " and ".join(sorted(kinds)))
    return kinds.pop() if kinds else "periodic"


def _with_common_wrapping(models: Sequence[FerebusModel]) -> list[FerebusModel]:
    """Models whose data do not tell whether azimuths wrap follow those whose data do."""
    if not any(_azimuth(model) == "rbf" for model in models):
        return list(models)
    changed = []
    for model in models:
        plain = replace(model, reading=replace(model.reading, wrap_rbf=False))
        same = np.abs(plain.energies(model.text.x) - model.energies(model.text.x)).max() <= _ROUNDING
        changed.append(plain if same else model)
    return changed


def _local_frame(text: ModelText, where: str) -> LocalFrame:
    atom, x_axis, xy_plane = text.frame
    if xy_plane is None or text.n_atoms < 3:
        raise InputError(where, "a frame of three atoms", "one of two", "a diatomic has no force field here")
    expected_features = FeatureSet("spherical", text.n_atoms).n_features
    if text.n_features != expected_features:
        expected = f"{expected_features} spherical features of {text.n_atoms} atoms"
        raise InputError(where, expected, str(text.n_features))
    return LocalFrame(atom, x_axis, xy_plane)


def _element(text: ModelText, index: int) -> str:
    element, number = names_of(text.atom)
    if number != index + 1 or text.frame[0] != index:
        raise InputError(f"model of {text.atom}", f"the atom with the number {index + 1}", f"ALF {text.frame[0] + 1}")
    return element


def _check_symbols(symbols: Sequence[str], molecule: Molecule) -> None:
    if sorted(symbols) != sorted(molecule.symbols):
        raise ModelMismatchError(
            f"molecule {molecule.name!r}",
            f"the atoms {' '.join(symbols)} of the models",
            " ".join(molecule.symbols),
            "give a geometry of this molecule",
        )


def _mean_name(mean: float, energies: FloatArray) -> str:
    """The mean by name, so that it can be compared; else by its value."""
    if abs(mean - float(energies.mean())) <= 1e-12 * abs(mean):
        return "MF2"
    return "MF1" if mean == 0.0 else f"constant:{float(mean)!r}"
