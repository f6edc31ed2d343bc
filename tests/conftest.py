"""Shared by all tests: which QUIC backends they run on, and logs as they were before."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .spans import Spans

BACKENDS = ("aioquic", "qh3")

# A shell without job control starts a background job with SIGINT ignored, and its children inherit
# that: commands under test would not hear the Ctrl-C that a test sends them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# So does nohup with SIGHUP.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


# In its debug mode asyncio warns of callbacks that take 0.1 s. On a busy machine any may, and tests
# look at what was logged.
logging.getLogger("asyncio").addFilter(
    lambda record: not record.getMessage().startswith("Executing ")
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        choices=BACKENDS,
        help="leave out the tests that are parametrized with another QUIC backend",
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two workers a core: half of a test's time is waiting."""
    return 2 * (os.cpu_count() or 1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = config.getoption("--backend")
    if wanted is None:
        return
    left_out = [item for item in items if _backend(item) not in (None, wanted)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _backend(item: pytest.Item) -> object:
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("backend") if callspec is not None else None


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Run the test once on each QUIC backend."""
    backend: str = request.param
    return backend


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    """The process has OpenTelemetry's SDK set up, for the time of the test."""
    trace = pytest.importorskip("opentelemetry.trace", reason="OpenTelemetry is an extra")
    pytest.importorskip("opentelemetry.sdk.trace", reason="OpenTelemetry is an extra")
    from .spans import Spans

    found = Spans()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: found.provider)
    yield found
    found.provider.shutdown()


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """Undo what a command under test did to the package's logger, and to all others."""
    logger, root = logging.getLogger("gatesvr"), logging.getLogger()
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    others, hooks = root.handlers[:], (sys.unraisablehook, threading.excepthook)
    yield
    logger.handlers[:] = handlers
    root.handlers[:] = others
    sys.unraisablehook, threading.excepthook = hooks
    logging.captureWarnings(False)
    logger.setLevel(level)
    logger.propagate = propagate
