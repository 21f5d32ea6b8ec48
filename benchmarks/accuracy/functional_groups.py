"""From SMILES to a model of GFN2-xTB labels, for sixty small molecules of as many functional groups.

    python benchmarks/accuracy/functional_groups.py [--only SMILES ...] [--trajectories N] [--write FILE] [--json]

Every molecule goes the way of a user: geometry from SMILES, Langevin dynamics at 300 K, GFN2-xTB labels, the joint fit
with its default settings on 30 geometries, and 20 geometries of another trajectory to test.  A molecule that the
package refuses is a row with the reason.  Ten seconds a molecule; benchmarks/results/functional_groups.json holds the
last run.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
# tblite's threads wait for each other at every step: for molecules as small as these one is the fastest.
os.environ.setdefault("OMP_NUM_THREADS", "1")
from support.figures import parser

import numpy as np

from fflux_py.certification import GFN2Labeller
from fflux_py.errors import FFLUXError
from fflux_py.files import write_atomically
from fflux_py.sampling import SamplingConfig, TrajectoryClass, molecule_from_smiles, sample
from fflux_py.training import TrainingConfig, train
from fflux_py.units import FEMTOSECOND, KCAL_MOL, KCAL_MOL_ANGSTROM

YARDSTICK = "CCCO"
MOLECULES = {
    "CCCO": "propanol",
    # linear groups
    "CCC#N": "propionitrile",
    "CC#C": "propyne",
    "CN=[N+]=[N-]": "methyl azide",
    "C=C=C": "allene",
    "O=C=O": "carbon dioxide",
    "C#N": "hydrogen cyanide",
    "CC#N": "acetonitrile",
    "C[N+]#[C-]": "methyl isocyanide",
    "C=CC#N": "acrylonitrile",
    "N#CCC#N": "malononitrile",
    "NC#N": "cyanamide",
    "CC#CC": "2-butyne",
    "C#CCO": "propargyl alcohol",
    "C=C=O": "ketene",
    "C=C=C=C": "butatriene",
    "N=[N+]=[N-]": "hydrazoic acid",
    "CN=C=O": "methyl isocyanate",
    "CN=C=S": "methyl isothiocyanate",
    "CSC#N": "methyl thiocyanate",
    "COC#N": "methyl cyanate",
    "N=C=N": "carbodiimide",
    "C=[N+]=[N-]": "diazomethane",
    "CC#[N+][O-]": "acetonitrile oxide",
    "N#[N+][O-]": "nitrous oxide",
    # nitrogen and oxygen
    "C[N+](=O)[O-]": "nitromethane",
    "CO[N+](=O)[O-]": "methyl nitrate",
    "CN=O": "nitrosomethane",
    "C=NO": "formaldoxime",
    "NN": "hydrazine",
    "CNC": "dimethylamine",
    "C[NH3+]": "methylammonium",
    "CC(=O)[O-]": "acetate",
    "NC=O": "formamide",
    "NC(N)=O": "urea",
    "COC": "dimethyl ether",
    "OO": "hydrogen peroxide",
    "CC=O": "acetaldehyde",
    "COC=O": "methyl formate",
    # sulfur, phosphorus, silicon, boron, halogens
    "CS": "methanethiol",
    "CSSC": "dimethyl disulfide",
    "CS(C)=O": "dimethyl sulfoxide",
    "CS(C)(=O)=O": "dimethyl sulfone",
    "CS(=O)(=O)Cl": "methanesulfonyl chloride",
    "OP(=O)(O)O": "phosphoric acid",
    "COP(=O)(O)O": "methyl phosphate",
    "C[SiH3]": "methylsilane",
    "[SiH3]O[SiH3]": "disiloxane",
    "CB(O)O": "methylboronic acid",
    "FC(F)F": "fluoroform",
    "C=CCl": "vinyl chloride",
    "CBr": "bromomethane",
    "CI": "iodomethane",
    # rings
    "C1CC1": "cyclopropane",
    "C1CO1": "oxirane",
    "C1N=N1": "diazirine",
    "c1ccoc1": "furan",
    "c1c[nH]cn1": "imidazole",
    "c1ccsc1": "thiophene",
    "c1ccccc1": "benzene",
}
N_TRAIN, N_TEST, TEMPERATURE = 30, 20, 300.0


def plan(trajectories: int) -> SamplingConfig:
    """Trajectories for training, each from a conformer of its own, and one for testing."""
    length, test_length = 600.0 / FEMTOSECOND, 1000.0 / FEMTOSECOND
    kind = TrajectoryClass(TEMPERATURE, "none", trajectories, length, N_TRAIN, 1, test_length, N_TEST)
    return SamplingConfig(classes=(kind,), equilibration=300.0 / FEMTOSECOND, test_spacing=50.0 / FEMTOSECOND)


def go_from_smiles_to_model(smiles: str, trajectories: int) -> dict[str, object]:
    """Figures of one molecule; of one that the package refuses, the reason and the stage."""
    begin, stage = time.process_time(), "SMILES"
    row: dict[str, object] = {"smiles": smiles, "name": MOLECULES.get(smiles, smiles)}
    try:
        molecule = molecule_from_smiles(smiles)
        row["n_atoms"], stage = molecule.n_atoms, "sampling"
        geometries = sample(molecule, plan(trajectories))
        stage = "labels"
        labels = GFN2Labeller().label(geometries, Path())
        if labels is None or len(labels) < N_TRAIN + N_TEST:
            return row | {"stage": stage, "refused": "a geometry that GFN2-xTB fails for"}
        stage = "training"
        model = train(labels, TrainingConfig())
        stage = "prediction"
        test = labels.with_split("test")
        energies, forces = model.compute(test.positions)
    except FFLUXError as error:
        return row | {"stage": stage, "refused": str(error)}
    return row | {
        "symmetry": str(model.metadata.get("symmetry")),
        "energy_mae_kcal_mol": float(np.abs(energies - test.energies).mean() * KCAL_MOL),
        "force_mae_kcal_mol_angstrom": float(np.abs(forces - test.forces).mean() * KCAL_MOL_ANGSTROM),
        "processor_time_s": time.process_time() - begin,
    }


def table(rows: list[dict[str, object]]) -> str:
    """The rows as Markdown; the ratio is that of the force MAE to propanol's."""
    yardstick = next((row.get("force_mae_kcal_mol_angstrom") for row in rows if row["smiles"] == YARDSTICK), None)
    lines = [
        "| molecule | SMILES | atoms | energy MAE, kcal/mol | force MAE, kcal/mol/Å | over propanol's | processor s |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(table_line(row, yardstick))
    return "\n".join(lines)


def table_line(row: Mapping[str, object], yardstick: object) -> str:
    """One line of the table."""
    head = f"| {row['name']} | `{row['smiles']}` | {row.get('n_atoms', '')} |"
    if "refused" in row:
        return f"{head} refused at {row['stage']}: {row['refused']} | | | |"
    energy, force, seconds = (
        float(str(row[key])) for key in ("energy_mae_kcal_mol", "force_mae_kcal_mol_angstrom", "processor_time_s")
    )
    ratio = "" if yardstick is None else f"{force / float(str(yardstick)):.2f}"
    return f"{head} {energy:.3f} | {force:.3f} | {ratio} | {seconds:.0f} |"


def main() -> None:
    options = parser(str(__doc__))
    options.add_argument("--only", nargs="+", metavar="SMILES", help="these molecules instead of the list")
    options.add_argument("--write", type=Path, metavar="FILE", help="JSON file for the rows, written as they come")
    options.add_argument("--trajectories", type=int, default=1, metavar="N", help="trajectories for training")
    arguments = options.parse_args()
    rows: list[dict[str, object]] = []
    for smiles in arguments.only or MOLECULES:
        rows.append(go_from_smiles_to_model(smiles, arguments.trajectories))
        if not arguments.json:
            print(table_line(rows[-1], rows[0].get("force_mae_kcal_mol_angstrom")), flush=True)
        if arguments.write is not None:
            record = {
                "command": "python benchmarks/accuracy/functional_groups.py",
                "training_trajectories": arguments.trajectories,
                "labels": "gfn2-xtb",
                "temperature_k": TEMPERATURE,
                "n_train": N_TRAIN,
                "n_test": N_TEST,
                "molecules": rows,
            }
            write_atomically(arguments.write, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(rows, ensure_ascii=False) if arguments.json else f"\n{table(rows)}")


if __name__ == "__main__":
    main()
