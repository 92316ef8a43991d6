"""What a zygote gives back of its memory, and that nothing is lost by it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from conftest import BOUND
from snakehouse import _pages

# As the kernel writes it, cut to a few lines for each mapping.
SMAPS = b"""\
7f0000000000-7f0000004000 r--p 00000000 08:01 17  /usr/lib/libm.so.6
Size:                 16 kB
Anonymous:             0 kB
VmFlags: rd mr mw me sd
7f0000004000-7f0000008000 r-xp 00004000 08:01 17  /usr/lib/with blanks.so (deleted)
Size:                 16 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me sd
7f0000008000-7f000000c000 r--p 00008000 08:01 17  /usr/lib/relocated.so
Size:                 16 kB
Anonymous:             4 kB
VmFlags: rd mr mw me ac sd
7f000000c000-7f0000010000 rw-p 0000c000 08:01 17  /usr/lib/writable.so
Size:                 16 kB
Anonymous:             0 kB
VmFlags: rd wr mr mw me ac sd
7f0000010000-7f0000014000 r--p 00000000 00:00 0
Size:                 16 kB
Anonymous:             0 kB
VmFlags: rd mr mw me sd
7ffd00000000-7ffd00001000 r-xp 00000000 00:00 0  [vdso]
Size:                  4 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me de sd
"""


def test_only_pages_of_files_that_nobody_wrote_to_are_given_back() -> None:
    found = _pages.UNWRITTEN.findall(SMAPS)
    assert found == [(b"7f0000000000", b"7f0000004000"), (b"7f0000004000", b"7f0000008000")]


def run(code: str) -> None:
    path = Path(_pages.__file__).parents[1]
    begin = f"import sys; sys.path.insert(0, {str(path)!r})\nfrom snakehouse import _pages\n"
    subprocess.run([sys.executable, "-c", begin + code], check=True, timeout=BOUND)


def test_a_process_goes_on_without_the_pages_of_its_files() -> None:
    run(
        """
import ctypes, decimal, json, ssl
def mapped():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssFile:"))
def work():
    decimal.getcontext().prec += 1
    ssl.create_default_context()
    return json.dumps([str(decimal.Decimal(2).sqrt())])
before, first = mapped(), work()
_pages.drop_files()
after = mapped()
assert after < before / 2, (before, after)
second = work()
# What was written before is there: the precision grew, twice.
assert len(second) == len(first) + 1, (first, second)
"""
    )


def test_the_collector_is_as_it_was_but_for_what_is_there() -> None:
    run(
        """
import gc
usual = gc.get_threshold()
_pages.begin()
_pages.settle()
assert gc.get_threshold() == usual and not gc.isenabled() and gc.get_freeze_count() > 1000
"""
    )


def test_the_thresholds_that_an_import_sets_are_kept() -> None:
    run(
        """
import gc
_pages.begin()
gc.set_threshold(7, 8, 9)
_pages.settle()
assert gc.get_threshold() == (7, 8, 9)
"""
    )
