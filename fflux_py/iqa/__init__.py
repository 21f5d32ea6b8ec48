"""Labels from quantum chemistry: total energies, forces, and IQA atomic energies."""
