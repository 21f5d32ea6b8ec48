"""Where work runs, from a file: any :class:`concurrent.futures.Executor`, or a cluster through Parsl.

The only module that imports Parsl (Y. Babuji et al., Proc. HPDC 2019, 25-36).  A file is either

- Python (``.py``) that defines ``config``, a ``parsl.config.Config``, or ``executor``, any executor; or
- TOML (``.toml``) for the common case of one pool of workers, with the keys of :class:`PoolSettings` and a table
  ``[provider]``, whose ``kind`` is one of :data:`PROVIDERS` and whose other keys are those of Parsl's provider.

Results never depend on the executor; it decides only where and when they are computed.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import runpy
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from fflux_py.errors import FileFormatError, InputError, MissingDependencyError
from fflux_py.files import read_text, read_toml

PROVIDERS: Final = {
    "local": "LocalProvider",
    "slurm": "SlurmProvider",
    "pbspro": "PBSProProvider",
    "grid-engine": "GridEngineProvider",
    "lsf": "LSFProvider",
}
"""Kinds of batch systems, and Parsl's classes for them."""

_LAUNCHERS: Final = {"single": "SingleNodeLauncher", "srun": "SrunLauncher", "mpiexec": "MpiExecLauncher"}
_THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
_LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True)
class PoolSettings:
    """A pool of workers, as the TOML file describes it.

    Parameters
    ----------
    provider
        ``kind`` and the arguments of Parsl's provider (``nodes_per_block``, ``max_blocks``, ``walltime``,
        ``worker_init``, ...).
    workers_per_node
        Worker processes on each node.
    threads_per_worker
        Threads of the numerical libraries in each worker.
    launcher
        How workers start on the nodes of a job: ``single``, ``srun`` or ``mpiexec``.
    address
        Address at which workers find this process; by default Parsl's choice, on one machine the loopback address.
    retries
        How often a task is tried again after its worker was lost.
    """

    provider: Mapping[str, Any] = field(default_factory=lambda: {"kind": "local"})
    workers_per_node: int = 1
    threads_per_worker: int = 1
    launcher: str = "single"
    address: str | None = None
    retries: int = 1


@contextmanager
def executor_from_file(path: str | os.PathLike[str], run_folder: str | os.PathLike[str]) -> Iterator[Executor]:
    """Start the executor that ``path`` describes, and shut it down at the end.

    Parameters
    ----------
    path
        Python or TOML file, see above.  Python files are executed.
    run_folder
        Where Parsl keeps its logs, if a TOML file asks for it.

    Raises
    ------
    FileFormatError
        A file that defines neither an executor nor a configuration, or unknown keys.
    MissingDependencyError
        Parsl is not installed.
    """
    source = Path(path)
    if source.suffix == ".toml":
        with _parsl_pool(parsl_config(read_settings(source), source, run_folder)) as pool:
            yield pool
        return
    if source.suffix != ".py":
        raise InputError(str(source), "a Python (.py) or TOML (.toml) file", repr(source.suffix), "rename the file")
    read_text(source)  # a missing file is an error of ours
    try:
        content = runpy.run_path(str(source))
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "parsl":
            _load_parsl()
        raise InputError(str(source), f"the package {error.name}", "none installed", "install it") from error
    if isinstance(content.get("executor"), Executor):
        with content["executor"] as executor:
            yield executor
        return
    if "config" not in content or not isinstance(content["config"], _load_parsl().config.Config):
        expected = "'config' (a parsl.config.Config) or 'executor' (a concurrent.futures.Executor)"
        raise FileFormatError(str(source), expected, f"{', '.join(k for k in content if k[0] != '_') or 'nothing'}")
    with _parsl_pool(content["config"]) as pool:
        yield pool


def read_settings(path: Path) -> PoolSettings:
    """Read a TOML file.

    Raises
    ------
    FileFormatError
        Not TOML; unknown keys, launchers or providers; numbers that are not positive.
    """
    content = read_toml(path)
    known = [f.name for f in fields(PoolSettings)]
    for key in content:
        if key not in known:
            raise FileFormatError(f"{path}, key {key}", f"one of {', '.join(known)}", repr(key))
    for name, smallest in (("workers_per_node", 1), ("threads_per_worker", 1), ("retries", 0)):
        number = content.get(name, smallest)
        if type(number) is not int or number < smallest:
            raise FileFormatError(f"{path}, key {name}", f"a whole number, {smallest} or more", repr(number))
    launcher, provider = content.get("launcher", "single"), content.get("provider", {"kind": "local"})
    if not isinstance(launcher, str) or launcher not in _LAUNCHERS:
        raise FileFormatError(f"{path}, key launcher", f"one of {', '.join(_LAUNCHERS)}", repr(launcher))
    kind = provider.get("kind") if isinstance(provider, dict) else provider
    if not isinstance(kind, str) or kind not in PROVIDERS:
        raise FileFormatError(f"{path}, key provider.kind", f"one of {', '.join(PROVIDERS)}", repr(kind))
    return PoolSettings(**content)


def parsl_config(settings: PoolSettings, where: Path, run_folder: str | os.PathLike[str]) -> Any:
    """Parsl's configuration for ``settings``; ``where`` names their file in messages.

    Raises
    ------
    FileFormatError
        Arguments that Parsl's provider does not have or does not accept.
    """
    parsl = _load_parsl()
    arguments = dict(settings.provider)
    kind = arguments.pop("kind")
    provider_class = getattr(parsl.providers, PROVIDERS[kind])
    possible = set(inspect.signature(provider_class).parameters) - {"launcher"}
    for key in arguments:
        if key not in possible:
            raise FileFormatError(f"{where}, key provider.{key}", f"one of {', '.join(sorted(possible))}", repr(key))
    threads = "; ".join(f"export {name}={settings.threads_per_worker}" for name in _THREAD_VARIABLES)
    # Workers on this machine find Parsl's programs where this process has them, activated or not.
    programs = f"export PATH={os.path.dirname(sys.executable)}:$PATH" if kind == "local" else ""
    parts = (programs, threads, arguments.get("worker_init", ""))
    arguments["worker_init"] = "; ".join(part for part in parts if part)
    launcher = getattr(parsl.launchers, _LAUNCHERS[settings.launcher])()
    address = settings.address or (_LOOPBACK if kind == "local" else None)
    addresses = {} if address is None else {"address": address}
    if address == _LOOPBACK:
        addresses["loopback_address"] = address
    try:
        provider = provider_class(launcher=launcher, **arguments)
    except (TypeError, ValueError) as error:
        raise FileFormatError(f"{where}, provider", f"arguments of Parsl's {PROVIDERS[kind]}", str(error)) from error
    pool = parsl.executors.HighThroughputExecutor(
        label="fflux",
        provider=provider,
        max_workers_per_node=settings.workers_per_node,
        encrypted=address != _LOOPBACK,
        interchange_launch_cmd=[sys.executable, "-m", "parsl.executors.high_throughput.interchange"],
        **addresses,
    )
    return parsl.config.Config(executors=[pool], run_dir=str(run_folder), retries=settings.retries, strategy="simple")


@contextmanager
def _parsl_pool(config: Any) -> Iterator[Executor]:
    parsl = _load_parsl()
    lost = importlib.import_module("parsl.executors.high_throughput.errors")
    logger = logging.getLogger("parsl")
    before = list(logger.handlers)
    pool: Executor = parsl.concurrent.ParslPoolExecutor(config=config)
    # Parsl takes its log's handler away at the end, and leaves the file open.
    opened = [handler for handler in logger.handlers if handler not in before]
    finished = False
    try:
        yield pool
        finished = True
    except (parsl.errors.ParslError, lost.WorkerLost, lost.ManagerLost) as error:
        remedy = "its logs are in the run folder; finished results are kept, start again"
        raise InputError("executor", "workers that run to their end", str(error), remedy) from error
    finally:
        pool.shutdown(wait=finished)
        for handler in opened:
            handler.close()


def _load_parsl() -> Any:
    """Import Parsl, or say how to install it."""
    try:
        package = importlib.import_module("parsl")
        for module in ("concurrent", "config", "errors", "executors", "launchers", "providers"):
            importlib.import_module(f"parsl.{module}")
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "--executor", "the package parsl", "none installed", "pip install 'fflux_py[cluster]'"
        ) from error
    return package
