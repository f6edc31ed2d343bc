"""Run fuzz targets, and report what each did: ``make fuzz ARGS="codec --seconds 600"``.

What a target finds of interest is kept in ``build/fuzz/corpus`` for the next time. An input that
breaks something goes to ``build/fuzz/findings``; once the fault is mended, copy it to
``tests/fuzz/findings/TARGET`` under a name with ``.bin``, so that test_replay.py keeps it so.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from . import TARGETS
from .corpus import CORPUS, FINDINGS

MAX_INPUT_BYTES = {"codec": 4096, "queue": 400, "protocol": 1024, "endpoint": 4096}
DEFAULT_INPUT_BYTES = 4096
TIMEOUT_S = 120
"""For one input: it takes milliseconds, but the fuzzer may get little of a busy machine."""
MAX_MEMORY_MB = 2048
_STATUS = re.compile(r"^#(\d+)\s+(\w+)\s+cov: (\d+) ft: (\d+) corp: (\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """What one target did.

    Attributes:
        executions: Inputs that were tried.
        coverage: Places reached by the corpus, and at the end.
        inputs: Inputs of interest at the end.
        findings: Files with inputs that broke something.
        is_good: Whether it ran to its end and found nothing.
    """

    name: str
    executions: int
    coverage: tuple[int, int]
    inputs: int
    findings: list[Path]
    is_good: bool


def fuzz(name: str, seconds: int, seed: int, build: Path) -> Run:
    """Run a target for so long, or until its first finding."""
    kept, found = build / "corpus" / name, build / "findings" / name
    for folder in (kept, found):
        folder.mkdir(parents=True, exist_ok=True)
    before = set(found.iterdir())
    log = build / f"{name}.log"
    folders = [kept, CORPUS / name, FINDINGS / name]
    with log.open("w") as output:
        status = subprocess.run(
            [
                *(sys.executable, "-m", "tests.fuzz.run", name),
                f"-max_total_time={seconds}",
                f"-seed={seed}",
                f"-max_len={MAX_INPUT_BYTES.get(name, DEFAULT_INPUT_BYTES)}",
                f"-timeout={TIMEOUT_S}",
                f"-report_slow_units={TIMEOUT_S}",
                f"-rss_limit_mb={MAX_MEMORY_MB}",
                f"-artifact_prefix={found}/",
                "-print_final_stats=1",
                *(str(folder) for folder in folders if folder.is_dir()),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "XDG_STATE_HOME": str(build / "state")},
            timeout=seconds + 600,
            check=False,
        ).returncode
    lines = _STATUS.findall(log.read_text(errors="replace"))
    first = next((line for line in lines if line[1] == "INITED"), ("0", "", "0", "0", "0"))
    last = lines[-1] if lines else first
    findings = sorted(set(found.iterdir()) - before)
    return Run(
        name,
        int(last[0]),
        (int(first[2]), int(last[2])),
        int(last[4]),
        findings,
        status == 0 and not findings and last[1] == "DONE",
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", default=TARGETS, metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the mutations; 0 takes another each"
    )
    parser.add_argument("--build", type=Path, default=Path("build/fuzz"), help="folder to work in")
    options = parser.parse_args()
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    print(
        f"{'target':14} {'executions':>10} {'a second':>8} {'coverage':>15} {'inputs':>6}  findings"
    )
    is_good = True
    for name in options.targets:
        run = fuzz(name, options.seconds, options.seed, options.build.resolve())
        is_good = is_good and run.is_good
        rate = run.executions // options.seconds
        coverage = f"{run.coverage[0]} → {run.coverage[1]}"
        findings = " ".join(map(str, run.findings)) or ("none" if run.is_good else "it failed")
        print(
            f"{name:14} {run.executions:10,} {rate:8,} {coverage:>15} {run.inputs:6}  {findings}",
            flush=True,
        )
        if not run.is_good:
            print(f"  see {options.build / name}.log")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
