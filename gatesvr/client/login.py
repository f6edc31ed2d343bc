"""ClientLogin: what a client logs in with, at first and whenever another session begins."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from ..errors import Outcome, RequestFailed, SessionLost
from .checks import check_texts, check_type
from .messages import Answer

__all__ = ["ClientLogin", "LoginNotMade"]

_Params = Mapping[str, str]


class LoginNotMade(Exception):
    """The application's own error kept a login from being sent.

    Args:
        error: What the application's code, or the check of what it gave, raised.
    """

    def __init__(self, error: Exception) -> None:
        self.error = error
        super().__init__(f"the login could not be made: {type(error).__name__}: {error}")


class ClientLogin:
    """Sends logins, and remembers the last one that was accepted.

    Args:
        send: Sends one, and returns its answer.
        data: For the login service.
        params: For the login service, or what returns them each time.
        is_automatic: Whether the client logs in by itself from the beginning.

    Raises:
        ConfigError: A text cannot be written as UTF-8.
        TypeError: A parameter has another type; the message names it.
    """

    def __init__(
        self,
        send: Callable[[bytes, _Params | None], Awaitable[Answer]],
        data: bytes,
        params: _Params | Callable[[], _Params] | None,
        *,
        is_automatic: bool,
    ) -> None:
        check_type("login_data", data, bytes)
        if params is not None and not callable(params):
            check_texts("login_params", params)
        self._send = send
        self._data = data
        self._params = params
        self._is_automatic = is_automatic
        self._last: tuple[bytes, _Params | None] | None = None  # as send() took it

    @property
    def is_due(self) -> bool:
        """Whether a new session is logged in to before the application's requests are sent."""
        return self._is_automatic or self._last is not None

    async def send(self, data: bytes, params: _Params | None) -> Answer:
        """Log in; where neither is given, with the client's own data and parameters.

        Raises:
            RequestFailed: The login was refused, by the gateway or by the upstream.
            SessionLost: The session ended first.
        """
        again = data, params
        if not data and params is None:
            data, params = self._data, self._made()
        answer = await self._send(data, params)
        if not answer.is_ok:
            raise RequestFailed(
                f"login refused: {answer.message}", answer.code, outcome=Outcome.DONE
            )
        self._last = again
        return answer

    async def repeat(self) -> None:
        """Log in to a new session as to the last one, if a login is due.

        Raises:
            LoginNotMade: The application's parameters make no login.
            RequestFailed, SessionLost: As by send().
        """
        try:
            if self._params is None and not self._data and self._last is not None:
                await self.send(*self._last)
            elif self.is_due:
                await self.send(b"", None)
        except (RequestFailed, SessionLost):
            raise
        except Exception as error:
            raise LoginNotMade(error) from error

    def _made(self) -> _Params | None:
        """Return the client's own parameters."""
        if not callable(self._params):
            return self._params
        try:
            params = self._params()
        except StopIteration as error:  # no coroutine may raise it
            raise RuntimeError("login_params raised StopIteration") from error
        if params is not None:
            check_texts("what login_params returns", params)
        return params
