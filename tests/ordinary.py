"""Root without root's way past permissions, in one thread: what a folder's owner has closed stays closed to it.

By capset(2), which takes effective capabilities away and gives them back, of the calling thread alone. A test that runs as
another user than root needs none of this, and gets none.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

#: linux/capability.h: CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER.
PAST_PERMISSIONS = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3
VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@contextmanager
def ordinary() -> Iterator[None]:
    """Within this, the calling thread obeys permissions, those of its own files among them."""
    if os.geteuid():
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = _Header(VERSION_3, 0), (_Data * 2)()

    def ask(call: str) -> None:
        if getattr(libc, call)(ctypes.byref(header), data):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), call)

    ask("capget")
    before = data[0].effective
    data[0].effective &= ~PAST_PERMISSIONS
    ask("capset")
    try:
        yield
    finally:
        data[0].effective = before
        ask("capset")
