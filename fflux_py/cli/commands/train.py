"""``fflux train``: from a data set to a force field."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, cast

import typer

from fflux_py.cli import _ferebus
from fflux_py.cli._command import Outcome, command, print_line
from fflux_py.cli._labels import LabelOptions, read_labels_of
from fflux_py.cli._options import JsonOption, MemoryOption
from fflux_py.cli._paths import check_output, reading
from fflux_py.cli._progress import Callback, progress
from fflux_py.cli._threads import use_threads
from fflux_py.errors import InputError

if TYPE_CHECKING:
    from fflux_py.forcefield import ForceField
    from fflux_py.gp.features import FeatureKind
    from fflux_py.molecules.dataset import Dataset
    from fflux_py.training import TrainingConfig
    from fflux_py.training.config import Criterion, Locality, Solver, SymmetryChoice

N_TRAIN: Final = 400
"""Training geometries that are taken if the user does not say how many."""


_MethodOption = Annotated[str | None, typer.Option("--method", help="Labels of other programs: their method.")]
_BasisOption = Annotated[str | None, typer.Option("--basis", help="Labels of other programs: their basis set.")]
_LengthOption = Annotated[str | None, typer.Option("--length-unit", help="The same: angstrom or bohr.")]
_EnergyOption = Annotated[str | None, typer.Option("--energy-unit", help="The same: hartree, eV, kcal/mol or kJ/mol.")]
_ForceOption = Annotated[str | None, typer.Option("--force-unit", help="The same: such as hartree/bohr.")]
_ChargeOption = Annotated[int | None, typer.Option("--charge", help="The same: charge of the molecule.")]
_SymmetryOption = Annotated[
    str,
    typer.Option(
        help="Permutations of equivalent atoms, with the mirror image where it applies (not with --no-forces): "
        "'full', 'rotors' (methyl groups only), 'none', or 'auto' (all of it that costs no more than a factor of 8)."
    ),
]
_LocalityOption = Annotated[
    str,
    typer.Option(
        help="How length scales are shared among features (not with --no-forces): 'powers' of the spread and of the "
        "distance of each; 'near', the same and a second kernel of near atoms; 'none', by the spread alone."
    ),
]
_CriterionOption = Annotated[
    str,
    typer.Option(
        help="What length scales are chosen by with --no-forces: 'likelihood', or 'holdout', the field's error on "
        "held-out training geometries."
    ),
]
_ThreadsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Threads of the linear algebra. Without it: all cores (1 is faster beside other work).",
    ),
]
_SolverOption = Annotated[
    str,
    typer.Option(
        help="Of the joint fit: 'direct', 'cg' (conjugate gradients, for large sets), or 'auto': direct if it fits."
    ),
]
_TeacherOption = Annotated[
    Path | None,
    typer.Option(
        metavar="TEACHER.npz",
        help="Taught mean (of 'fflux teach'): learn the difference to its level of theory at the training geometries. "
        "Not with --no-forces.",
    ),
]
_PriorMeanOption = Annotated[
    str,
    typer.Option(
        help="Where each atom's energy goes far from the data: MF1 to MF5, max, mean+K*range, gls, constant:V; "
        "with --no-forces also linear and quadratic."
    ),
]


_FeaturesOption = Annotated[str, typer.Option(help="'unit-vector' or 'spherical'; with -r or -inverse-r: R or 1/R.")]
_KernelOption = Annotated[
    str, typer.Option(help="'squared-exponential', 'matern52' or another: a name that does not exist lists all.")
]


@command(interrupted="no model was written; the same command goes on from what is kept beside it")
def train(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="Labelled geometries (of 'fflux label' or of other programs), or a table of FEREBUS (.csv).",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Model to write.")] = Path("model.npz"),
    prior_mean: _PriorMeanOption = "MF2",
    features: _FeaturesOption = "unit-vector",
    n_train: Annotated[
        int | None,
        typer.Option(min=2, help=f"Number of training geometries. Without it: {N_TRAIN}, or all if there are fewer."),
    ] = None,
    forces: Annotated[
        bool, typer.Option("--forces/--no-forces", help="Learn energies and forces together, or atomic energies only.")
    ] = True,
    symmetry: _SymmetryOption = "auto",
    locality: _LocalityOption = "powers",
    criterion: _CriterionOption = "likelihood",
    kernel: _KernelOption = "squared-exponential",
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Draw the training geometries at random by this seed. Without it: the first ones."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes, one atom each (only with --no-forces).")] = 1,
    threads: _ThreadsOption = None,
    solver: _SolverOption = "auto",
    memory: MemoryOption = None,
    teacher: _TeacherOption = None,
    alf: Annotated[
        str | None, typer.Option(metavar="A,X,Y", help="Local frame of the atom of a .csv, atoms counted from 1.")
    ] = None,
    method: _MethodOption = None,
    basis: _BasisOption = None,
    length_unit: _LengthOption = None,
    energy_unit: _EnergyOption = None,
    force_unit: _ForceOption = None,
    charge: _ChargeOption = None,
    json_output: JsonOption = False,
) -> Outcome:
    """Train a force field on the part of a data set that is marked for training.

    Labels of other programs are read too: archives of sGDML and rMD17 (.npz), extended XYZ of MACE, NequIP and ASE, ASE
    databases and trajectories, outputs that ASE reads. Every tenth geometry is kept for testing, if none is marked.

    From a training set of FEREBUS (.csv) one atom is trained, by its energies on the features in the file, and a .model
    file is written; of the options --prior-mean, --n-train, --seed, --threads and --alf apply.
    """
    check_output(output, data, *([] if teacher is None else [teacher]))
    cores = threads if threads is not None else len(os.sched_getaffinity(0))
    if _ferebus.is_table(data):
        if teacher is not None:
            raise InputError("--teacher", "a data set of energies and forces", f"the table {data}", "leave it out")
        return _ferebus.train_atom(data, output, alf, prior_mean, n_train, seed, cores)
    use_threads(max(1, cores // workers))
    from fflux_py import training

    config = training.TrainingConfig(
        n_train=n_train,
        seed=seed,
        forces=forces,
        features=cast("FeatureKind", features),  # checked by the configuration
        prior_mean=prior_mean,
        symmetry=cast("SymmetryChoice", symmetry),
        locality=cast("Locality", locality),
        kernel=kernel,
        criterion=cast("Criterion", criterion),
        workers=workers,
        threads_per_worker=max(1, cores // workers),
        solver=cast("Solver", solver),
        memory=memory,
    )
    with reading(data):
        dataset = read_labels_of(data, LabelOptions(method, basis, None, length_unit, energy_unit, force_unit, charge))
    return _train(config, dataset, data, output, teacher)


def _train(config: TrainingConfig, dataset: Dataset, data: Path, output: Path, teacher: Path | None) -> Outcome:
    """Train, and write the model; an interrupted training is kept beside it."""
    from fflux_py import model_file, training
    from fflux_py.teacher.teacher_file import load_teacher

    mean = None if teacher is None else load_teacher(teacher)
    with reading(data), progress(f"training {dataset.molecule.name}") as show:
        partial = _partial(output, config)
        config = _limit_geometries(config, dataset)
        report = _announce_resumption(show, partial)
        model = training.train(dataset, config, report, checkpoint=partial, teacher=mean)
    model_file.save(model, output)
    if partial is not None:
        partial.unlink(missing_ok=True)
    return _outcome(output, data, dataset, model)


def _partial(output: Path, config: TrainingConfig) -> Path | None:
    """Where an interrupted joint fit is kept."""
    return output.with_name(f"{output.name}.partial") if config.forces else None


def _limit_geometries(config: TrainingConfig, dataset: Dataset) -> TrainingConfig:
    """Take at most :data:`N_TRAIN` training geometries unless the user says how many."""
    if config.n_train is not None:
        return config
    return replace(config, n_train=max(min(N_TRAIN, dataset.geometries.split.count("train")), 1))


def _announce_resumption(show: Callback, partial: Path | None) -> Callback:
    """Say at the first progress that the training goes on: only then is the file sure to be of this training."""
    if partial is None or not partial.exists():
        return show
    lines = [f"fflux train: going on from the interrupted training in {partial}"]

    def report(done: int, total: int) -> None:
        if lines:
            print_line(lines.pop())
        show(done, total)

    return report


def _words_on_teacher(model: ForceField) -> list[str]:
    """What was learned beside a taught mean."""
    if model.taught_mean is None:
        return []
    total, force = (model.metadata[f"noise_{k}"] for k in ("total_kcal_mol", "force_kcal_mol_angstrom"))
    return [
        f"Learned is the difference to {model.taught_mean.level}, with noise of {total:g} kcal/mol and {force:g} "
        "kcal/mol/angstrom; the model adds the teacher's mean. An atom's energy holds an equal share of it."
    ]


def _outcome(output: Path, data: Path, dataset: Dataset, model: ForceField) -> Outcome:
    from fflux_py.training.trainer import training_indices

    molecule, metadata, first = model.molecule, model.metadata, model.atoms[0]
    held_out, n_train = dataset.geometries.split.count("test"), int(metadata["n_train"])
    left = len(training_indices(dataset, None, model.joint is not None)) - n_train
    figures = {
        "output": str(output),
        "data": str(data),
        "molecule": molecule.name,
        "formula": molecule.formula,
        "n_atoms": molecule.n_atoms,
        "n_train": n_train,
        "n_train_available": len(dataset) - held_out,
        "n_test_available": held_out,
        "fit": metadata["fit"],
        "features": first.feature_kind,
        "prior_mean": first.mean_name,
        "prior_means_hartree": model.prior_means.tolist(),
        "symmetry": metadata["symmetry"],
        "images_per_atom": round(model.images_per_atom, 3),
        "largest_jitter": metadata["largest_jitter"],
        "data_digest": metadata["data_digest"],
        "teacher": metadata.get("teacher"),
    }
    cost = f" (evaluations cost {model.images_per_atom:.1f} times as much as with --symmetry none)"
    symmetric = metadata["symmetry"] != "none"
    text = [
        f"{molecule.name} ({molecule.formula}, {molecule.n_atoms} atoms): trained on {n_train} geometries "
        f"of {metadata.get('method')}/{metadata.get('basis')}, {metadata['fit']}; {first.feature_kind} features, "
        f"prior mean {first.mean_name}.",
        *_words_on_teacher(model),
        *([f"{left} more are marked for training: --n-train {left + n_train} learns them too."] if left > 0 else []),
        *([f"Symmetry: {metadata['symmetry']}{cost}."] if symmetric else []),
        f"The model is in {output}. Next: fflux validate {output} {data}"
        if held_out
        else f"The model is in {output}. The data set holds no geometries marked 'test', so nothing can be validated.",
    ]
    return Outcome(figures, text)
