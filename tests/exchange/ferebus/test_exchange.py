"""Force fields to ``.model`` files and DL_FFLUX, and back: the same energies, the same forces."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from fflux_py import model_file
from fflux_py.errors import FileFormatError, InputError, ModelMismatchError, ReorderedAtomsWarning
from fflux_py.exchange.dl_fflux import (
    BOHR,
    RunSettings,
    format_config,
    parse_config,
    read_dl_fflux,
    total,
    write_dl_fflux,
)
from fflux_py.exchange.ferebus.folder import read_models, write_models
from fflux_py.exchange.ferebus.forcefield import (
    ASSUMED_FRAME,
    atomic_model,
    conversion_notes,
    count_common_geometries,
    kernels_of,
    model_texts,
    positions_from_features,
    system_name,
    to_forcefield,
)
from fflux_py.exchange.ferebus.kernel import Composition, Kernel, Reading
from fflux_py.exchange.ferebus.model import FerebusModel
from fflux_py.exchange.ferebus.model_text import Mean, format_model, parse_model
from fflux_py.forcefield import ForceField
from fflux_py.gp.atomic_model import AtomicModel
from fflux_py.gp.covariance import Azimuth
from fflux_py.gp.features import features
from fflux_py.molecules.local_frame import LocalFrame, cip_local_frames
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray
from tests.support.ferebus_data import product, single
from tests.support.synthetic import fit, label, methanol, sample

UNSEEN = sample(60, seed=5)
AZIMUTHS: tuple[Azimuth, ...] = ("periodic", "rbf-cyclic", "rbf")


@cache
def spherical(azimuth: Azimuth = "periodic", mean: str = "MF2", n: int = 80) -> ForceField:
    return fit(label(sample(n)), "spherical", azimuth=azimuth, mean=mean, noise=1e-8, inverse_width=0.02)


def there_and_back(forcefield: ForceField, folder: Path) -> ForceField:
    write_models(folder, model_texts(forcefield))
    return to_forcefield(read_models(folder), forcefield.molecule)


@pytest.mark.parametrize("mean", ["MF1", "MF2", "MF4", "MF5", "gls"])
def test_round_trip_over_both_kinds_of_files(mean: str, tmp_path: Path) -> None:
    before = spherical(mean=mean)
    model_file.save(before, tmp_path / "before.npz")
    back = there_and_back(model_file.load(tmp_path / "before.npz"), tmp_path / "models")
    model_file.save(back, tmp_path / "after.npz")
    after = model_file.load(tmp_path / "after.npz")
    for one, other in zip(before.compute(UNSEEN), after.compute(UNSEEN), strict=True):
        assert one is not None
        assert other is not None
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-10)
    np.testing.assert_allclose(after.atomic_energies(UNSEEN), before.atomic_energies(UNSEEN), rtol=0, atol=1e-10)
    assert [m.frame for m in after.atoms] == [m.frame for m in before.atoms]
    means = [(m.mean, m.noise) for m in before.atoms]
    np.testing.assert_allclose([(m.mean, m.noise) for m in after.atoms], means, rtol=1e-12)
    # Another prior mean, chosen afterwards, means the same in both.
    one, other = (model.with_prior_mean("MF4").atomic_energies(UNSEEN) for model in (before, after))
    np.testing.assert_allclose(other, one, rtol=0, atol=1e-8)


@pytest.mark.parametrize("azimuth", AZIMUTHS)
def test_round_trip_of_all_kinds_of_azimuths(azimuth: Azimuth, tmp_path: Path) -> None:
    before = spherical(azimuth)
    after = there_and_back(before, tmp_path / "models")
    np.testing.assert_allclose(after.atomic_energies(UNSEEN), before.atomic_energies(UNSEEN), rtol=0, atol=1e-10)
    # In these frames no azimuth passes 180 degrees, so the data do not tell an rbf from one that wraps.
    assert {m.covariance.azimuth for m in after.atoms} == {"rbf-cyclic" if azimuth == "rbf" else azimuth}
    assert not conversion_notes(read_models(tmp_path / "models"))


def test_forces_of_a_converted_model_are_finite_differences(tmp_path: Path) -> None:
    model = there_and_back(spherical(), tmp_path / "models")
    positions, step = UNSEEN[:3], 1e-4
    _, forces = model.compute(positions)
    assert forces is not None
    for atom in range(6):
        for axis in range(3):
            shift = np.zeros((6, 3))
            shift[atom, axis] = step
            ahead, behind = (model.compute(positions + sign * shift, 0)[0] for sign in (1.0, -1.0))
            np.testing.assert_allclose(forces[:, atom, axis], (behind - ahead) / (2 * step), rtol=0, atol=2e-7)


@pytest.mark.parametrize("factor", [2.0, 4.0])
def test_theta_of_both_periodic_factors_and_a_prefactor(factor: float) -> None:
    """One atom: the energy over positions is that over features, whatever the file's conventions."""
    base = model_texts(spherical())[0]
    none = np.zeros(0, dtype=np.int64)
    parts = (*base.kernels.kernels, Kernel("c", "constant", none, np.zeros(0), 0.5))
    kernels = Composition(parts, "k1*k2*c", 3.0)
    matrix = kernels.matrix(base.x, base.x, Reading(factor)) + 1e-7 * np.eye(len(base.y))
    weights = np.linalg.solve(matrix, base.y - base.mean.at(base.x))
    model = FerebusModel(replace(base, kernels=kernels, weights=weights), Reading(factor), 1e-7)
    converted = atomic_model(model)
    x = features(UNSEEN, converted.frame, "spherical")
    np.testing.assert_allclose(converted.energy(UNSEEN), model.energies(x), rtol=0, atol=1e-11)
    deviation = np.sqrt(np.maximum(model.variances(x) * model.prior_variance(), 0.0))
    np.testing.assert_allclose(converted.deviation(UNSEEN), deviation, rtol=1e-5, atol=1e-9)
    # With another mean: as if the file had been solved with it.
    other = np.linalg.solve(matrix, base.y)
    expected = kernels.matrix(x, base.x, Reading(factor)) @ other
    np.testing.assert_allclose(converted.with_prior_mean("MF1").energy(UNSEEN), expected, rtol=0, atol=1e-8)


def test_positions_of_features() -> None:
    """Rebuilt geometries have the same features in every frame, so they are the same molecules and no mirror images."""
    for frame in (*cip_local_frames(methanol()), LocalFrame(0, 1, 5)):
        rebuilt = positions_from_features(
            features(UNSEEN, frame, "spherical"), (frame.atom, frame.x_axis, frame.xy_plane), 6
        )
        for other in cip_local_frames(methanol()):
            np.testing.assert_allclose(
                np.exp(1j * features(rebuilt, other, "spherical")),
                np.exp(1j * features(UNSEEN, other, "spherical")),
                rtol=0,
                atol=1e-9,
            )


def test_geometry_and_elements_come_from_the_models(tmp_path: Path) -> None:
    before = spherical()
    write_models(tmp_path / "models", model_texts(before))
    models = read_models(tmp_path / "models")
    after = to_forcefield(models)
    assert after.molecule.symbols == before.molecule.symbols
    lowest = before.compute(sample(80), 0)[0].min()
    assert after.energy_and_forces(after.molecule.positions)[0] == pytest.approx(lowest, abs=1e-9)
    assert count_common_geometries(models) == (80,) * 6


def test_frames_are_confirmed_by_common_geometries(tmp_path: Path) -> None:
    """A frame that was assumed is believed only if the atom's features are those of the other atoms' geometries."""
    texts = [replace(t, metadata={**t.metadata, ASSUMED_FRAME: "x"}) for t in model_texts(spherical())]
    write_models(tmp_path / "right", texts)
    assert not conversion_notes(read_models(tmp_path / "right"))
    atom, x_axis, xy_plane = texts[4].frame
    assert xy_plane is not None
    texts[4] = replace(texts[4], frame=(atom, xy_plane, x_axis))
    write_models(tmp_path / "wrong", texts)
    notes = conversion_notes(read_models(tmp_path / "wrong"))
    assert len(notes) == 1
    assert "the frames of H5 were not known" in notes[0]


def test_atoms_whose_data_do_not_tell_follow_those_whose_data_do(tmp_path: Path) -> None:
    """Unwrapped rbf on all atoms: only where azimuths pass 180 degrees can it be seen."""
    forcefield = fit(
        label(sample(80)), "spherical", azimuth="rbf", mean="MF2", noise=1e-8, inverse_width=0.02,
        frames=[LocalFrame(0, 1, 5), *cip_local_frames(methanol())[1:]],
    )  # fmt: skip
    write_models(tmp_path / "models", model_texts(forcefield))
    models = read_models(tmp_path / "models")
    assert {model.reading.wrap_rbf for model in models} == {True, False}
    after = to_forcefield(models)
    np.testing.assert_allclose(after.atomic_energies(UNSEEN), forcefield.atomic_energies(UNSEEN), rtol=0, atol=1e-10)
    assert {model.covariance.azimuth for model in after.atoms} == {"rbf"}
    (note,) = conversion_notes(models)
    assert "C1, O2, H3, H4, H5, H6: trained with azimuths that do not wrap" in note


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"kind": "unit-vector"}, "spherical features"),
        ({"kind": "spherical", "kernel": "matern52"}, "squared exponential"),
    ],
)
def test_what_model_files_cannot_represent_is_refused(change: dict[str, str], word: str, tmp_path: Path) -> None:
    forcefield = fit(label(sample(20)), **change)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=word):
        write_dl_fflux(tmp_path / "out", forcefield)
    assert not (tmp_path / "out").exists()


def test_terms_that_a_file_does_not_hold_are_found_by_their_energies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a later model adds to its energies, a file without it is not written."""
    energy = AtomicModel.energy

    def with_a_term(self: AtomicModel, positions: FloatArray) -> FloatArray:
        return energy(self, positions) + 1e-6 * features(positions, self.frame, "spherical")[:, 0]

    monkeypatch.setattr(AtomicModel, "energy", with_a_term)
    with pytest.raises(InputError, match="a constant mean and one kernel, found other energies"):
        model_texts(spherical())


def _kernel(change: Composition) -> dict[str, object]:
    return {"kernels": change}


x0 = features(UNSEEN, LocalFrame(0, 1, 2), "spherical")
first, second = product(x0).kernels
NOT_CONVERTIBLE = {
    "another property": ({"property_name": "q00"}, "the property 'iqa'"),
    "linear mean": ({"mean": Mean("linear", 0.0, np.zeros(12), np.zeros(12))}, "a constant mean"),
    "a sum": (_kernel(Composition((first, second), "k1+k2")), "a product of kernels"),
    "periodic and rbf on one feature": (
        _kernel(Composition((*single(x0).kernels, replace(second, name="k2")), "k1*k2")), "one kind of kernel",
    ),
    "periodic and rbf on azimuths": (
        _kernel(Composition((first, Kernel("k2", "periodic", np.array([5]), np.ones(1)), Kernel("k3", "rbf-cyclic",
        np.array([8]), np.ones(1))), "k1*k2*k3")), "one kernel on all azimuths",
    ),
    "a diatomic": ({"frame": (0, 1, None)}, "a frame of three atoms"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_CONVERTIBLE)
def test_models_without_a_force_field_are_refused(name: str) -> None:
    change, word = NOT_CONVERTIBLE[name]
    text = replace(model_texts(spherical())[0], **change)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=word) as caught:
        atomic_model(FerebusModel(text, Reading(), 1e-8))
    assert "C1" in str(caught.value)


def test_periodic_kernel_on_a_feature_without_period_is_no_force_field() -> None:
    """ICHOR has chi in the periodic kernel of some atoms; one atom can be read, a model file could not hold it."""
    texts = list(model_texts(spherical()))
    rest = Kernel("k1", "rbf", np.array([0, 1, 3, 4, 6, 7, 9, 10]), np.full(8, 0.1))
    kernels = Composition((rest, Kernel("k2", "periodic", np.array([2, 5, 8, 11]), np.full(4, 0.2))), "k1*k2")
    texts[0] = replace(texts[0], kernels=kernels)
    models = [FerebusModel(text, Reading(), 1e-8) for text in texts]
    x = features(UNSEEN, LocalFrame(*(k for k in texts[0].frame if k is not None)), "spherical")
    np.testing.assert_allclose(atomic_model(models[0]).energy(UNSEEN), models[0].energies(x), rtol=0, atol=1e-9)
    with pytest.raises(InputError, match=r"C1: .*periodic kernel on azimuths only, found one on feature 3"):
        to_forcefield(models)


def test_folders_that_are_not_whole_are_refused(tmp_path: Path) -> None:
    texts = model_texts(spherical())
    with pytest.raises(FileFormatError, match=r"names that end in \.model"):
        read_models(tmp_path)
    write_models(tmp_path, texts[:4])
    with pytest.raises(FileFormatError, match="models of all 6 atoms, found none of 5, 6"):
        read_models(tmp_path)
    write_models(tmp_path, texts[4:])
    (tmp_path / "METHANOL_q00_C1.model").write_text(format_model(replace(texts[0], property_name="q00")))
    assert len(read_models(tmp_path)) == 6
    with pytest.raises(FileFormatError, match="'iqa' of WATER"):
        read_models(tmp_path, "WATER")
    (tmp_path / "copy.model").write_text(format_model(texts[2]))
    with pytest.raises(FileFormatError, match="one model for each atom, found atom 3 again"):
        read_models(tmp_path)
    (tmp_path / "copy.model").write_text(format_model(replace(texts[2], system="ETHANOL")))
    with pytest.raises(FileFormatError, match="METHANOL with 6"):
        read_models(tmp_path)


def test_other_elements_are_refused(tmp_path: Path) -> None:
    models = [FerebusModel(text, Reading(), 1e-8) for text in model_texts(spherical())]
    with pytest.raises(ModelMismatchError, match="the atoms C O H H H H"):
        to_forcefield(models, Molecule(("Si", *methanol().symbols[1:]), methanol().positions))
    with pytest.raises(ModelMismatchError, match="the bonds of"):
        to_forcefield(models, Molecule(("O", "C", "H", "H", "H", "H"), methanol().positions))
    with pytest.raises(InputError, match="the atom with the number 2"):
        to_forcefield([models[0], models[2], models[1], *models[3:]])


def test_names_of_systems() -> None:
    assert system_name("methanol (start 2)") == "METHANOL-START-2"
    assert system_name("()") == "MOLECULE"


def test_kernels_of_a_triatomic_have_no_periodic_part() -> None:
    from fflux_py.gp.covariance import Covariance

    kernels = kernels_of(Covariance(np.ones(3), np.zeros(0)))
    assert (kernels.expression, kernels.kernels[0].kind) == ("k1", "rbf")


def test_dl_fflux_folder_is_read_back_with_the_same_energies(tmp_path: Path) -> None:
    forcefield = spherical("rbf-cyclic")
    start = methanol().with_positions(UNSEEN[0])
    settings = RunSettings(temperature=250.0, n_steps=7)
    paths = write_dl_fflux(tmp_path / "run", forcefield, start, settings)
    assert {path.name for path in paths} >= {"CONFIG", "CONTROL", "FIELD", "METHANOL_iqa_H6.model"}
    (species,) = read_dl_fflux(tmp_path / "run")
    np.testing.assert_allclose(species.positions[0], UNSEEN[0] - UNSEEN[0].mean(0), rtol=0, atol=1e-12)
    expected = forcefield.energy_and_forces(UNSEEN[0])[0]
    assert total([species]) == pytest.approx(expected, abs=1e-10)
    control = (tmp_path / "run" / "CONTROL").read_text().splitlines()
    assert {"timestep 0.0005", "temperature 250", "steps 7", "ensemble nvt hoover 0.025"} <= set(control)
    field = (tmp_path / "run" / "FIELD").read_text()
    assert "BONDS 15\n" in field
    assert "C  12.0110000  0.0  1  0\n" in field


def test_molecules_that_cross_the_boundary_are_whole(tmp_path: Path) -> None:
    """Two molecules, each shifted by part of the cell and wrapped atom by atom."""
    forcefield = spherical()
    write_dl_fflux(tmp_path, forcefield)
    config = parse_config((tmp_path / "CONFIG").read_text(), "CONFIG")
    assert config.cell is not None
    edge = config.cell[0, 0]
    placed = np.concatenate([UNSEEN[0] + 0.49 * edge, UNSEEN[1] - 0.51 * edge])
    wrapped = placed - edge * np.round(placed / edge)
    assert np.abs(wrapped - placed).max() > 0.5 * edge
    lines = ["two molecules", "0 1 12", *(" ".join(f"{v * BOHR:.12f}" for v in row) for row in config.cell)]
    for k, position in enumerate(wrapped):
        lines += [f"{methanol().symbols[k % 6]} {k + 1} {config.labels[k % 6]}"]
        lines += [" ".join(f"{v * BOHR:.14f}" for v in position)]
    (tmp_path / "CONFIG").write_text("\n".join(lines))
    (species,) = read_dl_fflux(tmp_path)
    expected = forcefield.compute(UNSEEN[:2], 0)[0].sum()
    assert total([species]) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("METHANOL_H3", "METHANOL_H4", "labels that count"),
        ("METHANOL_H6", "METHANOL_H7", "labels that count"),
        ("METHANOL_O2", "METHANOL_C2", "a label such as"),
        ("METHANOL_O2", "METHANOL", "a label such as"),
        ("METHANOL_O2", "METHANOL_O", "a label such as"),
    ],
)
def test_labels_that_are_no_molecules_are_refused(old: str, new: str, word: str, tmp_path: Path) -> None:
    write_dl_fflux(tmp_path, spherical())
    text = (tmp_path / "CONFIG").read_text()
    (tmp_path / "CONFIG").write_text(text.replace(old, new))
    with pytest.raises(FileFormatError, match=word) as caught:
        read_dl_fflux(tmp_path)
    assert "CONFIG" in caught.value.where


def test_kernel_that_dl_fflux_would_evaluate_otherwise_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="DL_FFLUX wraps them in every rbf"):
        write_dl_fflux(tmp_path / "run", spherical("rbf"))


@pytest.mark.parametrize(
    "change",
    [{"temperature": 0.0}, {"timestep": float("nan")}, {"n_steps": 0}, {"cell": 20.0}, {"relaxation_time": -1}],
)
def test_wrong_settings_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        RunSettings(**change)  # type: ignore[arg-type]


def test_metadata_of_the_data_goes_into_the_files(tmp_path: Path) -> None:
    forcefield = replace(spherical(), metadata={"method": "b3lyp", "basis": "6-31+g(d,p)", "n_train": 80})
    texts = [parse_model(format_model(text), "C1.model") for text in model_texts(forcefield)]
    assert texts[0].metadata["method"] == "b3lyp"
    assert texts[0].metadata["format"] == "FEREBUS 7.2"
    assert np.isfinite(texts[0].likelihood or np.nan)


def test_arrays_of_the_exchange_are_read_only(tmp_path: Path) -> None:
    write_dl_fflux(tmp_path, spherical())
    (species,) = read_dl_fflux(tmp_path)
    arrays: list[FloatArray] = [species.positions, read_models(tmp_path / "model_krig")[0].text.x]
    for array in arrays:
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0.0


def test_atoms_in_another_order_are_matched_with_the_models_and_told(tmp_path: Path) -> None:
    """On the way out, and of every molecule of a folder on the way in."""
    forcefield, order = spherical(), [0, 1, 3, 2, 4, 5]
    x = methanol().positions
    start = Molecule(methanol().symbols, x[order], name="methanol")
    with pytest.warns(ReorderedAtomsWarning, match="atoms 3 and 4 exchanged to fit the models"):
        write_dl_fflux(tmp_path, forcefield, start)
    (species,) = read_dl_fflux(tmp_path)
    np.testing.assert_allclose(species.positions[0], x - x.mean(axis=0), atol=1e-9)
    config = parse_config((tmp_path / "CONFIG").read_text(), "CONFIG")
    swapped = replace(config, positions=np.array(config.positions)[order])
    (tmp_path / "CONFIG").write_text(format_config(swapped))
    with pytest.warns(ReorderedAtomsWarning, match="atoms 3 and 4 exchanged"):
        (species,) = read_dl_fflux(tmp_path)
    assert total((species,)) == pytest.approx(forcefield.energy(x), abs=1e-9)
