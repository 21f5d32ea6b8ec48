"""Labels of other programs as a data set: the part of ``fflux convert`` that writes ``.extxyz``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fflux_py.cli._command import Outcome
from fflux_py.cli._paths import check_output
from fflux_py.cli._progress import progress
from fflux_py.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class LabelOptions:
    """What the command line says about labels whose files do not say it themselves."""

    method: str | None = None
    basis: str | None = None
    partition: str = "qtaim"
    length_unit: str | None = None
    energy_unit: str | None = None
    charge: int = 0


def to_dataset(source: Path, output: Path, options: LabelOptions) -> Outcome:
    """Convert a folder of AIMAll results, or an archive of labelled geometries, into a data set."""
    check_output(output, source)
    from fflux_py.exchange.labels import LeftOut, read_aimall
    from fflux_py.exchange.npz_archive import ArchiveOrigin, read_npz
    from fflux_py.units import KCAL_MOL

    left_out: tuple[LeftOut, ...] = ()
    if source.is_dir():
        for option, value in (("--method", options.method), ("--energy-unit", options.energy_unit)):
            if value is not None:
                raise InputError(option, "no such option for AIMAll results, which say it themselves", repr(value))
        with progress(f"reading {source}") as show:
            data, left_out = read_aimall(source, options.basis, show)
    elif source.suffix == ".npz":
        if options.method is None or options.basis is None:
            missing = "--method" if options.method is None else "--basis"
            raise InputError(
                missing, "the level of theory of the archive's labels", "none", "give --method and --basis"
            )
        origin = ArchiveOrigin(
            options.method, options.basis, options.partition, options.length_unit, options.energy_unit, options.charge
        )
        data = read_npz(source, origin)
    else:
        raise InputError(str(source), "a folder of AIMAll results or an archive (.npz)", "neither", "check the path")
    data.write(output)
    residual = float(data.metadata["largest_raw_residual_hartree"]) * KCAL_MOL
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
        "forces": data.has_forces,
        "largest_raw_residual_kcal_mol": residual,
    }
    text: list[str | Table] = [
        f"{data.molecule.name} ({data.molecule.formula}): {len(data)} geometries at {data.metadata['method']}/"
        f"{data.metadata['basis']}, partition {data.metadata['partition']}, in {output}.",
        f"The atomic energies missed the energies by at most {residual:.4f} kcal/mol and were made to sum to them.",
    ]
    text += [f"  left out {entry.path}: {entry.reason}" for entry in left_out]
    text.append(f"Next: fflux train {output} -o model.npz" + ("" if data.has_forces else " --no-forces"))
    return Outcome(figures, text)
