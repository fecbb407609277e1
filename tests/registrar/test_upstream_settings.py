"""A CA elsewhere in the settings and on the command line: half of one is an error, and no command pretends to be it."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from typer.testing import CliRunner

from brski_common import est, tls
from brski_common import settings as common_settings
from brski_common.certificates import to_pem
from brski_common.errors import Misconfigured
from brski_common.http_client import HttpClient
from brski_registrar.commands.application import app
from brski_registrar.runtime import serving
from brski_registrar.settings import ENV_PREFIX, Settings
from tests.support.ca_fake import CaFake
from tests.support.world import Clock, Domain

DOMAIN, ELSEWHERE = Domain(), Domain(name="Elsewhere")
UPSTREAM = 'upstream = "https://ca.example:8443"\nupstream_anchors = "anchors/ca.pem"\n'
LOCAL = 'key = "file:keys/issuing.key"\ncertificates = "certificates/issuing.pem"\n'


def written(folder: Path, ca: str, domain: Domain = DOMAIN) -> Path:
    """A folder with a registrar of that domain, whose [ca] is as given."""
    key = domain.registrar.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "registrar.key").write_bytes(key)
    (folder / "registrar.key").chmod(0o600)
    (folder / "registrar.pem").write_bytes(to_pem(*domain.registrar.chain))
    (folder / "anchors").mkdir()
    (folder / "anchors/ca.pem").write_bytes(to_pem(DOMAIN.root.certificate))
    config = folder / "registrar.toml"
    identity = '[registrar]\nkey = "file:registrar.key"\ncertificates = "registrar.pem"\n'
    config.write_text(f"[listen]\nport = 0\n{identity}[ca]\n{ca}")
    return config


def loaded(config: Path) -> Settings:
    return common_settings.load(Settings, config, ENV_PREFIX, {})


def test_a_ca_elsewhere_needs_a_place_and_anchors(tmp_path: Path) -> None:
    ca = loaded(written(tmp_path, UPSTREAM + 'upstream_label = "line-4"\ncsr_key = "P-384"\n')).ca
    assert (ca.upstream, ca.upstream_label) == ("https://ca.example:8443", "line-4")
    assert ca.upstream_anchors == tmp_path / "anchors/ca.pem"


@pytest.mark.parametrize(
    ("ca", "told"),
    [
        ("", "key and certificates come together"),
        ('key = "file:keys/issuing.key"', "key and certificates come together"),
        ('certificates = "certificates/issuing.pem"', "key and certificates come together"),
        ('upstream = "https://ca.example"', "upstream needs upstream_anchors"),
        ('upstream_anchors = "anchors/ca.pem"', "upstream is missing"),
        (LOCAL + 'upstream_anchors = "anchors/ca.pem"', "upstream is missing"),
        (LOCAL + 'upstream_label = "line-4"', "upstream is missing"),
        (LOCAL + UPSTREAM, "upstream is another CA than that of certificates, key"),
        (UPSTREAM + 'root_key = "file:root.key"', "upstream is another CA than that of root_key"),
        (UPSTREAM + 'upstream_label = "cacerts"', "est-label-invalid"),
        ('upstream = "http://ca.example"\nupstream_anchors = "a.pem"', "wanted is https://HOST"),
        ('upstream = "https://ca.example/est"\nupstream_anchors = "a.pem"', "wanted is https://HOST"),
        ('upstream = "https://me:pw@ca.example"\nupstream_anchors = "a.pem"', "wanted is https://HOST"),
        ('upstream = "https://ca.example?x"\nupstream_anchors = "a.pem"', "wanted is https://HOST"),
        ('upstream = "https://ca.example:99999"\nupstream_anchors = "a.pem"', "wanted is https://HOST"),
        ('upstream = "https://"\nupstream_anchors = "a.pem"', "wanted is https://HOST"),
    ],
)
def test_half_a_configuration_is_an_error_that_says_what_is_missing(tmp_path: Path, ca: str, told: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        loaded(written(tmp_path, ca))
    assert told in caught.value.detail
    assert caught.value.reason == "settings-invalid"
    assert "me:pw" not in caught.value.detail


@pytest.mark.req("E-24")
async def test_a_registrar_with_these_settings_hands_on_the_cas_certificates(tmp_path: Path) -> None:
    clock = Clock()
    async with CaFake.open(clock, label="line-4") as ca:
        text = UPSTREAM.replace("https://ca.example:8443", ca.server.url) + 'upstream_label = "line-4"\n'
        settings, context = loaded(written(tmp_path, text)), tls.client_context(None, judge=lambda _: None)
        async with serving(settings, clock=clock) as registrar, HttpClient(context) as client:
            response = await client.request("GET", f"{registrar.url}/.well-known/est/cacerts")
        assert set(est.parse_certs_only(est.decode_body(response.body))) == set(DOMAIN.issuing.chain)
        assert ca.questions == ["/.well-known/est/line-4/cacerts"]
        assert [peer and peer.chain for peer in ca.peers] == [DOMAIN.registrar.chain]


async def test_a_registrar_does_not_start_without_the_anchors(tmp_path: Path) -> None:
    settings = loaded(written(tmp_path, UPSTREAM))
    (tmp_path / "anchors/ca.pem").unlink()
    with pytest.raises(Misconfigured, match="certificates-unreadable"):
        async with serving(settings, clock=Clock()):
            pytest.fail("it started")


@pytest.mark.req("E-24")
async def test_a_registrar_takes_only_certificates_of_ras_as_such(tmp_path: Path) -> None:
    config = written(tmp_path, UPSTREAM + '[est]\nras = "ras.pem"\n')
    for named, fits in ((DOMAIN.registrar, True), (DOMAIN.ldevid("SN-1"), False)):
        (tmp_path / "ras.pem").write_bytes(to_pem(named.certificate))
        if fits:
            async with serving(loaded(config), clock=Clock()) as registrar:
                assert registrar.url
        else:
            with pytest.raises(Misconfigured, match="ra-certificate-unfit"):
                async with serving(loaded(config), clock=Clock()):
                    pytest.fail("it started")


@pytest.mark.parametrize(("domain", "warned"), [(DOMAIN, False), (ELSEWHERE, True)])
async def test_a_registrar_of_another_ca_is_warned_that_devices_will_not_know_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], domain: Domain, warned: bool
) -> None:
    async with serving(loaded(written(tmp_path, UPSTREAM, domain)), clock=Clock()):
        pass
    assert ("is not of the CA elsewhere" in capfd.readouterr().err) is warned


def run(*arguments: str | Path, code: int) -> Any:  # noqa: ANN401 -- whatever the command says
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"], prog_name="brski-registrar")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout) if code == 0 else result.output


@pytest.mark.parametrize("verb", ["renew", "export", "next-root", "change-root", "retire-root"])
def test_what_a_ca_elsewhere_has_to_do_no_command_here_does(tmp_path: Path, verb: str) -> None:
    config = written(tmp_path, UPSTREAM)
    output = run("ca", verb, "--config", config, code=1)
    assert "ca-elsewhere" in output
    assert "https://ca.example:8443" in output


def test_the_anchors_of_a_ca_elsewhere_are_shown(tmp_path: Path) -> None:
    shown = run("ca", "show", "--config", written(tmp_path, UPSTREAM), code=0)
    assert [each["role"] for each in shown] == ["registrar", "anchor of https://ca.example:8443"]
    assert x509.Name.from_rfc4514_string(shown[1]["subject"]) == DOMAIN.root.certificate.subject
