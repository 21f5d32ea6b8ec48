"""``fflux label``: energies, forces and atomic energies from quantum chemistry."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from fflux_py.cli._command import Outcome, command
from fflux_py.cli._inputs import executor_of
from fflux_py.cli._options import JsonOption, WorkersOption
from fflux_py.cli._paths import check_folder, check_output, reading
from fflux_py.cli._progress import progress
from fflux_py.cli._threads import use_threads
from fflux_py.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from fflux_py.iqa.campaign import Campaign
    from fflux_py.iqa.scf.level_of_theory import BasisFunctions
    from fflux_py.molecules.dataset import Dataset, GeometrySet


_GFN2 = "gfn2-xtb"
_METHOD, _BASIS, _PARTITION = "b3lyp", "6-31+g(d,p)", "hirshfeld"
_LevelOption = Annotated[
    str | None,
    typer.Option(
        metavar="METHOD/BASIS", help="Method and basis in one, such as pbe0/def2-tzvp; or gfn2-xtb, for dry runs."
    ),
]
_MethodOption = Annotated[
    str | None,
    typer.Option(
        help=f"Functional, by its name in PySCF; without it {_METHOD}. For energies and forces alone also with -d3bj "
        "or -d4, range-separated hybrids, mp2, gfn2-xtb."
    ),
]
_BasisOption = Annotated[str | None, typer.Option(help=f"Orbital basis, by its name in PySCF. Without it {_BASIS}.")]
_PartitionOption = Annotated[
    str | None,
    typer.Option(
        help="Atoms in the molecule: 'qtaim', 'hirshfeld', 'becke' or any other name in PARTITIONS of "
        f"fflux_py.iqa.partition; 'none' for energies and forces only. Without it {_PARTITION}."
    ),
]
_ChargeOption = Annotated[
    int | None, typer.Option(help="Net charge. Without it: the charge that the file of geometries says, or 0.")
]
_PartitionFirstOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="N",
        help="Atomic energies of the first N geometries only, energies and forces of all. Without it: of all.",
    ),
]
_BasisFunctionsOption = Annotated[
    str,
    typer.Option(
        metavar="auto|spherical|cartesian",
        help="Kind of d functions and higher ones; 'auto': as the basis set is defined (3-21G and 6-31G families: "
        "Cartesian; all others: spherical).",
    ),
]
_KeepOrbitalsOption = Annotated[
    bool,
    typer.Option(
        "--keep-orbitals",
        help="Keep every geometry's orbitals in the folder: another partition of it then needs no SCF.",
    ),
]
_KeepUnstableOption = Annotated[
    bool,
    typer.Option(
        "--keep-unstable",
        help="Keep labels of geometries whose closed-shell solution is unstable: broken bonds, biradicals, triplets.",
    ),
]
_ArchiveOption = Annotated[
    bool,
    typer.Option(
        "--archive",
        help="Close the campaign: when all geometries have a result, put all results into one file.",
    ),
]


@command(interrupted="finished labels are kept, the same command goes on from there")
def label(
    geometries: Annotated[
        Path, typer.Argument(metavar="GEOMETRIES.extxyz", help="Geometries of one molecule (angstrom).")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Data set to write (extended XYZ).")] = Path(
        "data.extxyz"
    ),
    level: _LevelOption = None,
    method: _MethodOption = None,
    basis: _BasisOption = None,
    basis_functions: _BasisFunctionsOption = "auto",
    partition: _PartitionOption = None,
    partition_first: _PartitionFirstOption = None,
    workers: WorkersOption = 1,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of each worker.")] = 1,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the results: a file for each geometry, or one archive of all. Without it: OUTPUT.labels."
        ),
    ] = None,
    executor: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Where to run instead of in --workers processes: a Python or TOML file, see Clusters."
        ),
    ] = None,
    array: Annotated[
        str, typer.Option(metavar="I/N", help="Compute only share I (from 0) of N; for job arrays on a cluster.")
    ] = "0/1",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many geometries.")] = None,
    charge: _ChargeOption = None,
    keep_orbitals: _KeepOrbitalsOption = False,
    keep_unstable: _KeepUnstableOption = False,
    archive: _ArchiveOption = False,
    json_output: JsonOption = False,
) -> Outcome:
    """Label geometries by density functional theory or MP2 (PySCF): energy, forces, atomic energies.

    Every finished geometry has a file of its own, so that a run that was killed goes on where it was. A geometry whose
    SCF does not converge, or to a closed-shell solution that unpaired spins would lower, is recorded as failed and left
    out; the others go on. With --archive all results go into one
    file, labels.npz.xz, which the same command reads like the single ones.
    """
    share = _share(array)
    check_output(output, geometries)
    results = folder if folder is not None else output.with_name(output.name + ".labels")
    check_folder(results)
    use_threads(threads)
    from fflux_py.iqa.campaign import Campaign, Resources
    from fflux_py.iqa.scf.level_of_theory import LevelOfTheory
    from fflux_py.molecules.dataset import GeometrySet

    with reading(geometries):
        chosen = GeometrySet.read(geometries, charge)
    if limit is not None:
        chosen = chosen.select(range(min(limit, len(chosen))))
    method, basis = _level_names(level, method, basis)
    if method == _GFN2:
        return _label_by_gfn2(chosen, output, partition)
    theory = LevelOfTheory(method=method, basis=basis, basis_functions=cast("BasisFunctions", basis_functions))
    parts = partition or _PARTITION
    campaign = Campaign(chosen, theory, parts, results, partition_first, keep_orbitals, keep_unstable)
    counts: list[tuple[int, int]] = []
    with progress(f"labelling {chosen.molecule.name}") as show:

        def count(done: int, total: int) -> None:
            counts.append((done, total))
            show(done, total)

        with executor_of(executor, results) as pool:
            data = campaign.run(Resources(workers, threads, pool), share, count)
    data.write(output)
    closed = campaign.close() if archive else None
    reused, total = counts[0]
    return _outcome(output, campaign, data, closed, reused, total - reused)


def _level_names(level: str | None, method: str | None, basis: str | None) -> tuple[str, str]:
    """Method and basis from --level, or from --method and --basis."""
    if level is not None and (method is not None or basis is not None):
        raise InputError("--level", "--level, or --method and --basis", "both", "leave one out")
    if level is not None:
        method, _, basis = (word.strip().lower() for word in level.partition("/"))
        if not method or (not basis and method != _GFN2):
            raise InputError("--level", f"METHOD/BASIS, or {_GFN2}", repr(level), "write for example pbe0/def2-tzvp")
    return (_METHOD if method is None else method).strip().lower(), _BASIS if basis is None else basis


def _label_by_gfn2(geometries: GeometrySet, output: Path, partition: str | None) -> Outcome:
    """Label by GFN2-xTB, whose atomic energies are its own: for dry runs."""
    from fflux_py.certification import GFN2Labeller
    from fflux_py.molecules.preflight import check_electrons

    if partition not in (None, "none", _GFN2):
        raise InputError(
            "--partition", f"{_GFN2} (its own atomic energies) or none, with the method {_GFN2}", repr(partition),
            "leave the option out, or choose a functional for atoms of that kind",
        )  # fmt: skip
    check_electrons(geometries.molecule)
    with progress(f"labelling {geometries.molecule.name}") as show:
        data = GFN2Labeller().label(geometries, output.parent, show)
    if data is None:
        raise InputError(str(output), "a geometry for which GFN2-xTB converges", "none", "check the geometries")
    if partition == "none":
        import numpy as np

        unknown = np.full_like(data.atomic_energies, np.nan)
        data = replace(data, atomic_energies=unknown, metadata={**data.metadata, "partition": "none"})
    data.write(output)
    failed = len(geometries) - len(data)
    figures = {
        "output": str(output),
        "method": data.metadata["method"],
        "basis": data.metadata["basis"],
        "partition": data.metadata["partition"],
        "n_geometries": len(geometries),
        "n_labelled": len(data),
        "n_failed": failed,
    }
    return Outcome(
        figures,
        [
            f"{_GFN2}, partition {data.metadata['partition']}: {len(data)} of {len(geometries)} geometries labelled "
            f"({failed} failed), for dry runs: the semi-empirical method is no reference.",
            f"The data set is in {output}. Next: fflux train {output} -o model.npz",
        ],
    )


def _share(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
    if match is None or int(match[1]) >= int(match[2]):
        raise InputError("--array", "I/N with 0 <= I < N, for example 0/4", repr(text))
    return int(match[1]), int(match[2])


def _outcome(
    output: Path, campaign: Campaign, data: Dataset, archive: Path | None, reused: int, computed: int
) -> Outcome:
    failed, count = campaign.failures(), len(campaign.geometries)
    missing = count - len(data) - len(failed)
    partitioned = int(data.has_atomic_energies.sum())
    figures = {
        "output": str(output),
        "folder": str(campaign.folder),
        "archive": str(archive) if archive is not None else None,
        "method": data.metadata["method"],
        "basis": data.metadata["basis"],
        "basis_functions": data.metadata["basis_functions"],
        "partition": data.metadata["partition"],
        "n_geometries": count,
        "n_labelled": len(data),
        "n_partitioned": partitioned,
        "n_computed": computed,
        "n_reused": reused,
        "n_failed": len(failed),
        "n_missing": missing,
        "failed": [{"geometry": index + 1, "reason": reason} for index, reason in sorted(failed.items())],
        "label_wall_time_s": data.metadata.get("label_wall_time_s"),
    }
    text: list[str | Table] = [
        f"{data.metadata['method']}/{data.metadata['basis']} ({data.metadata['basis_functions']} functions), "
        f"partition {data.metadata['partition']}: "
        f"{len(data)} of {count} geometries labelled ({computed} computed now, {reused} reused, {len(failed)} failed)"
    ]
    if 0 < partitioned < len(data):
        text.append(f"{partitioned} of them have atomic energies.")
    text += [f"  geometry {index + 1} failed: {reason}" for index, reason in sorted(failed.items())]
    if missing:
        text.append(f"{missing} have no result yet: run the other shares, then the same command without --array.")
    text.append(f"The data set is in {output}, the results of single geometries are in {archive or campaign.folder}.")
    if not missing:
        text.append(f"Next: fflux train {output} -o model.npz")
    return Outcome(figures, text)
