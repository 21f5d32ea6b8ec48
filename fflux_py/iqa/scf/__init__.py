"""Densities and energies of a molecule: Kohn-Sham calculations by PySCF, and what is derived from their orbitals."""
