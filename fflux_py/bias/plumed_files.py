"""HILLS, COLVAR and free-energy files as PLUMED writes and reads them.

The layout is that of PLUMED 2 (Tribello et al., Comput. Phys. Commun. 185, 604 (2014)): a line ``#! FIELDS`` with the
names of the columns, lines ``#! SET name value``, then numbers.  Lengths are in nm, energies in kJ/mol, times in ps,
angles in radian, unless ``UNITS`` says otherwise.  Heights of well-tempered hills stand scaled by gamma/(gamma-1), so
that the negative sum of the file's hills is the free energy.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from fflux_py.bias.collective_variables import CollectiveVariable
from fflux_py.bias.free_energy import FreeEnergy
from fflux_py.bias.grid import Grid
from fflux_py.bias.metadynamics import Hills
from fflux_py.errors import FileFormatError, InputError
from fflux_py.files import read_text, write_atomically
from fflux_py.molecules.molecule import read_only
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM, FEMTOSECOND, KJ_MOL


@dataclass(frozen=True)
class PlumedUnits:
    """One bohr, hartree and atomic unit of time in the file's units."""

    length: float = 0.1 * ANGSTROM
    energy: float = KJ_MOL
    time: float = 1e-3 * FEMTOSECOND

    def of(self, variable: CollectiveVariable) -> float:
        """One radian or bohr of a variable in the file's unit."""
        return self.length if variable.kind == "distance" else 1.0


PLUMED_UNITS: Final = PlumedUnits()


@dataclass(frozen=True)
class Table:
    """What stands in a file of this kind.

    Parameters
    ----------
    fields
        Names of the columns.
    constants
        Name and value of the ``SET`` lines.
    rows
        Numbers, ``(n, len(fields))``.
    """

    fields: tuple[str, ...]
    constants: Mapping[str, str]
    rows: FloatArray

    def column(self, name: str, where: str) -> FloatArray:
        """The column of this name."""
        if name not in self.fields:
            raise FileFormatError(where, f"a column {name}", ", ".join(self.fields))
        return np.asarray(self.rows[:, self.fields.index(name)])


def read_table(path: str | os.PathLike[str]) -> Table:
    """Read any file with ``#! FIELDS``.

    A file of a restarted run repeats its header; the names must not change then.

    Raises
    ------
    FileFormatError
        With ``file:line``: no header, another number of columns, a word that is no number, NaN.
    """
    fields: tuple[str, ...] = ()
    constants: dict[str, str] = {}
    rows: list[list[float]] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        where = f"{path}:{number}"
        words = line.split()
        if line.startswith("#! FIELDS"):
            if fields and tuple(words[2:]) != fields:
                raise FileFormatError(where, f"the columns {' '.join(fields)} as before", " ".join(words[2:]))
            fields = tuple(words[2:])
            if not fields or len(set(fields)) != len(fields):
                raise FileFormatError(where, "different names of columns", " ".join(fields) or "none")
        elif line.startswith("#! SET"):
            if len(words) != 4:
                raise FileFormatError(where, "#! SET name value", line.strip())
            constants[words[2]] = words[3]
        elif words and not words[0].startswith("#"):
            rows.append(_numbers(words, fields, where))
    if not fields:
        raise FileFormatError(str(path), "a line '#! FIELDS'", "none", "is this a file of PLUMED?")
    return Table(fields, constants, read_only(np.array(rows).reshape(len(rows), len(fields))))


def _numbers(words: Sequence[str], fields: tuple[str, ...], where: str) -> list[float]:
    if not fields:
        raise FileFormatError(where, "a line '#! FIELDS' before the numbers", words[0], "is this a file of PLUMED?")
    if len(words) != len(fields):
        raise FileFormatError(where, f"{len(fields)} columns", str(len(words)), "was the file cut off?")
    values = []
    for name, word in zip(fields, words, strict=True):
        try:
            values.append(float(word))
        except ValueError:
            raise FileFormatError(f"{where}, column {name}", "a number", repr(word)) from None
        if np.isnan(values[-1]):
            raise FileFormatError(f"{where}, column {name}", "a number", "NaN")
    return values


def head_lines(fields: Sequence[str], constants: Mapping[str, object]) -> list[str]:
    """The header of a file: names of the columns and constants."""
    return ["#! FIELDS " + " ".join(fields), *(f"#! SET {name} {value}" for name, value in constants.items())]


def row_line(row: Iterable[float], number: str) -> str:
    """One line of numbers in the given format."""
    return " " + " ".join(number % x for x in row)


def _format(fields: Sequence[str], constants: Mapping[str, object], rows: FloatArray, number: str) -> str:
    return "\n".join([*head_lines(fields, constants), *(row_line(row, number) for row in rows)]) + "\n"


def domain(variables: Sequence[CollectiveVariable]) -> dict[str, object]:
    """Constants that say which variables are periodic."""
    return {f"{end}_{v.label}": sign + "pi" for v in variables if v.period for end, sign in (("min", "-"), ("max", ""))}


def write_hills(path: str | os.PathLike[str], hills: Hills, units: PlumedUnits = PLUMED_UNITS) -> None:
    """Write a HILLS file; 17 significant digits, so that no digit of a restart is lost but by the change of unit."""
    head, rows = hills_lines(hills, units)
    write_atomically(path, "\n".join([*head, *rows]) + "\n")


def hills_lines(hills: Hills, units: PlumedUnits = PLUMED_UNITS) -> tuple[list[str], list[str]]:
    """Header and one line for each hill of a HILLS file."""
    labels = [v.label for v in hills.variables]
    factors = np.array([units.of(v) for v in hills.variables])
    gamma = hills.bias_factor if np.isfinite(hills.bias_factor) else 1.0
    scale = gamma / (gamma - 1.0) if gamma > 1.0 else 1.0
    columns = [hills.times * units.time, *(hills.centres * factors).T, *(hills.sigmas * factors).T]
    columns += [hills.heights * units.energy * scale, np.full(len(hills), gamma)]
    fields = ["time", *labels, *(f"sigma_{label}" for label in labels), "height", "biasf"]
    constants = {"multivariate": "false", "kerneltype": hills.shape, **domain(hills.variables)}
    return head_lines(fields, constants), [row_line(row, "%24.17g") for row in np.stack(columns, axis=1)]


def read_hills(
    path: str | os.PathLike[str], variables: Sequence[CollectiveVariable], units: PlumedUnits = PLUMED_UNITS
) -> Hills:
    """Read a HILLS file of these variables, found by their labels.

    Raises
    ------
    FileFormatError
        If a variable or its width is missing, if a torsion is not periodic in the file, for hills of several bias
        factors, and for multivariate hills.
    """
    table, where = read_table(path), str(path)
    if table.constants.get("multivariate", "false") != "false":
        raise FileFormatError(where, "hills with one width for each variable", "multivariate hills")
    shape = table.constants.get("kerneltype", "gaussian")
    if shape not in ("gaussian", "stretched-gaussian"):
        raise FileFormatError(f"{where}, kerneltype", "gaussian or stretched-gaussian", shape)
    for variable in variables:
        if (f"min_{variable.label}" in table.constants) != (variable.period > 0.0):
            expected = "a periodic variable" if variable.period else "a variable that is not periodic"
            raise FileFormatError(f"{where}, {variable.label}", expected, "the opposite", "check kind and label")
    factors = np.array([units.of(v) for v in variables])
    centres = np.stack([table.column(v.label, where) for v in variables], axis=1) / factors
    sigmas = np.stack([table.column(f"sigma_{v.label}", where) for v in variables], axis=1) / factors
    gammas = set(table.column("biasf", where).tolist())
    if len(gammas) > 1:
        raise FileFormatError(f"{where}, column biasf", "one bias factor", ", ".join(f"{g:g}" for g in sorted(gammas)))
    gamma = gammas.pop() if gammas else 1.0
    scale = gamma / (gamma - 1.0) if gamma > 1.0 else 1.0
    return Hills(
        tuple(variables),
        table.column("time", where) / units.time,
        centres,
        sigmas,
        table.column("height", where) / units.energy / scale,
        gamma if gamma > 1.0 else np.inf,
        "gaussian" if shape == "gaussian" else "stretched-gaussian",
    )


def write_colvar(
    path: str | os.PathLike[str],
    times: FloatArray,
    variables: Sequence[CollectiveVariable],
    values: FloatArray,
    energies: Mapping[str, FloatArray] | None = None,
    units: PlumedUnits = PLUMED_UNITS,
) -> None:
    """Write a COLVAR file.

    Parameters
    ----------
    times
        Atomic units of time, ``(m,)``.
    values
        Variables, radian or bohr, ``(m, k)``.
    energies
        Further columns in hartree by their names, such as ``metad.bias`` and ``metad.rct``, ``(m,)`` each.
    """
    energies = energies or {}
    factors = np.array([units.of(v) for v in variables])
    columns = [times * units.time, *(values * factors).T, *(np.asarray(e) * units.energy for e in energies.values())]
    fields = ["time", *(v.label for v in variables), *energies]
    write_atomically(path, _format(fields, domain(variables), np.stack(columns, axis=1), "%.9f"))


def read_colvar(
    path: str | os.PathLike[str],
    variables: Sequence[CollectiveVariable],
    energies: Sequence[str] = (),
    units: PlumedUnits = PLUMED_UNITS,
) -> tuple[FloatArray, FloatArray, dict[str, FloatArray]]:
    """Times ``(m,)``, values ``(m, k)`` and the named energies ``(m,)`` of a COLVAR file, in atomic units."""
    table, where = read_table(path), str(path)
    values = np.stack([table.column(v.label, where) / units.of(v) for v in variables], axis=1)
    columns = {name: table.column(name, where) / units.energy for name in energies}
    return table.column("time", where) / units.time, values, columns


def write_free_energy(
    path: str | os.PathLike[str], surface: FreeEnergy, units: PlumedUnits = PLUMED_UNITS, name: str = "file.free"
) -> None:
    """Write a free energy as PLUMED's sum_hills does: first variable fastest, a blank line after each of its rounds.

    Errors, where there are any, stand in a last column ``error``, as in PLUMED's block averages.
    """
    grid = surface.grid
    labels = [v.label for v in grid.variables]
    constants: dict[str, object] = {}
    for k, variable in enumerate(grid.variables):
        limits = [f"{x * units.of(variable):.15g}" for x in (grid.minima[k], grid.maxima[k])]
        low, high = ["-pi", "pi"] if variable.period else limits
        constants.update({f"min_{labels[k]}": low, f"max_{labels[k]}": high, f"nbins_{labels[k]}": grid.shape[k]})
        constants[f"periodic_{labels[k]}"] = "true" if variable.period else "false"
    axes = np.meshgrid(*(grid.points(k) * units.of(v) for k, v in enumerate(grid.variables)), indexing="ij")
    fields, columns = [*labels, name], [*axes, surface.values * units.energy]
    if surface.gradients is not None:
        fields += [f"der_{label}" for label in labels]
        columns += [g * units.energy / units.of(v) for g, v in zip(surface.gradients, grid.variables, strict=True)]
    if surface.errors is not None:
        fields, columns = [*fields, "error"], [*columns, surface.errors * units.energy]
    rows = np.stack([np.asarray(column).ravel(order="F") for column in columns], axis=1)
    head, *lines = _format(fields, constants, rows, "%14.9f").split("\n")
    if len(labels) > 1:
        body = len(constants)
        for end in range(len(rows) - grid.shape[0], 0, -grid.shape[0]):
            lines.insert(body + end, "")
    write_atomically(path, "\n".join([head, *lines]))


def read_free_energy(
    path: str | os.PathLike[str], variables: Sequence[CollectiveVariable], units: PlumedUnits = PLUMED_UNITS
) -> FreeEnergy:
    """Read a free-energy file of these variables; the column after them is the free energy, whatever its name."""
    table, where = read_table(path), str(path)
    labels = tuple(v.label for v in variables)
    if table.fields[: len(labels)] != labels or len(table.fields) == len(labels):
        raise FileFormatError(where, f"columns {' '.join(labels)} and a free energy", " ".join(table.fields))
    axes = [np.unique(table.column(v.label, where)) / units.of(v) for v in variables]
    shape = tuple(len(axis) for axis in axes)
    if int(np.prod(shape)) != len(table.rows) or min(shape) < 3:
        raise FileFormatError(where, "a regular grid", f"{len(table.rows)} rows")
    low, high, bins = [], [], []
    for axis, variable in zip(axes, variables, strict=True):
        low.append(-np.pi if variable.period else float(axis[0]))
        high.append(np.pi if variable.period else float(axis[-1]))
        bins.append(len(axis) if variable.period else len(axis) - 1)
    grid = Grid(tuple(variables), tuple(low), tuple(high), tuple(bins))
    order = np.lexsort(tuple(table.column(label, where) for label in reversed(labels)))
    for k, axis in enumerate(axes):
        if np.abs(axis - grid.points(k)).max() > 1e-3 * grid.spacings[k]:
            raise FileFormatError(f"{where}, column {labels[k]}", "points of one spacing over the whole range",
                                  f"{axis[0]:g} to {axis[-1]:g}")  # fmt: skip

    def column(name: str) -> FloatArray:
        return np.asarray(table.column(name, where)[order].reshape(shape) / units.energy)

    slopes = [f"der_{label}" for label in labels]
    gradients = None
    if all(name in table.fields for name in slopes):
        gradients = np.stack([column(n) * units.of(v) for n, v in zip(slopes, variables, strict=True)])
    errors = column("error") if "error" in table.fields else None
    return FreeEnergy(grid, column(table.fields[len(labels)]), gradients, errors)


def number(text: str) -> float:
    """A number as PLUMED reads it: also ``pi``, ``-pi``, ``2*pi`` and ``pi/2``.

    Raises
    ------
    InputError
        If it is none.
    """
    words = text.strip().lower()
    try:
        factor, _, divisor = words.partition("/")
        value = 1.0 / float(divisor) if divisor else 1.0
        for part in factor.split("*"):
            sign = -1.0 if part.startswith("-") else 1.0
            value *= sign * np.pi if part.lstrip("+-") == "pi" else float(part)
    except (ValueError, ZeroDivisionError):
        raise InputError("number", "a number, also with pi", repr(text)) from None
    return value
