"""Networks of propagators: all that imports PyTorch."""
