"""Topological atoms: critical points, gradient paths, atomic basins."""
