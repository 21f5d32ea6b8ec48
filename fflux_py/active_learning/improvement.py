"""The loop: run, judge, choose, label, train again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from fflux_py import model_file
from fflux_py.active_learning.choice import candidates, diverse_batch, scores
from fflux_py.active_learning.config import ImprovementConfig
from fflux_py.active_learning.rounds import Round, joined, mean_over_frames, read_state, write_state
from fflux_py.analysis.runs import Run
from fflux_py.certification import Labeller
from fflux_py.certification.certificate import relaxed, single
from fflux_py.certification.judge import TemperatureFigures, judge
from fflux_py.certification.replicas import simulate, visited
from fflux_py.dynamics.potentials import CompiledPotential
from fflux_py.forcefield import ForceField
from fflux_py.molecules.dataset import Dataset, GeometrySet
from fflux_py.molecules.molecule import Molecule
from fflux_py.training import TrainingConfig, train
from fflux_py.typing import Stage, silent

MODEL_FILE: Final = "model.npz"
DATA_FILE: Final = "data.extxyz"


@dataclass(frozen=True)
class Improvement:
    """The result of active learning.

    Parameters
    ----------
    forcefield
        The last model, which the last round judged.
    dataset
        All labels: the old ones and the new ones.
    rounds
        One entry for each model of the loop.
    """

    forcefield: ForceField
    dataset: Dataset
    rounds: tuple[Round, ...]

    @property
    def holds(self) -> bool:
        """Whether every criterion holds for the last model."""
        return self.rounds[-1].holds


def improve(
    forcefield: ForceField,
    dataset: Dataset,
    labeller: Labeller,
    config: ImprovementConfig,
    folder: Path,
    start: Molecule | None = None,
    more_starts: Sequence[Molecule] = (),
    label_folder: Path | None = None,
    stage: Stage = silent,
    threads: int = 1,
    on_round: Callable[[Round], None] | None = None,
    training: TrainingConfig | None = None,
) -> Improvement:
    """Label what a model visits and train again, until the criteria hold or the budget is spent.

    Every round runs replicas at all temperatures, labels equally spaced frames of them and judges the model by these,
    as a certification does.  If a criterion fails, the frames with the highest scores (:mod:`.choice`), a diverse batch
    of them, are labelled too; they and those that the model was judged by are added to the training set, marked
    ``active-learning round k``, and a new model of the same kind is trained on all of it.  The budget is spent such
    that the last model is judged too; the frames of that last verdict stay marked for testing.

    The same call goes on where another one was interrupted.

    Parameters
    ----------
    forcefield
        The first model.
    dataset
        Its data set; the geometries marked for training are kept in all further trainings.
    labeller
        Labels at the level of theory of the data set.
    config
        Settings.
    folder
        Where runs, labels, models and the table go; made if missing.
    start
        Start of the runs by which models are judged, relaxed first by each model; the model's reference geometry if not
        given.
    more_starts
        Starts of further runs, relaxed too, whose frames may be learnt: other conformers.
    label_folder
        Results of single labels; ``labels`` in the folder if not given.
    stage
        Opens a stage of the work and gives its progress callback.
    threads
        Runs side by side, and threads of the linear algebra.
    on_round
        Called with every round when it is done.
    training
        Settings of the trainings; those of the model (:func:`settings_of`) if not given.

    Raises
    ------
    InputError
        The folder holds another improvement, or the labels are of another level of theory.
    """
    forcefield.check_molecule(dataset.molecule)
    starts = (forcefield.molecule if start is None else start, *more_starts)
    for molecule in starts:
        forcefield.check_molecule(molecule)
    settings = {k: v for k, v in asdict(config).items() if k not in ("budget", "rounds", "limits")}
    if config.hydrogen_mass is None:
        del settings["hydrogen_mass"]  # as earlier versions wrote them
    key: dict[str, Any] = {
        "model_sha256": CompiledPotential.of(forcefield).digest(),
        "data_sha256": dataset.digest(),
        "reference": labeller.name,
        "settings": settings,
        "more_starts_bohr": [np.round(molecule.positions, 9).tolist() for molecule in more_starts],
    }
    settings_of_fit = training or settings_of(forcefield, threads)
    place = label_folder or folder / "labels"
    loop = _Loop(labeller, config, folder, starts, place, stage, threads, settings_of_fit)
    rounds = read_state(folder, key)
    if rounds:
        forcefield, dataset = loop.found(rounds[-1].number)
    while not rounds or not _finished(rounds[-1], config):
        spent = rounds[-1].labels_spent if rounds else 0
        forcefield, dataset, done = loop.round(len(rounds) + 1, forcefield, dataset, spent)
        rounds.append(done)
        write_state(folder, key, rounds)
        if on_round is not None:
            on_round(done)
    model_file.save(forcefield, folder / MODEL_FILE)
    dataset.write(folder / DATA_FILE)
    return Improvement(forcefield, dataset, tuple(rounds))


def _finished(last: Round, config: ImprovementConfig) -> bool:
    """Whether there is nothing more to do; a larger budget than before may change that."""
    if last.n_learnt:
        return False
    left = config.budget - last.labels_spent
    return last.holds or last.number >= config.rounds or left <= 2 * config.checks_of_a_round


@dataclass(frozen=True)
class _Loop:
    """What all rounds share."""

    labeller: Labeller
    config: ImprovementConfig
    folder: Path
    starts: tuple[Molecule, ...]
    label_folder: Path
    stage: Stage
    threads: int
    training: TrainingConfig

    def place(self, number: int) -> Path:
        return self.folder / f"round-{number:02d}"

    def found(self, number: int) -> tuple[ForceField, Dataset]:
        """Model and data that a round left."""
        place = self.place(number)
        return model_file.load(place / MODEL_FILE), Dataset.read(place / DATA_FILE)

    def round(
        self, number: int, forcefield: ForceField, dataset: Dataset, spent: int
    ) -> tuple[ForceField, Dataset, Round]:
        """One round; the model and the data after it."""
        config = self.config
        minima, runs, further = self.explored(number, forcefield)
        figures, checks, failed = self.judged(number, forcefield, minima[0], runs)
        spent += sum(len(part) for part in checks) + failed
        frames, kept, deviation = self.chosen(number, forcefield, dataset, minima, [*runs, *further])
        verdict = [line for entry in figures for line in entry.criteria(config.limits, config.checks)]
        met = sum(line.passed for line in verdict)
        # After the batch there must be enough left to judge the model that has learnt it.
        affordable = min(config.batch, config.budget - spent - config.checks_of_a_round)
        go_on = met < len(verdict) and affordable > 0 and number < config.rounds
        new = checks
        if go_on:
            batch, tried = self.labelled(frames.select(kept[:affordable]), number)
            new = [*checks, *batch]
            spent += tried
        learnt = sum(len(part) for part in new) if go_on else 0
        for part in new:
            dataset = joined(dataset, _marked(part, number, "train" if go_on else "test"))
        n_train = _n_train(forcefield)
        if go_on:
            forcefield = self.trained(number, dataset)
        dataset.write(self.place(number) / DATA_FILE)
        model_file.save(forcefield, self.place(number) / MODEL_FILE)
        done = Round(
            number=number,
            n_train=n_train,
            n_runs=sum(len(group) for group in runs),
            n_survived=sum(entry.n_survived for entry in figures),
            n_frames=sum(entry.n_frames for entry in figures),
            energy_mae_kcal_mol=mean_over_frames(figures, "energy_mae_kcal_mol"),
            hottest_energy_mae_kcal_mol=max(figures, key=lambda entry: entry.temperature_k).energy_mae_kcal_mol,
            force_mae_kcal_mol_angstrom=mean_over_frames(figures, "force_mae_kcal_mol_angstrom"),
            mean_energy_difference_kcal_mol=mean_over_frames(figures, "mean_energy_difference_kcal_mol"),
            largest_deviation_kcal_mol=deviation,
            criteria_met=met,
            criteria=len(verdict),
            n_learnt=learnt,
            labels_spent=spent,
        )
        # Read back, so that a loop that was interrupted is the unbroken one bit for bit.
        return *self.found(number), done

    def explored(
        self, number: int, forcefield: ForceField
    ) -> tuple[list[Molecule], list[tuple[Run, ...]], list[tuple[Run, ...]]]:
        """The model's minima next to the starts, the runs from the first by temperature, and all further runs."""
        plan, bias = self.config.runs(number), self.config.bias
        minima = [relaxed(forcefield, start) for start in self.starts]
        groups = []
        for k, minimum in enumerate(minima):
            place = self.place(number) / ("runs" if k == 0 else f"runs-{k + 1}")
            kinds: list[tuple[str, float, str | None]] = [(f"{t:g}K", t, None) for t in plan.temperatures]
            if bias is not None:
                kinds.append(("biased", self.config.biased_temperature, bias))
            for name, temperature, text in kinds:
                what = f"round {number}: runs from start {k + 1}, {name} (steps)"
                with self.stage(what) as show:
                    groups.append(
                        simulate(forcefield, minimum, plan.run(temperature), place / name, show, self.threads, text)
                    )
        n = len(plan.temperatures)
        return minima, groups[:n], groups[n:]

    def judged(
        self, number: int, forcefield: ForceField, minimum: Molecule, runs: list[tuple[Run, ...]]
    ) -> tuple[list[TemperatureFigures], list[Dataset], int]:
        """Figures of the model, the labels that they rest on, and how many frames could not be labelled."""
        figures, found, failed = [], [], 0
        with self.stage(f"round {number}: labelling the minimum") as show:
            at_minimum = self.labeller.label(single(minimum), self.label_folder, show)
        if at_minimum is None:
            # A start on which the reference fails has no energy; nothing can lie above it.
            lowest, failed = np.inf, 1
        else:
            lowest = float(at_minimum.energies[0])
            found.append(at_minimum)
        for group in runs:
            frames = visited(group, self.config.checks, f"round-{number}")
            labels, asked = None, 0 if frames is None else len(frames)
            if frames is not None:
                with self.stage(f"round {number}: labelling {asked} frames to judge by") as show:
                    labels = self.labeller.label(frames, self.label_folder, show)
            missing = asked - (0 if labels is None else len(labels))
            figures.append(judge(forcefield, group, labels, missing, lowest))
            failed += missing
            if labels is not None:
                found.append(labels)
        return figures, found, failed

    def chosen(
        self,
        number: int,
        forcefield: ForceField,
        dataset: Dataset,
        minima: Sequence[Molecule],
        runs: list[tuple[Run, ...]],
    ) -> tuple[GeometrySet, np.ndarray, float]:
        """Candidates, the indices of the batch among them, and the largest deviation in kcal/mol."""
        every = [run for group in runs for run in group]
        lowest = float(forcefield.compute(np.array([m.positions for m in minima]), deriv=0)[0].min())
        positions, temperatures, jumps = candidates(every, self.config.candidates, lowest)
        score, deviation = scores(forcefield, positions, jumps, self.config.limits.jump_kcal_mol)
        kept = diverse_batch(positions, score, dataset.with_split("train").positions, self.config.batch)
        count = len(positions)
        frames = GeometrySet(
            forcefield.molecule, positions, (f"round-{number}",) * count, temperatures, ("train",) * count
        )
        return frames, kept, float(deviation.max())

    def labelled(self, frames: GeometrySet, number: int) -> tuple[list[Dataset], int]:
        """Labels of the batch, if any, and how many were tried."""
        with self.stage(f"round {number}: labelling {len(frames)} frames to learn") as show:
            found = self.labeller.label(frames, self.label_folder, show)
        return ([] if found is None else [found]), len(frames)

    def trained(self, number: int, dataset: Dataset) -> ForceField:
        """A model of the same kind on all training geometries."""
        partial = self.place(number) / f"{MODEL_FILE}.partial"
        with self.stage(f"round {number}: training") as show:
            model = train(dataset, self.training, show, checkpoint=partial)
        partial.unlink(missing_ok=True)
        return model


def settings_of(forcefield: ForceField, threads: int = 1) -> TrainingConfig:
    """Settings by which a model of the same kind is trained: fit, features, kernel, symmetry, prior mean."""
    first = forcefield.atoms[0]
    symmetric = forcefield.metadata.get("symmetry", "none") != "none"
    return TrainingConfig(
        forces=forcefield.joint is not None,
        features=first.feature_kind,
        prior_mean=first.mean_name,
        kernel=first.covariance.kernel.name,
        azimuth=first.covariance.azimuth,
        symmetry="auto" if symmetric else "none",
        threads_per_worker=threads,
    )


def _n_train(forcefield: ForceField) -> int:
    joint = forcefield.joint
    return len(forcefield.atoms[0].points) if joint is None else len(joint.positions)


def _marked(labels: Dataset, number: int, split: str) -> Dataset:
    """The labels marked as those of a round."""
    m = len(labels)
    geometries = replace(
        labels.geometries, source=(f"active-learning round {number}",) * m, split=(split,) * m, metadata={}
    )
    return replace(labels, geometries=geometries)
