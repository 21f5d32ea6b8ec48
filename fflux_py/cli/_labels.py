"""Labels as a data set: the part of ``fflux convert`` that writes ``.extxyz``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from fflux_py.cli._command import Outcome
from fflux_py.cli._paths import check_output, reading
from fflux_py.cli._progress import progress
from fflux_py.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from fflux_py.exchange.labels import LeftOut
    from fflux_py.exchange.npz_archive import ArchiveOrigin
    from fflux_py.molecules.dataset import Dataset
    from fflux_py.molecules.extended_xyz import Frame
    from fflux_py.molecules.label_checks import LabelChecks

    Labels: TypeAlias = tuple[Dataset, Sequence[LeftOut]]
    """A data set, and the geometries that are not in it."""


_FORCE_UNIT_REMEDY: Final = "--force-unit, such as hartree/bohr, names the unit of forces that have another one"


NOT_STATED: Final = "not stated"
"""Method and basis of labels whose level of theory nobody has named."""


@dataclass(frozen=True)
class LabelOptions:
    """What the command line says about labels whose files do not say it themselves."""

    method: str | None = None
    basis: str | None = None
    partition: str | None = None
    length_unit: str | None = None
    energy_unit: str | None = None
    force_unit: str | None = None
    charge: int | None = None
    test_every: int | None = None


def to_dataset(source: Path, output: Path, options: LabelOptions) -> Outcome:
    """Convert labels into a data set: of a campaign, a folder of AIMAll, an archive or an extended XYZ file."""
    from fflux_py.molecules.label_checks import check_labels

    check_output(output, source)
    read = next((reader for accepts, reader in READERS if accepts(source)), None)
    if read is None:
        expected = (
            "a folder of AIMAll results or of results of 'fflux label', an archive (.npz or .npz.xz), an extended XYZ "
            "file, or a file that ASE reads"
        )
        raise InputError(str(source), expected, "none of these", "check the path")
    data, left_out = read(source, options)
    checks = check_labels(data, str(source), _FORCE_UNIT_REMEDY if read in (_read_npz, _read_xyz) else "")
    data.write(output)
    return _outcome(source, output, data, left_out, checks)


def read_labels_of(path: Path, options: LabelOptions) -> Dataset:
    """A data set of this package, or labels of other programs, whose level of theory need not be stated."""
    from fflux_py.molecules.dataset import Dataset
    from fflux_py.molecules.extended_xyz import read_first_frame
    from fflux_py.molecules.label_checks import check_labels

    read = next((reader for accepts, reader in READERS if accepts(path)), None)
    if read is None or (read is _read_xyz and not _is_foreign(read_first_frame(path))):
        _refuse(options, "a data set of this package", *LabelOptions.__dataclass_fields__)
        return Dataset.read(path)
    stated = replace(options, method=options.method or NOT_STATED, basis=options.basis or NOT_STATED)
    if read in (_read_campaign, _read_aimall):
        stated = options
    data, _ = read(path, stated)
    check_labels(data, str(path), _FORCE_UNIT_REMEDY if read in (_read_npz, _read_xyz) else "")
    return data


def _is_foreign(first: Frame) -> bool:
    """Whether a file of this first frame is another program's: atomic energies without a schema are a damaged one."""
    return "schema" not in first.info and "iqa_energies" not in first.columns


def _is_campaign(source: Path) -> bool:
    from fflux_py.iqa.result_folder import holds_results

    return holds_results(source)


def _read_campaign(source: Path, options: LabelOptions) -> Labels:
    from fflux_py.iqa.label_dataset import LabelSelection, read_labels

    names = ("length_unit", "energy_unit", "force_unit", "charge", "test_every")
    _refuse(options, "results of 'fflux label'", *names)
    return read_labels(source, LabelSelection(options.method, options.basis, options.partition)), ()


def _read_aimall(source: Path, options: LabelOptions) -> Labels:
    from fflux_py.exchange.labels import read_aimall

    _refuse(options, "AIMAll results", "method", "energy_unit", "force_unit")
    with progress(f"reading {source}") as show:
        data, left_out = read_aimall(source, options.basis, show)
    return _with_tests(data, options), left_out


def _read_npz(source: Path, options: LabelOptions) -> Labels:
    from fflux_py.exchange.npz_archive import read_npz

    return _with_tests(read_npz(source, _origin(options)), options), ()


def _read_xyz(source: Path, options: LabelOptions) -> Labels:
    from fflux_py.exchange.labelled_xyz import read_labelled_xyz

    with reading(source):
        return _with_tests(read_labelled_xyz(source, _origin(options)), options), ()


def _read_ase(source: Path, options: LabelOptions) -> Labels:
    from fflux_py.exchange.ase_files import read_ase

    _refuse(options, "files that ASE reads in its units", "length_unit", "energy_unit", "force_unit")
    with reading(source):
        return _with_tests(read_ase(source, _origin(options)), options), ()


def _ase_suffixes() -> tuple[str, ...]:
    from fflux_py.exchange.ase_files import SUFFIXES

    return SUFFIXES


def _origin(options: LabelOptions) -> ArchiveOrigin:
    """What the options say about labels of other programs; the level of theory must be given."""
    from fflux_py.exchange.npz_archive import ArchiveOrigin

    if options.method is None or options.basis is None:
        missing = "--method" if options.method is None else "--basis"
        raise InputError(missing, "the level of theory of these labels", "none", "give --method and --basis")
    return ArchiveOrigin(
        options.method,
        options.basis,
        options.partition,
        options.length_unit,
        options.energy_unit,
        options.force_unit,
        options.charge,
    )


def _with_tests(data: Dataset, options: LabelOptions) -> Dataset:
    """Keep some geometries for testing, unless the files have done so."""
    from fflux_py.exchange.labels import HELD_OUT_EVERY, keep_for_testing

    if options.test_every == 0 or (options.test_every is None and "test" in data.geometries.split):
        return data
    return keep_for_testing(data, options.test_every or HELD_OUT_EVERY)


READERS: Final[tuple[tuple[Callable[[Path], bool], Callable[[Path, LabelOptions], Labels]], ...]] = (
    (_is_campaign, _read_campaign),
    (Path.is_dir, _read_aimall),
    (lambda source: source.suffix == ".npz", _read_npz),
    (lambda source: source.name.removesuffix(".xz").endswith((".xyz", ".extxyz")), _read_xyz),
    (lambda source: source.suffix in _ase_suffixes(), _read_ase),
)
"""Kinds of labels: whether a path is of this kind, and its reader.  The first kind that a path is of counts."""


def _refuse(options: LabelOptions, kind: str, *names: str) -> None:
    """Refuse options for what the files say themselves."""
    for name in names:
        value = getattr(options, name)
        if value != getattr(LabelOptions(), name):
            option = f"--{name.replace('_', '-')}"
            raise InputError(option, f"no such option for {kind}, which say it themselves", repr(value))


def _outcome(source: Path, output: Path, data: Dataset, left_out: Sequence[LeftOut], checks: LabelChecks) -> Outcome:
    import numpy as np

    from fflux_py.units import KCAL_MOL

    given = data.metadata.get("largest_raw_residual_hartree")
    largest = np.nanmax(data.atomic_errors.sum(axis=1), initial=0.0) if given is None else float(given)
    n_test = data.geometries.split.count("test")
    residual = float(largest) * KCAL_MOL
    figures = {
        "input": str(source),
        "output": str(output),
        "molecule": data.molecule.name,
        "formula": data.molecule.formula,
        "method": data.metadata["method"],
        "basis": data.metadata["basis"],
        "partition": data.metadata["partition"],
        "n_geometries": len(data),
        "n_left_out": len(left_out),
        "left_out": [{"file": entry.path, "reason": entry.reason} for entry in left_out],
        "n_test": n_test,
        "forces": data.has_forces,
        "checks": checks.describe(),
        "largest_raw_residual_kcal_mol": residual,
    }
    text: list[str | Table] = [
        f"{data.molecule.name} ({data.molecule.formula}): {len(data)} geometries at {data.metadata['method']}/"
        f"{data.metadata['basis']}, partition {data.metadata['partition']}, in {output}.",
        f"The atomic energies missed the energies by at most {residual:.4f} kcal/mol and were made to sum to them.",
    ]
    partitioned = int(data.has_atomic_energies.sum())
    if partitioned < len(data):
        text[1] = f"{partitioned or 'None'} of them have atomic energies."
    text += [f"Checked: {line}." for line in checks.describe()]
    if n_test:
        text.append(f"{n_test} of them are kept for testing (split 'test'); they are not learnt.")
    text += [f"  left out {entry.path}: {entry.reason}" for entry in left_out]
    if data.has_forces or partitioned:
        text.append(f"Next: fflux train {output} -o model.npz" + ("" if data.has_forces else " --no-forces"))
    else:
        text.append("Energies alone: a model can be validated with them, and none can be trained.")
    return Outcome(figures, text)
