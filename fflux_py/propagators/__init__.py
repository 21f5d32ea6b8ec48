"""Long time steps: maps of positions and velocities over many force-field steps (extra ``propagate``)."""
