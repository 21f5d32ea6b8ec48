"""What the commands do with files of FEREBUS, ICHOR and DL_FFLUX."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from fflux_py.cli._command import Outcome
from fflux_py.cli._paths import check_new_folder, check_output, reading
from fflux_py.cli._threads import use_threads
from fflux_py.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from fflux_py.exchange.ferebus.validation import AtomValidation
    from fflux_py.molecules.molecule import Molecule

_PERCENT: Final = (10, 25, 50, 75, 90, 95, 99, 100)


def is_table(path: Path) -> bool:
    """Whether this is a table of features by its name."""
    return path.suffix.lower() == ".csv"


def train_atom(
    data: Path, output: Path, alf: str | None, prior_mean: str, n_train: int | None, seed: int | None, threads: int
) -> Outcome:
    """Train one atom on a table of FEREBUS and write its ``.model`` file."""
    if output.suffix != ".model":
        raise InputError(str(output), "a name that ends in .model", output.suffix or "none", "-o SYSTEM_iqa_O1.model")
    use_threads(threads)
    from fflux_py.exchange.ferebus.model_text import format_model
    from fflux_py.exchange.ferebus.table_atom import identify_atom
    from fflux_py.exchange.ferebus.tables import read_training_csv
    from fflux_py.exchange.ferebus.training import choose_rows, train_atom
    from fflux_py.files import write_atomically
    from fflux_py.gp.prior_mean import check_name

    check_name(prior_mean)
    table = read_training_csv(data)
    rows = choose_rows(len(table), n_train, seed, str(data))
    atom = identify_atom(table, data, output, alf, "--alf")
    remarks = {"training_set": " ".join(data.name.split())}
    with reading(data):
        trained = train_atom(table, atom, prior_mean, rows, threads, remarks)
    write_atomically(output, format_model(trained.text))
    figures = {
        "output": str(output),
        "data": str(data),
        "system": atom.system,
        "atom": atom.atom,
        "n_atoms": atom.n_atoms,
        "alf": atom.alf,
        "alf_from": atom.frame_source,
        "n_train": len(rows),
        "n_train_available": len(table),
        **trained.as_dict(),
    }
    lines = [
        f"{atom.system} {atom.atom}: trained on {len(rows)} geometries with {trained.text.n_features} features, "
        f"prior mean {prior_mean}.",
        f"The model is in {output}. Next: fflux validate {output} VALIDATION_SET.csv",
    ]
    if atom.frame_is_assumed:
        words = "ALF " + " ".join(map(str, atom.alf))
        lines.insert(1, f"note: its local frame is not in {data.name} and was assumed, {words}; give --alf")
    return Outcome(figures, lines)


def validate_atom(model: Path, data: Path, plots: Path | None, threads: int) -> Outcome:
    """Compare a ``.model`` file with a table of FEREBUS."""
    if plots is not None:
        raise InputError("--plots", "a data set (.extxyz)", "a table of one atom", "the figures are in --json")
    use_threads(threads)
    from fflux_py.exchange.ferebus.consistency import interpret
    from fflux_py.exchange.ferebus.model_text import parse_model
    from fflux_py.exchange.ferebus.validation import read_validation_table, validate_atom
    from fflux_py.files import read_text

    gp = interpret(parse_model(read_text(model), str(model)), str(model))
    validation = validate_atom(gp, read_validation_table(gp, data, model.name))
    figures = {"model": str(model), "data": str(data), **validation.as_dict()}
    unit = "kJ/mol" if validation.is_energy else "atomic units"
    text: list[str | Table] = [
        f"{gp.text.system} {gp.text.atom} {gp.text.property_name}: {len(validation.errors)} geometries, errors in "
        f"{unit}",
        _error_table(validation),
        *(f"note: {note}" for note in gp.notes),
    ]
    return Outcome(figures, text)


def models_to_npz(folder: Path, output: Path, start: Path | None) -> Outcome:
    """A folder of ``.model`` files into a force field."""
    check_output(output)
    use_threads(1)
    from fflux_py import model_file
    from fflux_py.exchange.ferebus.folder import models_folder, read_models
    from fflux_py.exchange.ferebus.forcefield import conversion_notes, to_forcefield

    source = models_folder(folder)
    models = read_models(source)
    molecule = _start(start)
    with reading(source):
        forcefield = to_forcefield(models, molecule)
        notes = conversion_notes(models)
    model_file.save(forcefield, output)
    m = forcefield.molecule
    figures = {
        "input": str(folder),
        "output": str(output),
        "molecule": m.name,
        "formula": m.formula,
        "n_atoms": m.n_atoms,
        "n_train": [len(model.points) for model in forcefield.atoms],
        "energy_hartree": forcefield.energy_and_forces(m.positions)[0],
        "geometry_from": str(start) if start is not None else "the training geometry of lowest energy",
        "notes": list(notes),
    }
    lines = [f"{m.name} ({m.formula}): {m.n_atoms} models became one force field, in {output}."]
    return Outcome(figures, [*lines, *(f"note: {note}" for note in notes)])


def npz_to_models(model: Path, folder: Path, dl_fflux: bool, start: Path | None) -> Outcome:
    """A force field into a folder of ``.model`` files, with the files of DL_FFLUX around them if asked for."""
    check_new_folder(folder)
    use_threads(1)
    from fflux_py import model_file
    from fflux_py.exchange.dl_fflux import write_dl_fflux
    from fflux_py.exchange.ferebus.folder import write_models
    from fflux_py.exchange.ferebus.forcefield import model_texts

    with reading(model):
        forcefield = model_file.load(model)
        molecule = _start(start)
        if dl_fflux:
            paths = write_dl_fflux(folder, forcefield, molecule)
        else:
            paths = write_models(folder, model_texts(forcefield))
    figures = {
        "input": str(model),
        "output": str(folder),
        "molecule": forcefield.molecule.name,
        "files": [str(path) for path in paths],
    }
    what = "the input of DL_FFLUX" if dl_fflux else f"{len(paths)} .model files"
    return Outcome(figures, [f"{forcefield.molecule.name} ({forcefield.molecule.formula}): {what} in {folder}."])


def _start(path: Path | None) -> Molecule | None:
    from fflux_py.molecules.extended_xyz import read_molecule

    return None if path is None else read_molecule(path)


def _error_table(validation: AtomValidation) -> Table:
    import numpy as np
    from rich.table import Table

    table = Table("MAE", "RMSE", "spread", *(f"{p} % below" for p in _PERCENT[:-1]), "all below")
    for column in table.columns:
        column.justify = "right"
    sizes = validation.absolute_errors
    percentiles = (float(np.percentile(sizes, p)) for p in _PERCENT)
    table.add_row(*(f"{value:.4g}" for value in (validation.mae, validation.rmse, validation.spread, *percentiles)))
    return table
