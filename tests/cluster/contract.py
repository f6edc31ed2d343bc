"""What every Directory keeps: a suite that a test class takes over and gives a directory.

A transaction is what Entries says it is (test_entries.py); here is that all of it arrives, whatever
stands between: each argument, each kind of answer, repeated calls, what is told to whom.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from gatesvr.cluster.entries import Again, Busy, Done, Entry, Found, Renewal, Tombstone
from gatesvr.protocol.messages import LostReason

if TYPE_CHECKING:
    from gatesvr.cluster.directory import Directory

LEASE = 1.0
WINDOW = 30.0
KICKED, REPLACED = Tombstone(LostReason.KICKED), Tombstone(LostReason.REPLACED)


class DirectoryContract:
    """Run with a fixture ``directory``: LEASE, WINDOW, and nobody has joined it.

    Sessions, nodes and users have names of the test's own, so that one store may serve many.
    """

    @pytest.fixture
    async def nodes(self, directory: Directory) -> tuple[str, str]:
        await directory.join("a", "unix:/run/a")
        await directory.join("b", "unix:/run/b")
        return "a", "b"

    async def entered(
        self, directory: Directory, session: str, owner: str = "a", openid: str = "ann"
    ) -> Entry:
        entry = await directory.create(session, owner, openid)
        assert entry is not None
        return entry

    async def log_in(self, directory: Directory, entry: Entry) -> Entry:
        done = await directory.login_replacing(
            entry.session_id, entry.owner, entry.epoch, after_failed_resume=False
        )
        assert isinstance(done, Done)
        return Entry(entry.session_id, entry.owner, entry.epoch, entry.openid, logged_in=True)

    # Nodes.

    async def test_nodes_join_and_leave(self, directory: Directory) -> None:
        assert await directory.nodes() == ()
        await directory.join("a", "unix:/run/a")
        await directory.join("b", "unix:/run/b")
        await directory.join("b", "unix:/run/b2")
        assert {(n.node_id, n.address, n.leased) for n in await directory.nodes()} == {
            ("a", "unix:/run/a", True),
            ("b", "unix:/run/b2", True),
        }
        entry = await self.entered(directory, "s")
        assert await directory.leave("a") == (entry,)
        assert await directory.leave("a") == ()
        assert [n.node_id for n in await directory.nodes()] == ["b"]
        assert await directory.read("s") is None

    @pytest.mark.usefixtures("nodes")
    async def test_lease_runs_out_and_is_renewed(self, directory: Directory) -> None:
        assert await directory.is_leased("a")
        assert not await directory.is_leased("nobody")
        entry = await self.entered(directory, "s")
        other = await self.entered(directory, "t")
        assert not await directory.bury("s", "a", entry.epoch)
        async with asyncio.timeout(60):
            while await directory.is_leased("a"):
                await asyncio.sleep(LEASE / 10)
        assert not any(n.leased for n in await directory.nodes() if n.node_id == "a")
        assert not await directory.bury("s", "b", entry.epoch)
        assert not await directory.bury("s", "a", entry.epoch + 1)
        assert await directory.bury("s", "a", entry.epoch)
        assert not await directory.bury("s", "a", entry.epoch)
        assert await directory.read("s") is None
        renewal = await directory.renew("a", {"s": entry.epoch, "t": other.epoch})
        assert renewal == Renewal({"s": None}, ())
        assert await directory.is_leased("a")

    # Sessions.

    @pytest.mark.usefixtures("nodes")
    async def test_session_is_created_once(self, directory: Directory) -> None:
        entry = await self.entered(directory, "s", "a", "añn")
        assert (entry.session_id, entry.owner, entry.openid) == ("s", "a", "añn")
        assert not entry.logged_in
        assert await directory.create("s", "a", "añn") == entry
        assert await directory.create("s", "b", "añn") is None
        assert await directory.create("t", "nobody", "añn") is None
        assert await directory.read("s") == entry
        assert await directory.read("t") is None
        other = await self.entered(directory, "u", "b")
        assert other.epoch > entry.epoch

    @pytest.mark.usefixtures("nodes")
    async def test_owner_changes_by_compare_and_set(self, directory: Directory) -> None:
        entry = await self.log_in(directory, await self.entered(directory, "s"))
        moved = Entry("s", "b", entry.epoch + 1, "ann", logged_in=True)
        assert await directory.move("s", "b", entry.epoch, "b") == entry
        assert await directory.move("s", "a", entry.epoch + 1, "b") == entry
        assert await directory.move("s", "a", entry.epoch, "nobody") == entry
        assert await directory.move("s", "a", entry.epoch, "b") == moved
        assert await directory.move("s", "a", entry.epoch, "b") == moved
        assert await directory.move("t", "a", entry.epoch, "b") is None
        assert await directory.read("s") == moved
        later = await self.entered(directory, "u")
        assert later.epoch > moved.epoch

    @pytest.mark.usefixtures("nodes")
    async def test_session_ends_once(self, directory: Directory) -> None:
        plain = await self.entered(directory, "s")
        kicked = await self.entered(directory, "k")
        assert not await directory.remove("s", "b", plain.epoch)
        assert not await directory.remove("s", "a", plain.epoch + 1, LostReason.KICKED)
        assert await directory.remove("s", "a", plain.epoch)
        assert await directory.remove("s", "a", plain.epoch)
        assert await directory.read("s") is None
        assert await directory.remove("k", "a", kicked.epoch, LostReason.KICKED)
        assert await directory.read("k") == KICKED
        assert await directory.move("k", "a", kicked.epoch, "b") == KICKED
        assert await directory.create("k", "a", "ann") is None

    # Logins.

    @pytest.mark.usefixtures("nodes")
    async def test_login_replaces_those_of_its_user(self, directory: Directory) -> None:
        assert await directory.find("ann") == Found((), 0, frozenset())
        first = await self.log_in(directory, await self.entered(directory, "s1"))
        other = await self.log_in(directory, await self.entered(directory, "x", openid="bob"))
        second = await self.entered(directory, "s2", "b")
        auto = {"after_failed_resume": True}
        assert await directory.login_replacing("s2", "b", second.epoch, **auto) == Busy()
        assert await directory.login_replacing("s2", "a", second.epoch, **auto) is None
        plain = {"after_failed_resume": False}
        done = await directory.login_replacing("s2", "b", second.epoch, **plain)
        assert done == Done((first,))
        assert await directory.login_replacing("s2", "b", second.epoch, **plain) == Done()
        assert await directory.login_replacing("s2", "b", second.epoch, **auto) == Done()
        assert await directory.login_replacing("s1", "a", first.epoch, **plain) is None
        assert await directory.read("s1") == REPLACED
        found = await directory.find("ann")
        logged_in = Entry("s2", "b", second.epoch, "ann", logged_in=True)
        assert found.entries == (logged_in,)
        assert found.leased <= {"b"}
        (bobs,) = (await directory.find("bob")).entries
        assert bobs == other
        many = await directory.find_all(["bob", "ann", "nobody"])
        assert [each.entries for each in many] == [(other,), (logged_in,), ()]
        assert many[1].version == found.version
        assert await directory.read("x") == other

    @pytest.mark.usefixtures("nodes")
    async def test_judged_login_takes_the_places_of_its_victims(self, directory: Directory) -> None:
        one, two, three = [await self.entered(directory, f"s{i}", "a") for i in (1, 2, 3)]

        async def log_in(entry: Entry, version: int, *victims: str) -> Done | Again | None:
            return await directory.login_judged(
                entry.session_id, entry.owner, entry.epoch, version=version, victims=victims
            )

        assert await log_in(one, (await directory.find("ann")).version) == Done()
        version = (await directory.find("ann")).version
        assert await log_in(two, version) == Done()
        assert await log_in(three, version, "s1") == Again()
        found = await directory.find("ann")
        assert [e.session_id for e in found.entries] == ["s1", "s2"]
        moved = await directory.move("s2", "a", two.epoch, "b")
        assert (await directory.find("ann")).version == found.version
        done = await log_in(three, found.version, "s1")
        assert done == Done(found.entries[:1])
        assert await log_in(three, 0) == Done()
        assert await log_in(two, 0) is None
        assert isinstance(moved, Entry)
        assert (await directory.find("ann")).entries[0] == moved
        assert await directory.read("s1") == REPLACED

    # Renewals.

    @pytest.mark.usefixtures("nodes")
    async def test_renewal_tells_what_differs(self, directory: Directory) -> None:
        entries = [await self.entered(directory, f"s{i}") for i in range(5)]
        held = {e.session_id: e.epoch for e in entries}
        assert await directory.renew("a", held) == Renewal({}, ())
        moved = await directory.move("s0", "a", held["s0"], "b")
        await directory.remove("s1", "a", held["s1"], LostReason.KICKED)
        await directory.remove("s2", "a", held["s2"])
        new = await self.entered(directory, "new")
        differs = Renewal({"s0": moved, "s1": KICKED, "s2": None}, (new,))
        for _ in range(2):  # it is told until the node says something else
            assert await directory.renew("a", held) == differs
        del held["s0"], held["s1"], held["s2"]
        held |= {"new": new.epoch, "s3": held["s3"] + 100}
        assert await directory.renew("a", held) == Renewal({"s3": entries[3]}, ())
        held["s3"] -= 100
        assert await directory.renew("a", held) == Renewal({}, ())
        assert await directory.renew("b", {}) == Renewal({}, (moved,))
        assert await directory.renew("a", {}) == Renewal({}, (*entries[3:], new))
        assert await directory.renew("nobody", {}) is None
        await directory.leave("a")
        assert await directory.renew("a", held) is None
