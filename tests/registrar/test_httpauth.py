"""HTTP Basic and Digest, against the examples of their RFCs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brski_common.errors import BrskiError, PeerFailed
from brski_registrar import httpauth
from brski_registrar.httpauth import Challenge

NONCE = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"
CNONCE = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
OPAQUE = "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"
BOTH = (
    f'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm=MD5, nonce="{NONCE}", opaque="{OPAQUE}", '
    f'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm=SHA-256, nonce="{NONCE}", opaque="{OPAQUE}"'
)


@pytest.mark.req("MT-03", "MT-04")
def test_basic_as_in_rfc_7617() -> None:
    assert httpauth.basic("Aladdin", "open sesame") == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
@pytest.mark.req("MT-03", "MT-04")
def test_digest_as_in_rfc_7616(algorithm: str, response: str) -> None:
    challenge = Challenge("http-auth@example.org", NONCE, algorithm, OPAQUE)
    header = httpauth.digest(challenge, "Mufasa", "Circle of Life", "GET", "/dir/index.html", 1, lambda _: CNONCE)
    assert f'response="{response}"' in header
    assert "nc=00000001" in header
    assert f"algorithm={algorithm}" in header
    assert "Circle of Life" not in header


def test_the_stronger_of_two_offers_is_taken() -> None:
    assert httpauth.read_challenge(BOTH) == Challenge("http-auth@example.org", NONCE, "SHA-256", OPAQUE)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Basic realm=x",
        'Digest realm="x", nonce="y"',
        'Digest qop="auth", nonce="y"',
        'Digest realm="x\udcff", nonce="y", qop="auth"',  # how a byte that is no UTF-8 comes out of a header
        'Digest realm="x", nonce="\udcff", qop="auth"',
        'Digest realm="x", nonce="y", qop="auth", opaque="\u20ac"',
    ],
)
def test_an_offer_that_cannot_be_answered(header: str) -> None:
    with pytest.raises(PeerFailed, match="masa-login-unsupported"):
        httpauth.read_challenge(header)


def test_a_realm_with_an_umlaut_is_answered() -> None:
    challenge = httpauth.read_challenge('Digest realm="M\u00fcnchen", nonce="y", qop="auth"')
    assert 'realm="M\u00fcnchen"' in httpauth.digest(challenge, "a", "b", "POST", "/", 1)


_ANY = st.text(st.characters(exclude_categories=()), max_size=100)  # also halves of surrogates


@given(st.one_of(_ANY, _ANY.map(lambda text: f'realm="{text}", nonce="{text}", qop="auth"')))
def test_any_header_is_a_challenge_or_no_challenge(text: str) -> None:
    try:
        challenge = httpauth.read_challenge("Digest " + text)
    except BrskiError:
        return
    httpauth.digest(challenge, 'a"b', "c", "POST", "/", 1).encode("latin-1")
