"""``fflux md``, ``resume`` and ``ipi``: guards, exit codes, going on, outputs for other programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fflux_py
from fflux_py.certification import CertificationConfig
from fflux_py.cli._dynamics import Pace, nanoseconds_per_day, parse_guards, run_progress
from fflux_py.dynamics import GuardConfig, MDConfig, Trajectory
from fflux_py.dynamics.thermostats import DEFAULT_THERMOSTAT
from fflux_py.molecules.dataset import GeometrySet
from fflux_py.units import ANGSTROM, EV
from tests.support.cli_support import Files, fflux, refused


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files.make(tmp_path_factory.mktemp("methanol"))


def start(files: Files, run: Path, *more: object) -> list[object]:
    return ["md", files.model, files.start, "-o", run, "--report-every", 5, "--seed", 4, *more]


@pytest.mark.parametrize("thermostat", ["langevin", "velocity-rescaling"])
def test_a_resumed_run_is_the_longer_run(files: Files, tmp_path: Path, thermostat: str) -> None:
    settings = ["--thermostat", thermostat, "--hydrogen-mass", 3.0, "--timestep", 1.0, "--replicas", 2]
    whole = fflux(*start(files, tmp_path / "whole", "--steps", 60, *settings))
    parts = fflux(*start(files, tmp_path / "parts", "--steps", 35, *settings))
    assert (whole.code, parts.code) == (0, 0), whole.err + parts.err
    again = fflux("resume", tmp_path / "parts", "--steps", 60, "--threads", 2, "--json")
    assert again.code == 0, again.err
    assert again.json["steps_done"] == 120
    for name in ("trajectory.dcd", "thermo.csv", "final.extxyz"):
        for replica in ("replica-000", "replica-001"):
            one, other = (tmp_path / run / replica / name for run in ("whole", "parts"))
            assert one.read_bytes() == other.read_bytes()


def test_a_run_goes_on_in_its_precision(files: Files, tmp_path: Path) -> None:
    for name, steps in (("whole", 60), ("parts", 30)):
        assert fflux(*start(files, tmp_path / name, "--steps", steps, "--precision", "fixed")).code == 0
    assert fflux(*start(files, tmp_path / "double", "--steps", 60)).code == 0
    again = fflux("resume", tmp_path / "parts", "--steps", 60)
    assert again.code == 0, again.err
    whole, parts, double = ((tmp_path / n / "final.extxyz").read_bytes() for n in ("whole", "parts", "double"))
    assert whole == parts != double
    wrong = fflux(*start(files, tmp_path / "half", "--steps", 5, "--precision", "half"))
    assert wrong.code == 2
    assert "--precision: expected double or fixed, found 'half'" in wrong.err


@pytest.mark.parametrize("words", ["--torsions", "--bias"])
def test_metadynamics_goes_on_where_it_was(files: Files, tmp_path: Path, words: str) -> None:
    if words == "--bias":
        plumed = tmp_path / "in.dat"
        plumed.write_text("t: TORSION ATOMS=3,1,2,6\nMETAD ARG=t SIGMA=0.3 HEIGHT=1 PACE=5\nPRINT ARG=* STRIDE=5\n")
        settings = ["--bias", plumed]
    else:
        settings = ["--torsions", "3-1-2-6", "--replicas", 2]
    assert fflux(*start(files, tmp_path / "whole", "--steps", 120, *settings)).code == 0
    first = fflux(*start(files, tmp_path / "parts", "--steps", 60, *settings))
    assert first.code == 0, first.err
    assert "HILLS" in first.out
    assert fflux("resume", tmp_path / "parts", "--steps", 120).code == 0
    written = [p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*") if p.suffix in ("", ".dat")]
    names = {path.name for path in written if (tmp_path / "whole" / path).is_file()}
    assert names == {"HILLS", "COLVAR", "plumed.dat"}
    for path in written:
        if (tmp_path / "whole" / path).is_file():
            assert (tmp_path / "whole" / path).read_bytes() == (tmp_path / "parts" / path).read_bytes()
    if words == "--torsions":
        assert (tmp_path / "whole" / "plumed.dat").read_text().splitlines() == [
            "UNITS LENGTH=A ENERGY=kcal/mol TIME=ps",
            "t1: TORSION ATOMS=3,1,2,6",
            "metad: METAD ARG=t1 SIGMA=0.3 HEIGHT=0.25 PACE=100 BIASFACTOR=8 TEMP=300",
            "PRINT ARG=t1,metad.bias,metad.rct STRIDE=20",
        ]
    else:
        assert (tmp_path / "whole" / "plumed.dat").read_bytes() == (tmp_path / "in.dat").read_bytes()


def test_wrong_biases_are_one_line(files: Files, tmp_path: Path) -> None:
    run = tmp_path / "run"
    plumed = tmp_path / "in.dat"
    plumed.write_text("t: TORSION ATOMS=3,1,2,6\nMETAD ARG=t SIGMA=0.3 HEIGHT=1 PACE=5 TEMP=400\n")
    for settings, words in (
        (["--bias", "torsions"], "a molecule with rotatable single bonds"),
        (["--bias", tmp_path / "no"], "'torsions' or a PLUMED input file"),
        (["--bias", plumed], "the temperature of the run, 300 K, found 400"),
        (["--bias", plumed, "--torsions", "3-1-2-6"], "--torsions: expected --bias torsions"),
        (["--bias", plumed, "--joint"], "--parallel or --joint: expected --bias torsions"),
        (["--joint"], "--parallel or --joint: expected --bias torsions, found no bias"),
        (["--torsions", "3-1-2"], "torsions such as"),
        (["--torsions", "3-1-2-9"], "atoms from 1 to 6"),
    ):
        assert words in refused(*start(files, run, "--steps", 10, *settings))
        assert not run.exists()


def test_resume_says_what_is_wrong(files: Files, tmp_path: Path) -> None:
    assert fflux(*start(files, tmp_path / "run", "--steps", 20)).code == 0
    assert "expected a folder that 'fflux md' wrote, found nothing" in refused("resume", tmp_path / "no")
    assert "found 10" in refused("resume", tmp_path / "run", "--steps", 10)
    (tmp_path / "empty").mkdir()
    assert "expected a checkpoint" in refused("resume", tmp_path / "empty")
    other = tmp_path / "mf1.npz"
    assert fflux("convert", files.model, other, "--prior-mean", "MF1").code == 0
    assert "expected the model of this run" in refused("resume", tmp_path / "run", "--steps", 40, "--model", other)
    assert "nothing at" in refused("resume", tmp_path / "run", "--steps", 40, "--model", tmp_path / "gone.npz")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["model"] == str(files.model.resolve())


@pytest.mark.parametrize(
    ("guard", "code", "words"),
    [
        ("bond=stop:0.98-1.02", 4, "x its reference length"),
        ("contact=stop:0.95", 5, "at least 0.95 angstrom"),
        ("conserved=stop:1e-5", 7, "conserved quantity"),
        ("features=stop:0.0001", 8, "features of"),
        ("deviation=stop:1e-6", 9, "predictive deviation of"),
    ],
)
def test_every_guard_has_an_exit_code_of_its_own(
    files: Files, tmp_path: Path, guard: str, code: int, words: str
) -> None:
    more = ["--steps", 1000, "--temperature", 1200, "--guard", guard, "--guard-every", 10, "--json"]
    answer = fflux(*start(files, tmp_path / "run", *more))
    assert answer.code == code, answer.err
    assert answer.json["exit_code"] == code
    assert words in answer.json["error"]
    assert answer.err.count("\n") == 1
    assert (tmp_path / "run" / "stopped.extxyz").is_file()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "stopped"


def test_guards_that_save_leave_frames_to_be_labelled(files: Files, tmp_path: Path) -> None:
    guards = ["--guard", "features=save:0.001", "--guard", "deviation=warn:1e-6", "--guard-every", 20]
    answer = fflux(*start(files, tmp_path / "run", "--steps", 600, "--temperature", 1200, *guards))
    assert answer.code == 0, answer.err
    told = sorted(answer.err.strip().split("\n"), reverse=True)
    assert len(told) == 2
    assert told[0].startswith("guard features, replica 0: step ")
    assert "saved in flagged.extxyz" in told[0]
    assert "predictive deviation" in told[1]
    flagged = GeometrySet.read(tmp_path / "run" / "flagged.extxyz")
    assert set(flagged.source) == {"nvt-1200K-s4-r0-features"}
    assert flagged.temperature[0] == 1200.0
    lines = (tmp_path / "run" / "events.csv").read_text().splitlines()
    saved = [line for line in lines if ",features,save," in line]
    assert len(flagged) == len(saved) >= 2
    # a saved frame is a frame of the run: reports come every 5 steps, looks every 20
    run = Trajectory.read(tmp_path / "run")
    steps = [int(line.split(",")[0]) for line in saved]
    for positions, step in zip(flagged.positions, steps, strict=True):
        assert np.abs(run.positions[step // 5] - positions).max() < 1e-6


def test_trajectories_for_other_programs(files: Files, tmp_path: Path) -> None:
    mdtraj = pytest.importorskip("mdtraj")
    from ase.io import read

    answer = fflux(*start(files, tmp_path / "run", "--steps", 50, "--ase-trajectory"))
    assert answer.code == 0, answer.err
    run = Trajectory.read(tmp_path / "run")
    theirs = mdtraj.load(str(tmp_path / "run" / "trajectory.dcd"), top=str(tmp_path / "run" / "topology.pdb"))
    assert [atom.element.symbol for atom in theirs.topology.atoms] == list(run.molecule.symbols)
    bonds = {tuple(sorted((a.index, b.index))) for a, b in theirs.topology.bonds}
    assert bonds == set(run.molecule.bonds)
    assert np.abs(theirs.xyz * 10.0 - run.positions * ANGSTROM).max() < 1e-5
    frames = read(tmp_path / "run" / "trajectory.traj", index=":")
    assert len(frames) == len(run) == 11
    assert frames[7].get_potential_energy() == pytest.approx(run.potential[7] * EV, abs=1e-9)
    assert np.abs(frames[7].positions - run.positions[7] * ANGSTROM).max() < 1e-12
    assert frames[7].info["time_fs"] == 17.5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bonds=stop"], "with a name of bond, contact"),
        (["bond"], "NAME=ACTION[:LIMIT]"),
        (["bond=explode"], "guard bond: expected one of off, warn, save, stop"),
        (["bond=stop:0.5"], "two numbers, SHORTEST-LONGEST"),
        (["bond=stop:1.5-0.5"], "one number below 1 and one above"),
        (["deviation=warn:much"], "a number behind the colon"),
        (["deviation=warn:-1"], "a positive number"),
    ],
)
def test_wrong_guards(files: Files, tmp_path: Path, words: list[str], said: str) -> None:
    guards = [part for word in words for part in ("--guard", word)]
    assert said in refused(*start(files, tmp_path / "run", "--steps", 10, *guards))
    assert not (tmp_path / "run").exists()


def test_guards_in_words() -> None:
    parsed = parse_guards(["bond=save:0.7-1.4", "contact=off", "deviation=warn:0.25", "features=stop"], 50)
    expected = GuardConfig(
        bond="save", bond_shortest=0.7, bond_longest=1.4, contact="off", deviation="warn", deviation_limit=0.25,
        features="stop", every=50,
    )  # fmt: skip
    assert parsed == expected
    assert parse_guards([], 1000) == GuardConfig()


def test_wrong_settings_of_a_run(files: Files, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert "thermostat" in refused(*start(files, run, "--steps", 10, "--thermostat", "berendsen"))
    assert "1 to 4.5 Da" in refused(*start(files, run, "--steps", 10, "--hydrogen-mass", 12))
    chain = ("--steps", 10, "--thermostat", "nose-hoover")
    assert "suzuki_yoshida_order" in refused(*start(files, run, *chain, "--suzuki-yoshida", 2))
    assert "--thermostat nose-hoover" in refused(*start(files, run, "--steps", 10, "--suzuki-yoshida", 3))
    assert "--thermostat nose-hoover" in refused(*start(files, run, "--steps", 10, "--chain-length", 4))
    assert not run.exists()


def test_help_names_the_default_thermostat() -> None:
    for command in ("md", "certify"):
        text = " ".join(fflux(command, "--help").out.replace("│", " ").split())
        assert f"{DEFAULT_THERMOSTAT} (the default)" in text
    assert MDConfig(steps=1).thermostat == CertificationConfig().thermostat == DEFAULT_THERMOSTAT == "langevin"


def test_pace() -> None:
    assert nanoseconds_per_day(86_400, 0.5, 86_400.0) == pytest.approx(0.5e-6 * 86_400)


def test_ipi_without_a_server_is_one_line(files: Files) -> None:
    line = refused("ipi", files.model, "--unix", "--address", "fflux-nobody", "--wait", 0)
    assert line.startswith("fflux ipi: /tmp/ipi_fflux-nobody: expected an i-PI server")


def test_warmup_fills_the_folder_that_it_is_given(tmp_path: Path) -> None:
    """In a process of its own, as numba takes the folder when a function is defined."""
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    environment["PYTHONPATH"] = str(Path(fflux_py.__file__).parents[1])
    program = (
        "from fflux_py.cli._threads import use_cache; from pathlib import Path; use_cache(Path({folder!r}));"
        "from fflux_py.dynamics._random import stream_key, standard_normals; import numpy as np;"
        "standard_normals(stream_key(1, 0), 1, 0, np.empty(4))"
    ).format(folder=str(tmp_path / "cache"))
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    assert list((tmp_path / "cache").rglob("*standard_normals*.nbi"))
    (tmp_path / "file").write_text("")
    assert "a folder to write to" in refused("warmup", "--cache", tmp_path / "file")


def test_progress_tells_nanoseconds_a_day_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pace = Pace(0.5)
    assert pace(4000, 100.0) == ""  # of which nothing was done in this life
    assert pace(24_000, 110.0) == "86.4 ns/day"
    with run_progress("NVT", 0.5) as show:
        show(10, 1000)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for name, value in (("TERM", "xterm"), ("FORCE_COLOR", "1"), ("COLUMNS", "160")):
        monkeypatch.setenv(name, value)
    with run_progress("NVT", 0.5) as show:
        show(0, 1000)
        show(500, 1000)
    out, err = capsys.readouterr()
    assert out == ""
    assert "500/1000" in err
    assert "ns/day" in err
