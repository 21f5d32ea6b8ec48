"""Tables of docs/league.md, from the file of results and from the published figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from support.learning_curves import ROOT, read_results
from support.public_sets import VALIDATION

from fflux_py.files import write_atomically

PAGE = ROOT / "docs" / "league.md"
RESULTS = ROOT / "benchmarks" / "results" / "league.json"
PUBLISHED = Path(__file__).resolve().parent / "published.json"
SIZES = (50, 200, 1000)
MOLECULES = (
    "ethanol", "malonaldehyde", "uracil", "benzene", "toluene", "salicylic", "naphthalene", "paracetamol", "aspirin",
    "azobenzene",
)  # fmt: skip
NAMES = {"powers": "fflux_py", "near": "fflux_py, `near`", "sgdml": "sGDML", "fchl19": "FCHL19 (kernelforge)"}
RIVALS = ("MACE", "NequIP")
NONE = ""

Runs = Sequence[Mapping[str, Any]]


def own_runs(benchmark: str) -> Runs:
    """Runs of the file of results, in the order of molecules, N and method."""
    found = [run for run in read_results(RESULTS)["runs"] if run["benchmark"] == benchmark]
    methods = list(NAMES)
    return sorted(found, key=lambda r: (_place(r["molecule"]), r["n_train"], methods.index(r["method"]), r["command"]))


def _place(molecule: str) -> int:
    return MOLECULES.index(molecule) if molecule in MOLECULES else len(MOLECULES)


def published(name: str, n_train: int) -> dict[str, Mapping[str, Sequence[float]]]:
    """Published figures of a set, by method and by molecule or part: energy (meV) and force (meV/angstrom)."""
    tables = json.loads(PUBLISHED.read_text(encoding="utf-8"))["tables"]
    chosen = [table for table in tables if (table["set"], table["n_train"]) == (name, n_train)]
    return {method: figures for table in chosen for method, figures in table["methods"].items()}


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, or a sentence where there is nothing to show."""
    if not rows:
        return "No figure was measured yet.\n"
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows]) + "\n"


def pair(energy: float, force: float | None) -> str:
    """Errors of energy and force."""
    digits = 2 if energy < 1.0 else 1
    return f"{energy:.{digits}f} / {force:.1f}" if force is not None else f"{energy:.{digits}f}"


def _shown(run: Mapping[str, Any] | None, part: str, measure: str) -> str:
    if run is None:
        return NONE
    errors = run["errors"][part]
    return pair(errors[f"energy_{measure}_mev"], errors.get(f"force_{measure}_mev_angstrom"))


def rmd17(n_train: int) -> str:
    """Mean absolute errors of one N: molecules down, methods across."""
    runs = {(run["molecule"], run["method"]): run for run in own_runs("rmd17") if run["n_train"] == n_train}
    theirs = published("rmd17", n_train)
    methods = [method for method in NAMES if any(name == method for _, name in runs)]
    molecules = [m for m in MOLECULES if any((m, method) in runs for method in methods)]
    head = ["molecule", *(NAMES[method] for method in methods), *theirs]
    rows = []
    for molecule in molecules:
        ours = [_shown(runs.get((molecule, method)), "test", "mae") for method in methods]
        rows.append([molecule, *ours, *(pair(*figures[molecule]) for figures in theirs.values())])
    return markdown(head, rows)


def standing() -> str:
    """On how many molecules the force error is below a published one, N = 50."""
    lines = []
    for method in ("powers", "near"):
        runs = [run for run in own_runs("rmd17") if (run["n_train"], run["method"]) == (50, method)]
        forces = {run["molecule"]: run["errors"]["test"]["force_mae_mev_angstrom"] for run in runs}
        for rival in RIVALS:
            figures = published("rmd17", 50)[rival]
            better = [
                molecule for molecule in MOLECULES if molecule in forces and forces[molecule] < figures[molecule][1]
            ]
            words = ", ".join(better) or "none"
            lines.append(
                f"- {NAMES[method]} is below the published force error of {rival} on {len(better)} of {len(forces)} "
                f"molecules: {words}."
            )
    return "\n".join(lines) + "\n"


def extrapolation(name: str, n_published: int, parts: Mapping[str, str]) -> str:
    """Root mean square errors of a set with several tests: own runs, then published figures."""
    rows = []
    for run in own_runs(name):
        rows.append([NAMES[run["method"]], str(run["n_train"]), *(_shown(run, part, "rmse") for part in parts)])
    for method, figures in published(name, n_published).items():
        cells = [pair(*figures[where]) if where in figures else NONE for where in parts.values()]
        rows.append([f"{method}, published", str(n_published), *cells])
    return markdown(["method", "N", *parts], rows)


def costs() -> str:
    """Processor times of training and of one prediction, and memory."""
    head = [
        "data",
        "method",
        "N",
        "training, s",
        "in units of the reference",
        "prediction, ms",
        "memory, GB",
        "settings",
    ]
    rows = []
    for name in ("rmd17", "acac", "3bpa"):
        for run in own_runs(name):
            seconds, once = run["training_processor_time_s"], run.get("prediction_processor_time_ms")
            reference, memory = run.get("reference_processor_time_s"), run.get("peak_memory_gb")
            cells = [
                f"{seconds:.0f}",
                NONE if reference is None else f"{seconds / reference:.0f}",
                NONE if once is None else f"{once:.2f}",
                NONE if memory is None else f"{memory:.1f}",
                run["settings"],
            ]
            rows.append([run["molecule"], NAMES[run["method"]], str(run["n_train"]), *cells])
    return markdown(head, rows)


def speed() -> str:
    """Processor times of a training and of an evaluation over those of the version before the laws of length scales."""
    head = ["rMD17", "N", "training, s, before and now", "ratio", "evaluation, us, before and now", "ratio"]
    rows = []
    for entry in read_results(RESULTS).get("speed", []):
        cells = []
        for key in ("training_processor_s", "evaluation_processor_us"):
            before, now = entry["before"][key], entry["now"][key]
            cells += [f"{before:.0f}, {now:.0f}", f"{now / before:.2f}"]
        rows.append([entry["data"].removesuffix("_split01.npz"), str(entry["n_train"]), *cells])
    return markdown(head, rows)


def choices() -> str:
    """What choices were made by: errors on training frames that the model has not learnt."""
    rows = []
    for name in ("rmd17", "acac", "3bpa"):
        for run in own_runs(f"{name}, {VALIDATION}"):
            options = " ".join(run["command"].split("FOLDER ")[1].split()).replace(f" --part {VALIDATION}", "")
            rows.append([NAMES[run["method"]], f"`{options}`", _shown(run, VALIDATION, "mae")])
    return markdown(["method", "options", "validation"], rows)


TABLES = {
    "standing": standing,
    **{f"rmd17, N = {n}": lambda n=n: rmd17(n) for n in SIZES},
    "acac": lambda: extrapolation("acac", 500, {"300 K": "300 K", "600 K": "600 K", "dihedral scan": "dihedral scan"}),
    "3bpa": lambda: extrapolation(
        "3bpa", 500, {"300 K block": "300 K", "600 K block": "600 K", "1200 K block": "1200 K"}
    ),
    "costs": costs,
    "speed": speed,
    "choices": choices,
}


def tables() -> str:
    """All tables, as Markdown."""
    return "\n".join(f"{name}\n\n{table()}" for name, table in TABLES.items())


def filled(text: str) -> str:
    """The page with the tables between their marks."""
    for name, table in TABLES.items():
        first, last = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, rest = text.split(first)
        text = before + first + "\n" + table() + "\n" + last + rest.split(last)[1]
    return text


def write() -> None:
    """Put the tables into the page."""
    write_atomically(PAGE, filled(PAGE.read_text(encoding="utf-8")))
