"""What deploy/ names exists: files, flags, settings, and times that fit each other."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from gatesvr import Config, config

from .written import ROOT, check_command

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPLOY = ROOT / "deploy"
USER = "10001"
MARGIN_S = 5.0
"""From the end of a drain to that of the process, and more."""


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text("utf-8")))


def check_settings(text: str) -> Config:
    """Load a configuration file's text; return the settings.

    The files that it names are not here, so it is not checked whether they can be read.
    """
    values = tomllib.loads(text)
    flat = {
        f"{section}.{key}": value
        for section, keys in values.items()
        if isinstance(keys, dict)
        for key, value in keys.items()
    }
    return config.load(overrides=flat)


# Docker ------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    text = (DEPLOY / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    return [
        (line.split(None, 1)[0], line.split(None, 1)[1])
        for line in lines
        if line and not line.startswith("#")
    ]


def test_dockerfile_copies_what_is_there_and_is_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    let_in = {line[1:] for line in ignored if line.startswith("!")}
    copied = {
        source
        for name, rest in instructions()
        if name == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert copied == let_in
    assert [name for name in copied if not (ROOT / name).exists()] == []


def test_image_runs_the_gateway_as_process_1_without_root() -> None:
    last = instructions()
    last = last[max(i for i, (name, _) in enumerate(last) if name == "FROM") :]
    by_name = dict(last)
    assert by_name["USER"] == f"{USER}:{USER}"
    entry, command = json.loads(by_name["ENTRYPOINT"]), json.loads(by_name["CMD"])
    assert entry == ["gatesvr"]  # no shell between it and SIGTERM
    check_command(command)
    assert by_name["STOPSIGNAL"] == "SIGTERM"
    words = json.loads(by_name["HEALTHCHECK"].partition("CMD ")[2])
    assert words[0] == "gatesvr"
    check_command(words[1:])
    ports = set(re.findall(r"(\d+)/(udp|tcp)", by_name["EXPOSE"]))
    assert {(Config().transport.bind.split(":")[1], "udp")} <= ports
    assert {(Config().push.bind.split(":")[1], "tcp")} <= ports
    assert {(Config().admin.bind.split(":")[1], "tcp")} <= ports


def test_image_has_extras_that_there_are() -> None:
    text = (DEPLOY / "Dockerfile").read_text("utf-8")
    (names,) = re.findall(r"'\.\[([\w,]+)\]'", text)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert set(names.split(",")) <= set(project["optional-dependencies"])


# Compose -----------------------------------------------------------------------------------------


def gatesvr_words(service: dict[str, Any]) -> Iterator[list[str]]:
    """Yield the commands of a service that are ours, its health check's included."""
    if service.get("image") == "gatesvr" and "entrypoint" not in service:
        yield [str(word) for word in service["command"]]
    check = service.get("healthcheck", {}).get("test", [])
    if check:
        assert check[:2] == ["CMD", "gatesvr"]
        yield [str(word) for word in check[2:]]


def test_compose_names_what_is_there() -> None:
    (compose,) = documents("compose.yaml")
    assert set(compose["services"]) == {"secrets", "gateway", "demo", "prometheus", "grafana"}
    volumes, files = set(compose["volumes"]), compose["configs"]
    for name, service in compose["services"].items():
        for words in gatesvr_words(service):
            check_command(words)
        for mount in service.get("volumes", ()):
            source = mount.split(":")[0]
            assert source in volumes or (DEPLOY / source).is_dir(), (name, mount)
        for used in service.get("configs", ()):
            assert (DEPLOY / files[used["source"]]["file"]).is_file(), (name, used)
        assert set(service.get("depends_on", ())) <= set(compose["services"])
    for name in ("gateway", "demo", "secrets"):
        service = compose["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]


def test_compose_makes_the_secrets_that_it_uses() -> None:
    (compose,) = documents("compose.yaml")
    script = compose["services"]["secrets"]["command"][0]
    compile(script, "compose.yaml", "exec")
    words = re.search(r'\["gatesvr", (.*?)\], check', script, re.DOTALL)
    assert words is not None
    check_command([word.strip().strip('"') for word in words[1].split(",")])
    made = set(re.findall(r'"([\w]+\.(?:pem|token))"', script))
    text = (DEPLOY / "compose/gate.toml").read_text("utf-8")
    text += (DEPLOY / "compose/prometheus.yml").read_text("utf-8")
    used = set(re.findall(r"/var/lib/gatesvr/([\w.]+)", text))
    assert used == made


def test_compose_settings_exist_and_fit() -> None:
    (compose,) = documents("compose.yaml")
    found = check_settings((DEPLOY / "compose/gate.toml").read_text("utf-8"))
    assert set(found.upstream.services) == {"hello", "business", "zone"}
    host = {ends[0].address.split(":")[0] for ends in found.upstream.services.values()}
    assert host == {"demo"}
    grace_s = float(compose["services"]["gateway"]["stop_grace_period"].rstrip("s"))
    assert grace_s > found.drain.timeout + MARGIN_S


def test_prometheus_and_grafana_find_their_files() -> None:
    (compose,) = documents("compose.yaml")
    (prometheus,) = documents("compose/prometheus.yml")
    for rule in prometheus["rule_files"]:
        assert (DEPLOY / "prometheus" / rule.rpartition("/")[2]).is_file()
    grafana = compose["services"]["grafana"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    dashboard = json.loads((DEPLOY / "grafana" / home.rpartition("/")[2]).read_text("utf-8"))
    assert dashboard["title"]
    (providers,) = documents("compose/dashboards.yaml")
    assert home.startswith(providers["providers"][0]["options"]["path"])
    (sources,) = documents("compose/datasource.yaml")
    assert sources["datasources"][0]["url"] == "http://prometheus:9090"


# systemd -----------------------------------------------------------------------------------------


def unit() -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((DEPLOY / "systemd/gatesvr.service").read_text("utf-8"))
    return parser


@pytest.mark.parametrize("key", ["ExecStartPre", "ExecStart"])
def test_unit_runs_commands_that_there_are(key: str) -> None:
    words = shlex.split(unit()["Service"][key])
    assert words[0].endswith("/bin/gatesvr")
    check_command(words[1:])


def test_unit_leaves_time_to_drain_and_has_sockets_enough() -> None:
    service = unit()["Service"]
    assert float(service["TimeoutStopSec"]) > Config().drain.timeout + MARGIN_S
    assert int(service["LimitNOFILE"]) >= 4096
    assert (service["NoNewPrivileges"], service["ProtectSystem"]) == ("true", "strict")


def test_kernel_settings_hold_the_buffers_that_are_asked_for() -> None:
    text = (DEPLOY / "systemd/60-gatesvr.conf").read_text("utf-8")
    values = dict(re.findall(r"^([\w.]+) = (\d+)$", text, re.MULTILINE))
    assert int(values["net.core.rmem_max"]) >= Config().transport.receive_buffer
    assert int(values["net.core.wmem_max"]) >= Config().transport.send_buffer


# Kubernetes --------------------------------------------------------------------------------------


def test_kubernetes_pod_names_what_there_is_and_has_time_to_drain() -> None:
    by_kind = {document["kind"]: document for document in documents("kubernetes/gatesvr.yaml")}
    assert set(by_kind) == {"ConfigMap", "Deployment", "Service", "PodDisruptionBudget"}
    found = check_settings(by_kind["ConfigMap"]["data"]["gate.toml"])
    pod = by_kind["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    check_command(container["args"])
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        words = container[probe]["exec"]["command"]
        assert words[0] == "gatesvr"
        check_command(words[1:])
        # One that restarts the pod must not end one that is draining.
        assert ("--live" in words) == (probe != "readinessProbe")
    pause_s = float(container["lifecycle"]["preStop"]["exec"]["command"][1])
    grace_s = pod["terminationGracePeriodSeconds"]
    assert grace_s > pause_s + found.drain.timeout + MARGIN_S
    assert str(pod["securityContext"]["runAsUser"]) == USER
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}


def test_kubernetes_service_leads_to_the_pods() -> None:
    by_kind = {document["kind"]: document for document in documents("kubernetes/gatesvr.yaml")}
    labels = by_kind["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for selector in (
        by_kind["Service"]["spec"]["selector"],
        by_kind["Deployment"]["spec"]["selector"]["matchLabels"],
        by_kind["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector == labels
    ports = {
        port["name"]: port
        for port in by_kind["Deployment"]["spec"]["template"]["spec"]["containers"][0]["ports"]
    }
    (port,) = by_kind["Service"]["spec"]["ports"]
    assert (port["protocol"], ports[port["targetPort"]]["protocol"]) == ("UDP", "UDP")


def test_every_file_of_deploy_is_known_to_its_page() -> None:
    page = (ROOT / "docs/operations.md").read_text("utf-8")
    for name in (
        "Dockerfile",
        "compose.yaml",
        "systemd/gatesvr.service",
        "kubernetes/gatesvr.yaml",
    ):
        assert f"](../deploy/{name})" in page
