"""How a zygote leaves its memory, so that its children share as much of it as can be.

A page is shared until somebody writes to it. Everything that is alive when a worker is forked is
taken out of the collector's sight, and what lies in files is given back: a process that is forked
does not inherit such pages, it finds them when it needs them, and so does the zygote.
"""

from __future__ import annotations

import gc
import re

# How many objects more before the collector looks, while importing, and how many such looks before
# it looks at older ones. Most of what an import makes stays, and looking at it costs a tenth of the
# time; what is garbage soon is found all the same.
_SELDOM = (200_000, 1_000, 1_000)
_USUAL = gc.get_threshold()

_MADV_DONTNEED = 4
# A mapping of a file that is not writable, and of which no page is a copy. The lines on a mapping
# begin with capital letters, the line with which the next one begins does not.
UNWRITTEN = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) r-[-x]. \S+ \S+ \S+ +/.*\n(?:[A-Z].*\n)*?Anonymous: +0 kB$",
    re.MULTILINE,
)


def begin() -> None:
    """Before the imports."""
    gc.set_threshold(*_SELDOM)


def settle() -> None:
    """Before the first fork. The collector does not run until it is enabled."""
    gc.disable()
    if gc.get_threshold() == _SELDOM:
        gc.set_threshold(*_USUAL)
    gc.freeze()


def drop_files() -> None:
    """Unmaps the pages of files that nobody has written to, and cannot. Takes milliseconds."""
    import ctypes

    libc = ctypes.CDLL(None)
    with open("/proc/self/smaps", "rb") as file:
        for start, end in UNWRITTEN.findall(file.read()):
            length = int(end, 16) - int(start, 16)
            libc.madvise(ctypes.c_void_p(int(start, 16)), ctypes.c_size_t(length), _MADV_DONTNEED)
