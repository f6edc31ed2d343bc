"""Shows where a request's CPU time goes in the gateway: microseconds for each step, and their sum.

After each few milliseconds of CPU time the gateway's process interrupts itself and notes which of
our functions runs, or called the one that runs. The shares are scaled by a request's CPU time. The
kernel's clock sets the moments, 250 times a second: requests that leave in step with it would be
met at the same point each time, so an open load takes another rate. Run it as::

    python -m bench.steps --transport qh3 --clients 64 --in-flight 1
    python -m bench.steps --clients 100 --rate 997 --upstream unary --seconds 20
"""

from __future__ import annotations

import argparse
import json
import signal
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import gatesvr

from .load import Process, add_gateway_options, load_gateway, serve_gateway, serve_upstream

INTERVAL_S = 0.001
PACKAGE = str(Path(gatesvr.__file__).parent) + "/"
OUTSIDE = "event loop, epoll, gRPC's own threads"
STEPS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    # The step, its file, its functions; without functions: the rest of the file.
    ("read datagrams", "transport/udp/", ("read", "receive_batch")),
    ("send datagrams", "transport/udp/", ("send", "transmit", "send_batch", "_writable")),
    ("timers and flush", "transport/udp/", ()),
    ("route datagrams", "transport/listener.py", ()),
    ("route datagrams", "transport/routes.py", ()),
    ("route datagrams", "transport/admission.py", ()),
    (
        "QUIC in",
        "transport/quic/",
        (
            "receive_datagram",
            "_drain_core",
            "_drain",
            "can_wait",
            "_can_ack_wait",
            "ack_mark",
            "_payload_received",
            "_handle_ack_frame",
            "__getitem__",  # of a frame's handler
            "handle_frame",
        ),
    ),
    ("QUIC out", "transport/quic/", ()),
    ("connection", "transport/", ()),
    ("decode requests", "protocol/", ()),
    ("accept and route requests", "dispatch/handler.py", ()),
    ("accept and route requests", "dispatch/dispatcher.py", ()),
    ("hand over to a worker, wait, answer", "dispatch/", ()),
    ("session: seqs, answers, queue", "session/", ()),
    ("lane: gather, write, read, match", "upstream/", ()),
)


def step_of(frame: FrameType | None) -> str:
    """Return the step that a stack is in, by its innermost function of ours."""
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(PACKAGE):
            name = code.co_filename[len(PACKAGE) :]
            for step, place, functions in STEPS:
                if name.startswith(place) and (not functions or code.co_name in functions):
                    return step
        frame = frame.f_back
    return OUTSIDE


async def serve_sampled(
    pipe: Any, backend: str, services: dict[str, str], settings: list[str]
) -> None:
    """Run the gateway and sample its stack; the pipe works as in serve_gateway."""
    samples: Counter[str] = Counter()

    def sample(number: int, frame: FrameType | None) -> None:
        samples[step_of(frame)] += 1

    class Sampled:
        """The pipe, adding the samples to the statistics."""

        def __getattr__(self, name: str) -> Any:
            return getattr(pipe, name)

        def send(self, value: Any) -> None:
            if isinstance(value, dict):
                signal.setitimer(signal.ITIMER_PROF, 0)
                value = {**value, "samples": dict(samples)}
            pipe.send(value)

    signal.signal(signal.SIGPROF, sample)
    signal.setitimer(signal.ITIMER_PROF, INTERVAL_S, INTERVAL_S)
    await serve_gateway(Sampled(), backend, True, services, settings)  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.steps", description=__doc__)
    parser.add_argument("--transport", default="qh3", help="the gateway's QUIC library")
    parser.add_argument("--client", default="qh3", help="the load client's QUIC library")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--in-flight", type=int, default=1)
    parser.add_argument("--payload", type=int, default=128)
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second; 0: closed")
    parser.add_argument("--slow-ms", type=int, default=0)
    add_gateway_options(parser)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--warm-up", type=float, default=1.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    upstream = Process(serve_upstream, options.upstream)
    server = Process(serve_sampled, options.transport, upstream.hello, options.settings)
    try:
        figures = load_gateway(server, options)
        samples = server.stop()["samples"]
    finally:
        upstream.stop()
    total = sum(samples.values())
    steps = {
        step: figures["cpu_us"] * count / total
        for step, count in sorted(samples.items(), key=lambda item: -item[1])
    }
    if options.json:
        print(json.dumps({"cpu_us": figures["cpu_us"], "samples": total, "steps": steps}))
        return
    for step, microseconds in steps.items():
        print(f"{step:42} {microseconds:7.2f} us {microseconds / figures['cpu_us']:6.1%}")
    print(f"{'a request':42} {figures['cpu_us']:7.2f} us   of {total} samples")


if __name__ == "__main__":
    main()
