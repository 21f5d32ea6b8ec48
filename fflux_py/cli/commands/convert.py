"""``fflux convert``: a model into another one, or into the files of other programs and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fflux_py.cli import _ferebus, _labels
from fflux_py.cli._command import Outcome, command
from fflux_py.cli._options import JsonOption
from fflux_py.cli._paths import check_output, reading
from fflux_py.cli._threads import use_threads
from fflux_py.errors import InputError


@command(interrupted="no model was written")
def convert(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model (.npz), a folder of .model files, or labels.")],
    output: Annotated[
        Path, typer.Argument(metavar="OUT", help="Model (.npz), a folder for .model files, or a data set (.extxyz).")
    ],
    prior_mean: Annotated[
        str | None, typer.Option(help="The new prior mean: MF1 to MF5, max, mean+K*range, gls or constant:V (hartree).")
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(metavar="START.xyz", help="Geometry that goes with the model. Without it: one of its data."),
    ] = None,
    dl_fflux: Annotated[
        bool, typer.Option("--dl-fflux", help="Write CONFIG, CONTROL and FIELD of DL_FFLUX around the .model files.")
    ] = False,
    basis: Annotated[
        str | None, typer.Option(help="Labels: their basis set, where the files do not say it or hold several.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="Labels in an archive: their method; likewise of a campaign with several.")
    ] = None,
    partition: Annotated[
        str | None,
        typer.Option(help="Labels: their kind of atoms. Without it: the only one in a campaign; else qtaim, or none."),
    ] = None,
    length_unit: Annotated[str | None, typer.Option(help="Labels in an archive: angstrom or bohr.")] = None,
    energy_unit: Annotated[
        str | None, typer.Option(help="Labels in an archive: hartree, eV, kcal/mol or kJ/mol.")
    ] = None,
    force_unit: Annotated[
        str | None,
        typer.Option(help="Labels in an archive: such as hartree/bohr, if not energy unit by length unit."),
    ] = None,
    charge: Annotated[
        int | None, typer.Option(help="Labels in an archive: charge of the molecule. Without it: the file's, or 0.")
    ] = None,
    test_every: Annotated[
        int | None,
        typer.Option(
            "--test-every",
            min=0,
            metavar="N",
            help="Labels of other programs: every Nth geometry is kept for testing; 0: none. Without it: every 10th, "
            "unless the archive has a part for testing.",
        ),
    ] = None,
    json_output: JsonOption = False,
) -> Outcome:
    """Give a trained model another prior mean, as if it had been trained with it, or exchange it with other programs.

    With --prior-mean a model becomes a model. Without it, a model becomes a folder of .model files (FEREBUS, ICHOR,
    DL_FFLUX), and a folder of .model files becomes a model.

    With an OUT that ends in .extxyz (or .extxyz.xz), labels become a data set: a folder of results of 'fflux label' or
    the archive of a closed campaign (.npz.xz); a folder of AIMAll results (.sum, or .int and .wfn; with Gaussian
    outputs beside them for the forces); an archive (.npz) of labelled geometries of any other program (sGDML, MD17,
    rMD17, ...); or an extended XYZ file with energies and forces (ASE, MACE, ...; eV and angstrom unless units are
    given). Forces, energies and atomic energies are held against each other. Every tenth geometry is kept for testing.
    """
    options = _labels.LabelOptions(method, basis, partition, length_unit, energy_unit, force_unit, charge, test_every)
    if output.name.removesuffix(".xz").endswith(".extxyz"):
        if prior_mean is not None or start is not None or dl_fflux:
            raise InputError("OUT", "a model, with --prior-mean, --start or --dl-fflux", f"a data set, {output}")
        return _labels.to_dataset(model, output, options)
    if options != _labels.LabelOptions():
        raise InputError("OUT", "a data set (.extxyz), with options of labels", str(output), "leave these options out")
    if prior_mean is not None:
        if start is not None or dl_fflux:
            option = "--start" if start is not None else "--dl-fflux"
            raise InputError(option, "no --prior-mean", "both", "change the prior mean first, then convert")
        return _another_mean(model, output, prior_mean)
    if model.is_dir():
        if dl_fflux:
            raise InputError("--dl-fflux", "a model (.npz) to write", "a folder of models", "convert it to .npz first")
        return _ferebus.models_to_npz(model, output, start)
    if model.suffix == ".model":
        raise InputError(str(model), "a folder with the .model files of all atoms", "one file", "give its folder")
    if output.suffix == ".npz":
        raise InputError("--prior-mean", "the new prior mean of the model", "none", "or give a folder for .model files")
    return _ferebus.npz_to_models(model, output, dl_fflux, start)


def _another_mean(model: Path, output: Path, prior_mean: str) -> Outcome:
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
        "prior_means_before_hartree": before.prior_means.tolist(),
        "prior_means_hartree": after.prior_means.tolist(),
    }
    return Outcome(figures, [f"{molecule.name} ({molecule.formula}): prior mean {old} became {new}, in {output}."])
