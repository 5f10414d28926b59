"""How this process takes memory from the system."""

from __future__ import annotations

import ctypes
import sys

# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER = (1 << 31) - 1  # bytes; the largest value that fits


def keep_freed_memory() -> bool:
    """Lets the C library keep freed memory for the next allocation instead of giving it back to the system.

    A training step on a CPU frees and takes the same hundreds of megabytes again; given back, every page of them is
    cleared and mapped anew in every step, about 8 % of a NAFNet step (``docs/speed.md``). For processes that repeat
    the same work; their resident memory stays at its peak.

    Returns:
        Whether the C library took it (glibc; others are left as they are).
    """
    if not sys.platform.startswith('linux'):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))
