"""The object store: pictures on their way to a worker and back, each held to its size and SHA-256.

Any store that fsspec knows, by its address: s3://bucket/prefix, file:///folder, gs://bucket/prefix. Keys and the endpoint come
from where the store's own library looks for them (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ~/.aws, a role;
GOOGLE_APPLICATION_CREDENTIALS): none is in an address, so none can get into a log, a task or a record.

Each question is put once, and has its time: whoever asks decides whether to ask again. The libraries by themselves ask up to
ten times, and wait for ever for a store that takes a connection and says nothing.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from typing import Any
from urllib.parse import urlsplit

import fsspec

from spooler.remote import gs
from spooler.remote.wire import File

#: Seconds until a store must have taken a connection, and until it must have answered.
CONNECT_S, READ_S = 5.0, 60.0
#: Bytes a second: what comes or goes more slowly than this for longer than READ_S is given up.
SLOWEST = 1 << 16


class StoreAddressError(ValueError):
    """The store cannot be used as it is named: met by whoever starts a spooler with --store, or a worker."""


class StoreError(OSError):
    """The store does not answer, or refuses: worth another try later."""


class DamagedError(Exception):
    """What lies in the store is not what was put there, or is gone."""


class Store:
    """A folder of an object store. Names below it are put together by wire.Name from checked parts."""

    def __init__(self, url: str):
        """Raises StoreAddressError."""
        parts = urlsplit(url)
        if not parts.scheme or "@" in parts.netloc:
            raise StoreAddressError("`store` must be s3://bucket/prefix, gs://bucket/prefix or file:///folder, and no keys")
        self.url = url.rstrip("/")
        for wordy in ("botocore", "aiobotocore", "gcsfs", "google"):  # where it found its keys
            logging.getLogger(wordy).setLevel(logging.WARNING)
        try:
            self._files, root = _connect(url, parts.scheme)
        except (ImportError, ValueError) as error:
            raise StoreAddressError(f"`store` cannot be used: {error}") from None
        self._root = root.rstrip("/")

    def put(self, folder: str, name: str, data: bytes) -> File:
        """Raises StoreError."""
        try:
            self._do(len(data), "pipe_file", f"{self._root}/{folder}/{name}", data)
        except FileNotFoundError as error:
            raise StoreError(f"the object store: there is no {self.url}: {error}"[:300]) from error
        return File.of(name, data)

    def get(self, folder: str, file: File) -> bytes:
        """The file's bytes. Raises StoreError, or DamagedError when they are not those that were put there."""
        path = f"{self._root}/{folder}/{file.name}"
        try:
            # One byte more than there should be: a file that has grown is not read to its end to be found out.
            data: bytes = self._do(file.size, "cat_file", path, start=0, end=file.size + 1)
        except FileNotFoundError:
            raise DamagedError(f"{folder}/{file.name} is not in the store any more") from None
        except StoreError as error:
            if not _is_of_nothing(error.__cause__):
                raise
            data = b""
        if not file.is_of(data):
            raise DamagedError(f"{folder}/{file.name} in the store is not what was put there")
        return data

    def remove(self, folder: str) -> None:
        """Remove what is in that folder, if anything is. Raises StoreError."""
        try:
            self._do(0, "rm", f"{self._root}/{folder}", recursive=True)
        except FileNotFoundError:
            return

    def address(self, folder: str, name: str) -> str:
        return f"{self.url}/{folder}/{name}"

    def _do(self, size: int, verb: str, *args: Any, **options: Any) -> Any:
        """Ask the store. `size`: bytes that go there or come. Raises FileNotFoundError, StoreError."""
        within_s = READ_S + size / SLOWEST
        try:
            if not self._files.async_impl:
                return getattr(self._files, verb)(*args, **options)
            ask = getattr(self._files, f"_{verb}")  # by this name it can be called off
            return fsspec.asyn.sync(self._files.loop, lambda: asyncio.wait_for(ask(*args, **options), within_s))
        except FileNotFoundError:
            raise
        except TimeoutError as error:
            raise StoreError("the object store: no answer in time") from error
        except Exception as error:  # a store's library may raise anything: botocore's errors are no OSError
            said = str(error).splitlines()
            raise StoreError(f"the object store: {said[0] if said else type(error).__name__}"[:300]) from error


def _is_of_nothing(error: BaseException | None) -> bool:
    """Whether the store refused because the file is empty: no range of it can be had then, says HTTP (416)."""
    return getattr(error, "errno", None) == errno.EINVAL or getattr(error, "code", None) == 416


def _connect(url: str, scheme: str) -> tuple[Any, str]:
    """The store, and the path in it. Nothing of what is listed is kept: another process changes it."""
    if scheme in ("gs", "gcs"):
        files = gs.connect(CONNECT_S, READ_S)
        return files, files._strip_protocol(url)
    options: dict[str, Any] = {"auto_mkdir": True} if scheme == "file" else {}
    if scheme == "s3":
        once = {"connect_timeout": CONNECT_S, "read_timeout": READ_S, "retries": {"total_max_attempts": 1}}
        options = {"config_kwargs": once}
    found: tuple[Any, str] = fsspec.core.url_to_fs(url, use_listings_cache=False, skip_instance_cache=True, **options)
    if scheme == "s3":
        found[0].retries = 1  # s3fs' own, of which each would have botocore's
    return found
