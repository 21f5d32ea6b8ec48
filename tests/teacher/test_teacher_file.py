"""Files of teachers whose content is wrong though their checksum is right."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fflux_py.errors import FileFormatError, InputError
from fflux_py.files import parse_npz, sealed_npz
from fflux_py.gp.taught_mean import TaughtMean
from fflux_py.molecules.molecule import Molecule
from fflux_py.teacher.teacher_file import Teacher, load_teacher, save_teacher
from tests.support.taught_means import METHANOL, random_mean


def first_is(value: float) -> Callable[[np.ndarray], np.ndarray]:
    """An array with another first number."""

    def change(array: np.ndarray) -> np.ndarray:
        changed = array.copy()
        changed.flat[0] = value
        return changed

    return change


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("mean/constant", first_is(np.nan), "mean/constant: expected finite numbers"),
        ("mean/terms/bond_lengths", first_is(np.inf), "mean/terms/bond_lengths: expected finite numbers"),
        ("mean/network/first", first_is(-1e200), "mean/network/first: expected finite numbers"),
        (
            "mean/network/last",
            lambda a: a.astype(complex),
            "last: expected finite numbers, found .*complex",
        ),
        ("positions", first_is(np.nan), "positions: expected finite numbers"),
        ("positions", lambda a: a[:5], "positions"),
        ("mean/terms/pair_decays", lambda a: a[:-1], "pair_decays of float64 and shape"),
        ("mean/network/pair_classes", lambda a: a + 100, "pair_classes beyond the 13"),
        ("header", lambda a: a[:0], "header: expected JSON"),
    ],
)
def test_numbers_and_shapes_are_checked(
    tmp_path: Path, name: str, change: Callable[[np.ndarray], np.ndarray], said: str
) -> None:
    path = tmp_path / "teacher.npz"
    save_teacher(Teacher(METHANOL, TaughtMean(random_mean(), "GFN2-xTB")), path)
    load_teacher(path)
    arrays = parse_npz(path.read_bytes())
    del arrays["sha256"]
    path.write_bytes(sealed_npz({**arrays, name: change(arrays[name])}))
    with pytest.raises(FileFormatError, match=said) as caught:
        load_teacher(path)
    assert caught.value.where.startswith(str(path))


def test_a_mean_of_another_number_of_atoms_is_refused() -> None:
    water = Molecule(("O", "H", "H"), np.array([[0.0, 0.0, 0.0], [1.8, 0.0, 0.0], [-0.45, 1.75, 0.0]]))
    with pytest.raises(InputError, match="expected a mean of 3 atoms, found one of 6"):
        Teacher(water, TaughtMean(random_mean(), "GFN2-xTB"))
