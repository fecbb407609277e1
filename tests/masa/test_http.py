"""The MASA's face: media types, status codes and reasons (RFC 8995, 5.6 and 5.8), and whatever bytes may come."""

import base64
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from brski_common import artifact, auditlog
from brski_common.artifact import Format
from brski_common.http import serve
from brski_common.voucher import Voucher
from brski_masa.authentication import HttpAuthentication, verifier
from brski_masa.http import EXPLANATIONS, AnswerMode, Front
from brski_masa.limiting import Allowance
from brski_masa.parties import DevicePolicy, IdentityKind
from brski_masa.policy import Terms
from tests.masa.plant import MAKER, OTHER_PLANT, PLANT, Desk, nonceless, open_desk, rvr
from tests.support.world import fresh

VOUCHER = "/.well-known/brski/requestvoucher"
AUDIT_LOG = "/.well-known/brski/requestauditlog"
CMS = "application/voucher-cms+json"
PASSWORD = "correct horse battery staple"


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes
    challenges: list[str]

    @property
    def reason(self) -> str:
        return self.body.decode().partition(":")[0].strip()


@dataclass
class Line:
    """A client on plain HTTP: what TLS adds is shown in test_tls."""

    session: aiohttp.ClientSession
    url: str
    desk: Desk

    async def post(self, path: str, body: bytes, kind: str | None = CMS, **headers: str) -> Answer:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        fields |= {"Content-Type": kind} if kind is not None else {}
        return await self.request("POST", path, body, fields)

    async def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        skip = {} if headers and "Content-Type" in headers else {"skip_auto_headers": ["Content-Type"]}
        async with self.session.request(
            method,
            self.url + path,
            data=body,
            headers=headers,
            allow_redirects=False,
            **skip,  # type: ignore[arg-type] # one keyword or none
        ) as response:
            challenges = response.headers.getall("WWW-Authenticate", [])
            return Answer(response.status, response.headers, await response.read(), challenges)


@asynccontextmanager
async def open_line(
    folder: Path,
    *,
    answer: AnswerMode = "direct",
    allowance: Allowance | None = None,
    users: bool = False,
    **desk_settings: Any,  # noqa: ANN401 -- those of open_desk
) -> AsyncIterator[Line]:
    async with open_desk(folder, **desk_settings) as desk:
        loop_time = desk.clock
        authentication = None
        if users:
            authentication = HttpAuthentication(
                "test", ("digest", "basic"), desk.store.verifier_of, lambda: loop_time().timestamp()
            )
        unlimited = Allowance(0, 0, lambda: 0.0)
        front = Front(desk.masa, allowance or unlimited, answer=answer, authentication=authentication)
        server = await serve(front.site(), "127.0.0.1", 0, None)
        try:
            async with aiohttp.ClientSession() as session:
                yield Line(session, server.url, desk)
        finally:
            await server.close(0.1)


@pytest.fixture
async def line(tmp_path: Path) -> AsyncIterator[Line]:
    async with open_line(tmp_path) as made:
        yield made


@pytest.mark.req("MA-21", "HT-01", "MA-23")
async def test_success_is_200_with_the_voucher_media_type(line: Line) -> None:
    device = await line.desk.sell(MAKER.idevid(fresh()))
    answer = await line.post(VOUCHER, rvr(device))
    assert answer.status == 200
    assert answer.headers["Content-Type"] == CMS
    assert isinstance(artifact.parse_voucher(answer.body, Format.CMS).claimed, Voucher)


@pytest.mark.parametrize("form", Format)
async def test_every_format_is_answered_in_kind(line: Line, form: Format) -> None:
    device = await line.desk.sell(MAKER.idevid(fresh()))
    answer = await line.post(VOUCHER, rvr(device, form=form), form.media_type)
    assert (answer.status, answer.headers["Content-Type"]) == (200, form.media_type)


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (Format.JWS.media_type, Format.JWS),
        (Format.JWS.media_type.upper(), Format.JWS),
        (f"{Format.JWS.media_type}, {Format.COSE.media_type}", Format.JWS),
        (f"{CMS};q=0, */*", Format.JWS),
        (f"{Format.COSE.media_type}, {CMS}", Format.CMS),  # that of the request, if it is among them
        ("*/*", Format.CMS),
    ],
)
async def test_accept_chooses_the_format(line: Line, accept: str, form: Format) -> None:
    device = await line.desk.sell(MAKER.idevid(fresh()))
    answer = await line.post(VOUCHER, rvr(device), Accept=accept)
    assert answer.headers["Content-Type"] == form.media_type


@pytest.mark.req("MA-24", "MA-21", "D-4")
async def test_each_fault_has_its_status_and_a_plain_text_reason(line: Line) -> None:
    owned, sold = await line.desk.sell(MAKER.idevid(fresh())), MAKER.idevid(fresh())
    await line.desk.sell(sold, owner="Other Plant")
    cases = [
        (415, "media-type-unknown", await line.post(VOUCHER, rvr(owned), "application/voucher-xyz")),
        (415, "media-type-unknown", await line.post(VOUCHER, rvr(owned), None)),
        (406, "voucher-format-not-acceptable", await line.post(VOUCHER, rvr(owned), Accept="text/html")),
        (404, "device-unknown", await line.post(VOUCHER, rvr(MAKER.idevid(fresh())))),
        (403, "device-not-owned", await line.post(VOUCHER, rvr(sold))),
        (403, "registrar-not-authorized", await line.post(VOUCHER, rvr(owned, signer=PLANT.ldevid("x")))),
        (403, "request-stale", await line.post(VOUCHER, rvr(owned, created_on=line.desk.clock() - timedelta(9)))),
        (403, "nonce-stripped", await line.post(VOUCHER, rvr(owned, nonce=None))),
        (403, "nonceless-not-authenticated", await line.post(VOUCHER, nonceless(owned, OTHER_PLANT))),
        (404, "device-unknown", await line.post(AUDIT_LOG, rvr(owned, OTHER_PLANT))),
        (404, "audit-log-empty", await line.post(AUDIT_LOG, rvr(owned))),
    ]
    for status, reason, answer in cases:
        assert (answer.status, answer.reason) == (status, reason)
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert EXPLANATIONS.get(reason, "") in answer.body.decode()


@pytest.mark.req("HT-10", "EI-13")
@pytest.mark.parametrize("body", [b"", b"\x00", b"0\x80", b"{}", b"nonsense" * 1000])
async def test_unreadable_bytes_are_400(line: Line, body: bytes) -> None:
    for path in (VOUCHER, AUDIT_LOG):
        for kind in (each.media_type for each in Format):
            answer = await line.post(path, body, kind)
            assert answer.status in (400, 415), answer.body


@pytest.mark.req("EI-13")
async def test_base64_under_the_cms_media_type_is_refused(line: Line) -> None:
    device = await line.desk.sell(MAKER.idevid(fresh()))
    answer = await line.post(VOUCHER, base64.b64encode(rvr(device)))
    assert answer.status == 400


@pytest.mark.req("AT-10")
async def test_large_body_is_refused_while_it_comes(line: Line) -> None:
    answer = await line.post(VOUCHER, bytes(artifact.MAX_ARTIFACT_BYTES + 1))
    assert answer.status == 413


async def test_old_paths_are_served_too(line: Line) -> None:
    device = await line.desk.sell(MAKER.idevid(fresh()))
    assert (await line.post("/.well-known/est/requestvoucher", rvr(device))).status == 200
    assert (await line.request("GET", VOUCHER)).status == 405
    assert (await line.request("GET", "/")).status == 404


@pytest.mark.req("AL-07", "AL-08", "AL-09", "D-8")
async def test_log_is_json_with_integers(line: Line) -> None:
    device = await line.desk.sell(MAKER.idevid(fresh()))
    await line.post(VOUCHER, request := rvr(device))
    answer = await line.post(AUDIT_LOG, request)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert b'"version":1' in answer.body
    assert "Location" not in answer.headers
    assert len(auditlog.read(answer.body).events) == 1


@pytest.mark.req("AL-06", "AT-14")
@pytest.mark.parametrize("mode", ["created", "direct-with-location"])
async def test_location_of_the_log_cannot_be_guessed(tmp_path: Path, mode: AnswerMode) -> None:
    async with open_line(tmp_path, answer=mode) as line:
        device = await line.desk.sell(MAKER.idevid(fresh()))
        await line.post(VOUCHER, request := rvr(device))
        answers = [await line.post(AUDIT_LOG, request) for _ in range(2)]
        first, second = (each.headers["Location"] for each in answers)
        assert first != second
        assert len(first.rsplit("/", 1)[1]) >= 43
        shown = await line.request("GET", first)
        assert shown.status == 200
        if mode == "created":
            assert (answers[0].status, answers[0].body) == (201, b"")
        else:
            assert answers[0].body == shown.body
        assert "private" in shown.headers["Cache-Control"]
        for guess in ("/auditlog/1", "/auditlog/" + "A" * 43, first[:-1]):
            assert (await line.request("GET", guess)).status == 404


@pytest.mark.req("AT-15")
async def test_address_with_too_many_refusals_is_not_even_read(tmp_path: Path) -> None:
    now = 0.0
    async with open_line(tmp_path, allowance=Allowance(60, 3, lambda: now)) as line:
        device = await line.desk.sell(MAKER.idevid(fresh()))
        for _ in range(20):  # good requests cost nothing
            assert (await line.post(VOUCHER, rvr(device))).status == 200
        for _ in range(3):
            assert (await line.post(VOUCHER, b"bogus")).status == 400
        answer = await line.post(VOUCHER, rvr(device))
        assert (answer.status, answer.reason) == (429, "too-many-refusals")
        assert 1 <= int(answer.headers["Retry-After"]) <= 60
        now = 60.0
        assert (await line.post(VOUCHER, rvr(device))).status == 200


HTTP_TERMS = Terms(unowned=DevicePolicy.AUDIT_ONLY, accepted=frozenset((IdentityKind.HTTP_USER,)))


async def _with_user(line: Line) -> None:
    await line.desk.store.add_user(PLANT.name, "plant", verifier("plant", "test", PASSWORD))


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.req("MT-04", "MA-10")
async def test_http_basic_identifies_the_owner(tmp_path: Path) -> None:
    async with open_line(tmp_path, users=True, terms=HTTP_TERMS) as line:
        await _with_user(line)
        device = await line.desk.sell(MAKER.idevid(fresh()))
        assert (await line.post(VOUCHER, nonceless(device))).status == 401
        good = await line.post(VOUCHER, nonceless(device), Authorization=_basic("plant", PASSWORD))
        assert good.status == 200
        for user, password in (("plant", "guess"), ("nobody", PASSWORD), ("", "")):
            bad = await line.post(VOUCHER, nonceless(device), Authorization=_basic(user, password))
            assert bad.status in (400, 401)


@pytest.mark.req("MT-04", "MA-10")
async def test_http_digest_identifies_the_owner_once(tmp_path: Path) -> None:
    async with open_line(tmp_path, users=True, terms=HTTP_TERMS) as line:
        await _with_user(line)
        device = await line.desk.sell(MAKER.idevid(fresh()))
        asked = await line.post(VOUCHER, nonceless(device))
        assert [each.split()[0] for each in asked.challenges] == ["Digest", "Basic"]
        nonce = asked.challenges[0].split('nonce="')[1].split('"')[0]
        field = digest_field("plant", PASSWORD, nonce)
        assert (await line.post(VOUCHER, nonceless(device), Authorization=field)).status == 200
        again = await line.post(VOUCHER, nonceless(device), Authorization=field)
        assert (again.status, again.reason) == (401, "http-credentials-wrong")
        line.desk.clock.advance(600)
        stale = await line.post(VOUCHER, nonceless(device), Authorization=digest_field("plant", PASSWORD, nonce, "2"))
        assert "stale=true" in stale.challenges[0]


def digest_field(user: str, password: str, nonce: str, count: str = "1") -> str:
    """What a client that follows RFC 7616 sends."""
    nc, cnonce = count.zfill(8), "c1"
    inner = hashlib.sha256(f"POST:{VOUCHER}".encode()).hexdigest()
    secret = hashlib.sha256(f"{user}:test:{password}".encode()).hexdigest()
    response = hashlib.sha256(f"{secret}:{nonce}:{nc}:{cnonce}:auth:{inner}".encode()).hexdigest()
    return (
        f'Digest username="{user}", realm="test", nonce="{nonce}", uri="{VOUCHER}", algorithm=SHA-256, '
        f'qop=auth, nc={nc}, cnonce="{cnonce}", response="{response}"'
    )


@pytest.mark.req("MT-04")
async def test_always_authenticated_serves_no_stranger(tmp_path: Path) -> None:
    terms = Terms(unowned=DevicePolicy.AUDIT_ONLY, authentication_always=True)
    async with open_line(tmp_path, terms=terms, customers=False) as line:
        device = await line.desk.sell(MAKER.idevid(fresh()), owner=None)
        answer = await line.post(VOUCHER, rvr(device))
        assert (answer.status, answer.reason) == (403, "registrar-not-authenticated")
        await line.desk.store.put_owner("Any Customer", line.desk.clock())
        await line.desk.store.add_certificate("Any Customer", IdentityKind.ANCHOR, PLANT.root.certificate)
        assert (await line.post(VOUCHER, rvr(device))).status == 200


async def test_reasons_tell_no_detail(line: Line) -> None:
    sold = await line.desk.sell(MAKER.idevid(fresh()), owner="Other Plant")
    answer = await line.post(VOUCHER, rvr(sold))
    assert b"Other Plant" not in answer.body
    assert b"Traceback" not in answer.body
