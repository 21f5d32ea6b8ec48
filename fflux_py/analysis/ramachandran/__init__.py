"""Ramachandran maps: free energies over the backbone torsions of a peptide, with and without bias.

Nothing is imported here.

``map``
    The map: probabilities block by block, free energies, populations, standard errors, symmetry.
``estimates``
    Maps from frames, with weights or without, and from free energies on a grid.
``runs``
    Maps of molecular dynamics runs; frames of runs with metadynamics are reweighted.
``regions``
    The nine regions of the map, and which molecules are achiral.
``comparison``
    Two maps against each other.
"""
