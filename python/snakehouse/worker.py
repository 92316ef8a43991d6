"""The worker process: ``python worker.py [--preload=NAME ...] [MODULE-OR-FILE ...]``.

The arguments are modules by dotted name (the working directory is importable) or files by path
(what lies beside one is importable). Their tools are announced and served. What is preloaded is
imported before them, and its tools are not served. ``worker.py --zygote [NAME ...]`` is a process
that imports the names and forks workers for the reaper, see ``_zygote``. Environment of a worker:

``SNAKEHOUSE_FD``
    number of the inherited control socket; 0, standard input, is the usual place
``SNAKEHOUSE_PAGE_FD``
    number of the inherited shared page; without it a running call cannot be cancelled, unless it
    is async or one of several
``SNAKEHOUSE_CAPACITY``
    how many calls run at once, by default 1
``SNAKEHOUSE_MODE``
    how several run: ``threads``, the default, or ``asyncio``, which wants every tool to be async
``SNAKEHOUSE_DEBUG``
    process whose standard input and standard error ``breakpoint()`` uses; without it that fails

All are taken out of the environment, and no descriptor reaches what a tool executes.
Standard output and standard error are the tools' own. Exit statuses: 0 the host hung up or said
goaway, 69 the tools could not be loaded (the hello said why), 76 the host broke the protocol, 78
the environment is wrong, anything else is a tool's doing. On every way out the socket is closed
first, then what ``atexit`` knows is run; threads are not waited for.
"""

import os
import sys

if __name__ == "__main__" and not __package__:
    # Started as a file: its own directory is no place to import from, the one above it is.
    _package = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != _package]
    sys.path.insert(0, os.path.dirname(_package))

from snakehouse._main import main

__all__ = ["main"]

PRELOAD = "--preload="

if __name__ == "__main__":
    if sys.argv[1:2] == ["--zygote"]:
        from snakehouse import _zygote

        _zygote.run(sys.argv[2:])
    preload = [name.removeprefix(PRELOAD) for name in sys.argv[1:] if name.startswith(PRELOAD)]
    sys.argv[1:] = [name for name in sys.argv[1:] if not name.startswith(PRELOAD)]
    main(sys.argv[1:], preload=preload)
