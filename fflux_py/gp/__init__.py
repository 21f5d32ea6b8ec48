"""Gaussian processes of atomic energies over the features of local frames."""
