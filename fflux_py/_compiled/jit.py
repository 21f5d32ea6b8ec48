"""The compiler of this package: Numba's, with a cache on disk that no damage and no missing permission can stop.

Compiled code is kept where Numba keeps it: in ``NUMBA_CACHE_DIR``, beside the source, or in the user's cache folder.
Where none of these can be written (a container, another user's installation), it is kept in a folder of the user among
the temporary files; where not even that can be, functions are compiled in every process.  A cache file is taken only if
the SHA-256 at its end fits: one that was cut short by a killed process or a full disk counts as none, and is written
again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import numba
from numba.core import caching

_DIGEST_SIZE: Final = hashlib.sha256().digest_size

# As Numba's own decorators, this one keeps the type of what it decorates.
F = TypeVar("F", bound=Callable[..., Any])


def njit(*, cache: bool = False, **options: Any) -> Callable[[F], F]:
    """``numba.njit`` with the cache of this module.

    Parameters
    ----------
    cache
        Whether compiled code is kept on disk.
    options
        As of ``numba.njit``.
    """

    def decorate(function: F) -> F:
        dispatcher: Any = numba.njit(**options)(function)
        if cache and hasattr(dispatcher, "py_func"):  # with the compiler switched off it is the function itself
            # RuntimeError: no folder can be written; the dispatcher then stays without a cache
            with contextlib.suppress(RuntimeError):
                dispatcher._cache = _Cache(function)
        compiled: F = dispatcher
        return compiled

    return decorate


def temporary_folder() -> Path:
    """The user's folder for compiled code among the temporary files; made if it is missing.

    Raises
    ------
    OSError
        It cannot be made or written to, or is open to others: code from there would be theirs.
    """
    folder = Path(tempfile.gettempdir()) / f"fflux_py-numba-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"{folder}: not a folder of this user alone")
    return folder


class _TemporaryLocator(caching.UserWideCacheLocator):
    """Keeps compiled code in :func:`temporary_folder`."""

    def __init__(self, py_func: Callable[..., Any], py_file: str) -> None:
        super().__init__(py_func, py_file)  # type: ignore[no-untyped-call]
        subpath = self.get_suitable_cache_subpath(py_file)  # type: ignore[no-untyped-call]
        self._cache_path = str(temporary_folder() / subpath)

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> Self | None:
        with contextlib.suppress(OSError):
            locator: Self | None = super().from_function(py_func, py_file)  # type: ignore[no-untyped-call]
            return locator
        return None


class _Implementation(caching.CompileResultCacheImpl):
    _locator_classes = [*caching.CacheImpl._locator_classes, _TemporaryLocator]  # noqa: RUF012


class _Files(caching.IndexDataCacheFile):
    """Index and code of one function; Numba does not read beyond the end of the pickle, where the digest is."""

    def load(self, key: Any) -> Any:
        """What is stored under ``key``; None if there is nothing, or nothing whole."""
        # An index can name classes that are gone (of a script, of another version): it is then of no use.
        with contextlib.suppress(OSError, ImportError, AttributeError):
            return super().load(key)  # type: ignore[no-untyped-call]
        return None

    def save(self, key: Any, data: Any) -> None:
        """Store ``data``; on a full disk, nothing is stored."""
        with contextlib.suppress(OSError):
            super().save(key, data)  # type: ignore[no-untyped-call]

    def _load_index(self) -> dict[Any, str]:
        if not _is_whole(self._index_path):
            return {}
        try:
            index: dict[Any, str] = super()._load_index()  # type: ignore[no-untyped-call]
        except (ImportError, AttributeError):
            return {}
        return index

    def _load_data(self, name: str) -> Any:
        path = self._data_path(name)  # type: ignore[no-untyped-call]
        return super()._load_data(name) if _is_whole(path) else None  # type: ignore[no-untyped-call]

    @contextlib.contextmanager
    def _open_for_write(self, filepath: str) -> Iterator[io.BytesIO]:
        content = io.BytesIO()
        yield content
        with super()._open_for_write(filepath) as stream:
            stream.write(content.getvalue() + hashlib.sha256(content.getvalue()).digest())


class _Cache(caching.FunctionCache):
    _impl_class = _Implementation

    def __init__(self, py_func: Callable[..., Any]) -> None:
        super().__init__(py_func)  # type: ignore[no-untyped-call]
        source_stamp = self._impl.locator.get_source_stamp()
        self._cache_file = _Files(self._cache_path, self._impl.filename_base, source_stamp)  # type: ignore[no-untyped-call]

    def save_overload(self, sig: Any, data: Any) -> None:
        """Store the code of one signature; where the folder cannot be written any more, nothing is stored."""
        with contextlib.suppress(OSError):
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]


def _is_whole(path: str) -> bool:
    try:
        content = Path(path).read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content[:-_DIGEST_SIZE]).digest() == content[-_DIGEST_SIZE:]
