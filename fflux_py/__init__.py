"""fflux_py: physics-informed force fields from topological atoms, from an XYZ file to a trusted NVT run."""

from __future__ import annotations

__version__ = "0.1.0"
