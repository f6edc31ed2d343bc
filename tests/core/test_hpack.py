"""HPACK: the examples of RFC 7541, damaged blocks, limits, and what tables keep."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gatesvr._core.hpack import HpackDecoder, HpackEncoder, HpackError

Fields = list[tuple[bytes, bytes]]

DATE_1 = b"Mon, 21 Oct 2013 20:13:21 GMT"
DATE_2 = b"Mon, 21 Oct 2013 20:13:22 GMT"
COOKIE = b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"
WHERE = (b"location", b"https://www.example.com")
CUSTOM = (b"custom-key", b"custom-value")
AUTHORITY = (b":authority", b"www.example.com")
NO_CACHE = (b"cache-control", b"no-cache")
PRIVATE = (b"cache-control", b"private")
GET: Fields = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), AUTHORITY]
GET_HTTPS: Fields = [
    *((b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/index.html")),
    AUTHORITY,
]
REQUESTS: list[Fields] = [GET, [*GET, NO_CACHE], [*GET_HTTPS, CUSTOM]]
REQUEST_TABLES: list[Fields] = [
    [AUTHORITY],
    [NO_CACHE, AUTHORITY],
    [CUSTOM, NO_CACHE, AUTHORITY],
]
RESPONSES: list[Fields] = [
    [(b":status", b"302"), PRIVATE, (b"date", DATE_1), WHERE],
    [(b":status", b"307"), PRIVATE, (b"date", DATE_1), WHERE],
    [
        *((b":status", b"200"), PRIVATE, (b"date", DATE_2), WHERE),
        *((b"content-encoding", b"gzip"), (b"set-cookie", COOKIE)),
    ],
]
RESPONSE_TABLES: list[Fields] = [
    [WHERE, (b"date", DATE_1), PRIVATE, (b":status", b"302")],
    [(b":status", b"307"), WHERE, (b"date", DATE_1), PRIVATE],
    [(b"set-cookie", COOKIE), (b"content-encoding", b"gzip"), (b"date", DATE_2)],
]
PLAIN_REQUESTS = [  # RFC 7541 C.3
    "828684410f7777772e6578616d706c652e636f6d",
    "828684be58086e6f2d6361636865",
    "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
]
HUFFMAN_REQUESTS = [  # C.4
    "828684418cf1e3c2e5f23a6ba0ab90f4ff",
    "828684be5886a8eb10649cbf",
    "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
]
PLAIN_RESPONSES = [  # C.5
    (
        "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d54"
        "6e1768747470733a2f2f7777772e6578616d706c652e636f6d"
    ),
    "4803333037c1c0bf",
    (
        "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f"
        "3d4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076"
        "657273696f6e3d31"
    ),
]
HUFFMAN_RESPONSES = [  # C.6
    (
        "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f"
        "0b97c8e9ae82ae43d3"
    ),
    "4883640effc1c0bf",
    (
        "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335df"
        "dfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007"
    ),
]


def entry(decoder: HpackDecoder, index: int) -> tuple[bytes, bytes] | None:
    """Return the entry with an index up to 126, None if there is none."""
    try:
        return decoder.decode(bytes((0x80 | index,)))[0]
    except HpackError:
        return None


def table(decoder: HpackDecoder) -> Fields:
    """Return the dynamic table, its newest entry first."""
    found: Fields = []
    while (field := entry(decoder, 62 + len(found))) is not None:
        found.append(field)
    return found


def assert_corrupt(block: bytes, decoder: HpackDecoder | None = None) -> None:
    with pytest.raises(HpackError, match="corrupt") as caught:
        (decoder or HpackDecoder()).decode(block)
    assert not caught.value.is_too_large


def literal(value: bytes, size: int | None = None, *, is_huffman: bool = False) -> bytes:
    """Return a field "a" with a short value, not inserted."""
    length = len(value) if size is None else size
    return b"\x00\x01a" + bytes((length | 0x80 * is_huffman,)) + value


@pytest.mark.parametrize(
    ("block", "field", "kept"),
    [
        (
            "400a637573746f6d2d6b65790d637573746f6d2d686561646572",
            (b"custom-key", b"custom-header"),
            True,
        ),  # C.2.1
        ("040c2f73616d706c652f70617468", (b":path", b"/sample/path"), False),  # C.2.2
        ("100870617373776f726406736563726574", (b"password", b"secret"), False),  # C.2.3
        ("82", (b":method", b"GET"), False),  # C.2.4
    ],
)
def test_each_representation(block: str, field: tuple[bytes, bytes], kept: bool) -> None:
    decoder = HpackDecoder()
    assert decoder.decode(bytes.fromhex(block)) == [field]
    assert table(decoder) == [field] * kept


@pytest.mark.parametrize("blocks", [PLAIN_REQUESTS, HUFFMAN_REQUESTS], ids=["plain", "huffman"])
def test_requests_of_the_rfc(blocks: list[str]) -> None:
    decoder = HpackDecoder()
    for block, fields, kept in zip(blocks, REQUESTS, REQUEST_TABLES, strict=True):
        assert decoder.decode(bytes.fromhex(block)) == fields
        assert table(decoder) == kept


@pytest.mark.parametrize("blocks", [PLAIN_RESPONSES, HUFFMAN_RESPONSES], ids=["plain", "huffman"])
def test_responses_of_the_rfc_evict(blocks: list[str]) -> None:
    decoder = HpackDecoder(256)
    for block, fields, kept in zip(blocks, RESPONSES, RESPONSE_TABLES, strict=True):
        assert decoder.decode(bytes.fromhex(block)) == fields
        assert table(decoder) == kept


def test_encoder_writes_the_requests_of_the_rfc() -> None:
    encoder = HpackEncoder()
    assert [encoder.encode(fields).hex() for fields in REQUESTS] == PLAIN_REQUESTS
    assert encoder.inserted == 3


def test_static_table() -> None:
    decoder, encoder = HpackDecoder(), HpackEncoder()
    fields = [entry(decoder, index) for index in range(1, 62)]
    assert None not in fields
    assert len(set(fields)) == 61
    for index, field in enumerate(fields, 1):
        assert field is not None
        assert encoder.encode([field]) == bytes((0x80 | index,))
    assert fields[7] == (b":status", b"200")
    assert fields[60] == (b"www-authenticate", b"")
    assert encoder.inserted == 0


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b"\x80", id="index 0"),
        pytest.param(b"\xbe", id="index above the table"),
        pytest.param(b"\x7f\x00", id="name above the table"),
        pytest.param(b"\x0f\x2f\x00", id="name above the table, not inserted"),
        pytest.param(b"\xff", id="number without an end"),
        pytest.param(b"\xff\x80\x80\x80\x80\x80\x00", id="number of seven bytes"),
        pytest.param(b"\xff\xff\xff\xff\xff\x7f", id="number above all"),
        pytest.param(b"\x40", id="no name"),
        pytest.param(b"\x00\x02a", id="name cut"),
        pytest.param(b"\x00\x01a", id="no value"),
        pytest.param(literal(b"xy", 3), id="value cut"),
        pytest.param(b"\x00\x01a\x7f\xff\xff\xff\xff\x7f", id="length above all"),
        pytest.param(b"\x82\x20", id="size update behind a field"),
        pytest.param(b"\x3f\xe2\x1f", id="size update to 4097"),
        pytest.param(b"\x3f", id="size update cut"),
        pytest.param(literal(b"\x18", is_huffman=True), id="padding of zeros"),  # "a", 000
        pytest.param(literal(b"\x1e", is_huffman=True), id="padding with a zero"),  # "a", 110
        pytest.param(literal(b"\x1f\xff", is_huffman=True), id="padding of 11 bits"),
        pytest.param(literal(b"\xff", is_huffman=True), id="padding of 8 bits"),
        pytest.param(literal(b"\xff\xff\xff\xff", is_huffman=True), id="end of string"),
        pytest.param(literal(b"\xff\xff\xff\xfc", is_huffman=True), id="end of string, zeros"),
    ],
)
def test_corrupt_blocks(block: bytes) -> None:
    assert_corrupt(block)


def test_every_symbol_of_the_code() -> None:
    decoder = HpackDecoder()
    # From RFC 7541 appendix B: one code of most lengths, with the bits that fill the last byte.
    for bits, symbol in [
        ("00000", b"0"),
        ("011000", b"/"),
        ("1111011", b"z"),
        ("11111101", b"Z"),
        ("1111111001", b'"'),
        ("11111111010", b"'"),
        ("111111111010", b"#"),
        ("1111111111000", b"\x00"),
        ("11111111111100", b"^"),
        ("111111111111100", b"<"),
        ("1111111111111110000", b"\\"),
        ("11111111111111100110", b"\x80"),
        ("111111111111111111111111111100", b"\n"),
        ("111111111111111111111111111110", b"\x16"),
    ]:
        padded = bits + "1" * (-len(bits) % 8)
        data = int(padded, 2).to_bytes(len(padded) // 8)
        assert decoder.decode(literal(data, is_huffman=True)) == [(b"a", symbol)]


def test_empty_block_and_empty_strings() -> None:
    decoder, encoder = HpackDecoder(), HpackEncoder()
    assert encoder.encode([]) == b""
    assert decoder.decode(b"") == []
    assert decoder.decode(b"\x40\x80\x80") == [(b"", b"")]  # decoded from nothing
    assert decoder.decode(b"\xbe") == [(b"", b"")]


def test_size_updates() -> None:
    decoder = HpackDecoder()
    decoder.decode(b"\x40\x01a\x01b\x40\x01c\x01d")
    assert decoder.decode(b"\x3f\x04") == []  # 35: of 34 bytes each, one stays
    assert table(decoder) == [(b"c", b"d")]
    assert decoder.decode(b"\x20\x3f\xe1\x1f\x82") == [(b":method", b"GET")]  # 0, then 4096
    assert table(decoder) == []
    decoder.decode(b"\x40\x01a\x01b")
    assert table(decoder) == [(b"a", b"b")]


def test_entry_above_the_table_clears_it() -> None:
    decoder = HpackDecoder(64)
    decoder.decode(b"\x40\x01a\x01b")
    assert decoder.decode(b"\x7e\x21" + b"x" * 33) == [(b"a", b"x" * 33)]
    assert table(decoder) == []
    assert HpackDecoder(0).decode(b"\x40\x01a\x01b\x82") == [(b"a", b"b"), (b":method", b"GET")]


def test_name_of_the_entry_that_its_insertion_evicts() -> None:
    """Many times over, so that the bytes move from one half to the other (RFC 7541 4.4)."""
    decoder = HpackDecoder(100)
    decoder.decode(b"\x40\x24" + b"n" * 36 + b"\x00")
    for turn in range(50):
        value = bytes((97 + turn % 26,)) * (turn % 32)
        assert decoder.decode(b"\x7e" + bytes((len(value),)) + value) == [(b"n" * 36, value)]
        assert table(decoder) == [(b"n" * 36, value)]


def test_list_above_its_limit() -> None:
    """The table follows the peer's, whatever was left out, and the next block is good."""
    decoder = HpackDecoder(4096, 100)
    block = b"\x40\x01a\x00\x40\x01b\x00\x40\x01c\x00\x40\x01d\x00"
    with pytest.raises(HpackError, match="above 100 bytes") as caught:
        decoder.decode(block)
    assert caught.value.is_too_large
    assert table(decoder) == [(b"d", b""), (b"c", b""), (b"b", b""), (b"a", b"")]
    assert len(decoder.decode(b"\xbe\xbf\xc0")) == 3  # 99 bytes


def test_long_strings_and_short_ones_behind() -> None:
    decoder = HpackDecoder()
    field = b"\x00\x01a\xff\x89\x26" + bytes(5000)  # "0" is five zeros
    assert decoder.decode(field) == [(b"a", b"0" * 8000)]
    assert decoder.decode(literal(b"\x1f", is_huffman=True)) == [(b"a", b"a")]
    assert decoder.decode(field) == [(b"a", b"0" * 8000)]


def test_encoder_keeps_what_fits() -> None:
    encoder, decoder = HpackEncoder(), HpackDecoder()
    big: Fields = [(b"x", b"v" * 3000)]
    small: Fields = [(b"y", b"v" * 1500), (b"z", b"w")]
    assert decoder.decode(encoder.encode(big)) == big
    assert decoder.decode(encoder.encode(small)) == small
    assert table(decoder) == [(b"z", b"w"), *big]
    assert encoder.inserted == 2
    again = encoder.encode([*big, *small])
    assert encoder.encode([*big, *small]) == again
    assert encoder.inserted == 2
    assert decoder.decode(again) == [*big, *small]


def test_encoder_that_does_not_remember_uses_what_it_knows() -> None:
    encoder, decoder = HpackEncoder(), HpackDecoder()
    known: Fields = [(b":path", b"/a"), (b"grpc-timeout", b"1m")]
    decoder.decode(encoder.encode(known))
    other: Fields = [known[0], (b"grpc-timeout", b"2m"), (b"new", b"")]
    block = encoder.encode(other, remember=False)
    assert block == b"\xbf\x0f\x2f\x022m\x00\x03new\x00"
    assert decoder.decode(block) == other
    assert encoder.inserted == 2
    assert len(table(decoder)) == 2


def test_smaller_table_of_the_peer() -> None:
    encoder, decoder = HpackEncoder(), HpackDecoder()
    fields: Fields = [(b"a", b"1"), (b"b", b"2"), (b"a", b"3")]
    decoder.decode(encoder.encode(fields))
    encoder.set_max_table_bytes(70)  # two of 34
    encoder.set_max_table_bytes(4096)
    before = encoder.inserted
    block = encoder.encode([(b"a", b"3"), (b"b", b"2"), (b"a", b"1")], remember=False)
    assert block == b"\x3f\x27\x3f\xe1\x1f\xbe\xbf\x0f\x2f\x011"
    assert encoder.inserted > before  # nobody may send the size updates again
    assert decoder.decode(block) == [(b"a", b"3"), (b"b", b"2"), (b"a", b"1")]
    assert table(decoder) == [(b"a", b"3"), (b"b", b"2")]


def test_no_table_of_the_peer() -> None:
    encoder = HpackEncoder()
    encoder.encode([CUSTOM])
    encoder.set_max_table_bytes(0)
    encoder.set_max_table_bytes(0)
    assert encoder.encode([CUSTOM]).startswith(b"\x20\x00\x0acustom-key")
    assert encoder.encode([CUSTOM]).startswith(b"\x00\x0acustom-key")
    encoder.set_max_table_bytes(1 << 30)
    assert encoder.encode([CUSTOM]).startswith(b"\x3f\xe1\x1f\x40\x0acustom-key")
    assert encoder.encode([CUSTOM]) == b"\xbe"


def test_peer_that_allows_more_changes_nothing() -> None:
    encoder = HpackEncoder()
    encoder.encode([CUSTOM])
    encoder.set_max_table_bytes(65536)
    assert encoder.inserted == 1
    assert encoder.encode([CUSTOM]) == b"\xbe"


def test_smaller_table_of_ours() -> None:
    encoder = HpackEncoder(40)
    assert encoder.encode([(b"a", b"1"), (b"b", b"2")]) == b"\x3f\x09\x40\x01a\x011\x00\x01b\x012"
    assert encoder.encode([(b"a", b"1")]) == b"\xbe"
    encoder.set_max_table_bytes(100)
    assert encoder.encode([(b"a", b"1")]) == b"\xbe"


def test_larger_table_waits_for_the_peer() -> None:
    encoder = HpackEncoder(8192)
    fields = [(b"a", b"x" * 5000)]
    assert encoder.encode(fields)[0] == 0
    encoder.set_max_table_bytes(1 << 20)
    block = encoder.encode(fields)
    assert block.startswith(b"\x3f\xe1\x3f\x40")
    assert HpackDecoder(8192).decode(block) == fields


@pytest.mark.parametrize(
    "make",
    [
        lambda: HpackDecoder((1 << 20) + 1),
        lambda: HpackEncoder((1 << 20) + 1),
        lambda: HpackEncoder().encode([(b"a",)]),  # type: ignore[list-item]
        lambda: HpackEncoder().encode([("a", "b")]),  # type: ignore[list-item]
        lambda: HpackEncoder().encode([(b"a", None)]),  # type: ignore[list-item]
        lambda: HpackEncoder().encode([[b"a", b"b"]]),  # type: ignore[list-item]
        lambda: HpackEncoder().set_max_table_bytes(-1),
    ],
)
def test_arguments_out_of_range(make: Callable[[], object]) -> None:
    with pytest.raises((ValueError, TypeError, OverflowError)):
        make()


def test_encoder_changes_nothing_where_it_raises() -> None:
    encoder = HpackEncoder()
    with pytest.raises(TypeError):
        encoder.encode([CUSTOM, (b"a", 1)])  # type: ignore[list-item]
    assert encoder.inserted == 0
    assert encoder.encode([CUSTOM])[0] == 0x40
