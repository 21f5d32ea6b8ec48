"""The protocol: run, label what was visited, assess; every finished part of it is kept in its folder."""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np

from fflux_py.analysis.criteria import Criterion
from fflux_py.analysis.runs import Run
from fflux_py.certification.assessment import TemperatureFigures, assess
from fflux_py.certification.config import CertificationConfig, Execution
from fflux_py.certification.labellers import Labeller
from fflux_py.certification.replicas import run_pieces, simulate, visited_frames
from fflux_py.dynamics.potentials import CompiledPotential
from fflux_py.errors import ConvergenceError, FFLUXError, InputError, ModelMismatchError
from fflux_py.files import read_json, write_atomically
from fflux_py.forcefield import ForceField
from fflux_py.molecules.dataset import Dataset, GeometrySet
from fflux_py.molecules.molecule import Molecule
from fflux_py.optimization.known_region import OutsideTrainingWarning
from fflux_py.optimization.search import optimize
from fflux_py.units import KCAL_MOL

SETTINGS_FILE: Final = "settings.json"
TABLE_FILE: Final = "certificate.csv"
CERTIFICATE_FILE: Final = "certificate.json"
_SCHEMA: Final = "fflux-certificate-1"


class NotCertified(FFLUXError):
    """A criterion of the certificate does not hold."""

    exit_code = 10


@dataclass(frozen=True)
class Certificate:
    """The verdict and what it rests on.

    Parameters
    ----------
    config
        What was run and asked for.
    reference
        Level of theory of the labels.
    model_sha256
        Digest of the force field.
    minimum
        Reference energy of the minimum of the model, hartree.
    minimum_error_kcal_mol
        Model minus reference there.
    figures
        One entry for each temperature.
    runs
        The runs behind them.
    labels
        Labels of the visited frames, by temperature; a temperature without any is missing.
    """

    config: CertificationConfig
    reference: str
    model_sha256: str
    minimum: float
    minimum_error_kcal_mol: float
    figures: tuple[TemperatureFigures, ...]
    runs: tuple[tuple[Run, ...], ...]
    labels: Mapping[float, Dataset]

    @property
    def criteria(self) -> tuple[Criterion, ...]:
        """All criteria of all temperatures."""
        limits, frames = self.config.limits, self.config.frames
        return tuple(line for entry in self.figures for line in entry.criteria(limits, frames))

    @property
    def passed(self) -> bool:
        """Whether every criterion holds."""
        return all(criterion.passed for criterion in self.criteria)

    def error(self) -> NotCertified | None:
        """What the command ends with; None if every criterion holds."""
        failed = [criterion for criterion in self.criteria if not criterion.passed]
        if not failed:
            return None
        names = ", ".join(f"{c.full_name} {c.value:.3g} {c.unit}".strip() for c in failed[:3])
        more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
        return NotCertified(
            "certificate", f"all {len(self.criteria)} criteria met", f"{len(failed)} not met: {names}{more}",
            "'fflux improve' labels what the model visited and trains again",
        )  # fmt: skip

    def as_dict(self) -> dict[str, object]:
        """For JSON: units in the key names."""
        return {
            "schema": _SCHEMA,
            "passed": self.passed,
            "full_protocol": self.config.is_full,
            "reference": self.reference,
            "model_sha256": self.model_sha256,
            "timestep_fs": self.config.timestep,
            "hydrogen_mass_da": self.config.hydrogen_mass,
            "length_ps": self.config.picoseconds,
            "thermostat": self.config.thermostat,
            "seed": self.config.seed,
            "minimum_error_kcal_mol": self.minimum_error_kcal_mol,
            "temperatures": [entry.as_dict() for entry in self.figures],
            "criteria": [criterion.as_dict() for criterion in self.criteria],
        }

    def table(self) -> tuple[list[str], list[list[str | int | float]]]:
        """Heads and rows of the table, one row for each temperature."""
        heads = [
            "temperature_k", "n_runs", "n_survived", "length_ps", "drift_kcal_mol_100ps", "jumps", "worst_bond",
            "largest_bond_deviation_angstrom", "closest_contact_angstrom", "n_frames", "energy_mae_kcal_mol",
            "energy_largest_error_kcal_mol", "force_mae_kcal_mol_angstrom", "mean_energy_difference_kcal_mol",
            "mean_energy_above_minimum_kcal_mol", "lowest_energy_above_minimum_kcal_mol", "passed",
        ]  # fmt: skip
        rows: list[list[str | int | float]] = []
        for entry in self.figures:
            values = {**entry.as_dict(), "length_ps": min(run.length_ps for run in entry.runs)}
            met = all(line.passed for line in entry.criteria(self.config.limits, self.config.frames))
            values["passed"] = "yes" if met else "no"
            rows.append([_cell(values[head]) for head in heads])
        return heads, rows

    def write(self, folder: Path) -> None:
        """Write ``certificate.json`` and ``certificate.csv``."""
        content = json.dumps(_finite(self.as_dict()), indent=2, ensure_ascii=False, allow_nan=False)
        write_atomically(folder / CERTIFICATE_FILE, content + "\n")
        stream = io.StringIO()
        heads, rows = self.table()
        csv.writer(stream, lineterminator="\n").writerows([heads, *rows])
        write_atomically(folder / TABLE_FILE, stream.getvalue())


def certify(
    forcefield: ForceField,
    labeller: Labeller,
    config: CertificationConfig,
    execution: Execution,
    start: Molecule | None = None,
) -> Certificate:
    """Certify a force field: long runs at every temperature, labels of what they visited, verdict.

    The same call goes on where another one was interrupted, in a run or among the labels; with more picoseconds it
    prolongs the runs.

    Parameters
    ----------
    forcefield
        The model.
    labeller
        Who labels, at the level of theory of the model's data.
    config
        What is run and asked for.
    execution
        Where runs, labels and certificate go, and how the work is done.
    start
        Start of all runs, relaxed first by the model; its reference geometry if not given.

    Raises
    ------
    InputError, ModelMismatchError
        The folder holds another certification.
    """
    folder, stage = execution.folder, execution.stage
    geometry = forcefield.molecule if start is None else start
    geometry = forcefield.match_or_keep(geometry).reorder(geometry)
    digest = CompiledPotential.of(forcefield).digest()
    _check_settings(folder, config, labeller, digest, geometry)
    minimum = relax(forcefield, geometry)
    with stage("labelling the minimum") as show:
        at_minimum = labeller.label(single_geometry(minimum), execution.labels_in, show)
    if at_minimum is None:
        raise InputError("minimum of the model", f"a geometry that {labeller.name} converges for",
                         "one that it fails for", "choose another start, or improve the model")  # fmt: skip
    lowest = float(at_minimum.energies[0])
    error = float(forcefield.unmatched.compute(at_minimum.positions, deriv=0)[0][0] - at_minimum.energies[0]) * KCAL_MOL
    figures, all_runs, labels = [], [], {}
    for temperature in config.temperatures:
        with stage(f"{config.seeds} x {config.picoseconds:g} ps at {temperature:g} K (steps)") as show:
            run_folder = folder / "runs" / f"{temperature:g}K"
            md = config.md_config(temperature)
            runs = simulate(forcefield, minimum, md, run_folder, show, execution.threads)
        frames = visited_frames(runs, config.frames, f"certify-{temperature:g}K")
        labelled, n_frames = None, 0 if frames is None else len(frames)
        if frames is not None:
            with stage(f"labelling {n_frames} frames of {temperature:g} K") as show:
                labelled = labeller.label(frames, execution.labels_in, show)
        if labelled is not None:
            labels[temperature] = labelled
            labelled.write(folder / f"visited-{temperature:g}K.extxyz")
        n_failed = n_frames - (0 if labelled is None else len(labelled))
        with stage(f"constant energy, from what was visited at {temperature:g} K (steps)") as show:
            pieces = run_pieces(forcefield, runs, folder / "constant-energy", show)
        figures.append(assess(forcefield, runs, labelled, n_failed, lowest, pieces))
        all_runs.append(runs)
    certificate = Certificate(config, labeller.name, digest, lowest, error, tuple(figures), tuple(all_runs), labels)
    certificate.write(folder)
    return certificate


def relax(forcefield: ForceField, start: Molecule) -> Molecule:
    """Optimise a geometry with the model.

    Returns
    -------
    Molecule
        The minimum of the model next to ``start``; ``start`` itself if there is none with its bonds.  Whether the model
        is right there is what runs and labels are for: a minimum outside of the training data is not told.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OutsideTrainingWarning)
            minimum = optimize(forcefield, start).molecule
    except ConvergenceError:
        return start
    return minimum if minimum.bonds == start.bonds else start


def single_geometry(molecule: Molecule) -> GeometrySet:
    """The geometry of a molecule as a set of one, for a labeller."""
    return GeometrySet(molecule, molecule.positions[None], ("minimum",), np.array([np.nan]), ("test",))


def holds_other_files(folder: Path) -> bool:
    """Whether a folder without a state holds anything but labels and what an executor writes."""
    return bool({entry.name for entry in folder.iterdir()} - {"labels", "runinfo"})


def _check_settings(
    folder: Path, config: CertificationConfig, labeller: Labeller, digest: str, start: Molecule
) -> None:
    """Write what this certification is, or compare it with what the folder holds; the length may differ."""
    settings = {k: v for k, v in asdict(config).items() if k not in ("picoseconds", "limits", "temperatures", "frames")}
    if config.hydrogen_mass is None:
        del settings["hydrogen_mass"]  # as earlier versions wrote them
    identity = {"schema": _SCHEMA, "model_sha256": digest, "reference": labeller.name, "settings": settings,
              "start_bohr": np.round(start.positions, 9).tolist()}  # fmt: skip
    path = folder / SETTINGS_FILE
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        if holds_other_files(folder):
            raise InputError(str(folder), "a new or empty folder, or one of a certification", "other files",
                             "choose another folder")  # fmt: skip
        write_atomically(path, json.dumps(identity, indent=2) + "\n")
        return
    earlier = read_json(path, "choose another folder")
    if earlier.get("model_sha256") != digest:
        raise ModelMismatchError(str(folder), "a certification of this model", "one of another model",
                                 "choose another folder")  # fmt: skip
    for key, value in identity.items():
        if earlier.get(key) != value:
            raise InputError(f"{folder}, {key}", str(earlier.get(key))[:80], str(value)[:80], "choose another folder")


def _cell(value: object) -> str | int | float:
    return value if isinstance(value, str | int | float) else str(value)


def _finite(value: object) -> object:
    """The same with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return value
