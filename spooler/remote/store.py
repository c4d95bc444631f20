"""The object store: pictures on their way to a worker and back, each held to its size and SHA-256.

Any store that fsspec knows, by its address: s3://bucket/prefix, file:///folder, gs://... with its package installed. Keys and
the endpoint come from where the store's own library looks for them (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ~/.aws, a role): none
is in an address, so none can get into a log, a task or a record.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec

from spooler.remote.wire import File

T = TypeVar("T")
#: Seconds. What takes longer is tried again by whoever asked.
CONNECT_S, READ_S = 5, 60
S3 = {"config_kwargs": {"connect_timeout": CONNECT_S, "read_timeout": READ_S, "retries": {"max_attempts": 1}}}


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
            raise StoreAddressError("`store` must be s3://bucket/prefix or file:///folder, without keys in it")
        self.url = url.rstrip("/")
        for wordy in ("botocore", "aiobotocore"):  # where it found its keys
            logging.getLogger(wordy).setLevel(logging.WARNING)
        options: dict[str, Any] = {"auto_mkdir": True} if parts.scheme == "file" else {}
        if parts.scheme == "s3":
            options = dict(S3)
        try:
            # Nothing of what is listed is kept: another process changes it.
            self._files, root = fsspec.core.url_to_fs(url, use_listings_cache=False, skip_instance_cache=True, **options)
        except (ImportError, ValueError) as error:
            raise StoreAddressError(f"`store` cannot be used: {error}") from None
        self._root = root.rstrip("/")

    def put(self, folder: str, name: str, data: bytes) -> File:
        """Raises StoreError."""
        self._do(lambda: self._files.pipe_file(f"{self._root}/{folder}/{name}", data))
        return File.of(name, data)

    def get(self, folder: str, file: File) -> bytes:
        """The file's bytes. Raises StoreError, or DamagedError when they are not those that were put there."""
        path = f"{self._root}/{folder}/{file.name}"
        try:
            # One byte more than there should be: a file that has grown is not read to its end to be found out.
            data: bytes = self._do(lambda: self._files.cat_file(path, start=0, end=file.size + 1))
        except FileNotFoundError:
            raise DamagedError(f"{folder}/{file.name} is not in the store any more") from None
        if not file.is_of(data):
            raise DamagedError(f"{folder}/{file.name} in the store is not what was put there")
        return data

    def remove(self, folder: str) -> None:
        """Remove what is in that folder, if anything is. Raises StoreError."""
        try:
            self._do(lambda: self._files.rm(f"{self._root}/{folder}", recursive=True))
        except FileNotFoundError:
            return

    def address(self, folder: str, name: str) -> str:
        return f"{self.url}/{folder}/{name}"

    def _do(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except FileNotFoundError:
            raise
        except Exception as error:  # a store's library may raise anything: botocore's errors are no OSError
            said = str(error).splitlines()
            raise StoreError(f"the object store: {said[0] if said else type(error).__name__}"[:300]) from error
