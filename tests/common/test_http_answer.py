"""Reading answers: the same however they are cut, bounded, and without two ways to understand one."""

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brski_common.errors import PeerFailed
from brski_common.http_answer import AnswerReader
from brski_common.http_parsing import MAX_HEADER_BYTES, MAX_HEADERS

LIMIT = 1000
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
GOOD = {
    LENGTH: b"hello",
    b"HTTP/1.1 200\r\ncontent-length:5\r\n\r\nhello": b"hello",
    CHUNKED + b"3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n": b"hello",
    CHUNKED + b"5\r\nhello\r\n0\r\nTrailer: x\r\n\r\n": b"hello",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + LENGTH: b"hello",
    b"HTTP/1.1 204 No Content\r\n\r\n": b"",
    b"HTTP/1.1 204 No Content\r\nContent-Length: 99999\r\n\r\n": b"",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 18446744073709551615\r\n\r\n": b"",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n": b"",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0005\r\n\r\nhello": b"hello",
}


def read(data: bytes, *, step: int = 1 << 20) -> AnswerReader:
    reader = AnswerReader(LIMIT)
    for start in range(0, len(data), step):
        reader.feed(data[start : start + step])
    return reader


def reason(data: bytes, *, ends: bool = False) -> str:
    with pytest.raises(PeerFailed) as failed:  # noqa: PT012 -- one of both is what fails
        reader = read(data)
        if ends:
            reader.end()
    return failed.value.reason


@pytest.mark.parametrize("data", GOOD)
@pytest.mark.parametrize("step", [1, 2, 7, 1 << 20])
async def test_an_answer_is_the_same_however_it_is_cut(data: bytes, step: int) -> None:
    reader = read(data, step=step)
    assert reader.is_complete
    assert reader.body == GOOD[data]
    assert reader.keeps_connection


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        LENGTH.replace(b"\r\n\r\n", b"\r\nConnection: Keep-Alive, Close\r\n\r\n"),
        LENGTH + LENGTH,
    ],
    ids=["1.0", "close", "another answer"],
)
async def test_after_some_answers_the_connection_is_not_used_again(data: bytes) -> None:
    reader = read(data)
    assert reader.is_complete
    assert not reader.keeps_connection


async def test_without_a_length_the_end_of_the_connection_is_the_end_of_the_answer() -> None:
    reader = read(b"HTTP/1.1 200 OK\r\n\r\nhel")
    reader.feed(b"lo")
    assert not reader.is_complete
    reader.end()
    assert (reader.is_complete, reader.body, reader.keeps_connection) == (True, b"hello", False)


async def test_an_answer_to_head_has_no_body() -> None:
    for length in (b"99999", b"18446744073709551615"):
        reader = AnswerReader(LIMIT, to_head=True)
        reader.feed(b"HTTP/1.1 200 OK\r\nContent-Length: %b\r\n\r\n" % length)
        assert (reader.is_complete, reader.body) == (True, b"")


@pytest.mark.req("TL-07", "AT-10")
@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 OK 200\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 9,
        b"SSH-2.0-OpenSSH",
        b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: \x00\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        CHUNKED + b"-5\r\nhello\r\n",
        CHUNKED + b"0x5\r\nhello\r\n",
        CHUNKED + b"5\nhello\r\n",
        CHUNKED + b"5\r\nhelloo\r\n",
        CHUNKED + b"5" * 300,
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * (MAX_HEADERS + 1) + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * (MAX_HEADER_BYTES + 1),
        CHUNKED + b"0\r\n" + b"A: b\r\n" * 1000,
    ],
)
async def test_what_two_readers_could_take_differently_is_malformed(data: bytes) -> None:
    assert reason(data) == "response-malformed"


@pytest.mark.req("TL-07", "AT-10")
@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551614\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n",  # what aiohttp's parser has for "none"
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 18446744073709551615\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: %b5\r\n\r\nhello" % (b"0" * 4300),
        CHUNKED + b"3e8\r\n" + bytes(1000) + b"\r\n1\r\nx",
        b"HTTP/1.1 200 OK\r\n\r\n" + bytes(1001),
    ],
)
async def test_a_body_beyond_the_limit_is_not_kept(data: bytes) -> None:
    assert reason(data) == "response-too-large"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "peer-disconnected"),
        (b"HTTP/1.1 200 OK\r\n", "response-incomplete"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "response-incomplete"),
        (LENGTH[:-1], "response-incomplete"),
        (CHUNKED + b"5\r\nhel", "response-incomplete"),
        (CHUNKED + b"5\r\nhello\r\n", "response-incomplete"),
    ],
)
async def test_an_end_too_early_is_told_from_no_answer(data: bytes, expected: str) -> None:
    assert reason(data, ends=True) == expected


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=60), max_size=6), st.sampled_from([b"", CHUNKED, LENGTH[:-5], b"HTTP/1.1 200 "]))
def test_any_bytes_are_an_answer_or_a_named_fault(pieces: list[bytes], begin: bytes) -> None:
    async def story() -> None:
        reader = AnswerReader(LIMIT)
        with suppress(PeerFailed):
            for piece in (begin, *pieces):
                reader.feed(piece)
            reader.end()
        assert not reader.is_complete or len(reader.body) <= LIMIT

    asyncio.run(story())
