"""A prior mean that is taught by a cheap level of theory: its geometries, labels, network and file."""
