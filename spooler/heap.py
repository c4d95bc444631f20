"""What the C library's allocator does with a large picture's memory once the picture is gone."""

from __future__ import annotations

import contextlib
import ctypes
import os

#: mallopt(3)'s number for the size from which on a block is mapped by itself.
M_MMAP_THRESHOLD = -3
#: That size here, bytes.
LARGE = 1 << 20


def return_large() -> None:
    """Have large blocks go back to the system as soon as they are free.

    glibc raises its threshold to 32 MiB with the first large block that is freed, and keeps what is below it in heaps of each
    thread: after some pictures of 16 megapixels the process held 1.5 GB for good, with this 68 MB. An operator's own
    MALLOC_MMAP_THRESHOLD_ stands. Where the C library has no mallopt nothing happens.
    """
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)
