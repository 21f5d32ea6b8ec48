"""Free energies over the backbone torsions of a peptide, populations, standard errors; with and without bias."""
