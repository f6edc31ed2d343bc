"""Reads lines from a person while output goes on, without mixing it into the line being typed."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import TextIO

from .terminal import is_dumb

__all__ = ["Above", "typed_lines"]

_PROMPT = "> "


async def typed_lines() -> AsyncGenerator[str, None]:
    """Yield the lines that a person types; output meanwhile stands above the prompt.

    Raises:
        EOFError: The input has ended.
        KeyboardInterrupt: Ctrl-C was typed.
    """
    from prompt_toolkit import PromptSession
    from prompt_toolkit.application import create_app_session
    from prompt_toolkit.output.plain_text import PlainTextOutput
    from prompt_toolkit.patch_stdout import patch_stdout

    with contextlib.ExitStack() as stack:
        above = None
        if is_dumb():
            stack.enter_context(create_app_session(output=PlainTextOutput(sys.stdout)))
        session: PromptSession[str] = PromptSession()
        if is_dumb():
            above = Above(sys.stdout, lambda: session.default_buffer.text)
            stack.enter_context(above.installed())
        else:
            stack.enter_context(patch_stdout(raw=True))
        while True:
            with above.prompting() if above is not None else contextlib.nullcontext():
                line = await session.prompt_async(
                    _PROMPT, handle_sigint=False, set_exception_handler=False
                )
            yield line


class Above(io.TextIOBase):
    """Output of a terminal that obeys no escape sequences (TERM=dumb).

    It cannot insert lines above the prompt. So output begins on a line of its own, and the prompt
    is written again behind it with what was typed so far.

    Args:
        stream: The terminal.
        typed: Returns what was typed so far.
    """

    def __init__(self, stream: TextIO, typed: Callable[[], str]) -> None:
        self._stream = stream
        self._typed = typed
        self._is_prompting = False
        self._line = ""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The terminal's."""
        return self._stream.encoding

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return self._stream.isatty()

    def write(self, text: str) -> int:
        """Write the whole lines of text; the rest waits for its line end."""
        lines, end, self._line = (self._line + text).rpartition("\n")
        if end:
            before, behind = ("\n", _PROMPT + self._typed()) if self._is_prompting else ("", "")
            self._stream.write(f"{before}{lines}\n{behind}")
            self._stream.flush()
        return len(text)

    @contextlib.contextmanager
    def prompting(self) -> Iterator[None]:
        """Within it the prompt is shown."""
        self._is_prompting = True
        try:
            yield
        finally:
            self._is_prompting = False

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Within it this is standard output and standard error."""
        streams = sys.stdout, sys.stderr
        sys.stdout = sys.stderr = self
        try:
            yield
        finally:
            sys.stdout, sys.stderr = streams
