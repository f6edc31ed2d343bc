"""A page's session, on each way in: what it asks for, what it is told, and what ends it."""

from __future__ import annotations

import pytest

from .conftest import Gateway, Open, Way

pytestmark = [pytest.mark.long, pytest.mark.asyncio(loop_scope="session")]

NOTIFIES = """async () => {
  const rounds = [];
  for (let round = 0; round < 20; round++) {
    const params = { before: "2", after: "2" };
    const { serverSeq } = await client.request("notify_demo", "", { params });
    rounds.push(serverSeq);
  }
  return rounds;
}"""


LARGE = """async () => {
  const sent = Uint8Array.from({ length: 900_000 }, (_, at) => at * 31 + (at >> 8));
  const asked = Array.from({ length: 4 }, () => client.request("echo", sent));
  const answers = await Promise.all(asked);
  const isSame = ({ data }) => data.length === sent.length && data.every((b, at) => b === sent[at]);
  return answers.map(isSame);
}"""


async def test_requests_bound_notifies_and_pushes(
    gateway: Gateway, open_tab: Open, way: Way
) -> None:
    async with open_tab(gateway.web, way, openid=f"ann-{way}") as tab:
        await tab.connected()
        session = await tab.get("client.sessionId")
        assert (await gateway.services.info(session)).transport == way.transport
        assert await tab.get("ask(0, 1000)") == [f"{n}" for n in range(1000)]
        assert await tab.get("client.inFlight") == 0
        rounds = await tab.get(NOTIFIES)
        await tab.until("told('notifies').length >= 80")
        expected = [
            [seq + place, word]
            for seq in rounds
            for place, word in (
                (-2, "before 1"),
                (-1, "before 2"),
                (1, "after 1"),
                (2, "after 2"),
            )
        ]
        assert await tab.get("told('notifies')") == expected
        await tab.get("sessionStorage.removeItem('notifies')")
        await gateway.push(f"ann-{way}", range(100))
        await tab.has_numbers(range(100))
        assert await tab.get("told('states')") == ["connecting", "connected"]
        await tab.get("client.close()")
        assert not (await gateway.services.info(session)).found


async def test_large_messages(gateway: Gateway, open_tab: Open, way: Way) -> None:
    async with open_tab(gateway.web, way, openid=f"large-{way}") as tab:
        await tab.connected()
        assert await tab.get(LARGE) == [True] * 4
        assert await tab.get("ask(0, 2).then((texts) => [client.connects.total, ...texts])") == [
            1,
            "0",
            "1",
        ]
