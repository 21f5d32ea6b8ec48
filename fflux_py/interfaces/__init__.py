"""Other programs call force fields: ASE, OpenMM, i-PI; and workers elsewhere."""
