"""Runs a command and stops it, as by SIGTERM, when its standard input ends.

So the command ends with the process that started it: ``python -m gatesvr.cli.leash serve …``.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from .main import main

__all__: list[str] = []


def _wait_for_end() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_wait_for_end, name="leash", daemon=True).start()
    main(sys.argv[1:])
