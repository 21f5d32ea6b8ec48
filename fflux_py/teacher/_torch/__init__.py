"""The network of a taught mean while it is trained: all that imports PyTorch."""
