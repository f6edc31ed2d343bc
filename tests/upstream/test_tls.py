"""UpstreamCredentials: files that are read, refused, and read again."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from gatesvr.config import UpstreamTls
from gatesvr.errors import ConfigError
from gatesvr.upstream.tls import UpstreamCredentials

from .certificates import Authority

if TYPE_CHECKING:
    from pathlib import Path


def test_files_are_checked_when_they_are_read(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair, other = authority.sign("gate"), authority.sign("gate")
    old = authority.sign("gate", days=-1)
    (tmp_path / "empty").write_bytes(b"")
    for files, field, complaint in (
        ({"ca": str(tmp_path / "none")}, "upstream.tls.ca", "No such file"),
        ({"ca": str(tmp_path / "empty")}, "upstream.tls.ca", "no usable certificate"),
        ({"cert": str(tmp_path / "empty"), "key": pair.key}, "upstream.tls.cert", "no usable"),
        ({"cert": old.cert, "key": old.key}, "upstream.tls.cert", "expired on"),
        ({"cert": pair.cert, "key": other.key}, "upstream.tls.key", "not the key of the certifi"),
    ):
        with pytest.raises(ConfigError, match=complaint) as refused:
            UpstreamCredentials(UpstreamTls(enabled=True, **files))
        assert refused.value.field == field
    made = UpstreamCredentials(
        UpstreamTls(enabled=True, ca=authority.path, cert=pair.cert, key=pair.key)
    )
    assert len(made.context.get_ca_certs()) == 1
    # Without a file the system's CAs count, however many those are.
    for ca in ("", "system"):
        credentials = UpstreamCredentials(UpstreamTls(enabled=True, ca=ca))
        assert credentials.context.check_hostname
        assert not credentials.follow()


def test_changed_files_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gatesvr.credentials.SETTLE_S", 0.0)
    first, second = Authority(tmp_path, "one"), Authority(tmp_path, "two")
    made = UpstreamCredentials(UpstreamTls(enabled=True, ca=first.path))
    context, channel = made.context, made.channel
    assert not made.follow()
    assert made.context is context
    with caplog.at_level("INFO", "gatesvr.upstream"):
        os.replace(second.path, first.path)
        assert made.follow()
        assert made.context is not context
        assert made.channel is not channel
        context = made.context
        (tmp_path / "one.pem").write_bytes(b"no certificate")
        assert not made.follow()
    assert made.context is context
    assert [record.message for record in caplog.records] == [
        "certificate_renewed",
        "certificate_kept",
    ]
