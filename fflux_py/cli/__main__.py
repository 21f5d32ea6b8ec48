"""``python -m fflux_py.cli``: the same program as ``fflux``."""

from fflux_py.cli import main

if __name__ == "__main__":
    main()
