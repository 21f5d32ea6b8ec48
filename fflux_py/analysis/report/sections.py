"""What a report says about a data set, a validation, an optimisation and a run."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib import metadata

import numpy as np

from fflux_py.analysis.criteria import Criterion, with_error
from fflux_py.analysis.geometry import bond_lengths, heavy_atoms, rmsd, torsions
from fflux_py.analysis.prediction_errors import ALL, frame_groups, group_order
from fflux_py.analysis.report.drawing import to_svg
from fflux_py.analysis.report.page import Cell, Picture, Section, Table
from fflux_py.analysis.report.prediction_plots import (
    atom_label,
    atomic_energy_errors,
    error_s_curve,
    predicted_against_reference,
    reliability_diagram,
)
from fflux_py.analysis.report.trajectory_plots import (
    bond_distributions,
    run_traces,
    structure_overlay,
    torsion_bins,
    torsion_map,
)
from fflux_py.analysis.runs import MINIMUM_REPORTS, Run, RunAnalysis, analyse_run
from fflux_py.analysis.validate import Validation
from fflux_py.forcefield import ForceField
from fflux_py.molecules.dataset import Dataset
from fflux_py.molecules.molecule import Molecule, Torsion
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM, KCAL_MOL

_MODES_IN_TABLE = 12

RMSD_LIMIT_ANGSTROM = 0.05
"""A minimum counts as the reference's within this distance."""


def dataset_section(dataset: Dataset) -> Section:
    """Composition of a data set: frames, temperatures and energies by group, and where the torsions were."""
    groups = np.array(frame_groups(dataset.geometries))
    split = np.array(dataset.geometries.split)
    sources = np.array(dataset.geometries.source)
    rows: list[list[Cell]] = []
    lowest = dataset.energies.min()
    for name in sorted(set(groups.tolist()), key=group_order):
        for part in ("train", "test"):
            chosen = (groups == name) & (split == part)
            if chosen.any():
                energy = (dataset.energies[chosen] - lowest) * KCAL_MOL
                n_sources = len(set(sources[chosen].tolist()))
                rows.append([_dash(name), part, n_sources, len(energy), float(energy.mean()), float(energy.max())])
    columns = ["Group", "Split", "Trajectories", "Frames", "Mean energy (kcal/mol)", "Highest energy (kcal/mol)"]
    caption = (
        "Composition. Energies are above the lowest of the set. A trajectory is used for training or for testing, "
        "never both."
    )
    items: list[Picture | Table] = [Table(columns, rows, caption)]
    pair = torsions_to_draw(dataset.molecule)
    if len(pair) == 2:
        layers = [
            (name, dataset.positions[split == part])
            for name, part in (("training set", "train"), ("test set", "test"))
            if (split == part).any()
        ]
        figure = torsion_map(dataset.molecule, (pair[0], pair[1]), layers)
        items.append(
            Picture(to_svg(figure), "Torsions of the labelled geometries. A model knows what lies near its training "
                    "points.", "Map of two torsion angles with the training and test geometries as points", 62)
        )  # fmt: skip
    text = (
        f"{len(dataset)} geometries of {dataset.molecule.name} ({formula(dataset.molecule)}, "
        f"{dataset.molecule.n_atoms} atoms), labelled with {level_of_theory(dataset)}."
    )
    return Section("Data set", text, items)


def validation_section(validation: Validation, method: str = "") -> Section:
    """Error table, predicted against reference, S-curve and atomic errors.

    Parameters
    ----------
    validation
        The validation.
    method
        Short name of the reference; the data set's method in capitals if not given.
    """
    errors, data = validation.errors, validation.dataset
    short = method or str(data.metadata["method"]).upper()
    has_atoms = bool(data.has_atomic_energies.any())
    columns = ["Group", "Frames", "Energy MAE", "Energy RMSE", "Largest", "Mean signed", "MAE after best shift",
               "Spread of reference", "Force MAE", "Force RMSE"]  # fmt: skip
    rows: list[list[Cell]] = []
    for name, g in errors.groups.items():
        rows.append(
            [_dash(name), g.n_frames, g.energy_mae_kcal_mol, g.energy_rmse_kcal_mol, g.energy_max_kcal_mol,
             g.energy_mean_signed_error_kcal_mol, g.energy_mae_after_shift_kcal_mol, g.energy_spread_kcal_mol,
             g.force_mae_kcal_mol_angstrom, g.force_rmse_kcal_mol_angstrom]
        )  # fmt: skip
    caption = (
        "Errors, predicted minus reference, without any shift. Energies in kcal/mol, force components in kcal/mol/Å. "
        "The spread is the mean absolute deviation of the reference energies from their median: the error of the best "
        "constant."
    )
    items: list[Picture | Table] = [
        Table(columns, rows, caption),
        Picture(
            to_svg(predicted_against_reference(validation, short)),
            f"Predicted against {short}, frame by frame, and the difference below. Total energies are above the lowest "
            "of the set" + ("; atomic energies are relative to each atom's own mean." if has_atoms else "."),
            "Scatter plots of predicted against reference energies and forces",
        ),
        Picture(
            to_svg(error_s_curve(errors)),
            "S-curve: percentage of held-out geometries whose absolute energy error lies below the value on the axis.",
            "Cumulative distribution of absolute energy errors on a logarithmic axis",
            75,
        ),
    ]
    if has_atoms:
        items.append(
            Picture(
                to_svg(atomic_energy_errors(validation)),
                "Mean absolute error of every atom's energy. Errors of neighbours partly cancel in the total energy.",
                "Bars of the mean absolute atomic energy error by atom",
                75,
            )
        )
    text = (
        f"{len(data)} labelled geometries of {data.molecule.name} that the model was compared with, "
        f"from {len(set(data.geometries.source))} trajectories; reference: {level_of_theory(data)}. "
        f"One evaluation of energy and forces took {validation.evaluation_time_ms:.3g} ms, one of the predictive "
        f"deviations {validation.deviation_time_ms:.3g} ms."
    )
    items += _reliability_items(validation)
    return Section("Predictions against reference labels", text, items)


def _reliability_items(validation: Validation) -> list[Picture | Table]:
    """Coverage of the predictive deviations; nothing if all geometries served to calibrate them."""
    total, atomic = validation.reliability(), validation.atomic_reliability()
    if not total:
        return []
    columns = ["Group", "Frames", "Within 1 σ (%)", "Within 2 σ (%)", "RMS of error/σ", "Rank correlation",
               "Atoms, within 1 σ (%)", "Atoms, within 2 σ (%)"]  # fmt: skip
    rows: list[list[Cell]] = []
    for name, figures in total.items():
        atoms = atomic.get(name)
        shares = ["–", "–"] if atoms is None else [100 * atoms.within_1_sigma, 100 * atoms.within_2_sigma]
        rows.append(
            [_dash(name), figures.n, 100 * figures.within_1_sigma, 100 * figures.within_2_sigma, figures.rms_z,
             figures.rank_correlation, *shares]
        )  # fmt: skip
    state = (
        "calibrated on other trajectories than these" if validation.calibrated and not validation.independent.all()
        else "calibrated on other data" if validation.calibrated
        else "not calibrated: the shares say by how much they are off ('fflux validate --calibrate')"
    )  # fmt: skip
    caption = (
        f"Predictive standard deviations of the total energy, {state}. Normal errors lie within one and two of them in "
        "68.3 and 95.4 % of all frames. The rank correlation says whether large errors are foreseen."
    )
    picture = Picture(
        to_svg(reliability_diagram(validation)),
        "Reliability: share of errors that should lie within k standard deviations against the share that does (on the "
        "line: as it should be; below it: too sure), and every error against its deviation.",
        "Curves of expected against observed coverage, and a scatter plot of errors against predictive deviations",
    )
    return [Table(columns, rows, caption), picture]


def optimisation_criterion(reference: Molecule, optimised: Molecule) -> Criterion:
    """RMSD between two minima after superposition, all atoms, against 0.05 angstrom."""
    value = float(rmsd(optimised.positions, reference.positions)) * ANGSTROM
    note = "All atoms, after the best translation and proper rotation."
    return Criterion("Minimum, RMSD from the reference minimum", value, "Å", RMSD_LIMIT_ANGSTROM, "<", note)


def optimisation_section(structures: Sequence[tuple[str, Molecule]]) -> Section:
    """Compare optimised structures.

    Parameters
    ----------
    structures
        Name and geometry; the first is the reference.
    """
    name, first = structures[0]
    heavy = heavy_atoms(first)
    others = structures[1:]
    rows: list[list[Cell]] = []
    for i, j in first.bonds:
        values = [float(bond_lengths(m.positions, [(i, j)])[0]) * ANGSTROM for _, m in structures]
        rows.append([f"{atom_label(first, i, j)} (Å)", *(f"{v:.4f}" for v in values)])
    for quadruple in first.torsions():
        values = [float(np.degrees(torsions(m.positions, [quadruple])[0])) for _, m in structures]
        rows.append([f"torsion {atom_label(first, *quadruple)} (°)", *(f"{v:.1f}".replace("-", "−") for v in values)])
    for label, chosen in (("RMSD, all atoms (Å)", np.arange(first.n_atoms)), ("RMSD, heavy atoms (Å)", heavy)):
        values = [float(rmsd(m.positions, first.positions, chosen)) * ANGSTROM for _, m in others]
        rows.append([label, "–", *(f"{v:.4f}" for v in values)])
    caption = f"Bond lengths, torsions and distance from {name}."
    picture = Picture(
        to_svg(structure_overlay(structures)),
        f"{name} (filled) and {' and '.join(n for n, _ in others)} (outlines) after superposition.",
        "Overlay of optimised structures",
        60,
    )
    return Section(
        "Optimised structure", "", [picture, Table(["Quantity", *(n for n, _ in structures)], rows, caption)]
    )


def run_section(
    run: Run, reference: Molecule | None = None, training: FloatArray | None = None
) -> tuple[Section, tuple[Criterion, ...]]:
    """What a molecular dynamics run did, and its verdict.

    Parameters
    ----------
    run
        The run; one that stopped early is reported as far as it got.
    reference
        Geometry that bond lengths are held against; the start geometry if not given.
    training
        Training geometries in bohr, ``(m, n_atoms, 3)``, drawn beside the trajectory.
    """
    title = f"Molecular dynamics: {run.label}"
    if len(run.trajectory) < MINIMUM_REPORTS:
        done, expected = float(run.steps_done), float(run.config.steps)
        few = Criterion("Steps completed", done, "", expected, "=", run.message, run.label)
        return Section(title, f"The run ended after {len(run.trajectory)} reports. {run.message}"), (few,)
    analysis = analyse_run(run, reference)
    molecule = run.trajectory.molecule if reference is None else reference
    traces = to_svg(run_traces(analysis))
    items: list[Picture | Table] = [
        Picture(traces, _traces_caption(analysis), f"Traces of temperature and energies of {run.label}"),
        _run_table(analysis),
        *_equipartition_table(analysis),
        *_torsion_pictures(analysis, molecule, training),
    ]
    caption = "Distribution of every bond length, each scaled to the same height."
    if training is not None:
        caption += " A blue distribution should stay within the grey range."
    bonds = to_svg(bond_distributions(molecule, run.trajectory.positions, training))
    items.append(Picture(bonds, caption, "Distributions of bond lengths", 80))
    config = run.config
    text = (
        f"{run.length_ps:g} ps at {config.timestep:g} fs per step, "
        f"{run.thermostat}, {'metadynamics bias, ' if run.record.get('bias') else ''}seed {config.seed}; "
        f"{len(run.trajectory)} reports, the first tenth left out of the averages. {run.message}"
    )
    return Section(title, text, items), analysis.criteria()


def torsions_to_draw(molecule: Molecule) -> tuple[Torsion, ...]:
    """The first two torsions of a molecule, of a peptide phi and psi; fewer if it has no two."""
    return (molecule.backbone_torsions() or molecule.torsions())[:2]


def level_of_theory(dataset: Dataset) -> str:
    """Method, basis and partition in words."""
    meta = dataset.metadata
    functions = f" ({meta['basis_functions']} functions)" if "basis_functions" in meta else ""
    basis = f"/{meta['basis']}{functions}" if meta["basis"] else ""
    partition = str(meta["partition"])
    method = str(meta["method"])
    return f"{method.upper() if method.islower() else method}{basis}" + (
        f", {partition} atomic energies" if partition != "none" else ""
    )


def provenance(
    dataset: Dataset | None = None, forcefield: ForceField | None = None, runs: Sequence[Run] = ()
) -> dict[str, object]:
    """Digests, level of theory, seeds and versions, as far as the artefacts know them."""
    table: dict[str, object] = {}
    if dataset is not None:
        table["data set, SHA-256"] = dataset.digest()
        table.update({f"data set, {_words(k)}": v for k, v in dataset.metadata.items()})
    if forcefield is not None:
        table.update({f"model, {_words(k)}": v for k, v in forcefield.metadata.items()})
    for name, value in (
        ("model SHA-256", lambda run: run.record.get("model_sha256", "")),
        ("versions", lambda run: _listed(run.record.get("versions", {}))),
    ):
        by_run = {run.label: value(run) for run in runs if value(run)}
        if len(set(by_run.values())) == 1 and len(by_run) == len(runs):
            table[f"molecular dynamics, {name}"] = next(iter(by_run.values()))
        else:
            table.update({f"{label}, {name}": entry for label, entry in by_run.items()})
    versions = {"python": platform.python_version()}
    for package in ("fflux_py", "numpy", "scipy", "matplotlib"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "run from its source"
    table["report, versions"] = _listed(versions)
    return table


def _traces_caption(analysis: RunAnalysis) -> str:
    run = analysis.run
    thermostat = (
        f"Temperature: the band is {run.config.temperature:g} ± {analysis.expected_temperature_deviation_k:.0f} K, one "
        f"canonical standard deviation for {analysis.degrees_of_freedom} degrees of freedom; at the right its "
        "distribution, measured (filled) and canonical (line). "
        if run.config.thermostat != "none"
        else ""
    )
    return (
        f"Reports (thin) and running means (strong) of {run.label}. {thermostat}"
        "Conserved quantity: the band is ± 1 kcal/mol."
    )


def _torsion_pictures(analysis: RunAnalysis, molecule: Molecule, training: FloatArray | None) -> list[Picture]:
    pair = torsions_to_draw(molecule)
    if len(pair) < 2:
        return []
    trajectory, temperature = analysis.run.trajectory, analysis.run.config.temperature or analysis.temperature_k.mean
    layers = [] if training is None else [("training set", training)]
    biased = bool(analysis.run.record.get("bias"))
    figure = torsion_map(molecule, (pair[0], pair[1]), layers, trajectory.positions, temperature, biased)
    bins = f"(bins of {360 // torsion_bins(len(trajectory))}°), lowest bin at zero."
    caption = f"Free energy −kT ln p of the visited torsions {bins}"
    if biased:
        caption = f"−kT ln p of the visited torsions under the bias {bins} Not a free energy: that is in the hills."
    if training is not None:
        caption += " Points: the training set; where the run goes and no point is near, the model extrapolates."
    return [Picture(to_svg(figure), caption, "Map of two torsion angles visited by the run", 66)]


def _run_table(analysis: RunAnalysis) -> Table:
    run, mean, potential = analysis.run, analysis.temperature_k, analysis.potential_kcal_mol
    drift = analysis.conserved_drift_kcal_mol_100ps
    bond = atom_label(run.trajectory.molecule, *analysis.worst_bond)
    canonical = run.config.thermostat != "none"
    target = f"{run.config.temperature:g}" if canonical else "–"
    spread = f"{analysis.expected_temperature_deviation_k:.1f}" if canonical else "–"
    rows: list[list[Cell]] = [
        ["mean temperature", with_error(mean.mean, mean.standard_error), target, "K"],
        ["standard deviation of the temperature", f"{analysis.temperature_deviation_k:.1f}", spread, "K"],
        ["autocorrelation time of the temperature", f"{analysis.temperature_autocorrelation_time_fs:.3g}", "–", "fs"],
        ["mean potential energy above the start", with_error(potential.mean, potential.standard_error), "–",
         "kcal/mol"],
        ["drift of the conserved quantity", with_error(drift.slope, drift.slope_standard_error), "0",
         "kcal/mol per 100 ps"],
        ["largest change of it between two reports", f"{analysis.conserved_jump_kcal_mol:.2g}", "–", "kcal/mol"],
        [f"largest deviation of a bond ({bond})", f"{analysis.largest_bond_deviation * ANGSTROM:.3f}", "–", "Å"],
        ["bond length / reference", f"{analysis.smallest_bond_ratio:.3f} – {analysis.largest_bond_ratio:.3f}", "–", ""],
        ["closest pair of atoms", f"{analysis.closest_contact * ANGSTROM:.3f}", "–", "Å"],
    ]  # fmt: skip
    short = "" if mean.converged else " The run is short for its correlation: the first error is a lower bound."
    caption = f"Figures of the run. Errors are standard errors, correlation included.{short}"
    return Table(["Quantity", "Value", "Expected", "Unit"], rows, caption)


def _equipartition_table(analysis: RunAnalysis) -> list[Table]:
    """Temperatures by element, and of the modes that are furthest off."""
    parts = analysis.equipartition
    if parts is None:
        return []
    n_elements, n_modes = len(parts.names) - parts.of_runs.shape[1], parts.of_runs.shape[1]
    modes = np.arange(n_elements, len(parts.names))
    furthest = np.sort(modes[np.argsort(-np.abs(parts.deviations[modes]))[:_MODES_IN_TABLE]])
    rows: list[list[Cell]] = [
        [parts.names[k], with_error(float(parts.temperatures_k[k]), float(parts.standard_errors_k[k])),
         f"{parts.deviations[k]:+.1f}"]
        for k in [*range(n_elements), *furthest]
    ]  # fmt: skip
    which = f"the {len(furthest)} modes that are furthest off" if len(furthest) < n_modes else f"all {n_modes} modes"
    which = f" and of {which}" if n_elements else ""
    caption = (
        f"Temperature of the elements{which}, from {parts.n_blocks} blocks of {parts.block_fs / 1000.0:.3g} ps; root "
        f"mean square deviation: {parts.rms_deviation:.2f} standard errors."
    )
    return [Table(["Part", "Temperature (K)", "Deviation (standard errors)"], rows, caption)]


def _dash(group: str) -> str:
    return "all frames" if group == ALL else group.replace("-", "–")


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{program} {version}" for program, version in versions.items())


def formula(molecule: Molecule) -> str:
    """Hill formula with subscripts."""
    return molecule.formula.translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def _words(key: str) -> str:
    return key.replace("_", " ")
