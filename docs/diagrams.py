"""Draw docs/diagrams: the flow of GateSvr, as SVG that follows a light or a dark theme.

Each drawing is text with coordinates in a view box of 880 units. The colours are variables of the
style below; docs/_static/site.css sets the same ones for the site's own theme switch.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent / "diagrams"
WIDTH = 880
ROW = 32
"""Height of a row of a sequence."""
_TOP = 60.0
_END = "END"

LIGHT = {
    "ink": "#0f172a", "soft": "#52606f", "line": "#7b8898", "rule": "#cfd8e1", "panel": "#f6f8fa",
    "card": "#ffffff", "page": "#ffffff",
    "client": "#dbeafe", "client-line": "#2563eb", "quic": "#ccfbf1", "quic-line": "#0d9488",
    "session": "#fef3c7", "session-line": "#c2760c", "async": "#ede9fe", "async-line": "#7c3aed",
    "send": "#ffe4e6", "send-line": "#d6304f", "up": "#dcfce7", "up-line": "#16863f",
}  # fmt: skip
DARK = {
    "ink": "#e6edf3", "soft": "#a3b1c0", "line": "#7d8da0", "rule": "#36414d", "panel": "#171d24",
    "card": "#1d252e", "page": "#131416",
    "client": "#172b4d", "client-line": "#6aa3ff", "quic": "#0d3733", "quic-line": "#3fd0bd",
    "session": "#3a2a0a", "session-line": "#e5a83b", "async": "#2a1f4d", "async-line": "#a98bfb",
    "send": "#431a24", "send-line": "#fb7c92", "up": "#12351f", "up-line": "#4cc777",
}  # fmt: skip
"""The same names as in LIGHT: text, lines and surfaces, then a fill and a line for each layer."""


def variables(colours: dict[str, str]) -> str:
    """Return colours as the variables of a style sheet."""
    return "".join(f"--d-{name}:{value};" for name, value in colours.items())


STYLE = (
    f"<style>\n.drawn{{{variables(LIGHT)}}}\n"
    f"@media(prefers-color-scheme:dark){{.drawn{{{variables(DARK)}}}}}\n</style>\n"
)


class Drawing:
    """A drawing under way: shapes are added, text() returns the whole.

    Args:
        title: What it shows, for readers who do not see it.
        about: The same in a sentence or two.
        height: Of the view box.
    """

    def __init__(self, title: str, about: str, height: float) -> None:
        self.title = title
        self.about = about
        self.height = height
        self._shapes: list[str] = []

    def add(self, shape: str) -> None:
        """Add a shape as it is."""
        self._shapes.append(shape)

    def panel(
        self, x: float, y: float, w: float, h: float, label: str = "", tone: str = ""
    ) -> None:
        """Add a group's frame with its label at the top left."""
        line = f"var(--d-{tone}-line)" if tone else "var(--d-rule)"
        self.add(
            f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="12" fill="var(--d-panel)"'
            f' stroke="{line}" stroke-opacity="{0.55 if tone else 1}"/>'
        )
        if label:
            ink = line if tone else "var(--d-soft)"
            self.words(x + 16, y + 23, label, size=12.5, weight=600, fill=ink, anchor="start")

    def box(
        self, x: float, y: float, w: float, h: float, title: str, *lines: str, tone: str = ""
    ) -> None:
        """Add a box with a title and smaller lines under it, centred."""
        fill = f"var(--d-{tone})" if tone else "var(--d-card)"
        line = f"var(--d-{tone}-line)" if tone else "var(--d-rule)"
        self.add(
            f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="8" fill="{fill}"'
            f' stroke="{line}" stroke-width="1.2"/>'
        )
        top = y + h / 2 + 5 - 8.5 * len(lines)
        self.words(x + w / 2, top, title, weight=600)
        for i, text in enumerate(lines, 1):
            self.words(x + w / 2, top + 17 * i, text, size=12, fill="var(--d-soft)")

    def words(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 14,
        weight: int = 400,
        fill: str = "var(--d-ink)",
        anchor: str = "middle",
        mono: bool = False,
    ) -> None:
        """Add a line of text; y is its base line."""
        family = ' font-family="ui-monospace,Menlo,Consolas,monospace"' if mono else ""
        bold = f' font-weight="{weight}"' if weight != 400 else ""
        self.add(
            f'<text x="{x:g}" y="{y:g}" font-size="{size:g}"{bold} text-anchor="{anchor}"'
            f' fill="{fill}"{family}>{escape(text)}</text>'
        )

    def arrow(
        self,
        *points: tuple[float, float],
        tone: str = "",
        dashed: bool = False,
        both: bool = False,
        bare: bool = False,
    ) -> None:
        """Add a line through points with a tip at its end, or at both."""
        line = f"var(--d-{tone}-line)" if tone else "var(--d-line)"
        path = "M" + " L".join(f"{x:g} {y:g}" for x, y in points)
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.add(
            f'<path d="{path}" fill="none" stroke="{line}" stroke-width="1.6"'
            f' stroke-linejoin="round"{dash}/>'
        )
        if not bare:
            self._tip(points[-2], points[-1], line)
        if both:
            self._tip(points[1], points[0], line)

    def _tip(self, behind: tuple[float, float], at: tuple[float, float], line: str) -> None:
        dx, dy = at[0] - behind[0], at[1] - behind[1]
        length = (dx * dx + dy * dy) ** 0.5
        ux, uy = dx / length, dy / length
        x, y = at
        left = (x - 8 * ux + 4 * uy, y - 8 * uy - 4 * ux)
        right = (x - 8 * ux - 4 * uy, y - 8 * uy + 4 * ux)
        points = " ".join(f"{px:.1f},{py:.1f}" for px, py in ((x, y), left, right))
        self.add(f'<polygon points="{points}" fill="{line}"/>')

    def text(self) -> str:
        """Return the drawing as a file."""
        name = "".join(c if c.isalnum() else "-" for c in self.title.lower())
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="drawn" role="img"'
            f' viewBox="0 0 {WIDTH} {self.height:g}" aria-labelledby="{name}-t {name}-d"'
            " font-family=\"Inter,-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif\">\n"
            f'<title id="{name}-t">{escape(self.title)}</title>\n'
            f'<desc id="{name}-d">{escape(self.about)}</desc>\n'
            f"{STYLE}" + "\n".join(self._shapes) + "\n</svg>\n"
        )


class Conversation(Drawing):
    """A sequence: actors side by side, and rows of what passes between them.

    Args:
        actors: For each: its name, a second line, its tone. Their lines end below the last row.
    """

    def __init__(self, title: str, about: str, actors: Sequence[tuple[str, str, str]]) -> None:
        super().__init__(title, about, 0)
        step = WIDTH / len(actors)
        self._x = [step * (i + 0.5) for i in range(len(actors))]
        self._y = _TOP + 8
        for x, (_, _, tone) in zip(self._x, actors, strict=True):
            self.add(
                f'<line x1="{x:g}" y1="{_TOP - 8:g}" x2="{x:g}" y2="{_END}"'
                f' stroke="var(--d-{tone}-line)" stroke-opacity=".45" stroke-width="1.4"/>'
            )
        for x, (name, more, tone) in zip(self._x, actors, strict=True):
            self.box(x - step / 2 + 5, 8, step - 10, 46, name, *([more] if more else []), tone=tone)

    def part(self, text: str) -> None:
        """Begin a part: a band with its name."""
        self._y += 8
        self.add(
            f'<rect x="6" y="{self._y:g}" width="{WIDTH - 12}" height="24" rx="6"'
            ' fill="var(--d-panel)" stroke="var(--d-rule)"/>'
        )
        self.words(18, self._y + 16.5, text, size=12.5, weight=600, anchor="start")
        self._y += ROW

    def say(self, a: int, b: int, text: str, *, dashed: bool = False, tone: str = "") -> None:
        """Add a message from one actor to another, or one's own step."""
        y = self._y + 22
        if a == b:
            x = self._x[a]
            self.add(f'<circle cx="{x:g}" cy="{y - 4:g}" r="4" fill="var(--d-line)"/>')
            side, anchor = (10.0, "start") if a < len(self._x) - 1 else (-10.0, "end")
            self._label(x + side, y, text, anchor)
        else:
            self.arrow((self._x[a], y), (self._x[b], y), dashed=dashed, tone=tone)
            self._label((self._x[a] + self._x[b]) / 2, y - 6, text, "middle")
        self._y += ROW

    def _label(self, x: float, y: float, text: str, anchor: str) -> None:
        wide = 6.7 * len(text) + 8
        left = {"middle": x - wide / 2, "start": x - 4, "end": x - wide + 4}[anchor]
        self.add(
            f'<rect x="{left:g}" y="{y - 12:g}" width="{wide:g}" height="16" rx="3"'
            ' fill="var(--d-page)" fill-opacity=".86"/>'
        )
        self.words(x, y, text, size=12.5, anchor=anchor)

    def frame(self, rows: float, label: str, tone: str) -> None:
        """Frame the next rows: an alternative of the part."""
        self.add(
            f'<rect x="10" y="{self._y + 2:g}" width="{WIDTH - 20}" height="{rows * ROW + 24:g}"'
            f' rx="8" fill="none" stroke="var(--d-{tone}-line)" stroke-dasharray="3 4"/>'
        )
        self.add(
            f'<rect x="16" y="{self._y + 6:g}" width="{6.9 * len(label) + 10:g}" height="17" rx="3"'
            ' fill="var(--d-page)"/>'
        )
        self.words(
            20, self._y + 18, label, size=12, weight=600, fill=f"var(--d-{tone}-line)",
            anchor="start",
        )  # fmt: skip
        self._y += 16

    def text(self) -> str:
        """Return the drawing as a file, as high as its rows."""
        self.height = self._y + 12
        return super().text().replace(_END, f"{self.height - 4:g}")

    def space(self, rows: float) -> None:
        """Leave rows empty."""
        self._y += rows * ROW


def overview() -> Drawing:
    """Draw where the gateway stands."""
    d = Drawing(
        "Where GateSvr stands",
        "Clients hold one QUIC connection each. GateSvr keeps a session for each of them and talks"
        " gRPC with ordinary services, which answer requests and push notifies.",
        272,
    )
    for y, name in zip((26, 112, 198), ("phone", "game", "device"), strict=True):
        d.box(14, y, 150, 50, name, tone="client")
        d.arrow((172, y + 25), (306, y + 25), both=True, tone="client")
    d.words(239, 40, "QUIC", size=12.5, fill="var(--d-soft)")
    d.words(239, 70, "one connection", size=12, fill="var(--d-soft)")
    d.panel(314, 10, 252, 252, "", "session")
    d.words(440, 38, "GateSvr", size=17, weight=700)
    for y, head, more in (
        (52, "one session a client", "outlives its connections"),
        (120, "numbered, in order", "kept until acknowledged"),
        (188, "routes, zones, batches", "bounded queues, deadlines"),
    ):
        d.box(332, y, 216, 58, head, more, tone="session")
    for y, name in zip((26, 112, 198), ("login service", "chat service", "yours"), strict=True):
        d.box(716, y, 150, 50, name, tone="up")
    d.arrow((574, 51), (708, 51), both=True, tone="up")
    d.arrow((574, 137), (708, 137), both=True, tone="up")
    d.arrow((708, 223), (574, 223), tone="up")
    d.words(641, 40, "gRPC", size=12.5, fill="var(--d-soft)")
    d.words(641, 70, "requests, answers", size=12, fill="var(--d-soft)")
    d.words(641, 212, "pushes", size=12, fill="var(--d-soft)")
    return d


def architecture() -> Drawing:
    """Draw the layers and what passes between them."""
    d = Drawing(
        "The whole",
        "From the top: clients; the QUIC listener with a connection task for each client; sessions,"
        " each with its ordered queue; the task queue and its workers; the sender, the codec and"
        " the notifies; routes and lanes to the upstream services.",
        704,
    )
    d.words(16, 40, "clients", size=12.5, weight=600, anchor="start", fill="var(--d-soft)")
    for i, name in enumerate(("client 1", "client 2", "client 3", "client n")):
        d.box(112 + 190 * i, 14, 150, 42, name, tone="client")
        d.arrow((187 + 190 * i, 58), (187 + 190 * i, 90), both=True, tone="client")
    d.words(455, 80, "QUIC, TLS 1.3", size=12, fill="var(--d-soft)")
    d.panel(10, 92, 860, 132, "transport", "quic")
    d.box(112, 104, 720, 40, "ConnectionListener: one UDP endpoint, :8453", tone="quic")
    for i in range(4):
        name = f"connection {'n' if i == 3 else i + 1}"
        d.box(112 + 190 * i, 166, 150, 46, name, "one task, one stream", tone="quic")
        d.arrow((187 + 190 * i, 146), (187 + 190 * i, 164), both=True, tone="quic")
    d.panel(10, 252, 560, 164, "session", "session")
    d.box(112, 264, 434, 36, "SessionManager and its index", tone="session")
    for i in range(3):
        name = f"session {'n' if i == 2 else i + 1}"
        d.box(
            112 + 146 * i, 318, 142, 86, name, "state, client seqs", "OrderedQueue:", tone="session"
        )
        d.add(
            '<g stroke="var(--d-session-line)" fill="var(--d-card)">'
            + "".join(
                f'<rect x="{128 + 146 * i + 16 * j}" y="388" width="13" height="10" rx="2"'
                f' fill-opacity="{1 if j > 2 else 0.25}"/>'
                for j in range(7)
            )
            + "</g>"
        )
        d.arrow((187 + 146 * i, 302), (187 + 146 * i, 316), tone="session")
    d.panel(594, 252, 276, 164, "dispatch", "async")
    d.box(690, 264, 164, 36, "task queue: 10,000", tone="async")
    d.box(612, 322, 242, 40, "AsyncProcessor", tone="async")
    for i in range(4):
        d.box(612 + 62 * i, 376, 56, 28, f"W{'n' if i == 3 else i + 1}", tone="async")
    d.arrow((772, 302), (772, 320), tone="async")
    d.arrow((733, 364), (733, 374), tone="async")
    d.arrow((282, 226), (282, 262), both=True, tone="quic")
    d.words(296, 242, "frames in, frames out", size=12, anchor="start", fill="var(--d-soft)")
    d.arrow((772, 214), (772, 262), tone="quic")
    d.words(786, 242, "requests", size=12, anchor="start", fill="var(--d-soft)")
    d.panel(10, 444, 560, 106, "messages", "send")
    d.box(112, 466, 140, 66, "OrderedSender", "gives each its seq", tone="send")
    d.box(264, 466, 140, 66, "MessageCodec", "bytes to bytes", tone="send")
    d.box(416, 466, 138, 66, "NotifyOrdering", "before, after", tone="send")
    d.arrow((182, 464), (182, 406), tone="send")
    d.words(196, 436, "in order", size=12, anchor="start", fill="var(--d-soft)")
    d.panel(594, 444, 276, 106, "upstream", "up")
    d.box(612, 474, 114, 60, "Router", "action, zone", tone="up")
    d.box(742, 474, 112, 60, "Lanes", "one an address", tone="up")
    d.arrow((728, 504), (740, 504), tone="up")
    d.arrow((702, 406), (702, 472), tone="async")
    d.arrow((798, 472), (798, 430), (640, 430), (640, 406), tone="up", dashed=True)
    d.arrow((610, 390), (582, 390), (582, 499), (556, 499), tone="async")
    d.words(806, 434, "answers", size=12, anchor="start", fill="var(--d-soft)")
    d.words(16, 682, "services", size=12.5, weight=600, anchor="start", fill="var(--d-soft)")
    for i, (name, more) in enumerate(
        (("hello", "login, :8081"), ("business", "the rest, :8082"), ("zone", "by zone, :8083"))
    ):
        d.box(112 + 260 * i, 608, 200, 56, name, more, tone="up")
    for x in (212, 472, 732):
        d.arrow((798, 536), (798, 578), (x, 578), (x, 606), tone="up")
    d.words(
        440,
        572,
        "gRPC: one long stream a lane, many requests a message",
        size=12,
        fill="var(--d-soft)",
    )
    d.arrow((110, 636), (62, 636), (62, 552), tone="up", dashed=True)
    d.words(76, 594, "push", size=12, anchor="start", fill="var(--d-soft)")
    return d


def request() -> Drawing:
    """Draw a connection, a login and a request."""
    d = Conversation(
        "A connection and its requests",
        "A client connects, gets its session at START and logs in. Then a request becomes a task, a"
        " worker calls the service, and the answer takes its place in the session's order.",
        (
            ("client", "QUIC", "client"),
            ("connection task", "", "quic"),
            ("Session", "", "session"),
            ("OrderedQueue", "", "send"),
            ("AsyncProcessor", "queue, workers", "async"),
            ("service", "gRPC", "up"),
        ),
    )
    d.part("1  Connection and session")
    d.say(0, 1, "QUIC handshake")
    d.say(0, 1, "START")
    d.say(1, 2, "create, or resume")
    d.say(2, 3, "new queue")
    d.say(1, 0, "START_RESP", dashed=True)
    d.part("2  Login: hello does not wait for a worker")
    d.say(0, 1, "hello, seq 1")
    d.say(1, 5, "call the service behind hello", tone="up")
    d.say(5, 2, "200: state Normal, its zone", dashed=True, tone="up")
    d.say(3, 0, "answer, server seq 1", dashed=True)
    d.part("3  A request")
    d.say(0, 1, "request, seq 2")
    d.say(1, 2, "accept once")
    d.say(1, 4, "submit a task; never blocks", tone="async")
    d.frame(1, "queue full", "send")
    d.say(4, 0, "ERROR 503 with retry_after_ms, not started", dashed=True)
    d.space(0.35)
    d.say(4, 4, "a worker takes it")
    d.say(4, 5, "call, in a batch", tone="up")
    d.say(5, 4, "answer", dashed=True, tone="up")
    d.say(4, 3, "before, answer, after")
    d.say(3, 0, "in order: server seq 2, 3, 4", dashed=True)
    return d


def queue() -> Drawing:
    """Draw a session, its queue and the notifies that wait for an answer."""
    d = Drawing(
        "A session and its ordered queue",
        "A session's identity, client, sequence numbers and times. Its queue holds sent and unacked"
        " messages, messages not yet sent, and slots that wait for their answer. Notifies that are"
        " bound to a request wait for its answer.",
        560,
    )
    d.panel(10, 10, 270, 540, "Session", "session")
    groups = (
        (
            "identity",
            ("session id", "connection and stream", "Inited, Normal,", "Suspended, Closed"),
        ),
        ("client", ("client id, openid", "zone, IP address")),
        ("numbers", ("next server seq", "highest client seq", "acked server seq")),
        ("resume", ("token, generation", "attempts")),
        ("times", ("created", "last activity")),
    )
    y = 44.0
    for name, lines in groups:
        h = 36 + 19 * len(lines)
        d.panel(26, y, 238, h)
        d.words(40, y + 22, name, size=13, weight=600, anchor="start")
        for i, line in enumerate(lines):
            d.words(40, y + 42 + 19 * i, line, size=12.5, anchor="start", fill="var(--d-soft)")
        y += h + 17
    d.panel(304, 10, 566, 348, "OrderedQueue", "send")
    d.words(
        322,
        62,
        "the outgoing order: every message has one number, for good",
        size=12.5,
        anchor="start",
        fill="var(--d-soft)",
    )
    cells = (
        ("201", "acked"), ("202", "acked"), ("203", "flight"), ("204", "flight"), ("205", "flight"),
        ("206", "ready"), ("207", "ready"), ("slot", "open"), ("slot", "wait"), ("slot", "open"),
    )  # fmt: skip
    x = 322.0
    for label, kind in cells:
        fill = {
            "acked": "var(--d-panel)", "flight": "var(--d-send)", "ready": "var(--d-session)",
            "open": "var(--d-card)", "wait": "var(--d-async)",
        }[kind]  # fmt: skip
        line = {
            "acked": "var(--d-rule)", "flight": "var(--d-send-line)",
            "ready": "var(--d-session-line)", "open": "var(--d-line)",
            "wait": "var(--d-async-line)",
        }[kind]  # fmt: skip
        dash = ' stroke-dasharray="4 3"' if kind == "open" else ""
        d.add(
            f'<rect x="{x}" y="92" width="47" height="42" rx="6" fill="{fill}"'
            f' stroke="{line}"{dash}/>'
        )
        ink = "var(--d-soft)" if kind in ("acked", "open") else "var(--d-ink)"
        d.words(x + 23.5, 118, label, size=12.5, fill=ink, mono=True)
        x += 53
    for at, width, text, tone in (
        (322, 100, "acked: gone", ""),
        (428, 153, "sent, kept", "send"),
        (587, 100, "ready", "session"),
        (693, 153, "reserved", "async"),
    ):
        line = f"var(--d-{tone}-line)" if tone else "var(--d-line)"
        d.add(f'<path d="M{at} 144v6h{width}v-6" fill="none" stroke="{line}"/>')
        d.words(at + width / 2, 167, text, size=12.5)
    d.arrow((425, 210), (425, 184), tone="send")
    d.words(425, 226, "last acked seq", size=12.5)
    d.arrow((584, 210), (584, 184), tone="session")
    d.words(584, 226, "last sent seq", size=12.5)
    d.arrow((690, 210), (690, 184), tone="async")
    d.words(700, 226, "next expected seq", size=12.5, anchor="middle")
    for at, head, more in (
        (322, "sent ring", ("one ack clears many;", "a resume replays it")),
        (502, "waiting heap", ("answers that came early", "keep their slot")),
        (682, "bounds", ("messages and bytes;", "policy when full")),
    ):
        d.box(at, 256, 170, 86, head, *more)
    d.panel(304, 382, 566, 168, "NotifyOrderingManager", "async")
    d.words(
        322,
        432,
        "bound to a request by its client seq, sent as one bundle with its answer:",
        size=12.5,
        anchor="start",
        fill="var(--d-soft)",
    )
    d.box(322, 454, 146, 66, "before", "notifies first", tone="async")
    d.box(512, 454, 146, 66, "answer", "to the request", tone="session")
    d.box(702, 454, 146, 66, "after", "notifies last", tone="async")
    d.arrow((470, 487), (510, 487))
    d.arrow((660, 487), (700, 487))
    d.arrow((282, 180), (302, 180), tone="session")
    d.arrow((282, 466), (302, 466), tone="session")
    return d


def workers() -> Drawing:
    """Draw the task queue and its workers."""
    d = Drawing(
        "Tasks and workers",
        "Requests wait in a bounded queue for each service; sessions take turns. An elastic pool of"
        " workers takes them, and each worker checks the session, calls the service and answers.",
        470,
    )
    d.panel(10, 10, 240, 300, "AsyncTask", "session")
    for i, line in enumerate(
        (
            "task id",
            "session, and its id",
            "the request, as bytes",
            "service",
            "deadline: 30 s in all",
            "whether it is the login",
        )
    ):
        d.box(26, 46 + 43 * i, 208, 34, line)
    d.panel(274, 10, 258, 300, "AsyncProcessor", "async")
    d.words(
        290,
        58,
        "a queue each; sessions take turns",
        size=12,
        anchor="start",
        fill="var(--d-soft)",
    )
    for row, (name, filled) in enumerate((("hello", 2), ("business", 6), ("zone", 3))):
        y = 74 + 50 * row
        d.words(290, y + 22, name, size=12.5, anchor="start")
        for i in range(8):
            fill = "var(--d-async)" if i < filled else "var(--d-card)"
            d.add(
                f'<rect x="{360 + 19.5 * i}" y="{y + 6}" width="16" height="24" rx="3"'
                f' fill="{fill}" stroke="var(--d-async-line)" stroke-opacity=".7"/>'
            )
    d.box(290, 230, 226, 62, "full: 503 at once", "with a time to come back", tone="send")
    d.panel(556, 10, 314, 300, "Workers", "async")
    for i in range(4):
        for j in range(3):
            last = i == 3 and j == 2
            label = "Wn" if last else f"W{3 * i + j + 1}"
            d.box(574 + 96 * j, 46 + 42 * i, 88, 34, label, tone="async")
    d.words(
        713, 236, "starts at 4 a CPU, grows to 1,024 a service,", size=12.5, fill="var(--d-soft)"
    )
    d.words(713, 255, "shrinks again when idle", size=12.5, fill="var(--d-soft)")
    d.words(
        713, 284, "a service that hangs keeps its own places only", size=12.5, fill="var(--d-soft)"
    )
    d.arrow((252, 130), (272, 130), tone="session")
    d.arrow((534, 130), (554, 130), tone="async")
    d.panel(10, 332, 860, 128, "what a worker does", "up")
    steps = (
        ("valid?", "session, deadline"),
        ("call", "the service's lane"),
        ("before", "bound notifies"),
        ("answer", "into its place"),
        ("after", "bound notifies"),
    )
    for i, (name, more) in enumerate(steps):
        tone = "up" if i == 1 else "send" if i == 3 else ""
        d.box(28 + 170 * i, 372, 146, 66, name, more, tone=tone)
        if i:
            d.arrow((28 + 170 * i - 22, 405), (28 + 170 * i - 2, 405))
    d.arrow((713, 312), (713, 322), (101, 322), (101, 370), tone="async")
    return d


def life() -> Drawing:
    """Draw what happens when the network goes away: the promise of the whole."""
    d = Conversation(
        "A session outlives its connection",
        "A push and an answer are under way when the client's network is lost. The session waits,"
        " keeps them, and hands them over in order when the client resumes on a new connection.",
        (
            ("client", "its state", "client"),
            ("connections", "", "quic"),
            ("Session", "", "session"),
            ("OrderedQueue", "", "send"),
            ("service", "gRPC", "up"),
        ),
    )
    d.part("Connected: state Normal")
    d.say(0, 2, "request, client seq 100")
    d.say(2, 4, "call", tone="up")
    d.say(3, 0, "notify, server seq 200", dashed=True)
    d.say(0, 3, "ack 200: one message clears all before it")
    d.part("The network is lost: state Suspended, for a minute by default")
    d.say(1, 1, "idle, or reset: the connection is gone")
    d.say(4, 3, "answer: kept as server seq 201", tone="up")
    d.say(4, 3, "push: kept as server seq 202", tone="up")
    d.say(0, 0, "the application asks on: client seq 101 waits")
    d.part("Back, perhaps from another address")
    d.say(0, 1, "QUIC handshake")
    d.say(0, 2, "START: resume token, has up to 200")
    d.say(2, 0, "START_RESP: resumed, has up to 100", dashed=True)
    d.say(3, 0, "201 and 202, in order, once", dashed=True)
    d.say(0, 2, "request, client seq 101: the only one missing")
    d.say(0, 3, "ack 202")
    return d


DRAWINGS = (overview, architecture, request, queue, workers, life)


def colours() -> str:
    """Return the site's style sheet with the colours; furo names the theme on the body."""
    light, dark = variables(LIGHT), variables(DARK)
    return (
        "/* Written by docs/diagrams.py. */\n"
        f".drawn{{{light}}}\n"
        "@media(prefers-color-scheme:dark){"
        f'body:not([data-theme="light"]) .drawn{{{dark}}}}}\n'
        f'body[data-theme="dark"] .drawn{{{dark}}}\n'
    )


def main() -> None:
    """Write the drawings, and the site's colours for them."""
    (FOLDER.parent / "_static/drawings.css").write_text(colours(), "utf-8")
    for draw in DRAWINGS:
        (FOLDER / f"{draw.__name__}.svg").write_text(draw().text(), "utf-8")
