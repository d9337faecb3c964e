"""Memory that the C library keeps."""

import ctypes

# malloc.h; glibc 2.10 and newer.
_M_ARENA_MAX = -8
ARENAS = 2


def keep_little() -> None:
    """Let threads share what malloc keeps; must come before the threads.

    glibc gives eight arenas a core to threads, each of which keeps the most that was ever in use in
    it: a password's hash takes 19 MiB for a moment, an upload as much. Other C libraries keep
    little by themselves, and don't know the option.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, ARENAS)
