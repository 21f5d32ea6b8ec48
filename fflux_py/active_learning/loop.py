"""One round of active learning: explore, assess, choose a batch, label it, train again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from fflux_py import model_file
from fflux_py.active_learning.choice import acquisition_scores, candidate_frames, diverse_batch
from fflux_py.active_learning.config import ImprovementConfig
from fflux_py.active_learning.rounds import Round, concatenate, mean_over_frames
from fflux_py.analysis.criteria import Criterion
from fflux_py.analysis.runs import Run
from fflux_py.certification import Execution, Labeller
from fflux_py.certification.assessment import TemperatureFigures, assess
from fflux_py.certification.certificate import relax, single_geometry
from fflux_py.certification.replicas import run_pieces, simulate, visited_frames
from fflux_py.forcefield import ForceField
from fflux_py.molecules.dataset import Dataset, GeometrySet
from fflux_py.molecules.molecule import Molecule
from fflux_py.teacher.teacher_file import Teacher
from fflux_py.training import TrainingConfig, train
from fflux_py.typing import FloatArray, IntArray

MODEL_FILE: Final = "model.npz"
DATA_FILE: Final = "data.extxyz"


@dataclass(frozen=True)
class Exploration:
    """What the runs of a round visited.

    Parameters
    ----------
    minima
        The model's minima next to the starts.
    runs
        Runs from the first minimum without bias, by temperature: the model is assessed by these.
    further_runs
        Runs from other starts, and with bias; their frames may be learnt.
    """

    minima: tuple[Molecule, ...]
    runs: tuple[tuple[Run, ...], ...]
    further_runs: tuple[tuple[Run, ...], ...]

    @property
    def all_runs(self) -> list[Run]:
        """Every single run."""
        return [run for group in (*self.runs, *self.further_runs) for run in group]


@dataclass(frozen=True)
class Assessment:
    """How good a model is on what it visited.

    Parameters
    ----------
    figures
        One entry for each temperature.
    labels
        The labels that the figures rest on.
    n_failed
        Geometries that could not be labelled.
    """

    figures: tuple[TemperatureFigures, ...]
    labels: tuple[Dataset, ...]
    n_failed: int

    @property
    def labels_spent(self) -> int:
        """Labels that were computed or tried."""
        return sum(len(part) for part in self.labels) + self.n_failed

    def criteria(self, config: ImprovementConfig) -> list[Criterion]:
        """The criteria of all temperatures."""
        return [line for entry in self.figures for line in entry.criteria(config.limits, config.checks)]


@dataclass(frozen=True)
class Batch:
    """Visited frames that are worth a label.

    Parameters
    ----------
    candidates
        Frames of the runs.
    indices
        The chosen ones among them.
    largest_deviation_kcal_mol
        Largest predictive deviation of an atomic energy among the candidates.
    """

    candidates: GeometrySet
    indices: IntArray
    largest_deviation_kcal_mol: float

    def first(self, count: int) -> GeometrySet:
        """The first ``count`` of the chosen frames."""
        return self.candidates.select(self.indices[:count])


@dataclass(frozen=True)
class Loop:
    """What all rounds share.

    Parameters
    ----------
    labeller
        Labels at the level of theory of the data set.
    config
        Settings.
    execution
        Where and how the work is done.
    starts
        Start of the runs by which models are assessed, and starts of further runs.
    training
        Settings of the trainings.
    teacher
        The taught mean of the first model, which all models have; None: they have none.
    """

    labeller: Labeller
    config: ImprovementConfig
    execution: Execution
    starts: tuple[Molecule, ...]
    training: TrainingConfig
    teacher: Teacher | None = None

    def round_folder(self, number: int) -> Path:
        """Folder of a round, counted from 1."""
        return self.execution.folder / f"round-{number:02d}"

    def read_round(self, number: int) -> tuple[ForceField, Dataset]:
        """Read the model and the data that a round left."""
        folder = self.round_folder(number)
        return model_file.load(folder / MODEL_FILE), Dataset.read(folder / DATA_FILE)

    def run_round(
        self, number: int, forcefield: ForceField, dataset: Dataset, labels_spent: int
    ) -> tuple[ForceField, Dataset, Round]:
        """Go through one round.

        Parameters
        ----------
        number
            From 1.
        forcefield, dataset
            The model and the data before it.
        labels_spent
            Labels that were computed before it.

        Returns
        -------
        forcefield, dataset, entry
            The model and the data after it, and its entry in the table.
        """
        config = self.config
        exploration = self.explore(number, forcefield)
        assessment = self.assess(number, forcefield, exploration)
        labels_spent += assessment.labels_spent
        known = np.concatenate(
            [dataset.with_split("train").positions, *(part.positions for part in assessment.labels)]
        )  # the frames that judge the model are learnt too
        batch = self.choose_batch(number, forcefield, known, exploration)
        criteria = assessment.criteria(config)
        n_met = sum(criterion.passed for criterion in criteria)
        # After the batch there must be enough left to assess the model that has learnt it.
        affordable = min(config.batch, config.budget - labels_spent - config.checks_of_a_round)
        continues = n_met < len(criteria) and affordable > 0 and number < config.rounds
        labels = list(assessment.labels)
        if continues:
            frames = batch.first(affordable)
            labels += self.label_batch(number, frames)
            labels_spent += len(frames)
        for part in labels:
            dataset = concatenate(dataset, _mark(part, number, "train" if continues else "test"))
        n_train = _count_training_geometries(forcefield)
        if continues:
            forcefield = self.train(number, dataset)
        dataset.write(self.round_folder(number) / DATA_FILE)
        model_file.save(forcefield, self.round_folder(number) / MODEL_FILE)
        figures = assessment.figures
        entry = Round(
            number=number,
            n_train=n_train,
            n_runs=sum(len(group) for group in exploration.runs),
            n_survived=sum(each.n_survived for each in figures),
            n_frames=sum(each.n_frames for each in figures),
            energy_mae_kcal_mol=mean_over_frames(figures, "energy_mae_kcal_mol"),
            hottest_energy_mae_kcal_mol=max(figures, key=lambda each: each.temperature_k).energy_mae_kcal_mol,
            force_mae_kcal_mol_angstrom=mean_over_frames(figures, "force_mae_kcal_mol_angstrom"),
            mean_energy_difference_kcal_mol=mean_over_frames(figures, "mean_energy_difference_kcal_mol"),
            largest_deviation_kcal_mol=batch.largest_deviation_kcal_mol,
            criteria_met=n_met,
            criteria=len(criteria),
            n_learnt=sum(len(part) for part in labels) if continues else 0,
            labels_spent=labels_spent,
        )
        # Read back, so that a loop that was interrupted is the unbroken one bit for bit.
        return *self.read_round(number), entry

    def explore(self, number: int, forcefield: ForceField) -> Exploration:
        """Relax the starts with the model and run molecular dynamics from each of them."""
        settings, bias = self.config.runs(number), self.config.bias
        execution = self.execution
        minima = tuple(relax(forcefield, start) for start in self.starts)
        groups = []
        for k, minimum in enumerate(minima):
            folder = self.round_folder(number) / ("runs" if k == 0 else f"runs-{k + 1}")
            kinds: list[tuple[str, float, str | None]] = [(f"{t:g}K", t, None) for t in settings.temperatures]
            if bias is not None:
                kinds.append(("biased", self.config.biased_temperature, bias))
            for name, temperature, text in kinds:
                md = settings.md_config(temperature)
                with execution.stage(f"round {number}: runs from start {k + 1}, {name} (steps)") as show:
                    groups.append(simulate(forcefield, minimum, md, folder / name, show, execution.threads, text))
        n = len(settings.temperatures)
        return Exploration(minima, tuple(groups[:n]), tuple(groups[n:]))

    def assess(self, number: int, forcefield: ForceField, exploration: Exploration) -> Assessment:
        """Label the minimum and frames of the runs, equally spaced, and compare the model with the labels."""
        figures, parts, n_failed = [], [], 0
        folder, stage = self.execution.labels_in, self.execution.stage
        with stage(f"round {number}: labelling the minimum") as show:
            at_minimum = self.labeller.label(single_geometry(exploration.minima[0]), folder, show)
        if at_minimum is None:
            # A start on which the reference fails has no energy; nothing can lie above it.
            lowest, n_failed = np.inf, 1
        else:
            lowest = float(at_minimum.energies[0])
            parts.append(at_minimum)
        for group in exploration.runs:
            frames = visited_frames(group, self.config.checks, f"round-{number}")
            labels, n_frames = None, 0 if frames is None else len(frames)
            if frames is not None:
                with stage(f"round {number}: labelling {n_frames} frames to judge by") as show:
                    labels = self.labeller.label(frames, folder, show)
            n_missing = n_frames - (0 if labels is None else len(labels))
            with stage(f"round {number}: constant energy, from what was visited (steps)") as show:
                pieces = run_pieces(forcefield, group, self.round_folder(number) / "constant-energy", show)
            figures.append(assess(forcefield, group, labels, n_missing, lowest, pieces))
            n_failed += n_missing
            if labels is not None:
                parts.append(labels)
        return Assessment(tuple(figures), tuple(parts), n_failed)

    def choose_batch(self, number: int, forcefield: ForceField, known: FloatArray, exploration: Exploration) -> Batch:
        """Choose visited frames that are worth a label: high scores, different from each other and from known ones."""
        config = self.config
        minima = np.array([molecule.positions for molecule in exploration.minima])
        lowest = float(forcefield.unmatched.compute(minima, deriv=0)[0].min())
        positions, temperatures, jumps = candidate_frames(exploration.all_runs, config.candidates, lowest)
        score, deviation = acquisition_scores(forcefield, positions, jumps, config.limits.jump_kcal_mol)
        indices = diverse_batch(positions, score, known, config.batch)
        m = len(positions)
        frames = GeometrySet(forcefield.molecule, positions, (f"round-{number}",) * m, temperatures, ("train",) * m)
        return Batch(frames, indices, float(deviation.max()))

    def label_batch(self, number: int, frames: GeometrySet) -> list[Dataset]:
        """Label the frames of a batch; none if the method fails for all of them."""
        with self.execution.stage(f"round {number}: labelling {len(frames)} frames to learn") as show:
            labels = self.labeller.label(frames, self.execution.labels_in, show)
        return [] if labels is None else [labels]

    def train(self, number: int, dataset: Dataset) -> ForceField:
        """Train a model of the same kind on all training geometries."""
        checkpoint = self.round_folder(number) / f"{MODEL_FILE}.partial"
        with self.execution.stage(f"round {number}: training") as show:
            model = train(dataset, self.training, show, checkpoint=checkpoint, teacher=self.teacher)
        checkpoint.unlink(missing_ok=True)
        return model


def _count_training_geometries(forcefield: ForceField) -> int:
    joint = forcefield.joint
    return len(forcefield.atoms[0].points) if joint is None else len(joint.positions)


def _mark(labels: Dataset, number: int, split: str) -> Dataset:
    """The labels marked as those of a round."""
    m = len(labels)
    geometries = replace(
        labels.geometries, source=(f"active-learning round {number}",) * m, split=(split,) * m, metadata={}
    )
    return replace(labels, geometries=geometries)
