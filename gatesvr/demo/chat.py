"""A chat room for the demo's page and ``gatesvr demo chat``: its actions, and a user who answers.

Everybody who is logged in hears what is said, those whose connection is lost when they are back.
Lines are numbered, and told in the order of their numbers; who joins gets the last of them.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import secrets
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from ..errors import GatesvrError
from ..service.request import Reply, Request

if TYPE_CHECKING:
    from ..service.service import UpstreamService

__all__ = ["JOINED", "LEFT", "MAX_TEXT", "SAID", "Companion", "Line", "add_chat"]

MAX_TEXT = 500
"""Longest line, characters."""
MAX_NAMES = 50
"""Most users that chat_who and chat_people tell of."""
MAX_HISTORY = 50
"""Lines that who joins gets."""
LINE_TTL_S = 600.0
"""How long a line waits for somebody who is away, seconds."""

SAID, JOINED, LEFT = "chat", "chat_joined", "chat_left"
"""The msg_types; the title is the speaker, the content the line. The data of a line are JSON: its
number n, at_ms (since the epoch), and room, another one for each service, whose numbers begin at 1.
"""


def add_chat(service: UpstreamService) -> None:
    """Add chat_join, chat_say, chat_who, chat_people and chat_leave to a service."""
    history: deque[dict[str, object]] = deque(maxlen=MAX_HISTORY)
    in_order = asyncio.Lock()
    last, room = 0, secrets.token_hex(4)

    async def tell(msg_type: str, who: str, text: str = "", **about: object) -> Reply:
        try:
            pushed = await service.gateway.broadcast(
                msg_type=msg_type,
                title=who,
                content=text,
                data=json.dumps(about).encode() if about else b"",
                suspended=True,
                ttl=LINE_TTL_S,
            )
        except GatesvrError as error:
            return Reply(503, f"cannot push: {error}")
        if not pushed.success:
            return Reply(503, f"cannot push: {pushed.message}")
        return Reply(data=json.dumps({"sessions": pushed.sessions, **about}).encode())

    @service.action("chat_join")
    async def join(request: Request) -> Reply:
        """Tell everybody who came in, unless param quiet says not to; return the last lines."""
        if not request.params.get("quiet"):
            told = await tell(JOINED, request.openid)
            if told.code != 200:
                return told
        return Reply(data=json.dumps({"room": room, "lines": list(history)}).encode())

    @service.action("chat_leave")
    async def leave(request: Request) -> Reply:
        return await tell(LEFT, request.openid)

    @service.action("chat_say")
    async def say(request: Request) -> Reply:
        """Push the request's data, a line, to everybody."""
        text = request.data.decode("utf-8", "replace").strip()
        if not 0 < len(text) <= MAX_TEXT:
            return Reply(400, f"a line has 1 to {MAX_TEXT} characters")
        nonlocal last
        async with in_order:
            number, at_ms = last + 1, int(time.time() * 1000)
            told = await tell(SAID, request.openid, text, n=number, at_ms=at_ms, room=room)
            if told.code == 200:
                last = number
                history.append({"n": number, "at_ms": at_ms, "who": request.openid, "text": text})
        return told

    @service.action("chat_who")
    async def who(_: Request) -> Reply:
        """Return the names of the users who are logged in, at most MAX_NAMES."""
        names: dict[str, None] = {}
        try:
            for state in ("Normal", "Suspended"):
                async for session in service.gateway.sessions(state=state):
                    names[session.openid] = None
                    if len(names) >= MAX_NAMES:
                        break
        except GatesvrError as error:
            return Reply(503, f"cannot ask the gateway: {error}")
        return Reply(data=json.dumps(sorted(names)[:MAX_NAMES]).encode())

    @service.action("chat_people")
    async def people(_: Request) -> Reply:
        """Return who is logged in and how: name, state, transport and messages that wait."""
        found: list[dict[str, object]] = []
        try:
            for state in ("Normal", "Suspended"):
                async for session in service.gateway.sessions(state=state):
                    if len(found) >= MAX_NAMES:
                        break
                    found.append(
                        {
                            "name": session.openid,
                            "state": session.state,
                            "transport": session.transport,
                            "waiting": session.queued_messages,
                        }
                    )
        except GatesvrError as error:
            return Reply(503, f"cannot ask the gateway: {error}")
        return Reply(data=json.dumps(found).encode())


# The other user ----------------------------------------------------------------------------------


class Line(NamedTuple):
    """What somebody is about to say.

    Attributes:
        delay: Seconds from the line before: to read, to think and to type.
        text: What is said.
    """

    delay: float
    text: str


_ANSWERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        r"\b(hi|hello|hey|hallo|good (morning|evening|day)|你好|您好|嗨)\b|你好",
        ("hello {who}!", "hey {who}, good to see you", "hi! how is it over there?"),
    ),
    (
        r"\b(bye|goodbye|see you|good night|再见)\b|再见",
        ("see you, {who}", "bye! I keep the lights on", "take care"),
    ),
    (
        r"\bhow are you|how('s| is) it going|what('s| is) up\b|怎么样",
        (
            "can't complain: every message arrived so far",
            "a little slow before coffee. you?",
            "fine! I just counted my messages, none is missing",
        ),
    ),
    (
        r"\b(who|what) are you|are you (a )?(bot|human|real|robot|ai)\b|你是谁",
        (
            "a few dozen lines of Python with a client of their own",
            "not very human. but I have a real session, with real sequence numbers",
        ),
    ),
    (
        r"\b(quic|udp|tcp|protocol|packet)",
        (
            "one QUIC connection each, one stream in it. simpler than it sounds",
            "I once joined over TCP. we don't talk about it",
            "the packets may come in any order, the messages can't",
        ),
    ),
    (
        r"\b(lost|loss|disconnect|reconnect|offline|network|wifi|resume|断线|重连)",
        (
            "pull your network for a moment if you like: I go on talking, and you get all of it",
            "when you are away I wait in your queue. numbered, of course",
            "the gateway keeps what I say until your client has acknowledged it",
        ),
    ),
    (
        r"\b(order|sequence|seq)\b|\bnumbers?\b",
        (
            "every line here has a server seq. the next one is always one more",
            "what you hear from me comes in the order in which I said it. promised",
        ),
    ),
    (
        r"\b(joke|funny|laugh)\b|笑话",
        (
            "I'd tell you a UDP joke, but you might not get it",
            "knock knock. who's there? exactly once. exactly once who? exactly.",
            "two datagrams walk into a bar. the second one was first",
        ),
    ),
    (
        r"\b(thank|thanks|thx|谢谢)\b|谢谢",
        ("any time", "you're welcome, {who}", "my pleasure"),
    ),
    (
        r"\b(weather|rain|sun|cold|warm)\b|天气",
        ("cloudy, with a chance of packet loss", "I have no window. only a congestion window"),
    ),
    (r"\b(time|clock|late|early)\b", ("by my monotonic clock: later than before",)),
)  # fmt: skip
_QUESTIONS = (
    "good question. what do you think?",
    "I would ask the gateway, but it only carries letters",
    "hm. yes? no? I am easily convinced",
    "let me think about that for a few round trips",
)
_REST = (
    "tell me more",
    "I see",
    "interesting. go on",
    "and then?",
    "I read every word of it, in order",
    "that makes sense, {who}",
    "ha! true",
)
_WELCOMES = (
    "oh, hello {who}! I was just watering the queues",
    "welcome, {who}! ask me anything, I answer almost as fast as the gateway",
    "hi {who}! it was getting quiet in here",
)
_SMALL_TALK = (
    "still there? the heartbeat says so",
    "I sometimes count sequence numbers until I fall asleep",
    "do you know what I like about this room? nobody ever says a line twice",
    "quiet today. the loop lag is practically zero",
)


class Companion:
    """A user who joins in: says what to answer, and how long to take for it.

    Args:
        name: Its openid; it does not answer itself.
        rng: Where its choices come from.
    """

    def __init__(self, name: str, rng: random.Random | None = None) -> None:
        self.name = name
        self._random = rng or random.Random()  # noqa: S311  # chatter, not secrets
        self._last: dict[tuple[str, ...], str] = {}

    def greet(self, who: str) -> list[Line]:
        """Return what to say to somebody who came in."""
        return [] if who == self.name else [self._line(_WELCOMES, who)]

    def answer(self, who: str, text: str) -> list[Line]:
        """Return what to say to a line."""
        if who == self.name:
            return []
        for pattern, choices in _ANSWERS:
            if re.search(pattern, text, re.IGNORECASE):
                return [self._line(choices, who)]
        if text.rstrip().endswith(("?", "\uff1f")):
            return [self._line(_QUESTIONS, who)]
        return [self._line(_REST, who)]

    def small_talk(self) -> Line:
        """Return what to say when nobody says anything."""
        return self._line(_SMALL_TALK, "")

    def _line(self, choices: tuple[str, ...], who: str) -> Line:
        """Choose a text, not the one chosen last."""
        fresh = [text for text in choices if text != self._last.get(choices)] or list(choices)
        text = self._last[choices] = self._random.choice(fresh)
        shown = text.format(who=who)
        return Line(self._random.uniform(0.4, 0.9) + 0.02 * len(shown), shown)
