from pathlib import Path

import pytest

from brski_common import settings as common_settings
from brski_common.errors import Misconfigured
from brski_registrar.settings import ENV_PREFIX, Settings

MINIMAL = """
[registrar]
key = "file:keys/registrar.key"
certificates = "certificates/registrar.pem"
[ca]
key = "file:keys/issuing.key"
certificates = "certificates/issuing.pem"
"""


def load(tmp_path: Path, more: str = "", environment: dict[str, str] | None = None) -> Settings:
    file = tmp_path / "registrar.toml"
    file.write_text(MINIMAL + more)
    return common_settings.load(Settings, file, ENV_PREFIX, environment or {})


@pytest.mark.req("RA-08", "D-13")
def test_the_defaults_are_the_careful_ones(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert settings.listen.host == "127.0.0.1"
    assert {settings.discovery.mdns, settings.discovery.proxy, settings.discovery.grasp} == {False}
    assert settings.discovery.interfaces == ()
    assert settings.masa.secrets == tmp_path / "secrets"
    assert settings.ca.addressing is None


def test_the_environment_wins(tmp_path: Path) -> None:
    assert load(tmp_path, environment={"BRSKI_REGISTRAR_LISTEN__PORT": "9000"}).listen.port == 9000


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("acp_domain = 'acp.example.com'", "come together"),
        ("csr_key = 'P-257'", "no such kind of key"),
        ("[listen]\nport = 70000", "listen.port"),
        ("[listen]\nprot = 1", "unknown key (allowed: host, port"),
        ("[est]\nlabels = ['simpleenroll']", "est-label-invalid"),
        ("[log]\nlevel = 'loud'", "allowed: debug, info, warning, error"),
    ],
)
def test_a_wrong_setting_is_told_with_what_is_allowed(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        load(tmp_path, text)
    assert told in caught.value.detail
    assert str(tmp_path / "registrar.toml") in caught.value.detail


@pytest.mark.req("DS-20")
def test_floods_come_at_most_once_a_minute(tmp_path: Path) -> None:
    assert load(tmp_path).discovery.flood_seconds == 60
    with pytest.raises(Misconfigured, match="flood_seconds"):
        load(tmp_path, "[discovery]\nflood_seconds = 59")


def test_acp_names_need_domain_and_registrar_id(tmp_path: Path) -> None:
    addressing = load(tmp_path, "acp_domain = 'acp.example.com'\nacp_registrar_id = '02005e100001'").ca.addressing
    assert addressing is not None
    assert addressing.registrar_id == 0x02005E100001
