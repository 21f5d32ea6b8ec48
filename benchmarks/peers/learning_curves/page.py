"""Tables and picture of the documentation, from the file of results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from support.learning_curves import ROOT, read_results

PAGE = ROOT / "docs" / "learning_curves.md"
PICTURE = ROOT / "docs" / "figures" / "learning_curves.svg"
SIZES = (100, 200, 400)
SHOWN = ("300-500 K", "1000 K")
NAMES = {
    "joint": "fflux_py, joint, symmetry",
    "joint-no-symmetry": "fflux_py, joint, no symmetry",
    "energies-only": "fflux_py, energies only, spherical features",
    "sgdml": "sGDML",
    "mace": "MACE (small)",
}
NOT_RUN = "not run"


def _runs(benchmark: str) -> list[dict[str, Any]]:
    return [run for run in read_results()["runs"] if run["benchmark"] == benchmark]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return "No figure was measured yet.\n"
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _pair(run: dict[str, Any], group: str) -> str:
    errors = run["groups"][group]
    return f"{errors['energy_mae_kcal_mol']:.3f} / {errors['force_mae_kcal_mol_angstrom']:.3f}"


def _atoms(run: dict[str, Any], group: str) -> str:
    error = run["groups"][group]["atomic_energy_mae_kcal_mol"]
    return "none" if error is None else f"{error:.2f}"


def curves() -> str:
    """Errors of energies and forces of every method at every N."""
    found = {(run["method"], run["n_train"]): run for run in _runs("learning curve")}
    head = ["method", *(f"N = {n}, {group}" for n in SIZES for group in SHOWN)]
    rows = []
    for method, name in NAMES.items():
        cells = [_pair(found[method, n], g) if (method, n) in found else NOT_RUN for n in SIZES for g in SHOWN]
        rows.append([name, *cells])
    return _table(head, rows)


def costs() -> str:
    """Processor times and the atoms' errors."""
    head = [
        "method",
        "N",
        "training, s",
        "in units of the reference",
        "one prediction, ms",
        "atoms, kcal/mol",
        "choices",
    ]
    rows = []
    for run in sorted(_runs("learning curve"), key=lambda r: (list(NAMES).index(r["method"]), r["n_train"])):
        seconds = run["training_processor_time_s"]
        units = f"{seconds / run['reference_processor_time_s']:.0f}"
        once = f"{run['prediction_processor_time_ms']:.2f}"
        cells = [f"{seconds:.0f}", units, once, _atoms(run, "300-500 K"), run["settings"]]
        rows.append([NAMES[run["method"]], str(run["n_train"]), *cells])
    return _table(head, rows)


def partitions() -> str:
    """Atomic energies on a part of the geometries."""
    head = [
        "atomic energies on",
        "N",
        "atoms, kcal/mol, 300-500 K and 1000 K",
        *(f"energy / force, {g}" for g in SHOWN),
    ]
    parts = {1: "all", 2: "a half", 4: "a quarter"}
    rows = []
    for run in sorted(_runs("partial partition"), key=lambda r: (r["n_train"], r["partition_on_every"])):
        every = run["partition_on_every"]
        atoms = " and ".join(_atoms(run, g) for g in SHOWN)
        rows.append([parts.get(every, f"every {every}th"), str(run["n_train"]), atoms, *(_pair(run, g) for g in SHOWN)])
    return _table(head, rows)


def _by_force(run: dict[str, Any]) -> tuple[int, float]:
    return run["n_train"], run["groups"][SHOWN[0]]["force_mae_kcal_mol_angstrom"]


def choices() -> str:
    """Features and kernels."""
    head = ["features, kernel", "N", *SHOWN, "atoms, kcal/mol", "factors"]
    rows = []
    for run in sorted(
        _runs("feature choice"), key=lambda r: (r["n_train"], r["groups"][SHOWN[0]]["force_mae_kcal_mol_angstrom"])
    ):
        factors = ", ".join(f"{factor:.1e}" for factor in run["length_factors"].values())
        cells = [*(_pair(run, g) for g in SHOWN), _atoms(run, SHOWN[0])]
        rows.append([run["method"], str(run["n_train"]), *cells, factors])
    return _table(head, rows)


TABLES = {"curves": curves, "costs": costs, "partitions": partitions, "choices": choices}


def tables() -> str:
    """All tables, as Markdown."""
    return "\n".join(table() for table in TABLES.values())


def picture() -> None:
    """Errors over N, energies to the left and forces to the right; held-out 300-500 K full, 1000 K dashed."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "learning curves"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(8.0, 3.6), layout="constrained")
    keys = {"energy_mae_kcal_mol": "energy MAE, kcal/mol", "force_mae_kcal_mol_angstrom": "force MAE, kcal/mol/Å"}
    for axis, (key, label) in zip(axes, keys.items(), strict=True):
        for colour, (method, name) in enumerate(NAMES.items()):
            runs = sorted((r for r in _runs("learning curve") if r["method"] == method), key=lambda r: r["n_train"])
            for group, line in zip(SHOWN, ("-", "--"), strict=True):
                values = [run["groups"][group][key] for run in runs]
                shown = name if group == SHOWN[0] and runs else None
                sizes = [run["n_train"] for run in runs]
                axis.plot(sizes, values, line, marker="o", markersize=3.5, color=f"C{colour}", label=shown)
        axis.set(xscale="log", yscale="log", xlabel="training geometries", ylabel=label)
        axis.set_xticks(SIZES, [str(n) for n in SIZES])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, metadata={"Date": None})


def write() -> None:
    """Put the tables between their marks in the page, and draw the picture."""
    text = PAGE.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        first, last = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, rest = text.split(first)
        text = before + first + "\n" + table() + "\n" + last + rest.split(last)[1]
    PAGE.write_text(text, encoding="utf-8")
    picture()
