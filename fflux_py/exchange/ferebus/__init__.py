"""``.model`` files of FEREBUS, ICHOR and DL_FFLUX, one atom each."""
