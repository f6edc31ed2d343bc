"""The table of a directory against a plain model, and the rules that it exists for."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gatesvr.cluster.entries import Again, Busy, Done, Entries, Entry, Renewal, Tombstone
from gatesvr.protocol.messages import LostReason

LEASE = 4.0
WINDOW = 20.0
MAX_TOMBSTONES = 4
NODES = st.sampled_from(["a", "b", "c"])
SESSIONS = st.sampled_from(["s1", "s2", "s3", "s4", "s5", "s6"])
OPENIDS = {"s1": "ann", "s2": "ann", "s3": "ann", "s4": "bob", "s5": "bob", "s6": "eve"}
REASONS = st.sampled_from([None, LostReason.KICKED])


def table(now: float = 0.0) -> Entries:
    """Return an empty table with two nodes."""
    entries = Entries(lease=LEASE, resume_window=WINDOW, max_tombstones=MAX_TOMBSTONES, now=now)
    entries.join("a", "unix:a", now)
    entries.join("b", "unix:b", now)
    return entries


class EntriesMachine(RuleBasedStateMachine):
    """Does the same to the table and to a list of entries that is searched from end to end."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.heard = self.now
        self.real = Entries(
            lease=LEASE, resume_window=WINDOW, max_tombstones=MAX_TOMBSTONES, now=self.now
        )
        self.entries: list[dict[str, Any]] = []
        self.logins: list[str] = []
        self.tombs: list[tuple[str, LostReason, float]] = []
        self.leases: dict[str, float] = {}
        self.out: dict[str, float] = {}
        self.epochs: dict[str, set[int]] = {}
        self.versions: dict[tuple[str, int], tuple[str, ...]] = {}
        self.renewals = 0
        self.named: dict[str, tuple[int, dict[str, int]]] = {}  # at the table: number, what
        self.bases: dict[str, tuple[int, dict[str, int]]] = {}  # at the node, maybe older

    # The model's own look at things.

    def woken(self) -> None:
        if self.now - self.heard > LEASE / 2:
            self.leases = {n: max(t, self.now + LEASE) for n, t in self.leases.items()}
        self.heard = self.now

    def entry(self, session: str) -> dict[str, Any] | None:
        return next((e for e in self.entries if e["id"] == session), None)

    def owned(self, session: str, owner: str, epoch: int) -> dict[str, Any] | None:
        entry = self.entry(session)
        return entry if entry and (entry["owner"], entry["epoch"]) == (owner, epoch) else None

    def tomb(self, session: str) -> LostReason | None:
        return next((r for s, r, until in self.tombs if s == session and until > self.now), None)

    def mark(self, session: str, reason: LostReason) -> None:
        self.tombs = [*self.tombs, (session, reason, self.now + WINDOW)][-MAX_TOMBSTONES:]

    def drop(self, entry: dict[str, Any]) -> None:
        self.entries.remove(entry)
        if entry["id"] in self.logins:
            self.logins.remove(entry["id"])

    def others(self, entry: dict[str, Any]) -> list[str]:
        return [s for s in self.logins if OPENIDS[s] == OPENIDS[entry["id"]]]

    def same(self, real: Entry | Tombstone | None, session: str) -> None:
        entry, tomb = self.entry(session), self.tomb(session)
        if entry:
            assert isinstance(real, Entry)
            assert (real.owner, real.epoch) == (entry["owner"], entry["epoch"])
            assert real.openid == OPENIDS[session]
            assert real.logged_in == (session in self.logins)
        elif tomb is not None:
            assert real == Tombstone(tomb)
        else:
            assert real is None

    def guess(self, data: st.DataObject, session: str) -> tuple[str, int]:
        """Return an owner and epoch to name: mostly the right ones."""
        entry = self.entry(session)
        if entry and data.draw(st.integers(0, 3)):
            return entry["owner"], entry["epoch"]
        return data.draw(NODES), data.draw(st.integers(1, 12))

    # Time and nodes.

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.5, 1.9, 2.5, 30.0]))
    def passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(node=NODES)
    def join(self, node: str) -> None:
        self.real.join(node, f"unix:{node}", self.now)
        self.woken()
        self.leases[node] = self.now + LEASE
        self.out.pop(node, None)

    @rule(node=NODES)
    def leave(self, node: str) -> None:
        left = self.real.leave(node, self.now)
        self.woken()
        self.leases.pop(node, None)
        self.out.pop(node, None)
        self.named.pop(node, None)
        gone = [e for e in self.entries if e["owner"] == node]
        assert sorted(e.session_id for e in left) == sorted(e["id"] for e in gone)
        for entry in gone:
            self.drop(entry)

    def held(self, node: str, data: st.DataObject) -> dict[str, int]:
        """Return what a node says it owns: mostly what it does."""
        held = {e["id"]: e["epoch"] for e in self.entries if e["owner"] == node}
        for session in data.draw(st.sets(SESSIONS, max_size=2)):
            if session not in held or data.draw(st.booleans()):
                held[session] = data.draw(st.sampled_from([1, 2, 99]))
            else:
                del held[session]
        return held

    def renewed(self, node: str, held: dict[str, int], renewal: Renewal) -> None:
        self.leases[node] = self.now + LEASE
        self.out.pop(node, None)
        assert set(renewal.changed) == {s for s, e in held.items() if not self.owned(s, node, e)}
        for session, what in renewal.changed.items():
            self.same(what, session)
        unnamed = {e["id"] for e in self.entries if e["owner"] == node and e["id"] not in held}
        assert {e.session_id for e in renewal.unnamed} == unnamed

    @rule(node=NODES, data=st.data())
    def renew(self, node: str, data: st.DataObject) -> None:
        held = self.held(node, data)
        renewal = self.real.renew(node, held, self.now)
        self.woken()
        if node not in self.leases:
            assert renewal is None
        else:
            assert renewal is not None
            self.renewed(node, held, renewal)

    @rule(
        node=NODES,
        fate=st.sampled_from(["answered", "answered", "answered", "unheard", "twice", "all"]),
        data=st.data(),
    )
    def renew_named(self, node: str, fate: str, data: st.DataObject) -> None:
        held = self.held(node, data)
        base, before = (0, {}) if fate == "all" else self.bases.get(node, (0, {}))
        self.renewals += 1
        owned = {s: e for s, e in held.items() if before.get(s) != e}
        request = (node, self.renewals, base, owned, before.keys() - held.keys(), self.now)
        renewal = self.real.renew_named(*request)
        if fate == "twice":
            assert self.real.renew_named(*request) == renewal
        self.woken()
        if node not in self.leases:
            assert renewal is None
            return
        assert renewal is not None
        if base not in (0, self.named.get(node, (0, {}))[0]):
            assert renewal == Again()
            self.leases[node] = self.now + LEASE
            self.out.pop(node, None)
            self.bases.pop(node)
            return
        assert isinstance(renewal, Renewal)
        self.renewed(node, held, renewal)
        self.named[node] = (self.renewals, held)
        if fate != "unheard":
            self.bases[node] = (self.renewals, held)

    @rule()
    def sweep(self) -> None:
        buried = self.real.sweep(self.now)
        self.woken()
        self.tombs = [t for t in self.tombs if t[2] > self.now]
        gone = 0
        for node, until in list(self.leases.items()):
            if until > self.now:
                self.out.pop(node, None)
            elif node not in self.out:
                self.out[node] = self.now
            elif self.now - self.out[node] >= WINDOW:
                del self.leases[node]
                self.named.pop(node, None)
                for entry in [e for e in self.entries if e["owner"] == node]:
                    self.drop(entry)
                    gone += 1
        assert buried == gone

    # Sessions.

    @rule(session=SESSIONS, node=NODES)
    def create(self, session: str, node: str) -> None:
        made = self.real.create(session, node, OPENIDS[session], self.now)
        self.woken()
        entry = self.entry(session)
        if entry:
            assert (made is not None) == (entry["owner"] == node)
        elif node not in self.leases or self.tomb(session) is not None:
            assert made is None
        else:
            assert made is not None
            given = {epoch for epochs in self.epochs.values() for epoch in epochs}
            assert all(made.epoch > epoch for epoch in given)
            self.entries.append({"id": session, "owner": node, "epoch": made.epoch})
            self.epochs.setdefault(session, set()).add(made.epoch)

    @rule(session=SESSIONS, to=NODES, data=st.data())
    def move(self, session: str, to: str, data: st.DataObject) -> None:
        owner, epoch = self.guess(data, session)
        what = self.real.move(session, owner, epoch, to, self.now)
        self.woken()
        entry = self.owned(session, owner, epoch)
        if entry and to in self.leases:
            entry["owner"], entry["epoch"] = to, epoch + 1
            assert epoch + 1 not in self.epochs[session]
            self.epochs[session].add(epoch + 1)
        self.same(what, session)

    @rule(session=SESSIONS, reason=REASONS, data=st.data())
    def remove(self, session: str, reason: LostReason | None, data: st.DataObject) -> None:
        owner, epoch = self.guess(data, session)
        done = self.real.remove(session, owner, epoch, reason, self.now)
        self.woken()
        entry = self.owned(session, owner, epoch)
        assert done == (entry is not None or self.entry(session) is None)
        if entry:
            self.drop(entry)
            if reason is not None:
                self.mark(session, reason)

    @rule(session=SESSIONS, data=st.data())
    def bury(self, session: str, data: st.DataObject) -> None:
        owner, epoch = self.guess(data, session)
        done = self.real.bury(session, owner, epoch, self.now)
        self.woken()
        entry = self.owned(session, owner, epoch)
        assert done == bool(entry and self.leases.get(owner, 0.0) <= self.now)
        if entry and done:
            self.drop(entry)

    # Logins.

    @rule(session=SESSIONS, auto=st.booleans(), data=st.data())
    def login_replacing(self, session: str, auto: bool, data: st.DataObject) -> None:
        owner, epoch = self.guess(data, session)
        done = self.real.login_replacing(
            session, owner, epoch, after_failed_resume=auto, now=self.now
        )
        self.woken()
        entry = self.owned(session, owner, epoch)
        if entry is None:
            assert done is None
        elif session in self.logins:
            assert done == Done()
        elif auto and self.others(entry):
            assert done == Busy()
        else:
            assert isinstance(done, Done)
            assert [e.session_id for e in done.replaced] == self.others(entry)
            self.logged_in(session, self.others(entry))

    @rule(session=SESSIONS, stale=st.booleans(), data=st.data())
    def login_judged(self, session: str, stale: bool, data: st.DataObject) -> None:
        owner, epoch = self.guess(data, session)
        found = self.real.find(OPENIDS[session], self.now)
        version = found.version - stale
        victims = data.draw(st.sets(SESSIONS))
        done = self.real.login_judged(
            session, owner, epoch, version=version, victims=victims, now=self.now
        )
        self.woken()
        entry = self.owned(session, owner, epoch)
        if entry is None:
            assert done is None
        elif session in self.logins:
            assert done == Done()
        elif self.others(entry) and stale:
            assert done == Again()
        else:
            assert isinstance(done, Done)
            taken = [s for s in self.others(entry) if s in victims]
            assert [e.session_id for e in done.replaced] == taken
            self.logged_in(session, taken)

    def logged_in(self, session: str, replaced: list[str]) -> None:
        for other in replaced:
            entry = self.entry(other)
            assert entry is not None
            self.drop(entry)
            self.mark(other, LostReason.REPLACED)
        self.logins.append(session)

    @rule(openid=st.sampled_from(["ann", "bob", "eve"]))
    def find(self, openid: str) -> None:
        found = self.real.find(openid, self.now)
        self.woken()
        logins = tuple(s for s in self.logins if OPENIDS[s] == openid)
        assert tuple(e.session_id for e in found.entries) == logins
        owners = {e.owner for e in found.entries}
        assert found.leased == {n for n in owners if self.leases.get(n, 0.0) > self.now}
        if logins:
            assert self.versions.setdefault((openid, found.version), logins) == logins

    @invariant()
    def agrees(self) -> None:
        self.woken()
        for session in OPENIDS:
            self.same(self.real.read(session, self.now), session)
        assert len(self.real) == len(self.entries)
        nodes = {n.node_id: n.leased for n in self.real.nodes(self.now)}
        assert nodes == {n: until > self.now for n, until in self.leases.items()}


EntriesMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestEntries = EntriesMachine.TestCase


def test_a_late_create_revives_nothing() -> None:
    entries = table()
    made = entries.create("s", "a", "ann", 0.0)
    assert made is not None
    assert entries.remove("s", "a", made.epoch, LostReason.KICKED, 0.0)
    assert entries.create("s", "a", "ann", 0.0) is None
    assert entries.read("s", 0.0) == Tombstone(LostReason.KICKED)


def test_a_late_move_finds_an_epoch_that_was_never_given_again() -> None:
    entries = table()
    first = entries.create("s", "a", "ann", 0.0)
    assert first is not None
    assert entries.remove("s", "a", first.epoch, None, 0.0)
    second = entries.create("s", "a", "ann", 0.0)
    assert second is not None
    assert entries.move("s", "a", first.epoch, "b", 0.0) == second


def test_a_repeated_move_says_what_it_said() -> None:
    entries = table()
    made = entries.create("s", "a", "ann", 0.0)
    assert made is not None
    moved = entries.move("s", "a", made.epoch, "b", 0.0)
    assert isinstance(moved, Entry)
    assert (moved.owner, moved.epoch) == ("b", made.epoch + 1)
    assert entries.move("s", "a", made.epoch, "b", 0.0) == moved


def test_of_two_that_bury_one_has_done_it() -> None:
    entries = table()
    made = entries.create("s", "a", "ann", 0.0)
    assert made is not None
    now = 0.0
    while entries.is_leased("a", now):
        now += LEASE / 4
        entries.renew("b", {}, now)
    assert [entries.bury("s", "a", made.epoch, now) for _ in "xy"] == [True, False]


def test_nobody_is_out_after_the_holder_itself_was_silent() -> None:
    entries = table()
    later = 10 * LEASE
    assert [node.leased for node in entries.nodes(later)] == [True, True]
    assert not entries.bury("s", "a", 1, later)


def test_a_version_that_was_judged_does_not_come_again() -> None:
    """One logs in, leaves, and another logs in: whoever judged the first must look again."""
    entries = table()
    for session in ("s1", "s2", "s3"):
        entries.create(session, "a", "ann", 0.0)
    epochs = {
        s: entry.epoch for s in ("s1", "s2", "s3") if isinstance(entry := entries.read(s, 0), Entry)
    }
    entries.login_judged("s1", "a", epochs["s1"], version=0, now=0.0)
    judged = entries.find("ann", 0.0).version
    entries.remove("s1", "a", epochs["s1"], None, 0.0)
    entries.login_judged("s2", "a", epochs["s2"], version=0, now=0.0)
    answer = entries.login_judged("s3", "a", epochs["s3"], version=judged, victims=["s1"], now=0.0)
    assert answer == Again()


def test_nothing_is_left_of_a_node_whose_sessions_have_moved_away() -> None:
    entries = table()
    entry = entries.create("s1", "a", "ann", 0.0)
    assert entry is not None
    entries.move("s1", "a", entry.epoch, "b", 0.0)
    entries.leave("a", 0.0)
    assert "a" not in entries._by_owner
