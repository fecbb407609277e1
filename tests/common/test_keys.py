"""Private keys in files: born private, complete or not at all, and never in an error."""

import stat
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key
from cryptography.x509.oid import NameOID

from brski_common import issuing, keys
from brski_common.certificates import Credential, PrivateKey, PublicKey, public_key_info, to_pem
from brski_common.errors import Misconfigured
from brski_common.published_keys import PUBLISHED_TEST_KEYS, refuse_published_key
from tests.support.vectors import vector, vector_path
from tests.support.world import NOW

KINDS: tuple[keys.Kind, ...] = ("P-256", "P-384", "RSA-2048", "Ed25519")
PASSPHRASE = "correct horse"


def answering(passphrase: str) -> Callable[[str], str]:
    return lambda _what: passphrase


def name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def chain_for(key: PrivateKey) -> tuple[x509.Certificate, x509.Certificate]:
    """A certificate for `key`, and the CA above it."""
    ca_key = keys.generate("P-256")
    ca = issuing.root_ca(ca_key, name("CA"), now=NOW, lifetime=timedelta(days=2))
    leaf = issuing.end_entity(
        Credential(ca_key, (ca,)),
        key.public_key(),
        name("Leaf"),
        not_before=NOW,
        not_after=NOW + timedelta(days=1),
    )
    return leaf, ca


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE], ids=["plain", "encrypted"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_loaded_again(tmp_path: Path, kind: keys.Kind, passphrase: str | None) -> None:
    key = keys.generate(kind)
    keys.save(tmp_path / "a.key.pem", key, passphrase)
    found = keys.load(f"file:{tmp_path / 'a.key.pem'}", answering(PASSPHRASE))
    assert public_key_info(found.public_key()) == public_key_info(key.public_key())


def test_a_key_file_is_private_whatever_was_there_before(tmp_path: Path) -> None:
    path = tmp_path / "a.key.pem"
    path.write_text("old")
    path.chmod(0o644)
    keys.save(path, keys.generate("P-256"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [found.name for found in tmp_path.iterdir()] == ["a.key.pem"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.key.pem"
    keys.write_private(path, b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        keys.write_private(path, b"new")
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["a.key.pem"]


def test_an_encrypted_file_holds_no_plain_key(tmp_path: Path) -> None:
    keys.save(tmp_path / "a.pem", keys.generate("P-256"), PASSPHRASE)
    assert (tmp_path / "a.pem").read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")


def test_a_wrong_or_missing_passphrase_is_said_and_not_shown(tmp_path: Path) -> None:
    keys.save(tmp_path / "a.pem", keys.generate("P-256"), PASSPHRASE)
    with pytest.raises(Misconfigured, match="key-passphrase-missing"):
        keys.load(f"file:{tmp_path}/a.pem")
    with pytest.raises(Misconfigured, match="key-passphrase-wrong") as caught:
        keys.load(f"file:{tmp_path}/a.pem", answering("hunter2"))
    assert "hunter2" not in str(caught.value)


def test_the_callback_is_told_which_key_it_opens(tmp_path: Path) -> None:
    asked: list[str] = []
    keys.save(tmp_path / "a.pem", keys.generate("P-256"), PASSPHRASE)

    def secret(what: str) -> str:
        asked.append(what)
        return PASSPHRASE

    keys.load(f"file:{tmp_path}/a.pem", secret)
    assert asked == [f"{tmp_path}/a.pem"]


def test_a_sec1_file_is_read_too(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    keys.write_private(
        tmp_path / "a.pem", key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    )
    assert keys.load(f"file:{tmp_path}/a.pem").public_key() == key.public_key()


@pytest.mark.parametrize("form", ["file:{}", "file://{}", "file://localhost{}", "{}"])
def test_a_key_file_has_several_names(tmp_path: Path, form: str) -> None:
    keys.save(tmp_path / "a b.pem", keys.generate("P-256"))
    path = str(tmp_path / "a b.pem")
    keys.load(form.format(path.replace(" ", "%20") if form.startswith("file:") else path))


@pytest.mark.parametrize("uri", ["file://elsewhere/a.pem", "file:/a.pem?x=y"])
def test_a_key_elsewhere_is_refused(uri: str) -> None:
    with pytest.raises(Misconfigured, match=r"file:PATH or pkcs11:"):
        keys.load(uri)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_key_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    keys.save(tmp_path / "a.pem", keys.generate("P-256"))
    (tmp_path / "a.pem").chmod(mode)
    with pytest.raises(Misconfigured, match="key-file-writable"):
        keys.load(f"file:{tmp_path}/a.pem")


@pytest.mark.parametrize(("mode", "warned"), [(0o400, False), (0o640, False), (0o444, True)])
def test_a_key_that_everybody_may_read_is_used_with_a_warning(
    tmp_path: Path, mode: int, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    keys.save(tmp_path / "a.pem", keys.generate("P-256"))
    (tmp_path / "a.pem").chmod(mode)
    keys.load(f"file:{tmp_path}/a.pem")
    assert ("everybody may read" in caplog.text) is warned


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_what_is_no_key_is_refused_by_the_name_of_its_file(tmp_path: Path, content: bytes) -> None:
    keys.write_private(tmp_path / "a.pem", content)
    with pytest.raises(Misconfigured, match=r"key-unreadable: .*a\.pem"):
        keys.load(f"file:{tmp_path}/a.pem")


def test_a_missing_or_endless_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "large.pem").write_bytes(b"x" * (keys.MAX_KEY_FILE_BYTES + 1))
    for path in (tmp_path / "none.pem", tmp_path / "large.pem", tmp_path):
        with pytest.raises(Misconfigured, match="key-unreadable"):
            keys.load(f"file:{path}")


def test_a_key_of_another_kind_is_refused_with_the_kinds_there_are(tmp_path: Path) -> None:
    others = (
        rsa.generate_private_key(65537, 1024),
        ec.generate_private_key(ec.SECP256K1()),
        dsa.generate_private_key(2048),
        ed448.Ed448PrivateKey.generate(),
    )
    for key in others:
        keys.write_private(tmp_path / "a.pem", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        with pytest.raises(Misconfigured, match=r"P-256.*Ed25519.*2048"):
            keys.load(f"file:{tmp_path}/a.pem")


def test_a_credential_is_a_key_with_its_chain(tmp_path: Path) -> None:
    key = keys.generate("P-256")
    leaf, ca = chain_for(key)
    keys.save(tmp_path / "key.pem", key)
    (tmp_path / "leaf.pem").write_bytes(to_pem(leaf))
    (tmp_path / "chain.pem").write_bytes(to_pem(leaf, ca))
    for paths in (("chain.pem",), ("leaf.pem", "chain.pem")):
        found = keys.load_credential(f"file:{tmp_path}/key.pem", *(tmp_path / path for path in paths))
        assert found.chain == (leaf, ca)


def test_a_key_without_its_certificate_is_refused(tmp_path: Path) -> None:
    leaf, ca = chain_for(keys.generate("P-256"))
    keys.save(tmp_path / "key.pem", keys.generate("P-256"))
    (tmp_path / "chain.pem").write_bytes(to_pem(leaf, ca))
    with pytest.raises(Misconfigured, match="key-does-not-match"):
        keys.load_credential(f"file:{tmp_path}/key.pem", tmp_path / "chain.pem")
    with pytest.raises(Misconfigured, match="key-does-not-match"):
        keys.load_credential(f"file:{tmp_path}/key.pem")


def test_a_chain_with_a_gap_is_refused(tmp_path: Path) -> None:
    key = keys.generate("P-256")
    leaf, _ca = chain_for(key)
    other_key = keys.generate("P-256")
    other = issuing.root_ca(other_key, name("Other"), now=NOW, lifetime=timedelta(days=1))
    keys.save(tmp_path / "key.pem", key)
    (tmp_path / "chain.pem").write_bytes(to_pem(leaf, other))
    with pytest.raises(Misconfigured, match="chain-out-of-order"):
        keys.load_credential(f"file:{tmp_path}/key.pem", tmp_path / "chain.pem")


def test_certificates_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("nothing")
    for path in (tmp_path / "bad.pem", tmp_path / "none.pem"):
        with pytest.raises(Misconfigured, match=f"certificates-unreadable: {path}"):
            keys.read_certificates(path)


def published_keys() -> list[PublicKey]:
    """The public halves of every private key among the specification vectors."""
    vector("MANIFEST.md")  # skips where there are none
    folder = vector_path()
    paths = sorted([*folder.rglob("*.key.pem"), *folder.rglob("privkey_*.pem")])
    found: list[PublicKey] = [keys.load(f"file:{path}").public_key() for path in paths]
    last = load_der_private_key(vector("rfc9148/skg.rsp.key.pkcs8.der"), None)
    assert isinstance(last, ec.EllipticCurvePrivateKey)
    return [*found, last.public_key()]


def test_every_key_of_the_specifications_is_refused() -> None:
    published = published_keys()
    assert len(published) == len(PUBLISHED_TEST_KEYS)
    for key in published:
        with pytest.raises(Misconfigured, match="published-test-key"):
            refuse_published_key(key)


def test_a_key_of_our_own_is_no_published_key() -> None:
    refuse_published_key(keys.generate("P-256").public_key())


def test_a_published_credential_is_loaded_in_tests_only(tmp_path: Path) -> None:
    for suffix in ("key", "crt"):
        keys.write_private(tmp_path / f"masa.{suffix}.pem", vector(f"rfc8995/masa.{suffix}.pem"))
    uri, chain = f"file:{tmp_path}/masa.key.pem", tmp_path / "masa.crt.pem"
    with pytest.raises(Misconfigured, match="published-test-key"):
        keys.load_credential(uri, chain)
    assert keys.load_credential(uri, chain, allow_published=True).chain
