"""``python -m tests.conformance [FAULT ...]``: the whole kit against each planted fault.

Prints the cases that each of them breaks; exits with 1 where that is not its own case alone.
"""

from __future__ import annotations

import asyncio
import sys
import time

import pytest

from .faults import FAULTS
from .in_process import CASES, play


def main(names: list[str]) -> int:
    wrong = 0
    for name in names:
        with pytest.MonkeyPatch.context() as patch:
            FAULTS[name](patch.setattr)
            began, cpu = time.monotonic(), time.process_time()
            cases = [case for case in CASES.values() if not case.lasts or case.name == name]
            verdicts = asyncio.run(play(*cases, slowness=0.3))
        broken = [verdict.case.name for verdict in verdicts if verdict.outcome == "broken"]
        wrong += broken != [name]
        took = f"{time.monotonic() - began:.1f} s, {time.process_time() - cpu:.1f} s of CPU"
        print(f"{FAULTS[name].__name__:<40} {', '.join(broken)}  ({took})", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(FAULTS)))
