"""What the commands do with files of FEREBUS, ICHOR and DL_FFLUX."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fflux_py.cli._command import Outcome
from fflux_py.cli._paths import check_new_folder, check_output, reading
from fflux_py.cli._threads import use_threads
from fflux_py.errors import ConvergenceError, FileFormatError, InputError
from fflux_py.files import read_text, write_atomically

if TYPE_CHECKING:
    from rich.table import Table

    from fflux_py.exchange.ferebus.model import FerebusModel
    from fflux_py.exchange.ferebus.model_text import ModelText
    from fflux_py.exchange.ferebus.tables import FeatureTable
    from fflux_py.molecules.molecule import Molecule

_CSV_NAME: Final = re.compile(r"(?P<system>.+)_(?P<atom>[A-Z][a-z]?\d+)_[A-Z_]*SET\.csv")
_ICHOR_NAME: Final = re.compile(r"(?P<atom>[A-Z][a-z]?\d+)_processed_data.*\.csv")
_ICHOR_FRAME: Final = re.compile(r"_alf_(\d+)_(\d+)_(\d+)")
_MODEL_NAME: Final = re.compile(r"(?P<system>.+)_[a-z]\w*_(?P<atom>[A-Z][a-z]?\d+)\.model")
_MAX_ITERATIONS: Final = 200
_PERCENT: Final = (10, 25, 50, 75, 90, 95, 99, 100)


def is_table(path: Path) -> bool:
    """Whether this is a table of features by its name."""
    return path.suffix.lower() == ".csv"


def train_atom(
    data: Path, output: Path, alf: str | None, prior_mean: str, n_train: int | None, seed: int | None, threads: int
) -> Outcome:
    """Train one atom on a table of FEREBUS and write its ``.model`` file."""
    from fflux_py.exchange.ferebus.forcefield import ASSUMED_FRAME
    from fflux_py.exchange.ferebus.model_text import format_model
    from fflux_py.exchange.ferebus.tables import read_training_csv
    from fflux_py.gp.prior_mean import check_name

    if output.suffix != ".model":
        raise InputError(str(output), "a name that ends in .model", output.suffix or "none", "-o SYSTEM_iqa_O1.model")
    check_name(prior_mean)
    use_threads(threads)
    table = read_training_csv(data)
    rows = _rows(len(table), n_train, seed, data)
    system, atom = _names(data, output)
    n_atoms = _n_atoms(table, data)
    frame, source = _frame(data, alf, atom, n_atoms)
    remarks = {"training_set": " ".join(data.name.split())}
    if source == _ASSUMED:
        remarks[ASSUMED_FRAME] = "sequence rule"
    with reading(data):
        text, fitted = _fit(table, rows, (system, atom), frame, n_atoms, prior_mean, threads, remarks)
    write_atomically(output, format_model(text))
    figures = {
        "output": str(output),
        "data": str(data),
        "system": system,
        "atom": atom,
        "n_atoms": n_atoms,
        "alf": [None if k is None else k + 1 for k in frame],
        "alf_from": source,
        "n_train": len(rows),
        "n_train_available": len(table),
        **fitted,
    }
    lines = [
        f"{system} {atom}: trained on {len(rows)} geometries with {text.n_features} features, prior mean {prior_mean}.",
        f"The model is in {output}. Next: fflux validate {output} VALIDATION_SET.csv",
    ]
    if source == _ASSUMED:
        lines.insert(1, f"note: its local frame is not in {data.name} and was assumed, {_words(frame)}; give --alf")
    return Outcome(figures, lines)


def _fit(
    table: FeatureTable,
    rows: Any,
    names: tuple[str, str],
    frame: tuple[int, int, int | None],
    n_atoms: int,
    prior_mean: str,
    threads: int,
    remarks: dict[str, str],
) -> tuple[ModelText, dict[str, object]]:
    """Hyperparameters by the likelihood, weights, prior mean: the model's text, and figures."""
    import numpy as np

    from fflux_py.exchange.ferebus.forcefield import single_atom_text
    from fflux_py.gp.atomic_model import fit_weights
    from fflux_py.gp.covariance import Covariance
    from fflux_py.gp.features import FeatureSet
    from fflux_py.gp.prior_mean import prior_mean as mean_value
    from fflux_py.training.energies import starting_theta
    from fflux_py.training.hyperparameters import maximise_likelihood

    points, energies = table.features[rows], table.energies[rows]
    azimuths = FeatureSet("spherical", n_atoms).azimuths if n_atoms > 2 else np.zeros(0, dtype=np.int64)
    start = Covariance(starting_theta(points, azimuths), azimuths)
    best = maximise_likelihood(start, points, energies, _MAX_ITERATIONS, threads)
    covariance = Covariance(best.theta, azimuths)
    w_y, w_1, jitter = fit_weights(covariance, points, energies, best.noise)
    mean = mean_value(prior_mean, energies, None, w_y, w_1)
    data = points, energies, w_y - (mean - energies.mean()) * w_1
    nugget = best.noise + jitter
    text = single_atom_text(names, frame, n_atoms, covariance, data, (prior_mean, mean), nugget, remarks)
    figures = {
        "theta": best.theta.tolist(),
        "nugget": nugget,
        "jitter": jitter,
        "prior_deviation_hartree": best.variance**0.5,
        "prior_mean": prior_mean,
        "prior_mean_hartree": mean,
        "log_likelihood": text.likelihood,
        "evaluations": best.iterations,
    }
    return text, figures


def validate_atom(model: Path, data: Path, plots: Path | None, threads: int) -> Outcome:
    """Compare a ``.model`` file with a table of FEREBUS."""
    import numpy as np

    from fflux_py.exchange.ferebus.tables import ENERGY, read_training_csv
    from fflux_py.units import KJ_MOL

    if plots is not None:
        raise InputError("--plots", "a data set (.extxyz)", "a table of one atom", "the figures are in --json")
    use_threads(threads)
    gp = _read(model)
    name = gp.text.property_name
    table = read_training_csv(data, name)
    if table.features.shape[1] != gp.text.n_features:
        expected = f"{gp.text.n_features} features as {model.name} has"
        raise FileFormatError(str(data), expected, str(table.features.shape[1]), "a table of another molecule?")
    factor, unit = (KJ_MOL, "kj_mol") if name == ENERGY else (1.0, "au")
    errors = (gp.energies(table.features) - table.energies) * factor
    size = np.sort(np.abs(errors))
    spread = float(table.energies.std()) * factor
    rmse = float(np.sqrt((errors**2).mean()))
    percent = 100.0 * np.arange(1, len(size) + 1) / len(size)
    figures: dict[str, object] = {
        "model": str(model),
        "data": str(data),
        "system": gp.text.system,
        "atom": gp.text.atom,
        "property": name,
        "n_train": len(gp.text.y),
        "n_validation": len(size),
        f"mae_{unit}": float(size.mean()),
        f"rmse_{unit}": rmse,
        f"max_{unit}": float(size[-1]),
        f"mean_signed_error_{unit}": float(errors.mean()),
        f"spread_{unit}": spread,
        "q_squared": 1.0 - (rmse / spread) ** 2 if spread > 0.0 else None,
        f"s_curve_error_{unit}": size.tolist(),
        "s_curve_percent": percent.tolist(),
        **_reliability(gp, table, errors / factor),
        "training_error_" + unit: gp.training_error() * factor,
        "nugget": gp.nugget,
        "periodic_factor": gp.reading.periodic_factor,
        "rbf_azimuths_wrapped": gp.reading.wrap_rbf,
        "notes": list(gp.notes),
    }
    words = "kJ/mol" if name == ENERGY else "atomic units"
    text: list[str | Table] = [
        f"{gp.text.system} {gp.text.atom} {name}: {len(size)} geometries, errors in {words}",
        _error_table(size, rmse, spread),
        *(f"note: {note}" for note in gp.notes),
    ]
    return Outcome(figures, text)


def models_to_npz(folder: Path, output: Path, start: Path | None) -> Outcome:
    """A folder of ``.model`` files into a force field."""
    check_output(output)
    use_threads(1)
    from fflux_py import model_file
    from fflux_py.exchange.ferebus.forcefield import frame_notes, read_folder, to_forcefield

    inner = folder / "model_krig"
    source = inner if inner.is_dir() and not any(folder.glob("*.model")) else folder
    models = read_folder(source)
    molecule = _start(start)
    with reading(source):
        forcefield = to_forcefield(models, molecule)
        notes = frame_notes(models)
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
    """A force field into a folder of ``.model`` files, with the files of DL_FFLUX around them if wanted."""
    check_new_folder(folder)
    use_threads(1)
    from fflux_py import model_file
    from fflux_py.exchange.dl_fflux import write_dl_fflux
    from fflux_py.exchange.ferebus.forcefield import model_texts, write_models

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


_ASSUMED: Final = "assumed: sequence of the atoms"


def _read(path: Path) -> FerebusModel:
    from fflux_py.exchange.ferebus.consistency import understand
    from fflux_py.exchange.ferebus.model_text import parse_model

    return understand(parse_model(read_text(path), str(path)), str(path))


def _start(path: Path | None) -> Molecule | None:
    from fflux_py.molecules.extended_xyz import read_molecule

    return None if path is None else read_molecule(path)


def _rows(n: int, n_train: int | None, seed: int | None, data: Path) -> Any:
    """Indices of the training rows: the first ones, or random ones."""
    import numpy as np

    wanted = n if n_train is None else n_train
    if n < max(wanted, 2):
        raise InputError(str(data), f"at least {max(wanted, 2)} rows", str(n), "ask for fewer")
    order = np.arange(n) if seed is None else np.random.default_rng(seed).permutation(n)
    return order[:wanted]


def _names(data: Path, output: Path) -> tuple[str, str]:
    """Names of system and atom from those of the files."""
    for pattern, name in ((_CSV_NAME, data.name), (_MODEL_NAME, output.name), (_ICHOR_NAME, data.name)):
        match = pattern.fullmatch(name)
        if match is not None:
            return match.groupdict().get("system") or data.absolute().parent.name, match["atom"]
    raise InputError(
        str(data),
        "the name of the atom in the name of a file",
        "none",
        "name the table SYSTEM_O1_TRAINING_SET.csv, or the output SYSTEM_iqa_O1.model",
    )


def _n_atoms(table: FeatureTable, data: Path) -> int:
    d = len(table.names)
    if d == 1:
        return 2
    if d % 3:
        raise FileFormatError(str(data), "3N-6 features (or one)", str(d), "features other than spherical ones?")
    return (d + 6) // 3


def _frame(data: Path, alf: str | None, atom: str, n_atoms: int) -> tuple[tuple[int, int, int | None], str]:
    """The local frame of the atom (from 0) and where it comes from."""
    from fflux_py.exchange.ferebus.model_text import names_of

    index = names_of(atom)[1] - 1
    if alf is not None:
        return _checked_frame(alf.replace(",", " ").replace("_", " ").split(), index, n_atoms, "--alf"), "--alf"
    match = _ICHOR_FRAME.search(data.name)
    if match is not None:
        return _checked_frame(list(match.groups()), index, n_atoms, str(data)), "name of the table"
    settings = data.absolute().parent / "ferebus.toml"
    if settings.is_file():
        found = _from_toml(settings, atom)
        if found is not None:
            return _checked_frame(found, index, n_atoms, str(settings)), settings.name
    if n_atoms == 2:
        return (index, 1 - index, None), "the only other atom"
    last = n_atoms - 1
    other = (1, 2) if index == 0 else (last - 2, last - 1) if index == last else (index - 1, index + 1)
    return _checked_frame([str(k + 1) for k in (index, *other)], index, n_atoms, str(data)), _ASSUMED


def _from_toml(path: Path, atom: str) -> list[str] | None:
    try:
        atoms = tomllib.loads(read_text(path)).get("system", {}).get("atoms", [])
        for entry in atoms:
            if entry["name"] == atom:
                return [str(k) for k in entry["alf"]]
    except (tomllib.TOMLDecodeError, AttributeError, KeyError, TypeError) as error:
        raise FileFormatError(str(path), "system.atoms with name and alf", str(error), "or give --alf") from None
    return None


def _checked_frame(words: list[str], index: int, n_atoms: int, where: str) -> tuple[int, int, int | None]:
    numbers = [int(word) - 1 for word in words if word.isdecimal()]
    whole = len(numbers) == len(words) == (2 if n_atoms == 2 else 3)
    if not whole or len(set(numbers)) < len(numbers) or not all(0 <= k < n_atoms for k in numbers):
        raise InputError(where, f"the numbers of three different atoms up to {n_atoms}", " ".join(words) or "none")
    if numbers[0] != index:
        raise InputError(where, f"atom {index + 1} first", " ".join(words), "the frame of another atom?")
    return numbers[0], numbers[1], numbers[2] if len(numbers) > 2 else None


def _words(frame: tuple[int, int, int | None]) -> str:
    return "ALF " + " ".join("None" if k is None else str(k + 1) for k in frame)


def _reliability(gp: FerebusModel, table: FeatureTable, errors: Any) -> dict[str, object]:
    """Share of the errors within one and two predicted standard deviations; None where there is no variance."""
    import numpy as np

    names = ("share_within_1_sigma", "share_within_2_sigma")
    try:
        variances = gp.variances(table.features) * gp.prior_variance()
    except ConvergenceError:
        return dict.fromkeys(names)
    sigma = np.sqrt(np.maximum(variances, 0.0))
    return {name: float((np.abs(errors) <= k * sigma).mean()) for k, name in enumerate(names, start=1)}


def _error_table(size: Any, rmse: float, spread: float) -> Table:
    import numpy as np
    from rich.table import Table

    table = Table("MAE", "RMSE", "spread", *(f"{p} % below" for p in _PERCENT[:-1]), "all below")
    for column in table.columns:
        column.justify = "right"
    values = [float(size.mean()), rmse, spread, *(float(np.percentile(size, p)) for p in _PERCENT)]
    table.add_row(*(f"{value:.4g}" for value in values))
    return table
