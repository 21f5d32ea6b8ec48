"""The networks behind the propagators, and their file: safetensors with a JSON header, no pickle."""

from __future__ import annotations

import json
import math
import os
import warnings
from functools import cached_property
from typing import Any, Final

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from fflux_py.errors import FFLUXError, FileFormatError, InputError
from fflux_py.files import COMPRESSED, arrays_sha256, decompress, read_bytes, stored_path, write_atomically
from fflux_py.molecules.local_frame import cip_local_frames
from fflux_py.molecules.molecule import Molecule
from fflux_py.propagators._torch.action import ActionNet, ActionSolver
from fflux_py.propagators._torch.continuous import ContinuousNet
from fflux_py.propagators._torch.direct import DirectNet
from fflux_py.propagators._torch.frames import Frames
from fflux_py.propagators.propagator import Header, Propagator
from fflux_py.typing import FloatArray
from fflux_py.units import BOLTZMANN, FEMTOSECOND

FORMAT: Final = "fflux_py propagator"
SCHEMA: Final = 2
UNITS: Final = {"step": "fs", "masses": "electron mass", "positions": "bohr", "temperature": "K"}
_WANTED: Final = "a model written by 'fflux train-propagator'"
_ALTERED: Final = "the file was altered: copy it again"
# Sizes up to this one are built without asking whether any tensor has them.
_LARGEST_SIZE: Final = 256

with warnings.catch_warnings():
    # at its first use, torch's forward mode calls a function of torch that torch has deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    torch.func.jvp(torch.sin, (torch.zeros(1),), (torch.ones(1),))


def use_threads(threads: int) -> None:
    """Threads of torch in this process; the variables of the environment come too late once it is loaded."""
    torch.set_num_threads(threads)


def thermal_unit(header: Header) -> float:
    """Square root of kT: the unit of mass-weighted velocities, in atomic units."""
    return math.sqrt(BOLTZMANN * header.temperature)


def build(header: Header) -> nn.Module:
    """An untrained network of the kind and the sizes of a header."""
    masses, step, unit = torch.tensor(header.masses), header.step / FEMTOSECOND, thermal_unit(header)
    if header.kind == "direct":
        return DirectNet(index_of(header.molecule), masses, step, unit, **header.settings)
    if header.kind == "continuous":
        return ContinuousNet(index_of(header.molecule), masses, step, unit, **header.settings)
    return ActionNet(index_of(header.molecule), masses, step * unit, **header.settings)


def index_of(molecule: Molecule) -> Frames:
    """Local frames, pairs and dihedrals of a molecule's bonds.

    Raises
    ------
    InputError
        Fewer than four atoms in a chain.
    """
    n = molecule.n_atoms
    frames = [(f.atom, f.x_axis, f.xy_plane) for f in cip_local_frames(molecule)]
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    dihedrals = [
        (i, j, k, last)
        for j, k in molecule.bonds
        for i in molecule.neighbours[j]
        for last in molecule.neighbours[k]
        if i != k and last != j and i != last
    ]
    if not dihedrals:
        raise InputError("molecule", "four atoms in a chain", "none", "an action is made for larger molecules")
    return Frames(torch.tensor(frames), torch.tensor(pairs), torch.tensor(dihedrals))


class Network:
    """A trained network as a :class:`~fflux_py.propagators.propagator.Propagator`.

    Parameters
    ----------
    header, net
        What it was made for, and the network, whose weights must not change any more: of an action, the first step
        copies them.
    guide
        For an action: a direct predictor of the same step, from whose answer the solution of its equations starts.
    """

    def __init__(self, header: Header, net: nn.Module, guide: Propagator | None = None) -> None:
        self.header, self.net, self.guide = header, net.eval(), guide
        self.iterations = 0
        """Most iterations that an action's last step took for one of the replicas."""
        if guide is not None:
            if header.kind != "action" or guide.header.kind == "action":
                raise InputError("guide", "a direct or continuous predictor for an action", guide.header.kind)
            guide.header.check(header.molecule, header.masses, header.step)

    def advance(self, positions: FloatArray, velocities: FloatArray, step: float) -> tuple[FloatArray, FloatArray]:
        """See :class:`~fflux_py.propagators.propagator.Propagator`."""
        self.header.check(self.header.molecule, None, step)
        q, v = torch.from_numpy(np.array(positions)), torch.from_numpy(np.array(velocities))
        with torch.no_grad():
            if self.header.kind == "direct":
                q_next, v_next = self.net(q, v)
            elif self.header.kind == "continuous":
                q_next, v_next = self.net(q, v, torch.full((len(q),), step / FEMTOSECOND, dtype=torch.float64))
            else:
                q_next, v_next = self._solve(positions, velocities)
        return q_next.numpy(), v_next.numpy()

    def path(self, positions: FloatArray, velocities: FloatArray, times: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Continuous only: all frames at ``times`` (femtosecond), shapes ``(times, replicas, n_atoms, 3)``."""
        if not isinstance(self.net, ContinuousNet):
            raise InputError("kind", "a continuous model", self.header.kind, "only that one has frames between steps")
        self.header.check(self.header.molecule, None, float(np.max(times)))
        q, v = torch.from_numpy(np.array(positions)), torch.from_numpy(np.array(velocities))
        with torch.no_grad():
            code = self.net.encode(q, v)
            frames = [
                self.net(q, v, torch.full((len(q),), float(t) / FEMTOSECOND, dtype=torch.float64), code) for t in times
            ]
        return np.stack([f[0].numpy() for f in frames]), np.stack([f[1].numpy() for f in frames])

    def velocity_noise(self, positions: FloatArray, normal: FloatArray) -> FloatArray:
        """Velocities with the covariance of the errors of a whole step, from standard normal numbers.

        Parameters
        ----------
        positions, normal
            After the step, bohr, and random numbers, both of shape ``(replicas, n_atoms, 3)``.
        """
        if not isinstance(self.net, DirectNet | ContinuousNet):
            raise InputError("kind", "a direct or continuous model", self.header.kind, "an action loses no variance")
        _, unit, root = self.scales()
        with torch.no_grad():
            weighted = self.net.residual(torch.from_numpy(np.array(positions)), torch.from_numpy(np.array(normal)))
        return np.asarray(weighted.numpy() * unit / root)

    def _solve(self, positions: FloatArray, velocities: FloatArray) -> tuple[Tensor, Tensor]:
        length, unit, root = self.scales()
        # S knows nothing of where the molecule is, and small numbers keep more digits
        centre = np.einsum("i,ric->rc", self.header.masses, positions)[:, None] / self.header.masses.sum()
        guess = None
        if self.guide is not None:
            q, v = self.guide.advance(positions, velocities, self.header.step)
            guess = torch.from_numpy((q - centre) * root / length), torch.from_numpy(v * root / unit)
        y, u = torch.from_numpy((positions - centre) * root / length), torch.from_numpy(velocities * root / unit)
        solved = self._solver.solve(y, u, guess)
        self.iterations = solved.iterations
        scale = torch.from_numpy(1.0 / root)
        return solved.y * (length * scale) + torch.from_numpy(centre), solved.u * (unit * scale)

    @cached_property
    def _solver(self) -> ActionSolver:
        assert isinstance(self.net, ActionNet)
        return ActionSolver(self.net)

    def scales(self) -> tuple[float, float, FloatArray]:
        """Units of y (times root mass) and of u, atomic units, and the root masses ``(n_atoms, 1)``."""
        unit = thermal_unit(self.header)
        return self.header.step / FEMTOSECOND * unit, unit, np.sqrt(self.header.masses)[:, None]


def save(network: Network, path: str | os.PathLike[str]) -> None:
    """Write a model, whole or not at all."""
    write_atomically(path, pack(network.header, dict(network.net.state_dict())))


def pack(header: Header, tensors: dict[str, Tensor], extra: dict[str, Any] | None = None) -> bytes:
    """The bytes of a file: tensors, and in the metadata of the format one JSON header with their checksum."""
    plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    content = {
        "format": FORMAT, "schema": SCHEMA, "units": UNITS, "kind": header.kind, "step": header.step,
        "temperature": header.temperature, "symbols": list(header.molecule.symbols), "charge": header.molecule.charge,
        "name": header.molecule.name, "positions": header.molecule.positions.tolist(),
        "masses": header.masses.tolist(), "settings": dict(header.settings), "metadata": dict(header.metadata),
        "sha256": _digest(plain), **(extra or {}),
    }  # fmt: skip
    return bytes(safetensors.torch.save(plain, {"fflux_py": json.dumps(content)}))


def unpack(path: str | os.PathLike[str]) -> tuple[Header, dict[str, Tensor], dict[str, Any]]:
    """Header, tensors and the whole JSON of a file.

    Raises
    ------
    FileFormatError
        Another kind of file, a damaged one, or one of a newer schema.
    """
    where = str(path)
    another = "another kind of file, or a truncated one"
    try:
        source = stored_path(path)
        data = decompress(read_bytes(source)) if source.suffix == COMPRESSED else read_bytes(source)
        tensors = safetensors.torch.load(data)
        size = int.from_bytes(data[:8], "little")
        content = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["fflux_py"])
    except OSError as error:
        raise FileFormatError(where, "a readable file", error.strerror or str(error), "check the path") from error
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError, safetensors.SafetensorError) as error:
        raise FileFormatError(where, _WANTED, another) from error
    if not isinstance(content, dict):
        raise FileFormatError(where, _WANTED, another)
    if content.get("format") != FORMAT or content.get("schema") != SCHEMA:
        found = f"{content.get('format')!r}, schema {content.get('schema')}"
        raise FileFormatError(where, f"{_WANTED}, schema {SCHEMA}", found, "use a matching version of fflux_py")
    if content.get("sha256") != _digest(tensors):
        raise FileFormatError(where, "the checksum in its header", "another", "the file was altered: copy it again")
    return _header(content, tensors, where), tensors, content


def _header(content: dict[str, Any], tensors: dict[str, Tensor], where: str) -> Header:
    """The header in the JSON of a file; the checksum is of the tensors only, so that every entry is checked."""
    try:
        positions, masses = (np.array(content[name], dtype=np.float64) for name in ("positions", "masses"))
        molecule = Molecule(tuple(content["symbols"]), positions, int(content["charge"]), str(content["name"]))
        settings, metadata = dict(content["settings"]), dict(content["metadata"])
        header = Header(
            content["kind"], molecule, masses, float(content["step"]), float(content["temperature"]), settings, metadata
        )
    except FFLUXError as error:
        raise FileFormatError(f"{where}, {error.where}", error.expected, error.found, _ALTERED) from error
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise FileFormatError(where, f"the header of {_WANTED}", f"other entries ({error})", _ALTERED) from error
    # A size of the network is a dimension, or a number, of its tensors: none is built that could not be theirs.
    largest = max(_LARGEST_SIZE, len(tensors), *(size for tensor in tensors.values() for size in tensor.shape))
    for name, size in settings.items():
        if isinstance(size, int) and not (name == "width") <= size <= largest:
            raise FileFormatError(f"{where}, {name}", f"a size of at most {largest}", str(size), _ALTERED)
    return header


def load(path: str | os.PathLike[str]) -> Network:
    """Read a model; see :func:`fflux_py.propagators.propagator.load_propagator`."""
    header, tensors, _ = unpack(path)
    try:
        net = build(header)
        net.load_state_dict(tensors)
    except FFLUXError as error:
        raise FileFormatError(f"{path}, {error.where}", error.expected, error.found, _ALTERED) from error
    except (RuntimeError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        # settings of another type, or sizes that are not those of the tensors
        found = (str(error) or type(error).__name__).splitlines()[0]
        raise FileFormatError(str(path), f"the tensors of a {header.kind} model", found, "train it again") from error
    return Network(header, net)


def _digest(tensors: dict[str, Tensor]) -> str:
    return arrays_sha256({name: tensor.numpy() for name, tensor in tensors.items()})
