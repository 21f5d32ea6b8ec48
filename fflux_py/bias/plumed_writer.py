"""PLUMED input for a bias that was described in Python."""

from __future__ import annotations

import numpy as np

from fflux_py.bias.metadynamics import BiasSettings
from fflux_py.bias.plumed_files import PlumedUnits
from fflux_py.units import ANGSTROM, FEMTOSECOND, KCAL_MOL

_UNITS = PlumedUnits(ANGSTROM, KCAL_MOL, 1e-3 * FEMTOSECOND)


def plumed_text(bias: BiasSettings, temperature: float | None = None, print_every: int = 0) -> str:
    """The input that :func:`fflux_py.bias.plumed_input.parse_plumed_input` reads, in angstrom, kcal/mol and ps.

    Parameters
    ----------
    bias
        Variables, hills and grid.
    temperature
        Kelvin; the program that reads the input decides if not given.
    print_every
        Steps between two lines of ``COLVAR``; 0 for none.
    """
    lines = ["UNITS LENGTH=A ENERGY=kcal/mol TIME=ps"]
    for variable in bias.variables:
        atoms = ",".join(str(a + 1) for a in variable.atoms)
        lines.append(f"{variable.label}: {variable.kind.upper()} ATOMS={atoms}")
    labels = [v.label for v in bias.variables]
    factors = [_UNITS.of(v) for v in bias.variables]

    def numbers(values: tuple[float, ...]) -> str:
        return ",".join(f"{x * factor:.12g}" for x, factor in zip(values, factors, strict=True))

    hills = bias.hills
    words = [f"ARG={','.join(labels)}", f"SIGMA={numbers(hills.sigmas(bias.variables))}"]
    words += [f"HEIGHT={hills.height * KCAL_MOL:.12g}", f"PACE={hills.pace}"]
    if np.isfinite(hills.bias_factor):
        words.append(f"BIASFACTOR={hills.bias_factor:.12g}")
    if temperature is not None:
        words.append(f"TEMP={temperature:.12g}")
    if bias.grid is not None:
        for end, values, circle in (("MIN", bias.grid.minima, "-pi"), ("MAX", bias.grid.maxima, "pi")):
            pairs = zip(bias.variables, numbers(values).split(","), strict=True)
            words.append(f"GRID_{end}={','.join(circle if v.period else x for v, x in pairs)}")
        words.append(f"GRID_BIN={','.join(map(str, bias.grid.bins))}")
    name, columns = ("PBMETAD", ["bias"]) if bias.parallel else ("METAD", ["bias", "rct"])
    lines.append(f"metad: {name} {' '.join(words)}")
    if print_every:
        lines.append(f"PRINT ARG={','.join([*labels, *(f'metad.{c}' for c in columns)])} STRIDE={print_every}")
    return "\n".join(lines) + "\n"
