"""From a molecule, or from labels, to a certified force field: one resumable call.

Pilot geometries are sampled with GFN2-xTB and labelled, a first model is trained, rounds of active learning label what
it visits (:mod:`fflux_py.active_learning.improvement`), and a certificate with longer runs judges it.  If a criterion
does not hold and labels are left, the certificate's frames are learnt too and another cycle begins, with longer runs.

Every stage leaves a file or a folder; a build that is killed reads what is there and goes on, to the same model.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from fflux_py import model_file
from fflux_py.active_learning.build_config import CHEAP_LABEL_SECONDS, PLAN_FILE, BuildConfig, BuildPlan, allowed_labels
from fflux_py.active_learning.improvement import improve
from fflux_py.active_learning.rounds import Round, concatenate
from fflux_py.analysis.calibration import calibrate_on_held_out
from fflux_py.certification import Certificate, Execution, Labeller, certify
from fflux_py.certification.certificate import holds_other_files, single_geometry
from fflux_py.dynamics.potentials import CompiledPotential
from fflux_py.errors import FFLUXError, InputError
from fflux_py.exchange.labels import keep_for_testing
from fflux_py.files import read_json, write_atomically
from fflux_py.forcefield import ForceField
from fflux_py.molecules.dataset import Dataset, GeometrySet
from fflux_py.molecules.molecule import Molecule
from fflux_py.sampling import SamplingConfig, sample, standard_classes
from fflux_py.training import TrainingConfig, train
from fflux_py.typing import Progress

IDENTITY_FILE: Final = "build.json"
STATUS_FILE: Final = "status.json"
GEOMETRIES_FILE: Final = "geometries.extxyz"
PILOT_DATA_FILE: Final = "pilot.extxyz"
PILOT_MODEL_FILE: Final = "pilot.npz"
MODEL_FILE: Final = "model.npz"
DATA_FILE: Final = "data.extxyz"
_SCHEMA: Final = "fflux-build-1"
_HELD_OUT_EVERY: Final = 5

MOST_LEARNT: Final = 20
"""Frames of a certificate that does not hold, at every temperature, that the next model learns."""


class NotBuilt(FFLUXError):
    """The budget is spent, and a criterion does not hold."""

    exit_code = 10


@dataclass(frozen=True)
class BuildSource:
    """What a build begins with.

    Parameters
    ----------
    molecule
        The molecule, at a geometry near a minimum.
    dataset
        Labels that are there; None: they are computed.
    """

    molecule: Molecule
    dataset: Dataset | None = None


@dataclass(frozen=True)
class Cycle:
    """Rounds of active learning, and the certificate after them.

    Parameters
    ----------
    number
        From 1.
    rounds
        The rounds.
    certificate
        The verdict on the model that they left.
    labels_spent
        Labels of all cycles until then.
    """

    number: int
    rounds: tuple[Round, ...]
    certificate: Certificate
    labels_spent: int


@dataclass(frozen=True)
class Built:
    """The result of a build.

    Parameters
    ----------
    forcefield
        The last model, with calibrated deviations; its forces are those of the model that was certified.
    dataset
        All labels.
    plan
        The plan.
    cycles
        What was done.
    """

    forcefield: ForceField
    dataset: Dataset
    plan: BuildPlan
    cycles: tuple[Cycle, ...]

    @property
    def certificate(self) -> Certificate:
        """The last certificate."""
        return self.cycles[-1].certificate

    def error(self, config: BuildConfig) -> NotBuilt | None:
        """What is missing, and what would help; None if every criterion holds."""
        failed = [criterion for criterion in self.certificate.criteria if not criterion.passed]
        if not failed:
            return None
        names = ", ".join(f"{each.full_name} {each.value:.3g} {each.unit}".strip() for each in failed[:3])
        spent = self.cycles[-1].labels_spent
        more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
        remedy = (
            f"{spent} of {self.plan.labels} labels are spent: the same command with more labels goes on"
            if len(self.cycles) < config.cycles
            else f"{config.cycles} cycles are done: look at the report, and ask for lower temperatures or more cycles"
        )
        return NotBuilt(
            "certificate", f"all {len(self.certificate.criteria)} criteria met",
            f"{len(failed)} not met: {names}{more}", remedy,
        )  # fmt: skip


def plan_build(
    source: BuildSource, labeller: Labeller, config: BuildConfig, execution: Execution, workers: int = 1
) -> BuildPlan:
    """Look what a label takes, and say what will be done.

    Parameters
    ----------
    source, labeller, config, execution
        As of :func:`build`.
    workers
        Labels side by side.

    Raises
    ------
    InputError
        The folder holds another build or other files; the start cannot be labelled; the budget is too small.
    """
    folder = execution.folder
    allowed_labels(replace(config, hours=None), 0.0, workers)  # too few are refused before anything is labelled
    _check_identity(folder, source, labeller, config)
    if (folder / PLAN_FILE).exists():
        seconds = BuildPlan.read(folder).seconds_per_label
    else:
        # Not into the folder of labels: from there a second look would take no time.
        with execution.stage("one label, to see what it takes") as show, TemporaryDirectory() as away:
            begin = time.perf_counter()
            label = labeller.label(single_geometry(source.molecule), Path(away), show)
            seconds = time.perf_counter() - begin
        if label is None:
            raise InputError(
                source.molecule.name, f"a geometry that {labeller.name} converges for", "one that it fails for",
                "give another geometry or level of theory",
            )  # fmt: skip
    cheap = seconds < CHEAP_LABEL_SECONDS
    frames = config.frames if config.frames is not None else 100 if cheap else 12
    plan = BuildPlan(
        molecule=source.molecule.name,
        n_atoms=source.molecule.n_atoms,
        reference=labeller.name,
        seconds_per_label=seconds,
        labels=allowed_labels(config, seconds, workers),
        sampled=0 if source.dataset is not None else config.pilot + config.held_out,
        frames=frames,
    )
    plan.write(folder)
    return plan


def build(
    source: BuildSource,
    labeller: Labeller,
    config: BuildConfig,
    execution: Execution,
    plan: BuildPlan,
    on_round: Callable[[int, Round], None] | None = None,
) -> Built:
    """Make a certified force field, or say what is missing.

    The same call goes on where another one was interrupted; with more labels it goes on after its end.

    Parameters
    ----------
    source
        A molecule or labels of it.
    labeller
        The reference method.
    config
        What is asked for.
    execution
        The folder, and how the work is done.
    plan
        Of :func:`plan_build`.
    on_round
        Called with the cycle and each round of active learning when it is done.

    Raises
    ------
    InputError
        The folder holds another build.
    """
    folder = execution.folder
    _check_identity(folder, source, labeller, config)
    build_of = _Build(labeller, config, replace(execution, stage=_noting(folder, execution.stage)), plan)
    dataset = build_of.pilot_data(source)
    forcefield = build_of.pilot_model(dataset)
    spent = 0 if source.dataset is not None else len(dataset)
    cycles: list[Cycle] = []
    for number in range(1, config.cycles + 1):
        cycle, forcefield, dataset = build_of.run_cycle(number, forcefield, dataset, spent, on_round)
        cycles.append(cycle)
        spent = cycle.labels_spent
        if cycle.certificate.passed or number == config.cycles or not build_of.may_go_on(spent):
            break
        dataset = build_of.with_visited(forcefield, dataset, cycle.certificate, number)
        forcefield = build_of.train(folder / f"cycle-{number}" / "learnt.npz", dataset)
    with build_of.execution.stage("calibrating the predictive deviations") as show:
        forcefield = calibrate_on_held_out(forcefield, dataset, progress=show)
    dataset.write(folder / DATA_FILE)
    model_file.save(forcefield, folder / MODEL_FILE)
    _write_status(folder, "done", {"passed": cycles[-1].certificate.passed, "labels_spent": spent})
    return Built(forcefield, dataset, plan, tuple(cycles))


@dataclass(frozen=True)
class _Build:
    """What all stages share."""

    labeller: Labeller
    config: BuildConfig
    execution: Execution
    plan: BuildPlan

    @property
    def folder(self) -> Path:
        return self.execution.folder

    @property
    def checks(self) -> int:
        """Labels of a certificate."""
        return self.plan.frames * len(self.config.temperatures) + 1

    def may_go_on(self, spent: int) -> bool:
        """Whether another round and a certificate can be afforded."""
        return self.plan.labels - spent - self.checks > 3 * self.config.improvement(1, 10**9).checks_of_a_round

    def pilot_data(self, source: BuildSource) -> Dataset:
        """The first labels: those that are there, or those of sampled geometries."""
        path = self.folder / PILOT_DATA_FILE
        if path.exists():
            return Dataset.read(path)
        if source.dataset is not None:
            data = source.dataset
            data = data if "test" in data.geometries.split else keep_for_testing(data, _HELD_OUT_EVERY)
        else:
            geometries = self._geometries(source.molecule)
            with self.execution.stage(f"labelling {len(geometries)} geometries of the pilot") as show:
                labels = self.labeller.label(geometries, self.execution.labels_in, show)
            if labels is None:
                raise InputError(
                    "pilot", f"geometries that {self.labeller.name} converges for", "none",
                    "look at the results of the labels, and choose another level of theory",
                )  # fmt: skip
            data = labels
        data.write(path)
        return Dataset.read(path)

    def _geometries(self, molecule: Molecule) -> GeometrySet:
        path, config = self.folder / GEOMETRIES_FILE, self.config
        if not path.exists():
            temperatures = config.sampled_temperatures
            biased = temperatures[:-1] if molecule.torsions(methyl=False) else ()
            classes = standard_classes(temperatures, biased, config.pilot, config.held_out)
            with self.execution.stage(f"sampling {molecule.name} with GFN2-xTB (steps)") as show:
                sample(molecule, SamplingConfig(classes=classes, seed=config.seed + 1), show).write(path)
        return GeometrySet.read(path)

    def pilot_model(self, dataset: Dataset) -> ForceField:
        """The first model."""
        return self.train(self.folder / PILOT_MODEL_FILE, dataset)

    def train(self, path: Path, dataset: Dataset) -> ForceField:
        """Train on all training geometries, unless the model is there."""
        if not path.exists():
            checkpoint = path.with_name(f"{path.name}.partial")
            config = self.config.training or TrainingConfig(threads_per_worker=self.execution.threads)
            n_train = dataset.geometries.split.count("train")
            with self.execution.stage(f"training on {n_train} geometries") as show:
                model = train(dataset, config, show, checkpoint=checkpoint)
            model_file.save(model, path)
            checkpoint.unlink(missing_ok=True)
        return model_file.load(path)

    def run_cycle(
        self,
        number: int,
        forcefield: ForceField,
        dataset: Dataset,
        spent: int,
        on_round: Callable[[int, Round], None] | None,
    ) -> tuple[Cycle, ForceField, Dataset]:
        """Active learning, and the certificate of the model that it leaves."""
        folder = self.folder / f"cycle-{number}"
        start = forcefield.molecule
        improved = improve(
            forcefield,
            dataset,
            self.labeller,
            self.config.improvement(number, max(self.plan.labels - spent - self.checks, 1)),
            self._in(folder / "rounds"),
            [start],
            None if on_round is None else lambda entry: on_round(number, entry),
        )
        spent += improved.rounds[-1].labels_spent
        # A model that more labels have changed has a certificate of its own.
        digest = CompiledPotential.of(improved.forcefield).digest()[:8]
        certificate = certify(
            improved.forcefield,
            self.labeller,
            self.config.certificate(number, self.plan.frames),
            self._in(folder / f"certificate-{digest}"),
            start,
        )
        spent += 1 + sum(entry.n_frames for entry in certificate.figures)
        return Cycle(number, improved.rounds, certificate, spent), improved.forcefield, improved.dataset

    def _in(self, folder: Path) -> Execution:
        return replace(self.execution, folder=folder, label_folder=self.execution.labels_in)

    def with_visited(self, forcefield: ForceField, dataset: Dataset, certificate: Certificate, number: int) -> Dataset:
        """The data with the frames of a certificate on which the model is most wrong, for training."""
        for temperature, labels in certificate.labels.items():
            forces = np.asarray(forcefield.unmatched.compute(labels.positions)[1])
            error = np.sqrt(((forces - labels.forces) ** 2).mean(axis=(1, 2)))
            worst = labels.select(np.sort(np.argsort(-error, kind="stable")[:MOST_LEARNT]))
            n = len(worst)
            source = (f"certificate {number}, {temperature:g} K",) * n
            geometries = replace(worst.geometries, source=source, split=("train",) * n, metadata={})
            dataset = concatenate(dataset, replace(worst, geometries=geometries))
        return dataset


def _check_identity(folder: Path, source: BuildSource, labeller: Labeller, config: BuildConfig) -> None:
    """Mark a new folder, or hold what it was made for against what is asked; budget and limits may differ."""
    settings = {k: v for k, v in asdict(config).items() if k not in ("labels", "hours", "cycles", "limits")}
    identity: dict[str, Any] = {
        "schema": _SCHEMA,
        "molecule": source.molecule.name,
        "reference": labeller.name,
        "settings": json.loads(json.dumps(settings)),
        "start_bohr": np.round(source.molecule.positions, 9).tolist(),
        "data_sha256": None if source.dataset is None else source.dataset.digest(),
    }
    path = folder / IDENTITY_FILE
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        if holds_other_files(folder):
            raise InputError(
                str(folder), "a new or empty folder, or one of 'fflux build'", "other files", "choose another folder"
            )
        write_atomically(path, json.dumps(identity, indent=2) + "\n")
        return
    earlier = read_json(path, "choose another folder")
    for key, value in identity.items():
        if earlier.get(key) != value:
            raise InputError(
                f"{folder}, {key}", str(earlier.get(key))[:80], str(value)[:80],
                "give the settings of the build that is there, or another folder",
            )  # fmt: skip


def _noting(folder: Path, stage: Callable[[str], Any]) -> Callable[[str], Any]:
    """The stages, with their names in the status file."""

    @contextmanager
    def noted(name: str) -> Iterator[Progress]:
        _write_status(folder, name, {})
        with stage(name) as show:
            yield show

    return noted


def _write_status(folder: Path, stage: str, more: dict[str, Any]) -> None:
    content = {"stage": stage, "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **more}
    write_atomically(folder / STATUS_FILE, json.dumps(content, indent=2) + "\n")
