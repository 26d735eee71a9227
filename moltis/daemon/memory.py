"""How the C library keeps memory that was freed.

By default glibc gives a block of a megabyte back to the kernel as soon as it is freed and fetches it anew for the next
message, page by page: moving a result of 1 MB through the daemon then takes half as long again
(benchmarks/README.md). What is kept instead is bounded.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Final

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
"""mallopt(3)."""

FROM_HEAP_BYTES: Final = 4 * 1024 * 1024
"""Blocks up to this size come from the heap and are used again; larger ones are rare, and are given back."""
KEPT_BYTES: Final = 8 * 1024 * 1024
"""Free memory at the end of the heap beyond this is given back."""


def keep_freed_blocks() -> bool:
    """Have the C library keep freed blocks of messages for the next; say whether it understood."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # not glibc
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, FROM_HEAP_BYTES)) and bool(mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))
