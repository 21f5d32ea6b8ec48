"""One atom's table: whose it is, training on it, validation against another one; without the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fflux_py.errors import InputError
from fflux_py.exchange.ferebus.folder import models_folder
from fflux_py.exchange.ferebus.forcefield import ASSUMED_FRAME
from fflux_py.exchange.ferebus.kernel import Reading
from fflux_py.exchange.ferebus.model import FerebusModel
from fflux_py.exchange.ferebus.table_atom import ASSUMED, TableAtom, identify_atom
from fflux_py.exchange.ferebus.tables import FeatureTable
from fflux_py.exchange.ferebus.validation import validate_atom
from fflux_py.units import KJ_MOL
from tests.support.ferebus_data import STAYING, data, product, solved


def table(n: int = 40, seed: int = 1) -> FeatureTable:
    x, y = data(STAYING, n, seed)
    return FeatureTable(tuple(f"f{k + 1}" for k in range(x.shape[1])), x, y)


def test_local_frame_is_that_of_the_nearest_statement(tmp_path: Path) -> None:
    path, model = tmp_path / "METHANOL_C1_TRAINING_SET.csv", tmp_path / "any.model"
    assumed = identify_atom(table(), path, model)
    assert assumed == TableAtom("METHANOL", "C1", 6, (0, 1, 2), ASSUMED)
    assert assumed.frame_is_assumed
    assert assumed.alf == [1, 2, 3]
    (tmp_path / "ferebus.toml").write_text('[system]\natoms = [{name = "C1", alf = [1, 2, 4]}]\n')
    assert identify_atom(table(), path, model).frame == (0, 1, 3)
    ichor = identify_atom(table(), tmp_path / "C1_processed_data_alf_1_2_6.csv", model)
    assert (ichor.frame, ichor.system) == ((0, 1, 5), tmp_path.name)
    assert not ichor.frame_is_assumed
    assert identify_atom(table(), path, model, "1 2 5").frame == (0, 1, 4)
    with pytest.raises(InputError, match="alf: expected atom 1 first"):
        identify_atom(table(), path, model, "2,1,3")


def test_trained_atom_knows_what_was_assumed() -> None:
    pytest.importorskip("gpytorch")
    from fflux_py.exchange.ferebus.training import choose_rows, train_atom

    atom = TableAtom("METHANOL", "C1", 6, (0, 1, 2), ASSUMED)
    rows = choose_rows(60, 40, 3, "table")
    assert len(set(rows.tolist())) == 40
    assert (choose_rows(60, 40, 3, "table") == rows).all()
    assert choose_rows(60, 2, None, "table").tolist() == [0, 1]
    with pytest.raises(InputError, match="at least 61 rows"):
        choose_rows(60, 61, None, "table")
    trained = train_atom(table(60), atom, "MF2", rows)
    assert len(trained.text.y) == 40
    assert trained.text.metadata[ASSUMED_FRAME] == "sequence rule"
    assert trained.prior_mean == pytest.approx(table(60).energies[rows].mean())
    known = TableAtom("METHANOL", "C1", 6, (0, 1, 2), "name of the table")
    assert ASSUMED_FRAME not in train_atom(table(60), known, "MF2", rows).text.metadata
    model = FerebusModel(trained.text, nugget=trained.nugget)
    assert validate_atom(model, table(60)).mae < validate_atom(model, table(30, seed=3)).mae


def test_errors_of_an_atom_are_in_kilojoule_per_mole() -> None:
    x, _ = data(STAYING, 80, 1)
    unseen = table(30, seed=3)
    model = FerebusModel(solved(product(x), Reading(), frame=STAYING), nugget=1e-8)
    validation = validate_atom(model, unseen)
    difference = (model.energies(unseen.features) - unseen.energies) * KJ_MOL
    np.testing.assert_array_equal(validation.errors, difference)
    assert validation.mae == pytest.approx(np.abs(difference).mean())
    assert validation.q_squared == pytest.approx(1.0 - (difference**2).mean() / (unseen.energies.std() * KJ_MOL) ** 2)
    figures = validation.as_dict()
    assert figures["max_kj_mol"] == np.abs(difference).max()
    assert validation.coverage is not None
    assert 0.0 <= validation.coverage[0] <= validation.coverage[1] <= 1.0


def test_models_of_dl_fflux_lie_one_folder_below(tmp_path: Path) -> None:
    assert models_folder(tmp_path) == tmp_path
    (tmp_path / "model_krig").mkdir()
    assert models_folder(tmp_path) == tmp_path / "model_krig"
    (tmp_path / "WATER_iqa_O1.model").write_text("")
    assert models_folder(tmp_path) == tmp_path
