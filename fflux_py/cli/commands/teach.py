"""``fflux teach``: a prior mean from a cheap level of theory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fflux_py.cli._command import Outcome, command, print_line
from fflux_py.cli._options import JsonOption, SeedOption, ThreadsOption
from fflux_py.cli._paths import check_output, reading
from fflux_py.cli._progress import progress
from fflux_py.cli._threads import use_threads

if TYPE_CHECKING:
    from fflux_py.teacher.teacher_file import Teacher


@command(interrupted="no teacher was written")
def teach(
    molecule: Annotated[Path, typer.Argument(metavar="MOLECULE.xyz", help="A geometry near a minimum (angstrom).")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.npz", help="Teacher to write.")] = Path(
        "teacher.npz"
    ),
    minutes: Annotated[float, typer.Option(help="Processor time of all: labels, training and dynamics.")] = 10.0,
    labels: Annotated[int, typer.Option(min=100, help="Most labels before the first training.")] = 6000,
    rounds: Annotated[int, typer.Option(min=0, help="Rounds of the network's own dynamics.")] = 2,
    force_error: Annotated[
        float,
        typer.Option(
            help="Force MAE on frames of its own dynamics at 1000 K (kcal/mol/angstrom) below which no round is added, "
            "and above which the result is called rough."
        ),
    ] = 1.0,
    seed: SeedOption = 0,
    threads: ThreadsOption = 1,
    json_output: JsonOption = False,
) -> Outcome:
    """Teach a prior mean for 'fflux train --teacher' by thousands of GFN2-xTB labels. No quantum chemistry is needed.

    Geometries are torsions over the whole circle, distortions, contacts, hot dynamics, and frames of the network's own
    dynamics. Needs the extra 'teach'.
    """
    check_output(output, molecule)
    use_threads(threads)
    from fflux_py.molecules.extended_xyz import read_molecule
    from fflux_py.teacher.config import TeachingConfig
    from fflux_py.teacher.teacher_file import save_teacher
    from fflux_py.teacher.teaching import teach as teach_mean

    config = TeachingConfig(minutes=minutes, labels=labels, rounds=rounds, force_error=force_error, seed=seed)
    with reading(molecule):
        start = read_molecule(molecule)
    with reading(molecule), progress(f"teaching {start.name} (seconds)") as show:
        teacher = teach_mean(start, config, show, lambda line: print_line(f"fflux teach: {line}"))
    save_teacher(teacher, output)
    return _outcome(teacher, output, config.force_error)


def _outcome(teacher: Teacher, output: Path, limit: float) -> Outcome:
    from fflux_py.teacher.teacher_file import OWN_FORCE_ERROR

    molecule, metadata = teacher.molecule, teacher.metadata
    error = metadata.get(OWN_FORCE_ERROR)
    figures = {"output": str(output), "molecule": molecule.name, "formula": molecule.formula,
               "n_atoms": molecule.n_atoms, "level": teacher.mean.level, **metadata}  # fmt: skip
    measured = "not measured: no frame at 1000 K" if error is None else f"{error:.2f} kcal/mol/angstrom"
    text = [
        f"{molecule.name} ({molecule.formula}, {molecule.n_atoms} atoms): {metadata['labels']} labels of "
        f"{teacher.mean.level}, {metadata['updates']} updates, {metadata['processor_minutes']:.1f} minutes.",
        f"Force error on frames of its own dynamics at 1000 K: {measured}.",
    ]
    if error is None or error > limit:
        text.append(f"That is rough, not below {limit:g}; it is added to every prediction. Give it more --minutes.")
    text.append(f"The teacher is in {output}. Next: fflux train DATA.extxyz --teacher {output}")
    return Outcome(figures, text)
