"""A build ends with a certificate, spends what it may, and goes on to the same model wherever it was killed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tblite")
pytest.importorskip("gpytorch")
pytest.importorskip("pyscf")

from fflux_py import model_file
from fflux_py.active_learning import building
from fflux_py.active_learning.build_config import BuildConfig, BuildPlan, allowed_labels
from fflux_py.active_learning.build_report import write_build_report
from fflux_py.active_learning.build_status import read_build_status
from fflux_py.active_learning.building import BuildSource, Built, build, plan_build
from fflux_py.certification import Execution, GFN2Labeller, Limits
from fflux_py.errors import FileFormatError, InputError
from fflux_py.molecules.dataset import Dataset
from fflux_py.training import TrainingConfig
from fflux_py.typing import Progress
from tests.support.cli_support import fflux, refused
from tests.support.gfn2_models import labelled

FIT = TrainingConfig(max_iterations=4, subset=12, symmetry="none")
# An aim out of reach: both cycles are gone through.
CONFIG = BuildConfig(
    temperatures=(300.0,), labels=90, pilot=10, picoseconds=0.1, frames=4, rounds=2, cycles=2,
    limits=Limits(energy_mae_kcal_mol=1e-4), training=FIT,
)  # fmt: skip


@dataclass(frozen=True)
class Counted(GFN2Labeller):
    """GFN2-xTB, counted."""

    calls: list[int]

    def label(self, geometries, folder, progress=None):  # type: ignore[no-untyped-def]
        self.calls.append(len(geometries))
        return super().label(geometries, folder, progress)


@pytest.fixture(scope="module")
def source() -> BuildSource:
    data = labelled(24)
    return BuildSource(data.molecule, data)


@pytest.fixture(scope="module")
def built(source: BuildSource, tmp_path_factory: pytest.TempPathFactory) -> tuple[Built, Path, list[int]]:
    folder, labeller = tmp_path_factory.mktemp("build") / "molecule", Counted([])
    execution = Execution(folder)
    plan = plan_build(source, labeller, CONFIG, execution)
    return build(source, labeller, CONFIG, execution, plan), folder, labeller.calls


def test_budget_is_kept_and_every_label_is_counted(built: tuple[Built, Path, list[int]]) -> None:
    result, _, calls = built
    spent = result.cycles[-1].labels_spent
    assert spent <= CONFIG.labels  # type: ignore[operator]
    assert spent == sum(calls) - 1  # the first was to see what a label takes
    assert [cycle.number for cycle in result.cycles] == [1, 2]
    assert not result.certificate.passed
    error = result.error(CONFIG)
    assert error is not None
    assert "2 cycles are done" in str(error)
    assert result.error(replace(CONFIG, cycles=3)) is not None
    assert "more labels" in str(result.error(replace(CONFIG, cycles=3)))


def test_held_out_geometries_stay_held_out(source: BuildSource, built: tuple[Built, Path, list[int]]) -> None:
    result, folder, _ = built
    assert source.dataset is not None
    pilot = Dataset.read(folder / building.PILOT_DATA_FILE)
    assert pilot.geometries.split.count("test") == 24 // 5
    held_out = pilot.with_split("test").positions
    joint = result.forcefield.joint
    assert joint is not None
    assert not any((joint.positions == each).all(axis=(1, 2)).any() for each in held_out)
    # What the model was certified by was not learnt by it.
    for labels in result.certificate.labels.values():
        assert not any((joint.positions == each).all(axis=(1, 2)).any() for each in labels.positions)
    sources = set(result.dataset.geometries.source)
    assert {"certificate 1, 300 K", "active-learning round 1"} <= sources
    assert "certificate 2, 300 K" not in sources


def test_the_model_of_the_folder_is_the_one_that_was_certified(built: tuple[Built, Path, list[int]]) -> None:
    result, folder, _ = built
    model = model_file.load(folder / building.MODEL_FILE)
    x = result.dataset.positions[:4]
    np.testing.assert_array_equal(model.compute(x)[1], result.forcefield.compute(x)[1])
    (certificate,) = (folder / "cycle-2").glob("certificate-*/certificate.json")
    stated = json.loads(certificate.read_text(encoding="utf-8"))
    assert stated["model_sha256"] == result.certificate.model_sha256
    assert certificate.parent.name == f"certificate-{result.certificate.model_sha256[:8]}"
    assert "total" in model.calibration
    status = json.loads((folder / building.STATUS_FILE).read_text(encoding="utf-8"))
    assert (status["stage"], status["passed"]) == ("done", False)
    assert status["labels_spent"] == result.cycles[-1].labels_spent


def test_the_status_tells_stage_and_rounds(built: tuple[Built, Path, list[int]], tmp_path: Path) -> None:
    result, folder, _ = built
    status = read_build_status(folder)
    assert (status.ended, status.passed, status.plan) == (True, False, result.plan)
    assert [(row["cycle"], row["number"]) for row in status.rounds] == [("1", "1"), ("1", "2"), ("2", "1"), ("2", "2")]
    answer = fflux("status", folder)
    assert answer.code == 0, answer.err
    assert "NOT certified" in answer.out
    result.plan.write(tmp_path)
    assert read_build_status(tmp_path).stage == "planned"
    (tmp_path / building.STATUS_FILE).write_text('{"stage": 3}', encoding="utf-8")
    with pytest.raises(FileFormatError, match=r"status\.json"):
        read_build_status(tmp_path)
    assert "plan.json" in refused("status", tmp_path / "nothing")


def test_the_report_tells_rounds_labels_and_criteria(built: tuple[Built, Path, list[int]], tmp_path: Path) -> None:
    text = write_build_report(built[0], tmp_path).read_text(encoding="utf-8")
    for word in ("Learning curve", "certificate 1, 300 K", "Energy MAE", "What to cite", "gfn2-xtb"):
        assert word in text


@pytest.mark.parametrize("moments", [(3, 9, 4), pytest.param(range(1, 200, 2), marks=pytest.mark.exhaustive)])
def test_a_build_that_is_killed_again_and_again_ends_in_the_same_files(
    moments: Sequence[int], source: BuildSource, built: tuple[Built, Path, list[int]], tmp_path: Path
) -> None:
    class Killed(Exception):
        pass

    def killing(at: int) -> Execution:
        count = iter(range(10**6))

        @contextmanager
        def stage(name: str) -> Iterator[Progress]:
            yield lambda done, total: None
            if next(count) == at:
                raise Killed(name)

        return Execution(tmp_path / "molecule", stage=stage)

    names = []
    for at in (*moments, 10**6):
        execution = killing(at)
        try:
            plan = plan_build(source, GFN2Labeller(), CONFIG, execution)
            result = build(source, GFN2Labeller(), CONFIG, execution, plan)
        except Killed as killed:
            names.append(str(killed))
            continue
        break
    assert len(names) >= 3
    assert any("training" in name or "round" in name for name in names)
    assert result.cycles[-1].labels_spent == built[0].cycles[-1].labels_spent
    for name in (building.MODEL_FILE, building.DATA_FILE):
        assert (tmp_path / "molecule" / name).read_bytes() == (built[1] / name).read_bytes()


def test_other_settings_and_other_folders_are_refused(
    source: BuildSource, built: tuple[Built, Path, list[int]], tmp_path: Path
) -> None:
    execution = Execution(built[1])
    with pytest.raises(InputError, match="settings"):
        plan_build(source, GFN2Labeller(), replace(CONFIG, seed=7), execution)
    with pytest.raises(InputError, match="data_sha256"):
        plan_build(BuildSource(source.molecule), GFN2Labeller(), CONFIG, execution)
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(InputError, match="other files"):
        plan_build(source, GFN2Labeller(), CONFIG, Execution(tmp_path))


def test_time_bounds_labels_and_too_few_are_refused() -> None:
    config = BuildConfig(hours=1.0)
    assert allowed_labels(config, 20.0, 1) == 126
    assert allowed_labels(config, 20.0, 2) == 252
    assert allowed_labels(config, 2.0, 1) == 400
    assert allowed_labels(replace(config, hours=None), 0.1, 1) == 2000
    with pytest.raises(InputError, match="104 labels at least"):
        allowed_labels(config, 60.0, 1)
    for setting in ({"labels": 0}, {"pilot": 5}, {"frames": 0}, {"hours": 0.0}, {"cycles": 0}, {"temperatures": ()}):
        with pytest.raises(InputError, match=next(iter(setting))):
            BuildConfig(**setting)  # type: ignore[arg-type]


def test_a_damaged_plan_is_refused(built: tuple[Built, Path, list[int]], tmp_path: Path) -> None:
    plan = BuildPlan.read(built[1])
    plan.write(tmp_path)
    assert BuildPlan.read(tmp_path) == plan
    for text in ("{}", '{"schema": "fflux-build-plan-1"}', "nonsense"):
        (tmp_path / "plan.json").write_text(text, encoding="utf-8")
        with pytest.raises(FileFormatError, match=r"plan\.json"):
            BuildPlan.read(tmp_path)
