"""``fflux sample``: from a molecule to the geometries to label."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fflux_py.cli._command import Outcome, command
from fflux_py.cli._options import JsonOption, SeedOption, ThreadsOption
from fflux_py.cli._paths import check_output, reading
from fflux_py.cli._progress import progress
from fflux_py.cli._threads import use_threads
from fflux_py.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from fflux_py.dataset import GeometrySet
    from fflux_py.molecule import Molecule
    from fflux_py.sampling import SamplingConfig

_TEMPERATURES: Final = (300.0, 500.0, 1000.0)


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
    bias: Annotated[
        str | None,
        typer.Option(
            help="'torsions': besides, well-tempered metadynamics on the torsions at all temperatures but the highest "
            "(at the only one, if there is one); 'none': none. Without it: 'torsions' if the molecule has any."
        ),
    ] = None,
    frames: Annotated[
        int, typer.Option(min=1, help="Geometries for training, shared by all kinds of trajectories.")
    ] = 500,
    test_frames: Annotated[
        int, typer.Option(min=0, help="Geometries for testing, from trajectories of their own.")
    ] = 220,
    seed: SeedOption = 1,
    charge: Annotated[
        int | None, typer.Option(help="Net charge. Without it: the key total_charge of the XYZ file, or 0.")
    ] = None,
    threads: ThreadsOption = 1,
    json_output: JsonOption = False,
) -> Outcome:
    """Sample geometries with GFN2-xTB dynamics and metadynamics.

    The start is relaxed, conformers are made by turning its torsions, and every trajectory starts from its own.
    Training geometries are chosen for diversity, test geometries at equal spacing in time from trajectories that
    training never sees.
    """
    check_output(output, *([molecule] if molecule is not None else []))
    use_threads(threads)
    if bias not in ("torsions", "none", None):
        raise InputError("--bias", "'torsions' or 'none'", repr(bias))
    start = _start(molecule, smiles, charge, seed)
    biased = bool(start.torsions()) if bias is None else bias == "torsions"
    config = plan(temperature or list(_TEMPERATURES), biased, frames, test_frames, seed)
    from fflux_py import sampling

    with progress(f"sampling {start.name} (steps)") as show:
        geometries = sampling.sample(start, config, show)
    geometries.write(output)
    return _outcome(output, geometries)


def plan(temperatures: list[float], bias: bool, frames: int, test_frames: int, seed: int) -> SamplingConfig:
    """The kinds of trajectories: unbiased at every temperature, biased at all but the highest."""
    from fflux_py.sampling import SamplingConfig, standard_classes

    if len(set(temperatures)) != len(temperatures):
        raise InputError("--temperature", "different temperatures", " ".join(f"{t:g}" for t in temperatures))
    biased = [t for t in temperatures if bias and (len(temperatures) == 1 or t < max(temperatures))]
    return SamplingConfig(classes=standard_classes(temperatures, biased, frames, test_frames), seed=seed)


def _start(path: Path | None, smiles: str | None, charge: int | None, seed: int) -> Molecule:
    if (path is None) == (smiles is None):
        found = "neither" if path is None else "both"
        raise InputError("start geometry", "an XYZ file or --smiles", found, "give one of them")
    if path is not None:
        from fflux_py.extended_xyz import read_molecule

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
        counts = kinds.setdefault(source.rpartition("-")[0], {"train": 0, "test": 0})
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
