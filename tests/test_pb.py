"""The generated protobuf code is what protos/ says, and the schema's own rules hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

from gatesvr._pb import auth_pb2, cluster_pb2, hub_pb2, message_pb2, routing_pb2, upstream_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).parents[1]
MODULES = {
    "auth.proto": auth_pb2,
    "cluster.proto": cluster_pb2,
    "hub.proto": hub_pb2,
    "message.proto": message_pb2,
    "routing.proto": routing_pb2,
    "upstream.proto": upstream_pb2,
}


def protoc(out: Path, *options: str) -> None:
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            "-Igatesvr/_pb=protos",
            *options,
            *(f"protos/{name}" for name in MODULES),
        ],
        check=True,
        cwd=ROOT,
    )
    assert any(out.iterdir())


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FileDescriptorProto]:
    """The descriptors of protos/ as they are now."""
    out = tmp_path_factory.mktemp("descriptors")
    protoc(out, f"--descriptor_set_out={out / 'all'}")
    files = FileDescriptorSet.FromString((out / "all").read_bytes()).file
    return {Path(file.name).name: file for file in files}


@pytest.mark.parametrize("name", MODULES)
def test_generated_code_is_fresh(schema: dict[str, FileDescriptorProto], name: str) -> None:
    committed = FileDescriptorProto()
    MODULES[name].DESCRIPTOR.CopyToProto(committed)
    fresh = FileDescriptorProto.FromString(schema[name].SerializeToString())
    _clear_json_names(fresh.message_type)
    assert committed == fresh, "gatesvr/_pb is stale: make pb"


def _clear_json_names(messages: Iterable[DescriptorProto]) -> None:
    """Take out what protoc derives from the field names and the generated code leaves out."""
    for message in messages:
        for field in message.field:
            field.ClearField("json_name")
        _clear_json_names(message.nested_type)


def test_generated_files_are_fresh(tmp_path: Path) -> None:
    """The service stubs and the type stubs too, which no descriptor shows."""
    protoc(tmp_path, f"--pyi_out={tmp_path}", f"--grpc_python_out={tmp_path}")
    for name in (
        "auth_pb2.pyi",
        "cluster_pb2.pyi",
        "message_pb2.pyi",
        "routing_pb2.pyi",
        "upstream_pb2.pyi",
        "auth_pb2_grpc.py",
        "upstream_pb2_grpc.py",
    ):
        fresh = (tmp_path / "gatesvr/_pb" / name).read_text("utf-8")
        assert (ROOT / "gatesvr/_pb" / name).read_text("utf-8") == fresh, f"{name}: make pb"


# Those that clients and upstreams take; what is between processes of the gateway stays with it.
@pytest.mark.parametrize("name", ["auth.proto", "message.proto", "upstream.proto"])
def test_files_stand_alone(schema: dict[str, FileDescriptorProto], name: str) -> None:
    assert list(schema[name].dependency) == []
    assert schema[name].package == "gatesvr.proto"


def test_base_numbers_are_fixed(schema: dict[str, FileDescriptorProto]) -> None:
    """Fields 1-9 are what peers of the base protocol speak; they never move."""
    base = {
        message.name: {field.name: field.number for field in message.field if field.number < 10}
        for file in schema.values()
        for message in file.message_type
    }
    push = {"msg_id": 1, "seq_id": 2, "type": 3, "payload": 4, "headers": 5}
    assert base["ClientRequest"] == {**push, "openid": 6}
    assert base["ServerPush"] == push
    assert base["StartRequest"] == {
        "openid": 1,
        "client_id": 2,
        "auth_token": 3,
        "last_acked_seq_id": 4,
    }
    assert base["StartResponse"] == {
        "success": 1,
        "error": 2,
        "heartbeat_interval": 3,
        "connection_id": 4,
    }
    assert base["ErrorMessage"] == {"error_code": 1, "error_message": 2, "detail": 3}
    assert base["ClientAck"] == {"acked_seq_id": 1}
    assert base["UpstreamRequest"] == {
        "session_id": 1,
        "openid": 2,
        "action": 3,
        "params": 4,
        "data": 5,
        "headers": 6,
        "client_seq_id": 7,
    }
    assert base["UpstreamResponse"] == {
        "code": 1,
        "message": 2,
        "data": 3,
        "headers": 4,
        "client_seq_id": 5,
    }
