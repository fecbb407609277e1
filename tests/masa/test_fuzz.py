"""Any bytes at the MASA's front door: a clear 4xx, never a 500, a traceback or a hang."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from brski_common import artifact
from brski_common.artifact import Format
from brski_common.errors import BrskiError
from brski_common.strictjson import dumps
from brski_masa.authentication import HttpAuthentication
from brski_masa.vouchering import examine
from tests.masa.plant import MAKER, NONCE, PLANT, Desk, open_desk, pvr, rvr, trust
from tests.support.world import NOW

GOOD = {form: rvr(MAKER.idevid("SN-FUZZ"), form=form) for form in Format}
RELAXED = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture
def desk(tmp_path: Path, loop: asyncio.AbstractEventLoop) -> Iterator[Desk]:
    context = open_desk(tmp_path)
    made = loop.run_until_complete(context.__aenter__())
    loop.run_until_complete(made.sell(MAKER.idevid("SN-FUZZ")))
    yield made
    loop.run_until_complete(context.__aexit__(None, None, None))


def survives(loop: asyncio.AbstractEventLoop, desk: Desk, data: bytes, form: Format) -> bool:
    """Both services answer with a BrskiError or a result; whether a voucher came out."""
    granted = False
    for ask in (
        desk.masa.request_voucher(data, form, [form], desk.requester),
        desk.masa.request_audit_log(data, form, desk.requester),
    ):
        try:
            result = loop.run_until_complete(ask)
        except BrskiError:
            continue
        else:
            granted = granted or isinstance(result, tuple)
    return granted


@pytest.mark.req("HT-10", "AT-10")
@RELAXED
@given(data=st.binary(max_size=2048), form=st.sampled_from(list(Format)))
def test_any_bytes_raise_only_our_errors(
    data: bytes, form: Format, desk: Desk, loop: asyncio.AbstractEventLoop
) -> None:
    assert not survives(loop, desk, data, form)


@pytest.mark.req("MA-01", "AT-10")
@RELAXED
@given(form=st.sampled_from(list(Format)), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_flipped_bit_is_never_believed(
    form: Format, place: float, bit: int, desk: Desk, loop: asyncio.AbstractEventLoop
) -> None:
    data = bytearray(GOOD[form])
    data[int(place * len(data))] ^= 1 << bit
    before = len(loop.run_until_complete(desk.entries()))
    if survives(loop, desk, bytes(data), form):
        # The certificates' order, and what no signature covers, may change: never what the voucher says.
        entry = loop.run_until_complete(desk.entries())[before]
        assert (entry.serial_number, entry.nonce) == ("SN-FUZZ", NONCE)


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(max_size=40), st.lists(st.text(max_size=5), max_size=3)
)
names = st.sampled_from(
    ["serial-number", "nonce", "created-on", "idevid-issuer", "prior-signed-voucher-request", "assertion",
     "proximity-registrar-cert", "expires-on", "unknown"]
)  # fmt: skip


@RELAXED
@given(members=st.dictionaries(names, leaves, max_size=6))
def test_any_signed_leaves_raise_only_our_errors(
    members: dict[str, object], desk: Desk, loop: asyncio.AbstractEventLoop
) -> None:
    from brski_common import cms

    try:
        content = dumps({"ietf-voucher-request:voucher": members})  # type: ignore[dict-item] # JSON values all
    except UnicodeEncodeError:  # a lone surrogate cannot be written as UTF-8 either
        return
    survives(loop, desk, cms.sign(content, PLANT.registrar), Format.CMS)


@pytest.mark.parametrize("text", ['"\\ud800"', '"a\\u0000b"', '"' + "x" * 5000 + '"'])
def test_awkward_texts_do_not_reach_the_database(text: str, desk: Desk, loop: asyncio.AbstractEventLoop) -> None:
    from brski_common import cms

    for name in ("serial-number", "nonce"):
        other = "" if name == "serial-number" else '"serial-number":"SN-FUZZ",'
        content = f'{{"ietf-voucher-request:voucher":{{{other}"{name}":{text}}}}}'.encode()
        survives(loop, desk, cms.sign(content, PLANT.registrar), Format.CMS)


@RELAXED
@given(inside=st.binary(max_size=512))
def test_any_prior_request_raises_only_our_errors(inside: bytes) -> None:
    request = artifact.parse_voucher_request(rvr(MAKER.idevid("SN-FUZZ"), prior=inside), Format.CMS)
    with pytest.raises(BrskiError):
        examine(request, trust(), NOW)


@RELAXED
@given(
    field=st.one_of(
        st.text(max_size=200),
        st.text(max_size=100).map(lambda text: f"Basic {text}"),
        st.text(max_size=100).map(lambda text: f"Digest {text}"),
        st.dictionaries(
            st.sampled_from(["username", "realm", "nonce", "uri", "qop", "nc", "cnonce", "algorithm", "response"]),
            st.text(max_size=20),
        ).map(lambda given: "Digest " + ", ".join(f'{name}="{value}"' for name, value in given.items())),
    )
)
def test_any_authorization_field_raises_only_our_errors(field: str, loop: asyncio.AbstractEventLoop) -> None:
    async def nobody(_user: str) -> None:
        return None

    check = HttpAuthentication("test", ("digest", "basic"), nobody, lambda: datetime.now(UTC).timestamp())
    with pytest.raises(BrskiError):
        loop.run_until_complete(check.authenticate(field, "POST", "/x"))


def test_good_request_of_the_fuzz_is_good(desk: Desk, loop: asyncio.AbstractEventLoop) -> None:
    assert all(survives(loop, desk, GOOD[form], form) for form in Format)
    assert pvr(MAKER.idevid("SN-FUZZ"), None)
