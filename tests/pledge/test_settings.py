"""What can be decided about a pledge, where, and what is said of a wrong value."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from brski_common.errors import Misconfigured
from brski_pledge.device import DeviceFile
from brski_pledge.discovery import Offer, Source
from brski_pledge.settings import PledgeSettings

NEEDED = {"state": "s", "certificate": "c.pem", "key": "k.pem", "voucher_anchors": "a.pem"}


def load(tmp_path: Path, text: str = "", environment: dict[str, str] | None = None, **options: Any) -> DeviceFile:  # noqa: ANN401 -- as the file takes them
    path = tmp_path / "pledge.toml"
    path.write_text("\n".join(f'{name} = "{value}"' for name, value in NEEDED.items()) + "\n" + text)
    return DeviceFile.load(path, options, environment or {})


def test_paths_of_the_file_are_relative_to_it_others_are_not(tmp_path: Path) -> None:
    device = load(tmp_path, voucher_anchors=Path("here.pem"), cloud_anchors=Path("there.pem"))
    assert device.state == tmp_path / "s"
    assert device.key == str(tmp_path / "k.pem")
    assert device.voucher_anchors == Path("here.pem")
    assert device.cloud_anchors == Path("there.pem")


@pytest.mark.parametrize("uri", ["pkcs11:token=t;object=k", "file:/etc/k.pem"])
def test_a_key_may_be_a_uri(uri: str, tmp_path: Path) -> None:
    assert load(tmp_path, key=uri).key == uri
    path = tmp_path / "other.toml"
    path.write_text(f'state = "s"\ncertificate = "c"\nvoucher_anchors = "a"\nkey = "{uri}"\n')
    assert DeviceFile.load(path, {}, {}).key == uri


def test_options_come_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    text = 'ldevid_key = "P-384"\nmax_connections = 2\nregistrars = ["a.example:1"]\n'
    environment = {"BRSKI_PLEDGE_MAX_CONNECTIONS": "3", "BRSKI_PLEDGE_REGISTRARS": "b.example:1, c.example:2", "X": "y"}
    device = load(tmp_path, text, environment, registrars=["d.example:3"])
    assert device.settings.ldevid_key == "P-384"
    assert device.settings.max_connections == 3
    assert device.settings.registrars == ("d.example:3",)
    assert load(tmp_path, text, environment).settings.registrars == ("b.example:1", "c.example:2")


def test_the_environment_speaks_every_kind_of_value(tmp_path: Path) -> None:
    environment = {
        "BRSKI_PLEDGE_MDNS": "FALSE",
        "BRSKI_PLEDGE_ATTEMPT_SPACING": "3.5",
        "BRSKI_PLEDGE_TRUSTED_CLOCK": "true",
        "BRSKI_PLEDGE_EST_LABEL": "plant-1",
        "BRSKI_PLEDGE_ONCE": "false",
    }
    device = load(tmp_path, "", environment)
    assert device.trusted_clock
    assert (device.settings.mdns, device.settings.attempt_spacing) == (False, 3.5)
    assert (device.settings.est_label, device.settings.once) == ("plant-1", False)


@pytest.mark.parametrize(
    ("name", "value"), [("MDNS", "maybe"), ("MAX_CONNECTIONS", "many"), ("FROBNICATE", "1"), ("LDEVID_KEY", "DSA")]
)
def test_a_wrong_variable_is_named(name: str, value: str, tmp_path: Path) -> None:
    variable = f"BRSKI_PLEDGE_{name}"
    with pytest.raises(Misconfigured) as caught:
        load(tmp_path, "", {variable: value})
    assert caught.value.detail.startswith(variable)
    with pytest.raises(Misconfigured) as caught:
        DeviceFile.state_of(None, tmp_path, {variable: value})
    assert caught.value.detail.startswith(variable)


def test_a_wrong_option_is_not_said_to_be_in_the_file(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="options: registrars: "):
        load(tmp_path, 'registrars = ["a.example:1"]', registrars=["nonsense"])


def test_for_the_state_alone_no_more_is_needed_but_all_is_judged(tmp_path: Path) -> None:
    path = tmp_path / "pledge.toml"
    path.write_text('state = "s"\n')
    assert DeviceFile.state_of(path, None, {}) == tmp_path / "s"
    assert DeviceFile.state_of(path, Path("there"), {}) == Path("there")
    for text, names in (("frobnicate = 1", "frobnicate"), ("mdns = 5", "mdns"), ("certificate = 5", "certificate")):
        path.write_text(f'state = "s"\n{text}\n')
        with pytest.raises(Misconfigured, match=rf"pledge\.toml: {names}"):
            DeviceFile.state_of(path, None, {})
    path.write_text('state = "a\\u0000b"\n')
    with pytest.raises(Misconfigured, match="a path is allowed"):
        DeviceFile.state_of(path, None, {})


def test_at_a_console_one_round_is_enough_unless_somebody_says_otherwise(tmp_path: Path) -> None:
    assert load(tmp_path).settings.once
    assert not load(tmp_path, "once = false").settings.once
    assert not PledgeSettings().once, "a device never gives up"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("frobnicate = 1", "frobnicate"),
        ('mdns = "yes"', "mdns"),
        ("registrars = 1", "registrars"),
        ('registrars = ["nonsense"]', "registrars"),
        ("registrars = [1]", "registrars"),
        ('cloud_registrar = "not a name"', "pledge.toml: cloud_registrar: 'not a name'"),
        ('renewal_registrar = "nonsense"', "pledge.toml: renewal_registrar: 'nonsense'"),
        ('ldevid_key = "DSA"', "ldevid_key"),
        ("max_connections = 0", "max_connections"),
        ("max_connections = -1", "max_connections"),
        ("keep_asking = true", "keep_asking"),
        ("assertions = []", "assertions"),
        ('assertions = ["hearsay"]', "assertions"),
        ('est_label = "../x"', "est_label"),
        ("est_label = 5", "est_label"),
        ('voucher_signer_oid = "x.y"', "voucher_signer_oid"),
        ('retry_after = "soon"', "retry_after"),
        ('trusted_clock = "no"', "trusted_clock"),
        ("voucher_anchors = 5", "TOML"),
    ],
)
def test_a_wrong_value_names_file_key_and_what_is_allowed(text: str, names: str, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured) as caught:
        load(tmp_path, text)
    assert names in caught.value.detail or caught.value.reason == "settings-malformed"
    assert "pledge.toml" in caught.value.detail


def test_every_setting_that_is_wrong_in_code_is_refused_too() -> None:
    for each in fields(PledgeSettings):
        with pytest.raises(Misconfigured):
            PledgeSettings(**{each.name: object()})  # type: ignore[arg-type] # that is what is shown


def test_the_cloud_comes_last_among_the_offers() -> None:
    settings = PledgeSettings(registrars=("a.example:1",), cloud_registrar="cloud.example")
    assert settings.offers == (Offer("a.example", 1), Offer("cloud.example", 443))
    assert [offer.source for offer in settings.offers] == [Source.CONFIGURED, Source.CLOUD]


@pytest.mark.req("DS-08", "TL-09", "HT-05", "D-3", "D-13")
def test_the_defaults_are_those_of_the_standard() -> None:
    settings = PledgeSettings()
    assert 3 <= settings.attempt_spacing <= 5
    assert settings.stall_after == 5
    assert settings.keep_asking == 4 * 24 * 3600
    assert settings.nonceless_vouchers
    assert settings.mdns
    assert not settings.grasp
