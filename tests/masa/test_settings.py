"""The settings file, and set-ups that are refused before anything is served."""

from datetime import timedelta
from pathlib import Path

import pytest

from brski_common import artifact, issuing, keys
from brski_common import settings as settings_files
from brski_common.artifact import Format
from brski_common.certificates import Credential, to_pem
from brski_common.errors import Misconfigured
from brski_common.paths import Anchors
from brski_common.voucher import Voucher
from brski_masa import founding, serving
from brski_masa.keyring import load_signers, load_trust
from brski_masa.parties import DevicePolicy, IdentityKind
from brski_masa.settings import ENVIRONMENT_PREFIX, Settings
from tests.support.softhsm import SoftHsm
from tests.support.vectors import vector
from tests.support.world import NOW


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    plan = founding.Plan(
        folder=tmp_path, name="Maker", host="::1", port=9443, masa_url="[2001:db8::1]:9443", kind="P-256"
    )
    founding.found(plan, NOW)
    return tmp_path


def load(folder: Path, **environment: str) -> Settings:
    return settings_files.load(Settings, folder / "masa.toml", ENVIRONMENT_PREFIX, environment)


def test_file_of_init_loads_with_strict_defaults(folder: Path) -> None:
    loaded = load(folder)
    terms = loaded.policy.terms(loaded.authentication)
    assert (terms.owned, terms.unowned) == (DevicePolicy.OWNER_ONLY, DevicePolicy.REFUSE)
    assert terms.nonceless_lifetime == timedelta(minutes=20)
    assert terms.proximity_mismatch_refused
    assert terms.strangers_need_proximity
    assert not loaded.maker.unsafe_published_test_keys
    assert loaded.tls.chain == folder / "keys" / "tls.chain.pem"
    assert load_signers(loaded, now=NOW).nonceless is not None


def test_every_table_and_key_stands_in_the_file(folder: Path) -> None:
    text = (folder / "masa.toml").read_text()
    for name, field in Settings.model_fields.items():
        assert f"{name} =" in text or f"[{name}]" in text
        if field.default_factory is not None:
            for key in field.annotation.model_fields if field.annotation else ():
                assert f"{key} =" in text


def test_environment_overrides_and_unknown_keys_are_told(folder: Path) -> None:
    assert load(folder, BRSKI_MASA_POLICY__UNOWNED="audit-only").policy.unowned is DevicePolicy.AUDIT_ONLY
    accepted = load(folder, BRSKI_MASA_AUTHENTICATION__ACCEPT='["http-user"]').authentication.accept
    assert accepted == (IdentityKind.HTTP_USER,)
    with pytest.raises(Misconfigured, match="BRSKI_MASA_POLICY__UNOWND"):
        load(folder, BRSKI_MASA_POLICY__UNOWND="x")
    with pytest.raises(Misconfigured, match="owner-only, refuse, first-come, audit-only"):
        load(folder, BRSKI_MASA_POLICY__UNOWNED="everybody")
    with pytest.raises(Misconfigured, match="belong together"):
        settings_files.load(Settings, None, "X_", {"X_SIGNING__NONCELESS_KEY": "a.pem"})


@pytest.mark.req("D-14", "PV-02")
def test_voucher_anchor_that_is_also_an_idevid_anchor_is_refused(folder: Path) -> None:
    shared = (folder / "anchors" / "voucher.pem").read_bytes()
    with (folder / "anchors" / "manufacturer.pem").open("ab") as file:
        file.write(shared)
    with pytest.raises(Misconfigured, match="voucher-anchor-shared"):
        load_signers(load(folder), now=NOW)


@pytest.mark.req("D-14", "PV-02")
def test_shared_anchor_needs_a_policy_that_only_signers_have(folder: Path) -> None:
    oid = "1.3.6.1.4.1.99999.1"
    shared = (folder / "anchors" / "voucher.pem").read_bytes()
    (folder / "anchors" / "manufacturer.pem").write_bytes(shared)
    root = keys.load_credential(f"file:{folder}/keys/voucher-root.key.pem", folder / "keys" / "voucher-root.chain.pem")
    for stem in ("voucher", "voucher-nonceless"):
        founding.write_credential(folder / "keys", stem, signer_with_policy(root, oid))
    load_signers(load(folder, BRSKI_MASA_SIGNING__SHARED_ANCHOR_POLICY=oid), now=NOW)
    with pytest.raises(Misconfigured, match="voucher-anchor-shared"):
        load_signers(load(folder, BRSKI_MASA_SIGNING__SHARED_ANCHOR_POLICY=oid + ".2"), now=NOW)


def signer_with_policy(root: Credential, oid: str) -> Credential:
    from cryptography import x509

    key = keys.generate("P-256")
    policies = x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier(oid), None)])
    certificate = issuing.end_entity(
        root,
        key.public_key(),
        issuing.name("Signer"),
        not_before=NOW,
        not_after=NOW + timedelta(days=9),
        extensions=[(policies, False)],
    )
    return Credential(key, (certificate, *root.chain))


def test_signer_that_devices_do_not_trust_is_refused(folder: Path) -> None:
    tls_root = (folder / "anchors" / "tls.pem").read_bytes()
    (folder / "anchors" / "voucher.pem").write_bytes(tls_root)
    with pytest.raises(Misconfigured, match="voucher-signer-untrusted"):
        load_signers(load(folder), now=NOW)


def test_published_test_keys_sign_no_vouchers(folder: Path) -> None:
    (folder / "keys" / "voucher.key.pem").write_bytes(vector("rfc8995/masa.key.pem"))
    (folder / "keys" / "voucher.chain.pem").write_bytes(vector("rfc8995/masa.crt.pem"))
    with pytest.raises(Misconfigured, match="published-test-key"):
        load_signers(load(folder), now=NOW)


def test_ed25519_signer_offers_only_what_it_can_sign(tmp_path: Path) -> None:
    plan = founding.Plan(folder=tmp_path, name="M", host="127.0.0.1", port=0, masa_url="m", kind="Ed25519")
    founding.found(plan, NOW)
    assert load_signers(load(tmp_path), now=NOW).formats
    assert to_pem(*keys.read_certificates(tmp_path / "keys" / "tls.chain.pem"))


@pytest.mark.req("MA-25")
def test_without_a_nonceless_key_there_are_no_nonceless_vouchers(folder: Path) -> None:
    signers = load_signers(load(folder), now=NOW)
    without = type(signers)(signers.nonced, None, signers.formats)
    with pytest.raises(Misconfigured, match="nonceless-key-missing"):
        without.credential(None)
    assert without.credential("nonce") is signers.nonced


def test_secret_is_not_asked_for_without_a_terminal() -> None:
    assert serving.ask_secret("x") == ""


@pytest.mark.req("V-CMS-07")
@pytest.mark.xdist_group("softhsm")
def test_vouchers_are_signed_by_a_key_in_a_token(folder: Path, softhsm: SoftHsm) -> None:
    root = keys.load_credential(f"file:{folder}/keys/voucher-root.key.pem", folder / "keys" / "voucher-root.chain.pem")
    key = keys.load(softhsm.uri("registrar"))
    certificate = issuing.end_entity(
        root, key.public_key(), issuing.name("Token Signer"), not_before=NOW, not_after=NOW + timedelta(days=9)
    )
    (folder / "keys" / "voucher.chain.pem").write_bytes(to_pem(certificate, *root.chain))
    loaded = load(folder, BRSKI_MASA_SIGNING__KEY=softhsm.uri("registrar"))
    signers = load_signers(loaded, now=NOW)
    data = artifact.sign(Voucher(serial_number="SN", created_on=NOW), Format.CMS, signers.nonced)
    assert artifact.parse_voucher(data, Format.CMS).verify(Anchors(root.chain), NOW).signer == certificate
    with pytest.raises(Misconfigured, match="key-not-a-file"):
        founding.rotate(loaded, "voucher", "P-256", NOW)


def test_the_age_that_a_request_may_have_comes_from_the_file(folder: Path) -> None:
    loaded = load(folder, BRSKI_MASA_POLICY__REQUEST_MAX_AGE_HOURS="2")
    assert load_trust(loaded).request_max_age == timedelta(hours=2)
