"""Any bytes at any endpoint are answered below 500 and leave the registrar running."""

import asyncio
import base64
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from brski_common import est
from brski_common.artifact import Format
from brski_common.http_client import HttpResponse
from tests.support.plant import BRSKI, EST, Line, Plant

MANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PATHS = [
    f"{BRSKI}/requestvoucher",
    f"{BRSKI}/voucher_status",
    f"{BRSKI}/enrollstatus",
    f"{EST}/simpleenroll",
    f"{EST}/simplereenroll",
    f"{EST}/serverkeygen",
]
TYPES = [each.media_type for each in Format] + ["application/json", est.PKCS10, "", "text/plain", "x" * 100, "a/b;c"]

Request = Callable[[Line], Awaitable[HttpResponse]]


class Running:
    """A plant on an event loop of its own, for tests that are called many times."""

    def __init__(self, runner: asyncio.Runner, line: Line, plant: Plant) -> None:
        self.runner, self.line, self.plant = runner, line, plant

    def ask(self, request: Request) -> HttpResponse:
        async def once() -> HttpResponse:
            return await request(self.line)

        return self.runner.run(once())


@pytest.fixture
def running(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Running]:
    with asyncio.Runner() as runner:
        opened = Plant.open(tmp_path)
        plant = runner.run(opened.__aenter__())
        vouched = plant.vouched()
        line = runner.run(vouched.__aenter__())
        yield Running(runner, line, plant)
        runner.run(vouched.__aexit__(None, None, None))
        runner.run(opened.__aexit__(None, None, None))
    assert "internal error" not in caplog.text


@MANY
@given(path=st.sampled_from(PATHS), media_type=st.sampled_from(TYPES), body=st.binary(max_size=300))
@example(path=PATHS[0], media_type=TYPES[0], body=b"\x30\x80" * 60)
@example(path=PATHS[1], media_type="application/json", body=b'{"version":1,"status":true,"reason-context":' + b"[" * 99)
@example(path=PATHS[3], media_type=est.PKCS10, body=b"MAA=")
@pytest.mark.req("HT-10", "AT-10")
def test_any_bytes(running: Running, path: str, media_type: str, body: bytes) -> None:
    response = running.ask(lambda line: line.post(path, body, media_type))
    assert response.status < 500
    assert response.status != 200 or path == PATHS[1]
    assert b"Traceback" not in response.body


@MANY
@given(at=st.integers(0, 1400), flip=st.integers(1, 255), artifact_format=st.sampled_from(Format))
@pytest.mark.req("HT-10", "AT-10", "VR-11")
def test_one_wrong_byte_in_a_voucher_request(running: Running, at: int, flip: int, artifact_format: Format) -> None:
    good = running.line.pvr(artifact_format=artifact_format)
    at %= len(good)
    body = good[:at] + bytes([good[at] ^ flip]) + good[at + 1 :]
    response = running.ask(lambda line: line.request_voucher(body, artifact_format.media_type))
    assert response.status < 500
    if response.status == 200:
        # The certificates that come along are outside the signature; everything that matters is inside.
        assert running.plant.masa.requests[-1][0].count(body) <= 1


@MANY
@given(at=st.integers(0, 600), flip=st.integers(1, 255))
@pytest.mark.req("E-12", "HT-10")
def test_one_wrong_byte_in_a_certificate_request(running: Running, at: int, flip: int) -> None:
    good = running.runner.run(running.line.csr())
    at %= len(good)
    body = good[:at] + bytes([good[at] ^ flip]) + good[at + 1 :]
    response = running.ask(lambda line: line.enroll(body))
    # The last character before the padding has bits that stand for nothing (RFC 4648, 3.5).
    unharmed = body[:at] == good[:at] and body[at + 1 :].strip() in {b"=", b"=="} and _decoded(body) == _decoded(good)
    assert response.status in ({200} if unharmed else {400, 403})


def _decoded(body: bytes) -> bytes:
    try:
        return base64.b64decode(body)
    except ValueError:
        return b""


@MANY
@given(
    st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=60),
    st.sampled_from(["GET", "POST", "PUT"]),
)
@example("/.well-known/est//cacerts", "GET")
@example("/.well-known/est/../est/cacerts", "GET")
def test_any_path(running: Running, path: str, method: str) -> None:
    async def ask(line: Line) -> HttpResponse:
        url = f"{line.plant.server.url}/.well-known/{path.replace(' ', '%20').replace('#', '').replace('?', '')}"
        return await line.client.request(method, url)

    response = running.ask(ask)
    assert response.status in {200, 400, 403, 404, 405, 415}
