"""Google's object store, by gcsfs (`pip install 'sdspool[gs]'`), in two things otherwise than gcsfs has it by itself.

Each question is put once. gcsfs puts it six times in half a minute, for which a job that is cancelled would have to wait, and
nobody be told what ails the store; whoever asks a `Store` asks again anyway.

And it speaks JSON over HTTP with buckets of every kind. gcsfs would first find out by gRPC, with a permission of its own
(`storage.buckets.getStorageLayout`), whether the bucket is one with real folders, or of one zone: nothing here asks for either.
"""

from __future__ import annotations

import os
from types import MethodType
from typing import Any


def connect(connect_s: float, read_s: float) -> Any:
    """The whole store, all buckets. It has the credentials that Google's own programs would have; with an emulator none.

    `connect_s`, `read_s`: seconds that the store may be silent. Raises ValueError when there are no credentials, ImportError.
    """
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # read as it is imported
    try:
        import aiohttp
        from gcsfs.core import GCSFileSystem
        from google.auth.exceptions import GoogleAuthError
    except ImportError as error:
        raise ImportError(f"{error}: pip install 'sdspool[gs]'") from None
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_s, sock_read=read_s)
    token = "anon" if os.environ.get("STORAGE_EMULATOR_HOST") else "google_default"
    try:
        store = GCSFileSystem(token=token, requests_timeout=timeout, use_listings_cache=False, skip_instance_cache=True)
    except GoogleAuthError as error:
        raise ValueError(str(error)) from None
    store._request = MethodType(GCSFileSystem._request.__wrapped__, store)
    return store
