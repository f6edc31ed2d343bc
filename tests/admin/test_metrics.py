"""The metrics: their names and texts follow the rules, and their values are the gateway's."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families

from gatesvr import Gateway
from gatesvr._pb import message_pb2 as pb
from gatesvr.admin.counters import AdminCounters
from gatesvr.admin.measures import (
    FLEET_MEASURES,
    GROUPS,
    LAYERS,
    MEASURES,
    Scrape,
    counter_measures,
    measures,
)
from gatesvr.admin.metrics import MetricsPage
from gatesvr.admin.source import OneProcess
from gatesvr.cluster.counters import ClusterCounters
from gatesvr.config import load
from gatesvr.figures import COUNTERS, REFUSALS

from ..e2e.harness import running_gateway
from ..e2e.plain_client import business, error, plain_client
from ..e2e.plain_upstream import plain_upstream
from ..fakes import until

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prometheus_client.core import Metric

    from gatesvr.observe.metrics import Counters

ALL = measures(has_workers=True)
NAMES = [measure.name for measure in ALL]
# As promtool has them, and some that it misses.
KINDS = {"gauge", "counter", "histogram", "summary", "untyped"}
BAD_UNITS = {
    *("ms", "us", "ns", "s", "sec", "secs", "millis", "milliseconds", "microseconds", "minutes"),
    *("hours", "days", "b", "kb", "mb", "gb", "kib", "mib", "gib", "byte", "kilobytes", "percent"),
}


def idle() -> Gateway:
    """Return a gateway that was not started."""
    return Gateway(load(sets=["transport.bind=127.0.0.1:0", "push.bind=127.0.0.1:0"], environ={}))


async def scraped(
    gateway: Gateway, others: Mapping[str, Counters] | None = None
) -> tuple[MetricsPage, Scrape]:
    """Return what a scraper of a gateway gets now, and the page that writes it.

    Args:
        gateway: The gateway.
        others: Counters beside its own, by layer.
    """
    gateway.more_counters.update(others or {})
    layers = {layer: type(counters) for layer, counters in gateway.more_counters.items()}
    page = MetricsPage({**COUNTERS, **layers}, is_fine=gateway.config.metrics.fine)
    sample = await OneProcess(gateway, AdminCounters()).sample()
    return page, Scrape.of(sample, gateway.config)


def values(families: Iterable[Metric]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return every sample by its name and labels."""
    found = {}
    for family in families:
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def test_names_are_unique_and_follow_the_rules() -> None:
    assert len(NAMES) == len(set(NAMES))
    for measure in ALL:
        words = measure.name.split("_")
        assert re.fullmatch(r"gatesvr(_[a-z0-9]+)+", measure.name)
        assert measure.name.endswith("_total") == (measure.kind == "counter"), measure.name
        assert not {"count", "sum", "bucket"} & {words[-1]}, measure.name
        assert not KINDS & set(words), measure.name
        assert not BAD_UNITS & {words[-1], words[-2] if words[-1] == "total" else ""}, measure.name


def test_every_metric_says_what_it_is() -> None:
    for measure in ALL:
        assert re.fullmatch(r"[A-Z][^\n]+[^.]\.", measure.text), measure.name
    assert {measure.group for measure in (*MEASURES, *FLEET_MEASURES)} == set(GROUPS)


@pytest.mark.parametrize("layer", LAYERS)
def test_every_counter_is_a_metric_with_its_own_text(layer: str) -> None:
    counters = LAYERS[layer]
    texts = counters.texts()
    assert set(texts) == set(counters().snapshot())
    assert [name for name, text in texts.items() if not text] == []
    found = counter_measures(layer, counters)
    assert [measure.text for measure in found] == [
        text.replace("``", "`") for text in texts.values()
    ]
    assert REFUSALS.get(layer, set()) <= set(texts)


def test_every_layer_has_its_counters() -> None:
    stats = idle().stats()
    assert list(stats) == list(COUNTERS)
    assert {layer: set(group) for layer, group in stats.items()} == {
        layer: set(counters().snapshot()) for layer, counters in COUNTERS.items()
    }


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text"),
    ],
)
async def test_a_page_is_what_the_parsers_read(accept: str, content_type: str) -> None:
    others = {"cluster": ClusterCounters(), "admin": AdminCounters()}
    page, scrape = await scraped(idle(), others)
    written, found = await page.write(scrape, accept)
    assert found.startswith(content_type)
    text = written.decode()
    parse = parse_openmetrics if accept else text_string_to_metric_families
    families = list(parse(text))
    kinds = {
        measure.name.removesuffix("_total") if measure.kind == "counter" else measure.name: (
            measure.kind,
            measure.text,
        )
        for measure in measures()
    }
    assert {family.name: (family.type, family.documentation) for family in families} == kinds
    assert values(families) == values(page.families(scrape))


@pytest.mark.parametrize(("fine", "buckets"), [("false", 21 * 4 + 2), ("true", 21 * 32 + 2)])
async def test_histograms_have_the_buckets_asked_for(fine: str, buckets: int) -> None:
    gateway = Gateway(load(sets=[f"metrics.fine={fine}"], environ={}))
    for seconds in (0.0, 0.001, 0.0011, 1.0, 500.0):
        gateway.engine.stages.login.record(seconds)
    page, scrape = await scraped(gateway)
    (family,) = (
        family
        for family in page.families(scrape)
        if family.name == "gatesvr_login_duration_seconds"
    )
    counts = [
        (float(sample.labels["le"]), sample.value)
        for sample in family.samples
        if sample.name.endswith("_bucket")
    ]
    assert len(counts) == buckets
    assert counts == sorted(counts)
    assert counts[0] == (32e-6, 1)
    assert counts[-2:] == [(2**26 / 1e6, 4), (float("inf"), 5)]
    (below,) = (count for bound, count in counts if bound == 0.001024)
    assert below == 2
    samples = {sample.name: sample.value for sample in family.samples}
    assert samples["gatesvr_login_duration_seconds_count"] == 5
    assert samples["gatesvr_login_duration_seconds_sum"] == pytest.approx(501.0021)


async def test_counters_of_the_admin_server_are_metrics_too() -> None:
    page, scrape = await scraped(idle(), {"admin": AdminCounters(requests=7)})
    found = values(page.families(scrape))
    assert found["gatesvr_admin_requests_total", ()] == 7


async def test_values_are_those_of_the_gateway(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address) as gateway,
        plain_client(gateway.address) as client,
    ):
        await client.login("alice")
        client.send(*(business(seq, "echo", b"x") for seq in range(2, 12)))
        for _ in range(10):
            await client.receive()
        page, scrape = await scraped(gateway)
        found = values(page.families(scrape))
        assert found["gatesvr_sessions", (("state", "normal"),)] == 1
        assert found["gatesvr_connections", ()] == 1
        assert found["gatesvr_ready", ()] == 1
        assert found["gatesvr_dispatch_answers_total", ()] == 11
        assert found["gatesvr_request_duration_seconds_count", ()] == 11
        service = (("service", "business"),)
        assert found["gatesvr_upstream_duration_seconds_count", service] == 10
        up = (("service", "zone"), ("state", "up"))
        assert found["gatesvr_service_endpoints", up] == 1
        batches = scrape.figures.counters["upstream"]
        assert found["gatesvr_upstream_batch_requests_count", ()] == batches["batches"]
        assert found["gatesvr_upstream_batch_requests_sum", ()] == batches["batched_requests"]
        build = next(labels for name, labels in found if name == "gatesvr_build_info")
        assert dict(build)["backend"] == backend
        for layer, group in scrape.figures.counters.items():
            for name in REFUSALS[layer]:
                reason = (("reason", f"{layer}.{name}"),)
                assert found["gatesvr_refusals_total", reason] == group[name]


async def test_closes_and_errors_count_by_code(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address) as gateway,
        plain_client(gateway.address) as client,
    ):
        await client.login("alice")
        client.send(pb.ClientRequest(msg_id=2, seq_id=2, type=pb.REQUEST_BUSINESS, payload=b"\xff"))
        assert error(await client.receive()).error_code == 400
        assert (await gateway.kick("alice", code=4601)).sessions == 1
        assert await client.closed() == 4601
        await until(lambda: not gateway.listener.connections)
        page, scrape = await scraped(gateway)
        found = values(page.families(scrape))
        assert found["gatesvr_errors_total", (("code", "400"),)] == 1
        other = (("code", "other"), ("side", "local"))
        assert found["gatesvr_closes_total", other] == 1
        assert found["gatesvr_closes_total", (("code", "4410"), ("side", "local"))] == 0
