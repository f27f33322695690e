"""What a command does with Ctrl-C while it imports what it needs, which takes seconds on a busy machine."""

from __future__ import annotations

import signal
import sys


def starting(package: str) -> None:
    """Called by a package of commands: if it is imported to run one, Ctrl-C ends the process without a traceback.

    `dmf.machine.output.run` ends this (`started`). A program that only imports the package keeps its handlers.
    """
    arguments = sys.orig_argv
    asked = arguments[arguments.index("-m") + 1 :][:1] if "-m" in arguments else []
    searching = sys.argv[:1] == ["-m"]  # runpy's mark while it looks for the module that was asked for
    ours = searching and bool(asked) and asked[0].partition(".")[0] == package
    if ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def started() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt again, unless it is ignored or has a handler."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
