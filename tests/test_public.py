"""The public names: each is there, and a wrong one is an AttributeError."""

from __future__ import annotations

import pytest

import gatesvr


@pytest.mark.parametrize("name", gatesvr.__all__)
def test_public_name_is_there(name: str) -> None:
    assert getattr(gatesvr, name)
    assert name in dir(gatesvr)


def test_wrong_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = gatesvr.nonsense


def test_messages_are_one_copy() -> None:
    from gatesvr._pb import message_pb2, upstream_pb2

    assert gatesvr.pb.ClientRequest is message_pb2.ClientRequest
    assert gatesvr.pb.UpstreamRequest is upstream_pb2.UpstreamRequest
    assert gatesvr.pb.UpstreamServiceStub
