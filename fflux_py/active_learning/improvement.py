"""Active learning: rounds of it until the criteria hold or the budget is spent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fflux_py import model_file
from fflux_py.active_learning.config import ImprovementConfig
from fflux_py.active_learning.loop import DATA_FILE, MODEL_FILE, Loop
from fflux_py.active_learning.rounds import Round, read_state, write_state
from fflux_py.certification import Execution, Labeller
from fflux_py.dynamics.potentials import CompiledPotential
from fflux_py.forcefield import ForceField
from fflux_py.molecules.dataset import Dataset
from fflux_py.molecules.dataset_order import reorder_dataset
from fflux_py.molecules.molecule import Molecule
from fflux_py.teacher.teacher_file import Teacher
from fflux_py.training import TrainingConfig


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
    execution: Execution,
    starts: Sequence[Molecule] = (),
    on_round: Callable[[Round], None] | None = None,
) -> Improvement:
    """Label what a model visits and train again, until the criteria hold or the budget is spent.

    Every round runs replicas at all temperatures, labels equally spaced frames of them and assesses the model by these,
    as a certification does.  If a criterion fails, the frames with the highest scores
    (:mod:`fflux_py.active_learning.choice`), a diverse batch of them, are labelled too; they and those that the model
    was assessed by are added to the training set, marked ``active-learning round k``, and a new model of the same kind
    is trained on all of it.  The budget is spent such that the last model is assessed too; the frames of that last
    verdict stay marked for testing.

    The same call goes on where another one was interrupted.

    Parameters
    ----------
    forcefield
        The first model.
    dataset
        Its data set, in any order of atoms; the geometries marked for training are kept in all further trainings.
    labeller
        Labels at the level of theory of the data set.
    config
        Settings, those of the trainings included.
    execution
        Where runs, labels, models and the table go, and how the work is done: runs side by side, threads of the linear
        algebra.
    starts
        The first is the start of the runs by which models are assessed; the model's reference geometry if there is
        none.  The others, such as other conformers, are starts of further runs, whose frames may be learnt.  Each model
        relaxes all of them first.
    on_round
        Called with every round when it is done.

    Raises
    ------
    InputError
        The folder holds another improvement, or the labels are of another level of theory.
    """
    dataset = reorder_dataset(dataset, forcefield.match_or_keep(dataset.molecule))
    starts = [forcefield.match_or_keep(molecule).reorder(molecule) for molecule in starts]
    key = _identity(forcefield, dataset, labeller, config, starts[1:])
    training = config.training or training_config_of(forcefield, execution.threads)
    mean = forcefield.taught_mean
    teacher = None if mean is None else Teacher(forcefield.molecule, mean)
    loop = Loop(labeller, config, execution, tuple(starts) or (forcefield.molecule,), training, teacher)
    rounds = read_state(execution.folder, key)
    if rounds:
        forcefield, dataset = loop.read_round(rounds[-1].number)
    while not rounds or not _is_finished(rounds[-1], config):
        labels_spent = rounds[-1].labels_spent if rounds else 0
        forcefield, dataset, entry = loop.run_round(len(rounds) + 1, forcefield, dataset, labels_spent)
        rounds.append(entry)
        write_state(execution.folder, key, rounds)
        if on_round is not None:
            on_round(entry)
    model_file.save(forcefield, execution.folder / MODEL_FILE)
    dataset.write(execution.folder / DATA_FILE)
    return Improvement(forcefield, dataset, tuple(rounds))


def _identity(
    forcefield: ForceField,
    dataset: Dataset,
    labeller: Labeller,
    config: ImprovementConfig,
    more_starts: Sequence[Molecule],
) -> dict[str, Any]:
    """What makes two improvements the same: a folder holds one of them."""
    settings = {k: v for k, v in asdict(config).items() if k not in ("budget", "rounds", "limits", "training")}
    if config.hydrogen_mass is None:
        del settings["hydrogen_mass"]  # as earlier versions wrote them
    return {
        "model_sha256": CompiledPotential.of(forcefield).digest(),
        "data_sha256": dataset.digest(),
        "reference": labeller.name,
        "settings": settings,
        "more_starts_bohr": [np.round(molecule.positions, 9).tolist() for molecule in more_starts],
    }


def _is_finished(last: Round, config: ImprovementConfig) -> bool:
    """Whether there is nothing more to do; a larger budget than before may change that."""
    if last.n_learnt:
        return False
    left = config.budget - last.labels_spent
    return last.holds or last.number >= config.rounds or left <= 2 * config.checks_of_a_round


def training_config_of(forcefield: ForceField, threads: int = 1) -> TrainingConfig:
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
