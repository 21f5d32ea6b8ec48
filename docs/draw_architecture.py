"""Draw docs/figures/architecture.svg from the import contracts in pyproject.toml.

Run ``python docs/draw_architecture.py`` after a change of the contracts.  The picture holds nothing else than what they
say, so the same contracts give the same bytes; ``tests/test_documentation.py`` holds the committed picture to them.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final

REPOSITORY: Final = Path(__file__).resolve().parent.parent
CONTRACT: Final = REPOSITORY / "pyproject.toml"
PICTURE: Final = REPOSITORY / "docs" / "figures" / "architecture.svg"

# Pixels.
_WIDTH: Final = 900.0
_MARGIN: Final = 16.0
_ARROW: Final = 56.0  # what the arrow at the left edge takes
_TITLE: Final = 34.0
_ROW: Final = 50.0
_BETWEEN_ROWS: Final = 14.0
_BETWEEN_ROOMS: Final = 30.0
_NAME_SIZE: Final = 15.0
_NOTE_SIZE: Final = 11.0
_LETTER: Final = 0.56  # mean width of a letter over the size of the type

_LIGHTEST: Final = (236, 243, 250)
_DARKEST: Final = (176, 203, 229)


@dataclass(frozen=True)
class Layer:
    """One row of the picture: rooms of the same height.

    Parameters
    ----------
    rooms
        Names of packages or modules inside the contract's container.
    independent
        Whether the rooms never import each other (joined by ``|`` in the contract); those joined by ``:`` may.
    """

    rooms: tuple[str, ...]
    independent: bool


@dataclass(frozen=True)
class Stack:
    """The layers of one contract, the topmost first, inside ``container`` (a package)."""

    container: str
    layers: tuple[Layer, ...]


def read_stacks(contracts: Iterable[Mapping[str, Any]]) -> list[Stack]:
    """The contracts of the type ``layers``; one that has several containers becomes several stacks."""
    stacks = []
    for contract in contracts:
        if contract["type"] == "layers":
            layers = tuple(_layer(line) for line in contract["layers"])
            stacks += [Stack(container, layers) for container in contract["containers"]]
    return stacks


def _layer(line: str) -> Layer:
    separator = ":" if ":" in line else "|"
    rooms = (name.strip().removeprefix("(").removesuffix(")") for name in line.split(separator))
    return Layer(tuple(rooms), independent=separator == "|")


def read_optional_packages(contracts: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """Module of ours -> the optional packages that it may import, from the contracts of the type ``forbidden``."""
    packages: dict[str, set[str]] = {}
    for contract in contracts:
        if contract["type"] == "forbidden":
            for exception in contract.get("ignore_imports", []):
                importer, imported = (name.strip() for name in exception.split("->"))
                packages.setdefault(importer.removesuffix(".**"), set()).add(imported)
    return {importer: tuple(sorted(names)) for importer, names in packages.items()}


def _packages_of(room: str, optional: Mapping[str, tuple[str, ...]]) -> str:
    inside = {name for importer, names in optional.items() if f"{importer}.".startswith(f"{room}.") for name in names}
    return ", ".join(sorted(inside))


def draw(contracts: Sequence[Mapping[str, Any]]) -> str:
    """The picture as the text of an SVG file.

    Parameters
    ----------
    contracts
        The tables ``[[tool.importlinter.contracts]]``.  The first contract of layers is the whole package; further ones
        (layers inside a room) are drawn below it, side by side.
    """
    stacks = read_stacks(contracts)
    optional = read_optional_packages(contracts)
    left, top = _MARGIN + _ARROW, _MARGIN + _TITLE
    whole = _draw_stack(stacks[0], optional, left, top, _WIDTH - _MARGIN - left)
    bottom = top + _height(stacks[0])
    parts = [_text(left, _MARGIN + 0.5 * _TITLE, f"{stacks[0].container}: rooms and layers", 17.0, weight="bold")]
    parts += whole
    parts += _down_arrow(_MARGIN + 0.5 * _ARROW, top, bottom)
    inner = stacks[1:]
    if inner:
        top = bottom + _BETWEEN_ROWS + _TITLE
        width = (_WIDTH - _MARGIN - left - _BETWEEN_ROOMS * (len(inner) - 1)) / len(inner)
        for k, stack in enumerate(inner):
            x = left + k * (width + _BETWEEN_ROOMS)
            parts.append(_text(x, top - 0.5 * _TITLE, f"inside {stack.container}", _NAME_SIZE, weight="bold"))
            parts += _draw_stack(stack, optional, x, top, width)
        bottom = top + max(_height(stack) for stack in inner)
    key, height = _key(left, bottom + 2.0 * _BETWEEN_ROWS)
    parts += key
    return _document(parts, height + _MARGIN)


def _height(stack: Stack) -> float:
    return len(stack.layers) * (_ROW + _BETWEEN_ROWS) - _BETWEEN_ROWS


def _draw_stack(
    stack: Stack, optional: Mapping[str, tuple[str, ...]], left: float, top: float, width: float
) -> list[str]:
    parts = []
    for k, layer in enumerate(stack.layers):
        y = top + k * (_ROW + _BETWEEN_ROWS)
        notes = [_packages_of(f"{stack.container}.{room}", optional) for room in layer.rooms]
        least = [
            max(len(room) * _NAME_SIZE, len(note) * _NOTE_SIZE) * _LETTER + 20.0
            for room, note in zip(layer.rooms, notes, strict=True)
        ]
        spare = (width - sum(least) - _BETWEEN_ROOMS * (len(least) - 1)) / len(least)
        x, colour = left, _colour(k, len(stack.layers))
        for i, (room, note) in enumerate(zip(layer.rooms, notes, strict=True)):
            if i and not layer.independent:
                parts.append(_double_arrow(x - _BETWEEN_ROOMS, x, y + 0.5 * _ROW))
            parts += _box(room, note, (x, y, least[i] + spare), colour)
            x += least[i] + spare + _BETWEEN_ROOMS
    return parts


def _colour(k: int, n: int) -> str:
    share = k / max(n - 1, 1)
    mixed = (round(light + share * (dark - light)) for light, dark in zip(_LIGHTEST, _DARKEST, strict=True))
    return "#" + "".join(f"{value:02x}" for value in mixed)


def _box(name: str, note: str, place: tuple[float, float, float], colour: str) -> list[str]:
    x, y, width = place
    middle = x + 0.5 * width
    parts = [
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{_ROW:.1f}" rx="6" '
        f'fill="{colour}" stroke="#48637e" stroke-width="1.2"/>',
        _text(middle, y + (0.36 if note else 0.5) * _ROW, name, _NAME_SIZE, anchor="middle"),
    ]
    if note:
        parts.append(_text(middle, y + 0.74 * _ROW, note, _NOTE_SIZE, anchor="middle", colour="#7a3b12"))
    return parts


def _text(
    x: float, y: float, text: str, size: float, anchor: str = "start", weight: str = "normal", colour: str = "#1c2a38"
) -> str:
    baseline = y + 0.35 * size
    return (
        f'<text x="{x:.1f}" y="{baseline:.1f}" font-size="{size:g}" text-anchor="{anchor}" '
        f'font-weight="{weight}" fill="{colour}">{escape(text)}</text>'
    )


def _double_arrow(begin: float, end: float, y: float) -> str:
    tip = 5.0
    left, right = begin + 4.0, end - 4.0
    return (
        f'<path d="M{left:.1f} {y:.1f} H{right:.1f} M{left + tip:.1f} {y - tip:.1f} L{left:.1f} {y:.1f} '
        f"L{left + tip:.1f} {y + tip:.1f} M{right - tip:.1f} {y - tip:.1f} L{right:.1f} {y:.1f} "
        f'L{right - tip:.1f} {y + tip:.1f}" fill="none" stroke="#48637e" stroke-width="1.4"/>'
    )


def _down_arrow(x: float, top: float, bottom: float) -> list[str]:
    tip, middle = 9.0, 0.5 * (top + bottom)
    return [
        f'<path d="M{x:.1f} {top:.1f} V{bottom:.1f} M{x - tip:.1f} {bottom - tip:.1f} L{x:.1f} {bottom:.1f} '
        f'L{x + tip:.1f} {bottom - tip:.1f}" fill="none" stroke="#48637e" stroke-width="2.4"/>',
        f'<text transform="translate({x - 10.0:.1f} {middle:.1f}) rotate(-90)" font-size="13" text-anchor="middle" '
        f'fill="#1c2a38">imports go down only</text>',
    ]


def _key(left: float, top: float) -> tuple[list[str], float]:
    step = 20.0
    indented = left + _BETWEEN_ROOMS + 8.0
    parts = [
        _text(left, top, "A room imports only from rows below its own.", 13.0),
        _double_arrow(left, left + _BETWEEN_ROOMS, top + step),
        _text(
            indented,
            top + step,
            "rooms of one row with arrows between them may import each other; rooms without arrows never do",
            13.0,
        ),
        _text(left, top + 2.0 * step, "small print", _NOTE_SIZE, colour="#7a3b12"),
        _text(left + 68.0, top + 2.0 * step, "optional packages; only the rooms that name one import it", 13.0),
    ]
    return parts, top + 2.0 * step + 8.0


def _document(parts: Iterable[str], height: float) -> str:
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:.0f} {height:.0f}" width="{_WIDTH:.0f}" '
        f'height="{height:.0f}" font-family="DejaVu Sans, Verdana, Helvetica, sans-serif">',
        "<title>Rooms and layers of fflux_py</title>",
        f'<rect width="{_WIDTH:.0f}" height="{height:.0f}" fill="#ffffff"/>',
        *parts,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--contract", type=Path, default=CONTRACT, help="the file with the import contracts")
    parser.add_argument("-o", "--output", type=Path, default=PICTURE, help="the picture")
    arguments = parser.parse_args()
    settings = tomllib.loads(arguments.contract.read_text(encoding="utf-8"))
    arguments.output.write_text(draw(settings["tool"]["importlinter"]["contracts"]), encoding="utf-8")


if __name__ == "__main__":
    main()
