"""``fflux sample``: from a molecule to the geometries to label."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from fflux_py.cli._command import Outcome, command
from fflux_py.cli._options import JsonOption, SeedOption, ThreadsOption
from fflux_py.cli._paths import check_output, reading
from fflux_py.cli._progress import progress
from fflux_py.cli._threads import use_threads
from fflux_py.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from fflux_py.molecules.dataset import GeometrySet
    from fflux_py.molecules.molecule import Molecule, Torsion
    from fflux_py.sampling import SamplingConfig
    from fflux_py.sampling.sampler import BiasedRun

_TEMPERATURES: Final = (300.0, 500.0, 1000.0)

_Bias = Annotated[
    str | None,
    typer.Option(
        metavar="torsions|none|FILE",
        help="'torsions': besides, well-tempered metadynamics on the torsions at all temperatures but the highest "
        "(at the only one, if there is one); a PLUMED input file: on its variables (at its TEMP, if it has one), "
        "with its HILLS and COLVAR files beside the output; 'none': none. Without it: 'torsions' if there are any.",
    ),
]
_Torsions = Annotated[
    str | None,
    typer.Option(
        metavar="I-J-K-L,...|backbone",
        help="Torsions to bias, by atoms from 1; 'backbone': phi and psi of a peptide. Without it: those of all "
        "rotatable single bonds but methyl groups.",
    ),
]
_Parallel = Annotated[
    bool | None,
    typer.Option(
        "--parallel/--joint",
        help="One bias for each torsion (PBMETAD) or one of all of them. Without it: joint for one or two.",
        show_default=False,
    ),
]
_Distortions = Annotated[
    int, typer.Option(min=0, help="Distorted geometries to add for training; for testing, a fifth of it besides.")
]
_Displaced = Annotated[
    int, typer.Option(min=0, help="Geometries for training with all coordinates moved, by up to 0.25 angstrom.")
]


@command(interrupted="no geometries were written")
def sample(
    molecule: Annotated[
        Path | None, typer.Argument(metavar="[MOL.xyz]", help="Start geometry (angstrom); or give --smiles.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Extended XYZ file to write.")] = Path(
        "geometries.extxyz"
    ),
    smiles: Annotated[str | None, typer.Option("--smiles", help="Build the start from SMILES, e.g. O=CCC=O.")] = None,
    temperature: Annotated[
        list[float] | None,
        typer.Option("--temperature", help="Temperature in kelvin; may be repeated. Without it: 300, 500 and 1000."),
    ] = None,
    bias: _Bias = None,
    torsions: _Torsions = None,
    parallel: _Parallel = None,
    distortions: _Distortions = 0,
    displaced: _Displaced = 0,
    minima: Annotated[bool, typer.Option("--minima", help="Add the relaxed conformers, each minimum once.")] = False,
    frames: Annotated[
        int, typer.Option(min=1, help="Geometries for training, shared by all kinds of trajectories.")
    ] = 500,
    test_frames: Annotated[
        int, typer.Option(min=0, help="Geometries for testing, from trajectories of their own.")
    ] = 220,
    seed: SeedOption = 1,
    charge: Annotated[
        int | None, typer.Option(help="Net charge. Without it: the charge that the XYZ file says, or 0.")
    ] = None,
    threads: ThreadsOption = 1,
    json_output: JsonOption = False,
) -> Outcome:
    """Sample geometries with GFN2-xTB dynamics, metadynamics and distortions.

    The start is relaxed, conformers are made by turning its torsions, and every trajectory starts from its own.
    Training geometries are chosen for diversity, test geometries at equal spacing in time from trajectories that
    training never sees.
    """
    plumed = bias if bias not in ("torsions", "none", None) else None
    check_output(output, *(Path(p) for p in (molecule, plumed) if p is not None))
    use_threads(threads)
    from fflux_py.molecules.preflight import check_molecule

    start = _start(molecule, smiles, charge, seed)
    check_molecule(start)
    chosen = parse_torsions(torsions, start) if torsions is not None else None
    if chosen is not None and bias not in (None, "torsions"):
        raise InputError("--torsions", "--bias torsions", f"--bias {bias}", "leave one of them out")
    if parallel is not None and plumed is not None:
        raise InputError(
            "--parallel or --joint", "METAD or PBMETAD in the PLUMED file", "both", "leave one of them out"
        )
    extra = _extra(distortions, displaced, test_frames, minima)
    record: Callable[[BiasedRun], None] | None = None
    if plumed is not None:
        config, record = _plumed_plan(plumed, start, output, temperature, frames, test_frames, seed)
    else:
        biased = bool(chosen or start.torsions(methyl=False)) if bias is None else bias == "torsions"
        config = plan(temperature or list(_TEMPERATURES), biased, frames, test_frames, seed)
    config = replace(config, torsions=chosen, parallel=parallel, **extra)
    config.bias_settings(start)
    from fflux_py import sampling

    with progress(f"sampling {start.name} (steps)") as show:
        geometries = sampling.sample(start, config, show, record=record)
    geometries.write(output)
    return _outcome(output, geometries)


def _extra(distortions: int, displaced: int, test_frames: int, minima: bool) -> dict[str, Any]:
    """Settings of the geometries beside the trajectories."""
    from fflux_py.sampling import DistortionConfig

    config = None
    if distortions or displaced:
        n_test = -(-distortions // 5) if test_frames else 0
        config = DistortionConfig(distortions, n_test, displaced_frames=displaced)
    return {"distortions": config, "minima": minima}


def _plumed_plan(
    file: str,
    start: Molecule,
    output: Path,
    temperatures: list[float] | None,
    frames: int,
    test_frames: int,
    seed: int,
) -> tuple[SamplingConfig, Callable[[BiasedRun], None]]:
    """The plan with the bias of a PLUMED input file, and what writes the files of its runs."""
    from fflux_py.bias.plumed_input import read_plumed_input
    from fflux_py.sampling import SamplingConfig, standard_classes
    from fflux_py.sampling.plumed_runs import check_prints, write_plumed_files

    if not Path(file).is_file():
        raise InputError("--bias", "'torsions' or 'none' or a PLUMED input file", repr(file))
    plumed = read_plumed_input(file)
    temperatures = _check_different(temperatures or list(_TEMPERATURES))
    biased = [plumed.temperature] if plumed.temperature is not None else _biased(temperatures)
    classes = standard_classes(temperatures, biased, frames, test_frames, "variables")
    config = SamplingConfig(classes=classes, seed=seed, bias=plumed.bias)
    for variable in plumed.variables:
        variable.check(start.n_atoms)
    check_prints(plumed, config)
    return config, lambda run: write_plumed_files(output.parent, run, plumed)


def _check_different(temperatures: list[float]) -> list[float]:
    if len(set(temperatures)) != len(temperatures):
        raise InputError("--temperature", "different temperatures", " ".join(f"{t:g}" for t in temperatures))
    return temperatures


def _biased(temperatures: list[float]) -> list[float]:
    """All temperatures but the highest, or the only one."""
    return [t for t in temperatures if len(temperatures) == 1 or t < max(temperatures)]


def plan(temperatures: list[float], bias: bool, frames: int, test_frames: int, seed: int) -> SamplingConfig:
    """The kinds of trajectories: unbiased at every temperature, biased at all but the highest."""
    from fflux_py.sampling import SamplingConfig, standard_classes

    temperatures = _check_different(temperatures)
    biased = _biased(temperatures) if bias else []
    return SamplingConfig(classes=standard_classes(temperatures, biased, frames, test_frames), seed=seed)


def parse_torsions(text: str, molecule: Molecule) -> tuple[Torsion, ...]:
    """Torsions (atoms from 0) from a text such as ``5-7-9-15,7-9-15-17`` (atoms from 1) or ``backbone``."""
    if text.strip() == "backbone":
        backbone = molecule.backbone_torsions()
        if not backbone:
            raise InputError("--torsions backbone", "a peptide, with C-N-CA-C and N-CA-C-N between amide bonds",
                             f"none in {molecule.formula}", "name the torsions by their atoms")  # fmt: skip
        return backbone
    chosen = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)-(\d+)-(\d+)-(\d+)\s*", part, re.ASCII)
        if match is None:
            raise InputError("--torsions", "torsions such as 5-7-9-15,7-9-15-17, or backbone", repr(part))
        i, j, k, last = (int(word) - 1 for word in match.groups())
        chosen.append((i, j, k, last))
    return tuple(chosen)


def _start(path: Path | None, smiles: str | None, charge: int | None, seed: int) -> Molecule:
    if (path is None) == (smiles is None):
        found = "neither" if path is None else "both"
        raise InputError("start geometry", "an XYZ file or --smiles", found, "give one of them")
    if path is not None:
        from fflux_py.molecules.extended_xyz import read_molecule

        with reading(path):
            return read_molecule(path, charge)
    from fflux_py.sampling import molecule_from_smiles

    molecule = molecule_from_smiles(str(smiles), seed)
    if charge is not None and charge != molecule.charge:
        raise InputError("--charge", f"{molecule.charge} as in the SMILES string", str(charge), "leave it out")
    return molecule


def _outcome(path: Path, geometries: GeometrySet) -> Outcome:
    from rich.table import Table

    kinds: dict[str, dict[str, int]] = {}
    for source, split in zip(geometries.source, geometries.split, strict=True):
        # Trajectories are told apart by the number at the end; distortions and minima by what they are.
        kind = source.rpartition("-")[0] if source.startswith(("nvt-", "wtmetad-")) else source.partition("-")[0]
        counts = kinds.setdefault(kind, {"train": 0, "test": 0})
        counts[split] += 1
    table: Table = Table("trajectories", "for training", "for testing", title=None)
    for kind, counts in sorted(kinds.items()):
        table.add_row(kind, str(counts["train"]), str(counts["test"]))
    n_train, restarts = geometries.split.count("train"), int(geometries.metadata.get("sampling_restarts", 0))
    molecule = geometries.molecule
    figures = {
        "output": str(path),
        "molecule": molecule.name,
        "formula": molecule.formula,
        "n_atoms": molecule.n_atoms,
        "n_frames": len(geometries),
        "n_train": n_train,
        "n_test": len(geometries) - n_train,
        "trajectory_kinds": kinds,
        "restarts": restarts,
        "seed": geometries.metadata.get("sampling_seed"),
    }
    text: list[str | Table] = [f"{molecule.name} ({molecule.formula}, {molecule.n_atoms} atoms)", table]
    if restarts:
        text.append(f"{restarts} trajectories reacted and were run again from another seed.")
    text.append(f"{len(geometries)} geometries are in {path}. Next: fflux label {path} -o data.extxyz")
    return Outcome(figures, text)
