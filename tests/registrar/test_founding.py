import os
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from brski_common import keys
from brski_common import settings as common_settings
from brski_common.certificates import (
    ID_KP_CLIENT_AUTH,
    ID_KP_CMC_RA,
    ID_KP_SERVER_AUTH,
    extended_key_usages,
    load_pem,
    public_key_info,
    subject_key_id,
)
from brski_common.errors import Misconfigured
from brski_common.paths import Anchors, build_path, verify_host
from brski_registrar import renewing
from brski_registrar.founding import Plan, found, general_name
from brski_registrar.runtime import load_authority, load_identity
from brski_registrar.settings import ENV_PREFIX, Settings
from tests.support.softhsm import SoftHsm
from tests.support.world import NOW, Clock, key_for

PLAN = Plan(name="Example Plant", hosts=("registrar.example", "192.0.2.7", "2001:db8::7"))


def founded(folder: Path, plan: Plan = PLAN) -> Settings:
    return common_settings.load(Settings, found(folder, plan, NOW), ENV_PREFIX, {})


def chain_of(path: Path) -> tuple[x509.Certificate, ...]:
    return load_pem(path.read_bytes())


@pytest.mark.req("TL-14", "TL-17", "MT-08")
def test_the_registrars_certificate_is_fit_for_masa_and_tls(tmp_path: Path) -> None:
    credential = load_identity(founded(tmp_path))
    assert extended_key_usages(credential.certificate) == {ID_KP_CMC_RA, ID_KP_SERVER_AUTH, ID_KP_CLIENT_AUTH}
    assert subject_key_id(credential.certificate) is not None
    for host in PLAN.hosts:
        verify_host(credential.certificate, host)
    anchors = Anchors(chain_of(tmp_path / "anchors/domain-ca.pem"))
    assert len(build_path(credential.certificate, credential.chain[1:], anchors, NOW)) == 3


def test_the_settings_that_are_written_are_read_and_show_every_key(tmp_path: Path) -> None:
    settings = founded(tmp_path)
    text = (tmp_path / "registrar.toml").read_text()
    for section in type(settings).model_fields:
        assert f"[{section}]" in text
        for key in type(getattr(settings, section)).model_fields:
            assert f"{key} =" in text
    assert settings.listen.host == "192.0.2.7"
    assert settings.database.url == f"sqlite:///{tmp_path}/registrar.sqlite"


def test_private_keys_are_for_their_owner_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        founded(tmp_path)
    finally:
        os.umask(old)
    files = list((tmp_path / "keys").iterdir())
    assert sorted(each.name for each in files) == ["issuing.key", "registrar.key", "root.key"]
    assert {stat.S_IMODE(each.stat().st_mode) for each in files} == {0o600}
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


@pytest.mark.parametrize("kind", ["P-384", "RSA-2048", "Ed25519"])
def test_other_kinds_of_keys_can_be_chosen(tmp_path: Path, kind: keys.Kind) -> None:
    settings = founded(tmp_path, Plan(name="Example Plant", hosts=("localhost",), kind=kind))
    assert load_identity(settings).chain[1:] == chain_of(settings.ca.certificates)
    assert settings.listen.host == "127.0.0.1"


@pytest.mark.parametrize("file", ["registrar.toml", "keys/root.key", "certificates/issuing.pem"])
def test_nothing_is_overwritten(tmp_path: Path, file: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("mine")
    with pytest.raises(Misconfigured, match=f"already-there.*{file}"):
        founded(tmp_path)
    assert [each.name for each in tmp_path.rglob("*") if each.is_file()] == [Path(file).name]


@pytest.mark.parametrize("host", ["", "not a host", "-x.example", "a..b", "ä.example", "x" * 64, "h\n"])
def test_a_host_that_is_none_is_refused_before_anything_is_written(tmp_path: Path, host: str) -> None:
    with pytest.raises(Misconfigured, match="host-invalid"):
        founded(tmp_path / "plant", Plan(name="Example Plant", hosts=(host,)))
    assert not (tmp_path / "plant").exists()


def test_a_host_name_makes_the_registrar_listen_everywhere(tmp_path: Path) -> None:
    assert founded(tmp_path, Plan(name="Example Plant", hosts=("registrar.example",))).listen.host == "::"
    assert general_name("registrar.example.") == x509.DNSName("registrar.example")


@pytest.mark.req("OP-05")
@pytest.mark.xdist_group("softhsm")
def test_the_domain_ca_can_live_in_a_token(tmp_path: Path, softhsm: SoftHsm) -> None:
    plan = Plan(
        name="Example Plant", hosts=("localhost",), root_key=softhsm.uri("ca"), issuing_key=softhsm.uri("registrar")
    )
    settings = founded(tmp_path, plan)
    assert [each.name for each in (tmp_path / "keys").iterdir()] == ["registrar.key"]
    assert load_authority(settings, Clock()).issuer == chain_of(settings.ca.certificates)[0]
    assert renewing.renew_issuing(settings, NOW).issuer == chain_of(tmp_path / "anchors/domain-ca.pem")[0].subject


def test_a_certificate_that_no_masa_takes_is_told_at_the_start(tmp_path: Path) -> None:
    settings = founded(tmp_path)
    unfit = Settings(registrar={"key": settings.ca.key, "certificates": settings.ca.certificates}, ca=settings.ca)  # type: ignore[arg-type] # pydantic makes a section of it
    with pytest.raises(Misconfigured, match=r"registrar-certificate-unfit.*cmcRA"):
        load_identity(unfit)


# Renewal


def test_the_registrar_is_renewed_under_the_same_key_and_names(tmp_path: Path) -> None:
    settings = founded(tmp_path)
    before = load_identity(settings).certificate
    later = NOW + timedelta(days=700)
    assert before in renewing.expiring(settings, later)
    renewed = renewing.renew_registrar(settings, later)
    assert load_identity(settings).certificate == renewed
    assert renewed.subject == before.subject
    assert public_key_info(renewed.public_key()) == public_key_info(before.public_key())
    assert renewed.not_valid_after_utc > before.not_valid_after_utc
    verify_host(renewed, "registrar.example")
    assert renewing.expiring(settings, later) == ()


def test_the_issuing_ca_is_renewed_with_the_roots_key_only(tmp_path: Path) -> None:
    settings = founded(tmp_path)
    renewed = renewing.renew_issuing(settings, NOW + timedelta(days=3000))
    assert load_identity(settings).chain[1] == renewed
    offline = settings.model_copy(update={"ca": settings.ca.model_copy(update={"root_key": None})})
    with pytest.raises(Misconfigured, match="root-key-missing"):
        renewing.renew_issuing(offline, NOW)


@pytest.mark.req("E-09")
async def test_a_change_of_root_leaves_nobody_behind(tmp_path: Path) -> None:
    settings = founded(tmp_path)
    old_root = chain_of(tmp_path / "anchors/domain-ca.pem")[0]
    new_root = renewing.announce(settings, "P-256", NOW)
    announced = await load_authority(settings, Clock()).ca_certs()
    assert {old_root, new_root} < set(announced)
    assert len(announced) == 5  # issuing CA, OldWithOld, NewWithNew, NewWithOld, OldWithNew

    # Either root leads to the other, before and after.
    assert build_path(new_root, announced, Anchors([old_root]), NOW)
    assert build_path(old_root, announced, Anchors([new_root]), NOW)

    renewing.change(settings, NOW)
    registrar = load_identity(settings)
    for anchor in (old_root, new_root):
        assert build_path(registrar.certificate, registrar.chain[1:], Anchors([anchor]), NOW)
    handed_out = await load_authority(settings, Clock()).ca_certs()
    assert handed_out[1] == new_root
    assert old_root in handed_out
    assert (tmp_path / "keys/root.key.old").exists()

    renewing.retire(settings)
    assert await load_authority(settings, Clock()).ca_certs() == handed_out[:2]
    assert load_identity(settings).chain[-1] == new_root
    renewing.announce(settings, "P-384", NOW)  # and the next change can begin


def test_devices_of_before_and_after_a_change_of_root_reach_both(tmp_path: Path) -> None:
    settings = founded(tmp_path)
    old_root = chain_of(tmp_path / "anchors/domain-ca.pem")[0]
    old_issuing = chain_of(settings.ca.certificates)[0]
    renewing.announce(settings, "P-256", NOW)
    renewed = renewing.change(settings, NOW)
    # Same key, same name: what the one certified, the other certifies.
    assert public_key_info(renewed.public_key()) == public_key_info(old_issuing.public_key())
    assert renewed.subject == old_issuing.subject
    assert build_path(renewed, chain_of(settings.ca.rollover), Anchors([old_root]), NOW)


def test_a_change_of_root_goes_step_by_step(tmp_path: Path) -> None:
    settings = founded(tmp_path)
    with pytest.raises(Misconfigured, match="rollover-not-announced"):
        renewing.change(settings, NOW)
    with pytest.raises(Misconfigured, match="rollover-not-announced"):
        renewing.retire(settings)
    renewing.announce(settings, "P-256", NOW)
    with pytest.raises(Misconfigured, match="rollover-under-way"):
        renewing.announce(settings, "P-256", NOW)
    with pytest.raises(Misconfigured, match="rollover-under-way"):
        renewing.retire(settings)


def test_a_change_of_root_that_a_power_cut_ended_is_given_again(tmp_path: Path) -> None:
    settings = founded(tmp_path)
    new_root = renewing.announce(settings, "P-256", NOW)
    next_key = tmp_path / "keys/root.key.next"
    kept = next_key.read_bytes()
    renewing.change(settings, NOW)
    # As if the keys had not been moved yet.
    keys.write_private(next_key, kept)
    renewing.change(settings, NOW)
    assert chain_of(settings.ca.certificates)[-1] == new_root
    assert load_identity(settings).chain[2] == new_root


def test_a_change_of_root_wants_the_right_key(tmp_path: Path) -> None:
    settings = founded(tmp_path)
    keys.save(tmp_path / "keys/root.key", key_for("stranger"))
    with pytest.raises(Misconfigured, match="key-does-not-match"):
        renewing.announce(settings, "P-256", NOW)
