"""Molecules, their geometries and data sets."""
