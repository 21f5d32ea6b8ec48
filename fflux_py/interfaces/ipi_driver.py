"""The force field as a driver of i-PI, over a socket.

i-PI (Kapil et al., Comput. Phys. Commun. 236, 214 (2019)) moves the atoms: path integrals, replica exchange, and more;
a driver answers with energy and forces.  ASE's protocol converts with its own constants (CODATA 2014, ours are of 2018,
which differ by 4e-10); what it converts is therefore converted back with the same, so that the numbers on the wire are
ours.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Final

import numpy as np
from ase import units
from ase.calculators.socketio import IPIProtocol, SocketClosed

from fflux_py.errors import InputError, ModelMismatchError
from fflux_py.forcefield import ForceField
from fflux_py.interfaces.evaluator import Evaluator, Outside

DEFAULT_PORT: Final = 31415
_PAUSE: Final = 0.1


def drive(
    forcefield: ForceField,
    address: str = "localhost",
    port: int | None = DEFAULT_PORT,
    *,
    wait: float = 10.0,
    outside: Outside = "warn",
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Connect to a server and answer until it says goodbye; the number of geometries that were evaluated.

    The protocol names no elements: the server's atoms are taken to be those of the model, in its order.  Bonds and
    hands must fit that; where they fit the mirror image, or atoms of one element exchanged, they are matched.

    Parameters
    ----------
    forcefield
        The model.
    address, port
        Host and port; with ``port`` None, ``address`` is the name of a Unix socket (``/tmp/ipi_NAME``).
    wait
        Seconds to wait for the server to be there.
    outside
        What happens at a geometry that the model does not know (:class:`fflux_py.interfaces.evaluator.Evaluator`).
    progress
        Called with (evaluations, 0): the end is not known.

    Raises
    ------
    InputError
        No server at that address.
    ModelMismatchError
        Another number of atoms than the model's.
    """
    n_atoms, evaluator = forcefield.molecule.n_atoms, Evaluator(forcefield, outside)
    count, answer = 0, (0.0, np.zeros((n_atoms, 3)))
    with _connect(address, port, wait) as connection:
        protocol = IPIProtocol(connection)  # type: ignore[no-untyped-call]
        state = "READY"
        while True:
            message = _next_message(protocol)
            if message == "EXIT":
                return count
            if message == "STATUS":
                protocol.sendmsg(state)  # type: ignore[no-untyped-call]
            elif message == "INIT":
                protocol.recvinit()  # type: ignore[no-untyped-call]
            elif message == "POSDATA":
                _, _, positions = protocol.recvposdata()  # type: ignore[no-untyped-call]
                if len(positions) != n_atoms:
                    expected = f"{n_atoms} atoms as in the model"
                    raise ModelMismatchError("positions from the server", expected, str(len(positions)))
                energies, forces = evaluator.evaluate(np.asarray(positions / units.Bohr))
                answer = float(energies.sum()), forces
                state, count = "HAVEDATA", count + 1
                if progress is not None:
                    progress(count, 0)
            elif message == "GETFORCE":
                energy, forces = answer
                # an isolated molecule has no virial
                protocol.sendforce(energy * units.Ha, forces * (units.Ha / units.Bohr), np.zeros((3, 3)))  # type: ignore[no-untyped-call]
                state = "READY"
            else:
                raise InputError("message from the server", "one of i-PI's protocol", repr(message))


def _next_message(protocol: IPIProtocol) -> str:
    """The next message; a server that has closed the connection said goodbye."""
    try:
        return str(protocol.recvmsg())  # type: ignore[no-untyped-call]
    except (SocketClosed, ConnectionResetError):
        return "EXIT"


def _connect(address: str, port: int | None, wait: float) -> socket.socket:
    end = time.monotonic() + wait
    while True:
        connection = socket.socket(socket.AF_UNIX if port is None else socket.AF_INET)
        try:
            connection.connect(f"/tmp/ipi_{address}" if port is None else (address, port))
        except OSError as error:
            connection.close()
            if time.monotonic() > end:
                where = f"/tmp/ipi_{address}" if port is None else f"{address}:{port}"
                reason = error.strerror or str(error)
                raise InputError(where, "an i-PI server", reason, "start i-pi first, with the same address") from error
            time.sleep(_PAUSE)
        else:
            return connection
