"""Driven by the real i-PI over a socket: what it gets are our energies and forces."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fflux_py.errors import InputError, ModelMismatchError
from fflux_py.interfaces.ipi_driver import drive
from fflux_py.typing import FloatArray
from tests.support.synthetic import fitted, methanol

_INPUT = """<simulation verbosity="quiet">
  <output prefix="run">
    <properties stride="1" filename="out"> [ step, time{{femtosecond}}, conserved, potential ] </properties>
    <trajectory stride="1" filename="pos" format="xyz"> positions{{atomic_unit}} </trajectory>
    <trajectory stride="1" filename="force" format="xyz"> forces{{atomic_unit}} </trajectory>
  </output>
  <total_steps> 40 </total_steps>
  <prng> <seed> 12 </seed> </prng>
  <ffsocket mode="unix" name="driver" pbc="False"> <address> {address} </address> <latency> 1e-4 </latency> </ffsocket>
  <system>
    <initialize nbeads="1">
      <file mode="xyz"> start.xyz </file>
      <velocities mode="thermal" units="kelvin"> 300 </velocities>
    </initialize>
    <forces> <force forcefield="driver"/> </forces>
    <motion mode="dynamics"> <dynamics mode="nve"> <timestep units="femtosecond"> 0.5 </timestep> </dynamics> </motion>
  </system>
</simulation>
"""


class Recorder:
    """A force field that keeps what it was asked and what it said."""

    def __init__(self) -> None:
        self.forcefield = fitted()
        self.molecule = self.forcefield.molecule
        self.seen: list[tuple[FloatArray, float, FloatArray]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.forcefield, name)

    @property
    def unmatched(self) -> Recorder:
        return self

    def atomic_energies_and_forces(self, positions: FloatArray) -> tuple[FloatArray, FloatArray]:
        energies, forces = self.forcefield.atomic_energies_and_forces(positions)
        self.seen.append((positions.copy(), float(energies.sum()), forces))
        return energies, forces


def xyz_frames(path: Path, n_atoms: int) -> FloatArray:
    lines = path.read_text().splitlines()
    frames = [lines[k + 2 : k + 2 + n_atoms] for k in range(0, len(lines), n_atoms + 2)]
    return np.array([[[float(x) for x in line.split()[1:4]] for line in frame] for frame in frames])


def test_short_nve_run_of_i_pi_has_our_energies_and_forces(tmp_path: Path) -> None:
    pytest.importorskip("ipi")
    program = shutil.which("i-pi", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if program is None:
        pytest.skip("the program i-pi is not installed")
    address = f"fflux-test-{os.getpid()}"
    molecule = methanol()
    rows = [
        f"{s} {x:.12f} {y:.12f} {z:.12f}" for s, (x, y, z) in zip(molecule.symbols, molecule.positions, strict=True)
    ]
    comment = "# CELL(abcABC): 100 100 100 90 90 90 cell{atomic_unit} positions{atomic_unit}"
    (tmp_path / "start.xyz").write_text("\n".join([str(molecule.n_atoms), comment, *rows]) + "\n")
    (tmp_path / "input.xml").write_text(_INPUT.format(address=address))
    recorder = Recorder()
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen([program, "input.xml"], cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT)
        try:
            count = drive(recorder, address, None, wait=60.0)  # type: ignore[arg-type]
            server.wait(30)
        finally:
            server.kill()
            server.wait()
    assert count == len(recorder.seen) >= 41, (tmp_path / "log").read_text()
    energies = np.array([energy for _, energy, _ in recorder.seen])
    table = np.loadtxt(tmp_path / "run.out")
    assert len(table) == 41
    # i-PI prints nine digits
    assert np.abs(table[:, 3] - energies[:41]).max() < 1e-6
    forces = np.array([forces for _, _, forces in recorder.seen])[:41]
    printed = xyz_frames(tmp_path / "run.force_0.xyz", molecule.n_atoms)
    assert np.abs(printed - forces).max() < 1e-5 * np.abs(forces).max()
    positions = np.array([positions for positions, _, _ in recorder.seen])[:41]
    assert np.abs(xyz_frames(tmp_path / "run.pos_0.xyz", molecule.n_atoms) - positions).max() < 1e-4
    # the units went there and back unchanged: the first positions are those of the file
    assert np.abs(positions[0] - molecule.positions).max() < 1e-10
    assert np.ptp(table[:, 2]) < 0.02 * np.ptp(table[:, 3])


def test_no_server_is_one_line() -> None:
    with pytest.raises(InputError, match="expected an i-PI server, found No such file") as error:
        drive(fitted(), "fflux-nobody", None, wait=0.0)
    assert error.value.exit_code == 2
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    with pytest.raises(InputError, match=f"localhost:{port}: expected an i-PI server, found Connection refused"):
        drive(fitted(), "localhost", port, wait=0.0)


def serve(listener: socket.socket, positions: FloatArray, answers: list[tuple[float, FloatArray]]) -> None:
    """The smallest server: one geometry, its energy and forces, goodbye."""

    def receive(stream: socket.socket, n: int) -> bytes:
        data = b""
        while len(data) < n:
            part = stream.recv(n - len(data))
            if not part:
                return data
            data += part
        return data

    stream, _ = listener.accept()
    with stream:
        stream.sendall(b"STATUS".ljust(12))
        assert receive(stream, 12).strip() == b"READY"
        box = np.eye(3).tobytes()
        stream.sendall(b"POSDATA".ljust(12) + box + box + struct.pack("<i", len(positions)) + positions.tobytes())
        stream.sendall(b"GETFORCE".ljust(12))
        if receive(stream, 12).strip() != b"FORCEREADY":
            return
        energy = struct.unpack("<d", receive(stream, 8))[0]
        n = struct.unpack("<i", receive(stream, 4))[0]
        answers.append((energy, np.frombuffer(receive(stream, 24 * n)).reshape(n, 3)))
        stream.sendall(b"EXIT".ljust(12))


@pytest.mark.parametrize("n_atoms", [6, 5])
def test_numbers_on_the_wire_are_ours_to_the_last_digits(n_atoms: int) -> None:
    positions = methanol().positions + 0.05 * np.random.default_rng(1).normal(size=(6, 3))
    answers: list[tuple[float, FloatArray]] = []
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        listener.listen()
        thread = threading.Thread(target=serve, args=(listener, positions[:n_atoms], answers))
        thread.start()
        try:
            if n_atoms == 6:
                assert drive(fitted(), "localhost", listener.getsockname()[1]) == 1
            else:
                with pytest.raises(ModelMismatchError, match="expected 6 atoms as in the model, found 5"):
                    drive(fitted(), "localhost", listener.getsockname()[1])
        finally:
            thread.join(10)
    if n_atoms == 6:
        energy, forces = fitted().energy_and_forces(positions)
        assert answers[0][0] == pytest.approx(energy, rel=1e-14)
        assert np.abs(answers[0][1] - forces).max() < 1e-11
