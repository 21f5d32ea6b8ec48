"""The text of ``.model`` files: read in the dialects of FEREBUS 7 and 10, ICHOR and gpytorch, written as FEREBUS 7.

The text alone does not decide everything that a prediction needs; :mod:`fflux_py.exchange.ferebus.consistency` does
that, from the numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, cast, get_args

import numpy as np

from fflux_py.errors import FileFormatError, InputError
from fflux_py.exchange._words import is_count, real, table
from fflux_py.exchange.ferebus._sections import Section, read_sections
from fflux_py.exchange.ferebus.kernel import KINDS, Composition, Kernel, Kind
from fflux_py.molecules.molecule import read_only
from fflux_py.typing import FloatArray

MeanKind = Literal["constant", "zero", "linear", "quadratic"]
_MEANS: Final[tuple[str, ...]] = get_args(MeanKind)
_NUGGETS: Final = ("nugget", "noise", "jitter")
_MISSPELT: Final = {"rbf-cylic": "rbf-cyclic"}
_UNKNOWN: Final = "<TODO>"
FORMAT: Final = "FEREBUS 7.2"


@dataclass(frozen=True)
class Mean:
    r"""The prior mean: constant, zero, :math:`y_0 + \beta (x - x_0)` or :math:`y_0 + \beta (x - x_0)^2`.

    Parameters
    ----------
    kind
        ``"constant"``, ``"zero"``, ``"linear"`` or ``"quadratic"``.
    value
        The constant, or y_0.
    beta, x_0
        Of the last two kinds, shape ``(d,)``.
    """

    kind: MeanKind
    value: float = 0.0
    beta: FloatArray = field(default_factory=lambda: np.zeros(0))
    x_0: FloatArray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", read_only(self.beta))
        object.__setattr__(self, "x_0", read_only(self.x_0))
        if self.kind not in _MEANS:
            raise InputError("mean", f"a type among {', '.join(_MEANS)}", repr(self.kind))
        if self.beta.shape != self.x_0.shape or self.beta.ndim != 1:
            raise InputError("mean", "as many beta as xmin", f"{self.beta.size} and {self.x_0.size}")

    def at(self, x: FloatArray) -> FloatArray:
        """Values at features of shape ``(m, d)``, shape ``(m,)``."""
        if self.kind in ("constant", "zero"):
            return np.full(len(x), self.value)
        difference = x - self.x_0
        return np.asarray(self.value + (difference if self.kind == "linear" else difference**2) @ self.beta)


@dataclass(frozen=True)
class ModelText:
    """What stands in a ``.model`` file.

    Parameters
    ----------
    system, atom, property_name
        For example ``"WATER"``, ``"O1"``, ``"iqa"``.
    frame
        Atom, x-axis atom, xy-plane atom, from 0; the last one is None in a diatomic.
    n_atoms
        Atoms of the molecule.
    mean, kernels
        The prior mean and the composition of kernels.
    x, y, weights
        Features, shape ``(n, d)``, values of the property, shape ``(n,)``, and weights, shape ``(n,)``.
    metadata
        ``program``, ``version``, ``nugget`` (``noise``, ``jitter``), ``likelihood`` and notes, as they stand there.
    """

    system: str
    atom: str
    property_name: str
    frame: tuple[int, int, int | None]
    n_atoms: int
    mean: Mean
    kernels: Composition
    x: FloatArray
    y: FloatArray
    weights: FloatArray
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("x", "y", "weights"):
            object.__setattr__(self, name, read_only(getattr(self, name)))
        object.__setattr__(self, "metadata", dict(self.metadata))
        for word in (self.system, self.atom, self.property_name, *self.metadata, *self.metadata.values()):
            if word != " ".join(word.split()) or not word or word.startswith("="):
                raise InputError("names and metadata", "words on one line", repr(word))
        for key in self.metadata:
            if " " in key or key.startswith("["):
                raise InputError("key of the metadata", "one word", repr(key))
        n = len(self.y)
        if self.x.ndim != 2 or len(self.x) != n or self.weights.shape != (n,) or not n:
            raise InputError(
                "training data",
                "as many rows of features and weights as values",
                f"{len(self.x)}, {n}, {len(self.weights)}",
            )
        chosen = [i for i in self.frame if i is not None]
        if len(set(chosen)) < len(chosen) or not all(0 <= i < self.n_atoms for i in chosen):
            raise InputError("ALF", f"different atoms from 1 to {self.n_atoms}", " ".join(str(i + 1) for i in chosen))
        for kernel in self.kernels.kernels:
            if kernel.dimensions.size and kernel.dimensions.max() >= self.n_features:
                raise InputError(
                    f"kernel {kernel.name}", f"features up to {self.n_features}", str(kernel.dimensions + 1)
                )
        if self.mean.kind in ("linear", "quadratic") and self.mean.beta.size != self.n_features:
            raise InputError("mean", f"{self.n_features} beta", str(self.mean.beta.size))

    @property
    def n_features(self) -> int:
        """Number of features."""
        return int(self.x.shape[1])

    @property
    def nugget(self) -> float | None:
        """What the header says was added to the diagonal of the kernel matrix, if it says anything."""
        for key in _NUGGETS:
            if key in self.metadata:
                return real(self.metadata[key].split()[0], f"metadata, {key}")
        return None

    @property
    def likelihood(self) -> float | None:
        """The log likelihood in the header, if there is one."""
        text = self.metadata.get("likelihood")
        return None if text is None else real(text.split()[0], "metadata, likelihood")


def parse_model(text: str, path: str) -> ModelText:
    """Read the text of a ``.model`` file.

    Parameters
    ----------
    text, path
        The text, and the name of the file for messages.

    Raises
    ------
    FileFormatError
        With the number of the line at which the file is not what it should be.
    """
    metadata, parts = read_sections(text, path)
    for key in (*_NUGGETS, "likelihood"):
        if key in metadata:
            real(metadata[key][1].split()[0] if metadata[key][1] else "", f"{path}:{metadata[key][0]}, {key}")
    for name in ("system", "dimensions", "mean", "kernels", "training_data.x", "training_data.y", "weights"):
        if name not in parts:
            raise FileFormatError(path, f"a section [{name}]", "none", "is this a .model file, and is it whole?")
    system, dimensions = parts["system"], parts["dimensions"]
    d, n = dimensions.integer("number_of_features"), dimensions.integer("number_of_training_points")
    if d < 1 or n < 1:
        raise FileFormatError(dimensions.where, "at least one feature and one training point", f"{d} and {n}")
    _check_scaling(parts.get("training_data"))
    columns = {
        name: table([words for _, words in parts[name].rows], [k for k, _ in parts[name].rows], width, path)
        for name, width in (("training_data.x", d), ("training_data.y", 1), ("weights", 1))
    }
    for name, values in columns.items():
        if len(values) != n:
            raise FileFormatError(parts[name].where, f"{n} rows in [{name}]", str(len(values)), "a truncated file?")
    try:
        return ModelText(
            system=" ".join(system.words("name")),
            atom=" ".join(system.words("atom")),
            property_name=" ".join(system.words("property")),
            frame=_frame(system),
            n_atoms=dimensions.integer("number_of_atoms"),
            mean=_mean(parts["mean"]),
            kernels=_composition(parts, d),
            x=columns["training_data.x"],
            y=columns["training_data.y"][:, 0],
            weights=columns["weights"][:, 0],
            metadata={key: " ".join(value.split()) for key, (_, value) in metadata.items()},
        )
    except InputError as error:
        raise FileFormatError(f"{path}, {error.where}", error.expected, error.found, error.remedy) from None


def format_model(model: ModelText) -> str:
    """The text of a ``.model`` file in the layout of FEREBUS 7; numbers with all digits."""
    lines = ["# [metadata]"]
    plain = ("program", "version", *_NUGGETS, "likelihood")
    lines += [f"# {key} {model.metadata[key]}" for key in plain if key in model.metadata]
    lines += [f"# {key} = {value}" for key, value in model.metadata.items() if key not in plain]
    alf = " ".join("None" if i is None else str(i + 1) for i in model.frame)
    lines += ["", "[system]", f"name {model.system}", f"atom {model.atom}", f"property {model.property_name}"]
    lines += [f"ALF {alf}", "", "[dimensions]", f"number_of_atoms {model.n_atoms}"]
    lines += [f"number_of_features {model.n_features}", f"number_of_training_points {len(model.y)}", ""]
    lines += _mean_lines(model.mean)
    lines += ["", "[kernels]", f"number_of_kernels {len(model.kernels.kernels)}"]
    lines += [f"composition {model.kernels.expression.replace(' ', '')}"]
    if model.kernels.prefactor != 1.0:  # FEREBUS 7 knows none
        lines += [f"prefactor {float(model.kernels.prefactor)!r}"]
    for kernel in model.kernels.kernels:
        lines += ["", f"[kernel.{kernel.name}]", f"type {kernel.kind}", f"number_of_dimensions {kernel.theta.size}"]
        lines += [" ".join(["active_dimensions", *(str(h + 1) for h in kernel.dimensions)])]
        lines += [f"value {float(kernel.value)!r}" if kernel.kind == "constant" else f"theta {_numbers(kernel.theta)}"]
    units = ["radians" if h % 3 == 2 else "bohr" for h in range(model.n_features)]
    lines += ["", "[training_data]", f"units.x {' '.join(units)}"]
    lines += [f"units.y {'Ha' if model.property_name == 'iqa' else 'au'}", "scaling.x none", "scaling.y none"]
    lines += ["", "[training_data.x]", *(_numbers(row) for row in model.x)]
    lines += ["", "[training_data.y]", *(repr(float(value)) for value in model.y)]
    lines += ["", "[weights]", *(repr(float(value)) for value in model.weights), ""]
    return "\n".join(lines) + "\n"


def _numbers(values: FloatArray) -> str:
    return " ".join(repr(float(value)) for value in values)


def _mean_lines(mean: Mean) -> list[str]:
    lines = ["[mean]", f"type {mean.kind}"]
    if mean.kind == "constant":
        return [*lines, f"value {float(mean.value)!r}"]
    if mean.kind == "zero":
        return lines
    return [*lines, f"beta {_numbers(mean.beta)}", f"xmin {_numbers(mean.x_0)}", f"ymin {float(mean.value)!r}"]


def _frame(system: Section) -> tuple[int, int, int | None]:
    words = system.words("ALF")
    where = system.line_of("ALF")
    if len(words) not in (2, 3) or not all(map(is_count, words[:2])):
        raise FileFormatError(where, "the numbers of two or three atoms", " ".join(words) or "none")
    last = words[2] if len(words) == 3 else "None"
    if last != "None" and not is_count(last):
        raise FileFormatError(where, "the number of an atom or None", repr(last))
    return int(words[0]) - 1, int(words[1]) - 1, None if last == "None" else int(last) - 1


def _mean(section: Section) -> Mean:
    kind = section.text("type")
    if kind == "constant":
        return Mean("constant", section.real("value"))
    if kind == "zero":
        return Mean("zero")
    if kind not in ("linear", "quadratic"):
        raise FileFormatError(section.line_of("type"), f"a mean among {', '.join(_MEANS)}", repr(kind))
    x_0, value = (section.spelling(*names) for names in (("xmin", "x_min"), ("ymin", "y_min")))
    chosen: MeanKind = "linear" if kind == "linear" else "quadratic"
    return Mean(chosen, section.real(value), section.reals("beta"), section.reals(x_0))


def _composition(parts: Mapping[str, Section], n_features: int) -> Composition:
    head = parts["kernels"]
    names = [name.removeprefix("kernel.") for name in parts if name.startswith("kernel.")]
    if head.integer("number_of_kernels") != len(names):
        present = f"{len(names)} sections [kernel. ...]"
        raise FileFormatError(head.line_of("number_of_kernels"), head.text("number_of_kernels") + " kernels", present)
    kernels = tuple(_kernel(parts[f"kernel.{name}"], name, n_features) for name in names)
    prefactor = head.real("prefactor") if head.has("prefactor") else 1.0
    try:
        return Composition(kernels, head.text("composition"), prefactor)
    except InputError as error:
        where = f"{head.line_of('composition')}, {error.where}"
        raise FileFormatError(where, error.expected, error.found, error.remedy) from None


def _kernel(section: Section, name: str, n_features: int) -> Kernel:
    word = section.text("type")
    kind = _MISSPELT.get(word, word)
    if kind not in KINDS:
        where = section.line_of("type")
        raise FileFormatError(where, f"a kernel among {', '.join(KINDS)}", repr(word), "this kernel cannot be read")
    key = section.spelling("theta", "thetas", "lengthscale")  # theta stands under all three
    if kind == "constant" and not section.has(key):
        return Kernel(name, "constant", np.zeros(0, dtype=np.int64), np.zeros(0), section.real("value"))
    if kind == "constant":  # one writer of ICHOR's puts this word over every rbf; the training energies will tell
        kind = "rbf"
    theta = section.reals(key)
    dimensions = np.arange(n_features)
    if section.has("active_dimensions") and section.words("active_dimensions") != [_UNKNOWN]:
        dimensions = section.integers("active_dimensions") - 1
    if section.has("number_of_dimensions") and section.integer("number_of_dimensions") != dimensions.size:
        expected = f"{section.integer('number_of_dimensions')} features"
        raise FileFormatError(section.line_of("active_dimensions"), expected, str(dimensions.size))
    try:
        return Kernel(name, cast("Kind", kind), dimensions, theta)
    except InputError as error:
        raise FileFormatError(f"{section.where}, {error.where}", error.expected, error.found, error.remedy) from None


def _check_scaling(section: Section | None) -> None:
    """Scaled data cannot be read: the file does not hold the scales."""
    for key in ("scaling", "scaling.x", "scaling.y") if section is not None else ():
        assert section is not None
        word = section.text(key) if section.has(key) else "none"
        if word not in ("none", _UNKNOWN):
            remedy = "train again without scaling: the file does not hold the means and deviations"
            raise FileFormatError(section.line_of(key), "none", repr(word), remedy)


def names_of(atom: str) -> tuple[str, int]:
    """Element and number (from 1) of the name of an atom, such as ``O1``.

    Raises
    ------
    InputError
        Not an element symbol followed by a number.
    """
    element = atom.rstrip("0123456789")
    number = atom[len(element) :]
    if not element.isalpha() or not is_count(number) or int(number) < 1:
        raise InputError("name of the atom", "an element and a number such as O1", repr(atom))
    return element.capitalize(), int(number)
