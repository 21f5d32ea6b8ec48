"""``fflux convert``: a model into another one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fflux_py.cli._command import Outcome, command
from fflux_py.cli._options import JsonOption
from fflux_py.cli._paths import check_output, reading
from fflux_py.cli._threads import use_threads


@command(interrupted="no model was written")
def convert(
    model: Annotated[Path, typer.Argument(metavar="MODEL.npz", help="Model to read.")],
    output: Annotated[Path, typer.Argument(metavar="OUT.npz", help="Model to write.")],
    prior_mean: Annotated[
        str, typer.Option(help="The new prior mean: MF1 to MF5, max, mean+K*range, gls or constant:V (hartree).")
    ],
    json_output: JsonOption = False,
) -> Outcome:
    """Give a trained model another prior mean, as if it had been trained with it."""
    check_output(output, model)
    use_threads(1)
    from fflux_py import model_file

    with reading(model):
        before = model_file.load(model)
        after = before.with_prior_mean(prior_mean)
    model_file.save(after, output)
    molecule = after.molecule
    old, new = before.atoms[0].mean_name, after.atoms[0].mean_name
    figures = {
        "input": str(model),
        "output": str(output),
        "molecule": molecule.name,
        "prior_mean_before": old,
        "prior_mean": new,
        "prior_means_before_hartree": [atom.mean for atom in before.atoms],
        "prior_means_hartree": [atom.mean for atom in after.atoms],
    }
    return Outcome(figures, [f"{molecule.name} ({molecule.formula}): prior mean {old} became {new}, in {output}."])
