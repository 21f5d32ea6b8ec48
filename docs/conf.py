"""Configuration of the documentation."""

from __future__ import annotations

import os
import re
from importlib import metadata
from pathlib import Path
from typing import Any

# Notebook cells compile and run the shipped model: one thread, and pictures in the page.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")
os.environ.pop("MPLBACKEND", None)

project = "fflux_py"
author = "The fflux_py developers"
copyright = f"2026, {author}"
release = metadata.version("fflux_py")
version = release

extensions = [
    "myst_nb",
    "sphinx-mathjax-offline",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
# Pages of source code, for those who read: they say nothing about the documentation, and take a third of the time.
if not tags.has("check"):  # type: ignore[name-defined]  # noqa: F821
    extensions.append("sphinx.ext.viewcode")
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]

html_theme = "furo"
html_title = f"fflux_py {release}"

myst_enable_extensions = ["amsmath", "dollarmath", "deflist", "attrs_block"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True

napoleon_google_docstring = False
napoleon_numpy_docstring = True
napoleon_use_ivar = True
napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": False}
python_use_unqualified_type_names = True


def escape_bars(app: Any, what: str, name: str, subject: Any, options: Any, lines: list[str]) -> None:
    """Let |a| in a docstring be an absolute value; reStructuredText reads a substitution there."""
    for index, line in enumerate(lines):
        parts = re.split(r"(``.*?``|`[^`]*`)", line)
        lines[index] = "".join(part if part.startswith("`") else part.replace("|", r"\|") for part in parts)


def _option_row(parameter: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    if parameter.param_type_name == "argument":
        names = f"`{parameter.make_metavar() if parameter.metavar is None else parameter.metavar}`"
    default = parameter.default
    if isinstance(default, bool):
        default = (parameter.opts[0] if default else parameter.secondary_opts[0]) if parameter.secondary_opts else ""
    shown = "required" if parameter.required else "" if default in (None, "", ()) else f"`{default}`"
    text = " ".join((getattr(parameter, "help", None) or "").split()).replace("|", r"\|")
    return f"| {names} | {text} | {shown} |"


def write_command_reference(app: Any) -> None:
    """Write the options of every command, as the program itself knows them, to a file that commands.md includes."""
    import typer.main

    from fflux_py.cli import app as program

    lines: list[str] = []
    for name, command in typer.main.get_command(program).commands.items():  # type: ignore[attr-defined]
        description = (command.help or "").replace("\f", "").strip()
        lines += [f"## fflux {name}", "", description, "", "| option | meaning | default |", "|---|---|---|"]
        lines += [_option_row(p) for p in command.params if p.name != "help"]
        lines.append("")
    target = Path(app.srcdir) / "_build" / "command_reference.md"
    target.parent.mkdir(exist_ok=True)
    target.write_text("\n".join(lines), encoding="utf-8")


def setup(app: Any) -> None:
    """Connect the functions above to Sphinx."""
    app.connect("builder-inited", write_command_reference)
    app.connect("autodoc-process-docstring", escape_bars)
