"""The certificate as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fflux_py.analysis.report.certificate_plots import long_runs, visited_errors
from fflux_py.analysis.report.drawing import to_svg
from fflux_py.analysis.report.page import Cell, Picture, Section, Table, write_report
from fflux_py.certification.certificate import Certificate
from fflux_py.forcefield import ForceField
from fflux_py.units import KCAL_MOL

REPORT_FILE: Final = "certificate.html"

_HEADS: Final = (
    "T (K)", "Runs survived", "Length of each (ps)", "Drift (kcal/mol/100 ps)", "Jumps",
    "Temperature by mode and element (standard errors)", "Worst bond", "by (Å)",
    "Closest pair (Å)", "Frames labelled", "Energy MAE (kcal/mol)", "largest", "Force MAE (kcal/mol/Å)",
    "Mean energy, model − reference", "Mean energy above the minimum", "Lowest energy above the minimum",
)  # fmt: skip


def write_certificate(certificate: Certificate, forcefield: ForceField, folder: Path) -> Path:
    """Write ``certificate.html`` with the table, the verdict and two pictures; returns its path."""
    return write_report(
        folder / REPORT_FILE,
        f"Certificate of {forcefield.molecule.name}",
        [certificate_section(certificate, forcefield)],
        summary=certificate.criteria,
        provenance={
            "Model": certificate.model_sha256,
            "Reference": certificate.reference,
            "Seed": certificate.config.seed,
            "Model minus reference at the minimum": f"{certificate.minimum_error_kcal_mol:.3g} kcal/mol",
        },
    )


def certificate_section(certificate: Certificate, forcefield: ForceField) -> Section:
    """What ran, and what was right: the table, and two pictures."""
    rows: list[list[Cell]] = []
    for entry in certificate.figures:
        worst = entry.worst
        survived = f"{entry.n_survived} of {len(entry.runs)}"
        rows.append(
            [entry.temperature_k, survived, min(run.length_ps for run in entry.runs), entry.drift_kcal_mol_100ps,
             sum(run.jumps for run in entry.runs),
             "–" if entry.equipartition is None else entry.equipartition.largest_deviation, worst.worst_bond,
             worst.largest_bond_deviation_angstrom,
             min(run.closest_contact_angstrom for run in entry.runs), entry.n_frames, entry.energy_mae_kcal_mol,
             entry.energy_largest_error_kcal_mol, entry.force_mae_kcal_mol_angstrom,
             entry.mean_energy_difference_kcal_mol, entry.mean_energy_above_minimum_kcal_mol,
             entry.lowest_energy_above_minimum_kcal_mol]
        )  # fmt: skip
    table = Table(_HEADS, rows, "Each row is one temperature, worst figures over its runs; energies without any shift.")
    minimum = certificate.minimum
    errors = {}
    for temperature, data in certificate.labels.items():
        energies = forcefield.unmatched.compute(data.positions, deriv=0)[0]
        errors[f"{temperature:g} K"] = (
            (data.energies - minimum) * KCAL_MOL,
            (energies - data.energies) * KCAL_MOL,
        )
    runs = {f"{group[0].config.temperature:g} K": group for group in certificate.runs}
    pictures = [
        Picture(to_svg(visited_errors(errors)), "Errors of the energy on visited frames that were labelled again.",
                "Scatter of energy errors against energy, and their histogram"),
        Picture(to_svg(long_runs(runs, minimum)),
                "Potential energy and conserved quantity, averaged over blocks of at most a thousandth of the run.",
                "Time series of potential energy and conserved quantity"),
    ]  # fmt: skip
    config = certificate.config
    thin = "" if config.is_full else (
        "\n\nThis is a thin run: the definition of a stable force field asks for three seeds and a hundred labelled "
        "frames at each temperature."
    )  # fmt: skip
    heavy = "" if config.hydrogen_mass is None else f", hydrogen of {config.hydrogen_mass:g} Da"
    text = (
        f"{config.seeds} runs of {config.picoseconds:g} ps at each temperature, {config.timestep:g} fs, "
        f"{config.thermostat}{heavy}; visited frames labelled with {certificate.reference}.{thin}"
    )
    return Section("Runs and visited frames", text, [table, *pictures])
