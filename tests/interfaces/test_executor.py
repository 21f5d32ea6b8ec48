"""Executors from files: what they say, what they refuse, and that labels do not depend on them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fflux_py.errors import FFLUXError, FileFormatError, InputError
from fflux_py.interfaces.executor import PoolSettings, executor_from_file, parsl_config, read_settings
from tests.support.paths import REPOSITORY

SLURM = """
workers_per_node = 32
threads_per_worker = 2
launcher = "srun"
address = "10.0.0.1"
retries = 2

[provider]
kind = "slurm"
partition = "compute"
account = "chemistry"
nodes_per_block = 2
init_blocks = 0
max_blocks = 4
walltime = "12:00:00"
scheduler_options = "#SBATCH --mem=0"
worker_init = "source ~/fflux/bin/activate"
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_python_file_with_any_executor_needs_no_parsl(tmp_path: Path) -> None:
    path = write(
        tmp_path / "threads.py",
        "from concurrent.futures import ThreadPoolExecutor\nexecutor = ThreadPoolExecutor(2)\n",
    )
    with executor_from_file(path, tmp_path) as executor:
        assert isinstance(executor, ThreadPoolExecutor)
        assert list(executor.map(abs, [-1, -2])) == [1, 2]
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(abs, -1)


def test_settings_are_those_of_the_file(tmp_path: Path) -> None:
    settings = read_settings(write(tmp_path / "slurm.toml", SLURM))
    assert settings.workers_per_node == 32
    assert settings.threads_per_worker == 2
    assert settings.provider["account"] == "chemistry"
    assert read_settings(write(tmp_path / "empty.toml", "")) == PoolSettings()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "workers = 3", "key workers: expected one of provider, workers_per_node"),
        ("a.toml", "workers_per_node = 0", "key workers_per_node: expected a whole number, 1 or more"),
        ("a.toml", "threads_per_worker = 1.5", "key threads_per_worker: expected a whole number"),
        ("a.toml", "retries = -1", "key retries"),
        ("a.toml", 'launcher = "rocket"', "key launcher: expected one of single, srun, mpiexec"),
        ("a.toml", '[provider]\nkind = "abacus"', "key provider.kind: expected one of local, slurm"),
        ("a.toml", "provider = 3", "key provider.kind"),
        ("a.toml", "[provider", "expected TOML"),
        ("a.yaml", "", "expected a Python"),
    ],
)
def test_wrong_files_are_refused_in_one_line(name: str, text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, text)
    with pytest.raises(FFLUXError, match=message) as caught, executor_from_file(path, tmp_path):
        pass
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_and_packages_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"none\.py: expected a readable file"):
        executor_from_file(tmp_path / "none.py", tmp_path).__enter__()
    path = write(tmp_path / "a.py", "import no_such_package\n")
    with pytest.raises(InputError, match="the package no_such_package"):
        executor_from_file(path, tmp_path).__enter__()


def test_slurm_configuration_says_what_the_file_says(tmp_path: Path) -> None:
    pytest.importorskip("parsl")
    path = write(tmp_path / "slurm.toml", SLURM)
    config = parsl_config(read_settings(path), path, tmp_path / "runinfo")
    (pool,) = config.executors
    assert pool.max_workers_per_node == 32
    assert pool.encrypted
    assert pool.address == "10.0.0.1"
    assert (pool.provider.partition, pool.provider.account) == ("compute", "chemistry")
    assert (pool.provider.nodes_per_block, pool.provider.max_blocks) == (2, 4)
    assert pool.provider.walltime == "12:00:00"
    assert type(pool.provider.launcher).__name__ == "SrunLauncher"
    # Threads first, so that the user's own lines may change them.
    assert pool.provider.worker_init.startswith("export OMP_NUM_THREADS=2; ")
    assert pool.provider.worker_init.strip().endswith("; source ~/fflux/bin/activate")
    assert config.retries == 2
    for text, message in (
        (SLURM.replace("account", "acount"), r"key provider\.acount: expected one of account"),
        (SLURM.replace("max_blocks = 4", 'walltime_x = "1"'), r"key provider\.walltime_x"),
    ):
        with pytest.raises(FileFormatError, match=message):
            parsl_config(read_settings(write(path, text)), path, tmp_path)


def test_python_file_with_a_configuration_of_parsl(tmp_path: Path) -> None:
    pytest.importorskip("parsl")
    text = f"""
from parsl.config import Config
from parsl.executors.threads import ThreadPoolExecutor

config = Config(executors=[ThreadPoolExecutor(max_threads=2)], run_dir={str(tmp_path / "runinfo")!r})
"""
    with executor_from_file(write(tmp_path / "parsl.py", text), tmp_path) as executor:
        assert [f.result() for f in [executor.submit(pow, 2, k) for k in range(4)]] == [1, 2, 4, 8]
    with (
        pytest.raises(FileFormatError, match="expected 'config'"),
        executor_from_file(write(tmp_path / "empty.py", "pool = 3\n"), tmp_path),
    ):
        pass


def test_labels_on_parsl_are_those_of_this_process(tmp_path: Path) -> None:
    pytest.importorskip("parsl")
    pytest.importorskip("pyscf")
    from fflux_py.iqa import campaign
    from fflux_py.iqa.scf.level_of_theory import LevelOfTheory
    from fflux_py.molecules.dataset import GeometrySet
    from fflux_py.molecules.molecule import Molecule

    molecule = Molecule(("H", "H"), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.4]]), name="H2")
    positions = np.array([molecule.positions * scale for scale in (0.9, 1.0, 1.1, 1.2)])
    geometries = GeometrySet(molecule, positions, ("run",) * 4, np.full(4, 300.0), ("train",) * 4)
    level = LevelOfTheory(basis="sto-3g", grid_level=1)
    text = f"""
workers_per_node = 2
[provider]
kind = "local"
max_blocks = 1
worker_init = "export PYTHONPATH={REPOSITORY}"
"""
    path = write(tmp_path / "local.toml", text)
    with executor_from_file(path, tmp_path / "runinfo") as executor:
        data = campaign.label(geometries, level, "hirshfeld", tmp_path / "parsl", executor=executor)
        # An error in a worker comes back whole.
        charged = replace(geometries, molecule=replace(molecule, charge=1))
        with pytest.raises(InputError, match="an even number of electrons"):
            campaign.label(charged, level, "none", tmp_path / "charged", executor=executor)
    with ThreadPoolExecutor(1) as here:
        same = campaign.label(geometries, level, "hirshfeld", tmp_path / "here", executor=here)
    np.testing.assert_array_equal(data.energies, same.energies)
    np.testing.assert_array_equal(data.atomic_energies, same.atomic_energies)
    np.testing.assert_array_equal(data.forces, same.forces)


def test_label_command_runs_on_the_executor_of_a_file(tmp_path: Path) -> None:
    pytest.importorskip("pyscf")
    from fflux_py.molecules.dataset import Dataset
    from tests.support.cli_support import fflux, refused

    frames = [f"2\n\nH 0 0 0\nH 0 0 {length}\n" for length in (0.7, 0.8)]
    geometries = write(tmp_path / "geometries.xyz", "".join(frames))
    output = tmp_path / "data.extxyz"
    pool = write(
        tmp_path / "pool.py",
        "from concurrent.futures import ThreadPoolExecutor\nexecutor = ThreadPoolExecutor(1)\n",
    )
    common = ("label", geometries, "-o", output, "--basis", "sto-3g", "--executor", pool)
    answer = fflux(*common, "--partition", "none", "--keep-orbitals", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["n_computed"] == 2
    assert len(list((tmp_path / "data.extxyz.labels").glob("*.orbitals.npz"))) == 2
    assert Dataset.read(output).metadata["partition"] == "none"
    answer = fflux(*common, "--partition", "becke", "--json")
    assert answer.code == 0, answer.err
    assert (answer.json["n_computed"], answer.json["partition"]) == (2, "becke")
    data = Dataset.read(output)
    np.testing.assert_allclose(data.atomic_energies, np.outer(data.energies, [0.5, 0.5]), atol=2e-6)
    assert "pool.yaml: expected a Python (.py)" in refused(*common[:-1], write(tmp_path / "pool.yaml", ""))
