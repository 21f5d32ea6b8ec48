"""Common ground of all pictures: palette, style, and the way to SVG and PNG.

Figures are made with matplotlib's objects, never through pyplot, so that drawing needs no display and leaves no state
behind.  The palette is that of M. Okabe and K. Ito (Color Universal Design, 2008), which stays distinct in every kind
of colour blindness; text and lines take a few fixed colours, for which a page may put in those of its theme.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import wraps
from typing import Any, Final, ParamSpec

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from fflux_py.typing import FloatArray

INK: Final = "#1f2328"
MUTED: Final = "#667079"
GRID: Final = "#dfe3e8"
BLUE: Final = "#0072b2"
VERMILLION: Final = "#d55e00"
GREEN: Final = "#009e73"
PURPLE: Final = "#b5638f"
ORANGE: Final = "#e69f00"
SKY: Final = "#56b4e9"

THEME: Final = {
    INK: "--plot-ink",
    MUTED: "--plot-muted",
    GRID: "--plot-grid",
    BLUE: "--plot-blue",
    VERMILLION: "--plot-vermillion",
    GREEN: "--plot-green",
    PURPLE: "--plot-purple",
    ORANGE: "--plot-orange",
    SKY: "--plot-sky",
}
"""Colours that a page may replace, and the names of its CSS variables."""

CYCLE: Final = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)

# Opacity, not lightness: it reads on a light page and on a dark one.
DEPTH: Final = LinearSegmentedColormap.from_list(
    "depth", [(0.02, 0.33, 0.62, 1.0), (0.08, 0.45, 0.73, 0.75), (0.2, 0.56, 0.82, 0.4), (0.3, 0.62, 0.86, 0.12)]
)
"""Strong where the free energy is low."""

MANY_POINTS: Final = 1200
"""Above this number of points a layer is a bitmap inside the vector picture, or the file would grow by megabytes."""

_STYLE: Final = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "mathtext.fontset": "dejavusans",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.labelsize": 8.5,
    "axes.titlesize": 9.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "lines.linewidth": 1.4,
    "lines.solid_capstyle": "round",
    "figure.dpi": 100,
    # Same input, same bytes.
    "svg.hashsalt": "fflux_py",
    "svg.fonttype": "path",
}

_WIDTH: Final = 8.0

P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Let a function draw in the common style, whatever the reader's own matplotlib settings are."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(_settings()):
            return draw(*args, **kwargs)

    return drawn


def new_figure(height: float, width: float = _WIDTH) -> Figure:
    """An empty figure (inches), 8 inches wide if not said otherwise."""
    return Figure(figsize=(width, height), layout="constrained")


def to_svg(figure: Figure) -> str:
    """The figure as an SVG document; equal figures give equal text."""
    stream = io.StringIO()
    with mpl.rc_context(_settings()):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(stream, format="svg", dpi=200, metadata=nothing)
    return stream.getvalue()


def to_png(figure: Figure, dpi: int = 200) -> bytes:
    """The figure as PNG on white."""
    stream = io.BytesIO()
    with mpl.rc_context(_settings()):
        figure.savefig(stream, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return stream.getvalue()


def scatter(axes: Axes, x: FloatArray, y: FloatArray, colour: str, label: str = "", size: float = 7.0) -> None:
    """Points without edges, a bitmap if there are many."""
    count = len(x)
    opacity = 0.75 if count < MANY_POINTS // 3 else 0.45 if count < 4 * MANY_POINTS else 0.25
    axes.scatter(
        x,
        y,
        s=size,
        color=colour,
        alpha=opacity,
        linewidths=0.0,
        label=label or None,
        rasterized=count > MANY_POINTS,
    )


def solid_legend(axes: Axes, **options: Any) -> None:
    """A legend whose marks are opaque and large enough to tell colours apart."""
    legend = axes.legend(**options)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1.0)
            if hasattr(handle, "set_sizes"):
                handle.set_sizes([22.0])


def _settings() -> Any:  # newer stub files of matplotlib spell out every key, older ones take any text
    return {**mpl.rcParamsDefault, **_STYLE, "backend": "agg"}
