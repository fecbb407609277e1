"""The commands, as an operator and a script use them."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from brski_common import artifact, cli, keys
from brski_common.artifact import Format
from brski_common.certificates import domain_id, load_pem, masa_url, serial_number, spki_sha256, to_pem
from brski_common.paths import Anchors
from brski_common.voucher import Assertion
from brski_masa.__main__ import main
from brski_masa.audit import Entry, Link
from brski_masa.commands.showing import show_entries
from tests.support.world import Domain, key_for

TODAY = datetime.now(UTC)
PLANT = Domain("CLI Plant", now=TODAY)


class Tool:
    """`brski-masa` on one maker's folder."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capture = folder, capture
        self.config = folder / "masa.toml"

    def run(self, *words: str | Path) -> tuple[int, str, str]:
        self.capture.readouterr()
        code = main([str(word) for word in words])
        said = self.capture.readouterr()
        return code, said.out, said.err

    def ask(self, *words: str | Path) -> Any:  # noqa: ANN401 -- any JSON
        code, out, err = self.run(*words, "--config", self.config, "--json")
        assert code == 0, err
        return json.loads(out)


@pytest.fixture
def tool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Tool:
    made = Tool(tmp_path / "maker", capsys)
    assert made.run("init", made.folder, "--name", "CLI Maker")[0] == 0
    (tmp_path / "plant.pem").write_bytes(to_pem(PLANT.root.certificate))
    return made


def test_init_makes_settings_keys_and_anchors_and_does_it_once(tool: Tool) -> None:
    assert {path.name for path in (tool.folder / "anchors").iterdir()} == {"voucher.pem", "tls.pem", "manufacturer.pem"}
    for private in (tool.config, *(tool.folder / "keys").glob("*.key.pem")):
        assert private.stat().st_mode & 0o777 == 0o600
    assert (tool.folder / "keys").stat().st_mode & 0o077 == 0
    code, _, err = tool.run("init", tool.folder)
    assert (code, "already-there" in err) == (1, True)
    code, _, err = tool.run("init", tool.config)
    assert (code, f"{tool.config} is a file; name a new folder" in err) == (1, True)


@pytest.mark.parametrize("words", [("auditlog", "verify"), ("device", "list")])
def test_a_database_that_is_gone_is_missed_and_not_made_anew(tool: Tool, words: tuple[str, ...]) -> None:
    """An empty log is in order: a log that was taken away must not pass for one."""
    (tool.folder / "masa.db").unlink()
    code, _, err = tool.run(*words, "--config", tool.config)
    assert (code, "database-missing" in err) == (1, True)
    assert not (tool.folder / "masa.db").exists()


def test_all_paths_that_init_prints_are_absolute(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = Tool(tmp_path, capsys).run("init", "maker")
    shown = dict(line.split() for line in out.splitlines())
    assert code == 0
    assert shown["settings"] == str(tmp_path / "maker" / "masa.toml")
    assert all(Path(path).is_absolute() for path in shown.values())


def test_the_next_steps_that_init_names_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tool = Tool(tmp_path / "a maker", capsys)
    _, _, said = tool.run("init", tool.folder)
    steps = [shlex.split(line) for line in said.splitlines() if line.startswith("  brski-masa ")]
    (tmp_path / "domain-ca.pem").write_bytes(to_pem(PLANT.root.certificate))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        for step in steps[:2]:
            code, _, said = tool.run(*step[1:])
            assert (code, said) == (0, "")
    assert [step[1] for step in steps] == ["owner", "idevid", "serve"]
    (device,) = tool.ask("device", "list")
    assert device["owner"] == "Example Plant"


@pytest.mark.parametrize(
    ("options", "address", "names"),
    [
        ((), "127.0.0.1", ["127.0.0.1", "localhost"]),
        (("--host", "192.0.2.7"), "192.0.2.7", ["192.0.2.7"]),
        (("--host", "masa.example"), "::", ["masa.example"]),
        (("--host", "masa.example", "--listen", "127.0.0.1"), "127.0.0.1", ["masa.example"]),
    ],
)
def test_where_it_listens_is_apart_from_what_it_is_called(
    tool: Tool, tmp_path: Path, options: tuple[str, ...], address: str, names: list[str]
) -> None:
    folder = tmp_path / "other"
    assert tool.run("init", folder, *options)[0] == 0
    assert tomllib.loads((folder / "masa.toml").read_text())["listen"]["host"] == address
    leaf = load_pem((folder / "keys" / "tls.chain.pem").read_bytes())[0]
    said = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in said] == names


def test_an_owner_whom_nobody_can_be_recognised_as_is_told(tool: Tool, tmp_path: Path) -> None:
    at = ("--config", tool.config)
    for words in (("owner", "add", "Ex"), ("idevid", "--serial", "W1", "--key", "P-256", "--owner", "Ex", "--out")):
        path = (tmp_path / "w1",) if words[-1] == "--out" else ()
        code, _, err = tool.run(*words, *path, *at)
        assert code == 0
        assert "nobody can be recognised as Ex yet" in err
        assert "brski-masa owner add Ex --anchor domain-ca.pem" in err
    assert "known only by http-user" in tool.run("owner", "add", "Ex", "--user", "ex", *at)[2]
    assert tool.run("owner", "add", "Ex", "--anchor", tmp_path / "plant.pem", *at)[2] == ""
    assert tool.run("device", "assign", "W1", "--owner", "Ex", *at)[2] == ""


def test_keys_given_as_anchors_are_told_with_their_file(tool: Tool) -> None:
    key = tool.folder / "keys" / "tls.key.pem"
    code, _, err = tool.run("owner", "add", "Ex", "--anchor", key, "--config", tool.config)
    assert code == 1
    assert f"certificates-unreadable: {key}: a private key, where PEM certificates are wanted" in err
    assert "http" not in err


@pytest.mark.req("D-14", "MA-25")
def test_three_roots_share_no_key(tool: Tool) -> None:
    names = ("voucher", "tls", "manufacturer")
    roots = [load_pem((tool.folder / "anchors" / f"{name}.pem").read_bytes())[0] for name in names]
    assert len(set(map(spki_sha256, roots))) == 3


@pytest.mark.req("ID-01", "ID-03", "AR-09", "AR-02")
def test_idevid_for_simulated_devices(tool: Tool, tmp_path: Path) -> None:
    out = tmp_path / "devices"
    made = tool.ask("idevid", "--serial", "A/1", "--serial", "A2", "--key", "P-384", "--owner", "Plant", "--out", out)
    assert [each["serial-number"] for each in made] == ["A/1", "A2"]
    chain = load_pem((Path(made[0]["folder"]) / "chain.pem").read_bytes())
    assert (serial_number(chain[0]), masa_url(chain[0]), len(chain)) == ("A/1", "127.0.0.1:9443", 3)
    keys.load_credential(f"file:{out}/A2/key.pem", out / "A2" / "chain.pem")
    listed = tool.ask("device", "list")
    assert {(each["serial-number"], each["owner"]) for each in listed} == {("A/1", "Plant"), ("A2", "Plant")}
    assert tool.ask("idevid", "--lint", out / "A2" / "chain.pem") == []
    code, _, err = tool.run(
        "idevid", "--serial", "A2", "--key", "P-256", "--out", tmp_path / "again", "--config", tool.config
    )
    assert (code, "device-registered" in err) == (1, True)


@pytest.mark.req("AR-06", "ID-01")
def test_idevid_from_a_csr_takes_only_its_key(tool: Tool, tmp_path: Path) -> None:
    key = key_for("cli device")
    lies = x509.Name([x509.NameAttribute(x509.NameOID.SERIAL_NUMBER, "somebody else")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(lies)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    (tmp_path / "device.csr").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    made = tool.ask("idevid", "--serial", "C1", "--csr", tmp_path / "device.csr", "--out", tmp_path / "c1")
    assert made["key"] is None
    assert not (tmp_path / "c1" / "key.pem").exists()
    assert serial_number(load_pem((tmp_path / "c1" / "idevid.pem").read_bytes())[0]) == "C1"
    assert tool.ask("idevid", "--lint", tmp_path / "c1" / "chain.pem") == []
    assert tool.run("idevid", "--lint", tmp_path / "c1" / "chain.pem") == (0, "no faults\n", "")
    (tmp_path / "broken.csr").write_bytes(b"nonsense")
    code, _, err = tool.run(
        "idevid", "--serial", "C2", "--csr", tmp_path / "broken.csr", "--out", tmp_path / "c2", "--config", tool.config
    )
    assert code == 1
    assert "csr-malformed" in err


def test_a_private_key_in_place_of_a_request_is_named(tool: Tool, tmp_path: Path) -> None:
    keys.save(tmp_path / "C1.key", key_for("cli device"))
    made = ("idevid", "--serial", "C1", "--csr", tmp_path / "C1.key", "--out", tmp_path / "c1")
    code, _, err = tool.run(*made, "--config", tool.config)
    told = "csr-malformed: this is a private key; a request (PKCS#10) that it signed is wanted"
    assert (code, err) == (1, f"brski-masa: {told}\n")
    assert not (tmp_path / "c1").exists()


@pytest.mark.req("AR-06")
def test_one_request_makes_no_two_devices(tool: Tool, tmp_path: Path) -> None:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    csr = tmp_path / "S1.csr"
    csr.write_bytes(builder.sign(key_for("S1"), hashes.SHA256()).public_bytes(Encoding.PEM))
    tool.ask("idevid", "--serial", "S1", "--csr", csr, "--out", tmp_path / "S1")
    second = ("idevid", "--serial", "S2", "--csr", csr, "--out", tmp_path / "S2")
    code, _, err = tool.run(*second, "--config", tool.config)
    assert (code, "key-taken: the key of S2 is registered for S1" in err) == (1, True)
    assert not (tmp_path / "S2" / "idevid.pem").exists()
    assert [each["serial-number"] for each in tool.ask("device", "list")] == ["S1"]
    assert tool.ask(*second, "--unsafe-shared-key")["serial-number"] == "S2"


@pytest.mark.parametrize("words", [("idevid", "--serial", "X"), ("device", "assign", "--serial", "X"), ("nonsense",)])
def test_wrong_usage_is_exit_2(tool: Tool, words: tuple[str, ...]) -> None:
    assert tool.run(*words, "--config", tool.config)[0] == 2


def test_devices_are_assigned_blocked_and_set(tool: Tool, tmp_path: Path) -> None:
    tool.ask("idevid", "--serial", "D1", "--key", "P-256", "--out", tmp_path / "d1")
    tool.ask("owner", "add", "Plant", "--anchor", tmp_path / "plant.pem", "--pin", "highest-ca")
    assert tool.ask("device", "assign", "--serial", "D1", "--owner", "Plant")["owner"] == "Plant"
    assert tool.ask("device", "block", "--serial", "D1", "--reason", "stolen")["blocked"] == "stolen"
    assert tool.ask("device", "block", "--serial", "D1", "--lift")["blocked"] is None
    changed = tool.ask("device", "set", "--serial", "D1", "--policy", "first-come", "--formats", "cms,jws")
    assert (changed["policy"], changed["formats"]) == ("first-come", ["cms", "jws"])
    assert tool.ask("device", "set", "--serial", "D1", "--formats", "any", "--policy", "default")["formats"] == []
    assert tool.ask("device", "assign", "--serial", "D1", "--nobody")["owner"] is None
    owners = tool.ask("owner", "list")
    assert owners[0]["pin"] == "highest-ca"
    assert tool.ask("device", "show", "D1") == tool.ask("device", "show", "--serial", "D1")
    assert tool.ask("device", "block", "D1", "--reason", "stolen")["blocked"] == "stolen"
    assert tool.run("device", "show", "D1", "--serial", "D2", "--config", tool.config)[0] == 2
    assert tool.run("device", "show", "--config", tool.config)[0] == 2
    code, _, err = tool.run("device", "show", "--serial", "unknown", "--config", tool.config)
    assert (code, "device-unknown" in err) == (1, True)


@pytest.mark.req("ID-01")
def test_devices_made_elsewhere_are_registered(tool: Tool, tmp_path: Path) -> None:
    from tests.masa.plant import MAKER

    chain = MAKER.idevid("ELSEWHERE-1").chain
    (tmp_path / "elsewhere.pem").write_bytes(to_pem(*chain))
    assert tool.ask("device", "add", tmp_path / "elsewhere.pem")[0]["serial-number"] == "ELSEWHERE-1"
    assert tool.ask("device", "show", "--serial", "ELSEWHERE-1")["findings"] == []


def test_password_of_an_http_user_is_shown_once(tool: Tool) -> None:
    made = tool.ask("owner", "add", "Plant", "--user", "plant")
    assert len(made["password"]) >= 32
    assert made["password"] not in json.dumps(tool.ask("owner", "list"))


@pytest.mark.req("RS-11", "MA-18", "AL-17")
def test_nonceless_voucher_is_issued_logged_and_the_log_verified(tool: Tool, tmp_path: Path) -> None:
    tool.ask("idevid", "--serial", "V1", "--key", "P-256", "--out", tmp_path / "v1")
    out = tmp_path / "v1.vcj"
    tool.ask("voucher", "issue", "--serial", "V1", "--pin", tmp_path / "plant.pem", "--days", "3", "--out", out)
    anchors = Anchors(load_pem((tool.folder / "anchors" / "voucher.pem").read_bytes()))
    voucher = artifact.parse_voucher(out.read_bytes(), Format.CMS).verify(anchors, datetime.now(UTC)).value
    assert (voucher.nonce, voucher.serial_number) == (None, "V1")
    listed = tool.ask("voucher", "list", "V1")
    assert listed == tool.ask("voucher", "list", "--serial", "V1")
    assert tool.ask("auditlog", "show", "V2") == []
    assert [(each["assertion"], each["requester"]) for each in listed] == [("verified", "operator")]
    head = tool.ask("auditlog", "verify")
    assert head == {"entries": 1, "head": listed[0]["hash"]}
    assert tool.ask("auditlog", "verify", "--head", head["head"])
    code, _, err = tool.run("auditlog", "verify", "--head", "0f" * 32, "--config", tool.config)
    assert (code, "audit-log-broken" in err) == (1, True)


def test_a_log_that_holds_is_called_intact(tool: Tool, tmp_path: Path) -> None:
    verify = ("auditlog", "verify", "--config", tool.config)
    assert tool.run(*verify) == (0, f"entries  0\nhead     {'00' * 32}\nlog      intact: no entry yet\n", "")
    tool.ask("idevid", "--serial", "V1", "--key", "P-256", "--out", tmp_path / "v1")
    tool.ask("voucher", "issue", "V1", "--pin", tmp_path / "plant.pem", "--out", tmp_path / "v1.vcj")
    head = tool.ask("auditlog", "verify")["head"]
    code, out, _ = tool.run(*verify)
    assert (code, out.splitlines()[:2]) == (0, ["entries  1", f"head     {head}"])
    assert "log      intact: every entry is as it was written; that none is missing at its end, --head" in out
    code, out, _ = tool.run(*verify, "--head", head)
    assert (code, "intact: every entry is as it was written, and the head that you noted is in it" in out) == (0, True)


def test_a_device_is_shown_with_its_vouchers_as_a_table(tool: Tool, tmp_path: Path) -> None:
    made = tool.ask("idevid", "--serial", "V1", "--key", "P-256", "--out", tmp_path / "v1")
    code, out, _ = tool.run("device", "show", "V1", "--config", tool.config)
    assert (code, out.splitlines()[-1]) == (0, "no voucher was issued for it yet")
    for _ in range(2):
        tool.ask("voucher", "issue", "V1", "--pin", tmp_path / "plant.pem", "--out", tmp_path / "v1.vcj")
    code, out, _ = tool.run("device", "show", "V1", "--config", tool.config)
    domain = domain_id(PLANT.root.certificate).hex()
    rows = [line.split() for line in out.splitlines() if domain[:12] in line]
    assert [(row[0], row[3:]) for row in rows] == [
        (number, ["verified", f"{domain[:12]}…", "no", "operator"]) for number in ("2", "1")
    ]
    assert "datetime" not in out
    assert f"idevid-issuer  {made['idevid-issuer']}" in out
    shown = tool.ask("device", "show", "V1")
    assert shown["idevid-issuer"] == made["idevid-issuer"]
    assert [(each["number"], each["domain-id"]) for each in shown["vouchers"]] == [(2, domain), (1, domain)]
    assert datetime.fromisoformat(shown["vouchers"][0]["date"]).tzinfo == UTC


def test_the_vouchers_of_a_device_fit_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "PIPE_WIDTH", 80)
    entry = Entry(
        device_id=1,
        serial_number="V1",
        idevid_issuer=b"issuer",
        date=TODAY,
        domain_id=bytes(20),
        pinned_key=bytes(32),
        nonce="AAAA",
        assertion=Assertion.PROXIMITY,
        expires_on=None,
        owner=None,
        request=bytes(32),
        requester=f"tls:{'5e' * 32}",
    )
    show_entries([Link(100_000, entry, bytes(32))], empty="none")
    said = capsys.readouterr().out
    assert "requester" in said.splitlines()[1], "a table, not a block of lines"
    assert all(cells in said for cells in ("100000", "proximity", f"{'00' * 6}…", "yes", f"tls:{'5e' * 6}…"))


@pytest.mark.req("AL-17")
def test_the_head_of_an_empty_log_is_the_beginning_of_every_log(tool: Tool, tmp_path: Path) -> None:
    empty = tool.ask("auditlog", "verify")
    assert empty == {"entries": 0, "head": "00" * 32}
    assert tool.ask("auditlog", "verify", "--head", empty["head"]) == empty
    tool.ask("idevid", "--serial", "V1", "--key", "P-256", "--out", tmp_path / "v1")
    tool.ask("voucher", "issue", "V1", "--pin", tmp_path / "plant.pem", "--out", tmp_path / "v1.vcj")
    assert tool.ask("auditlog", "verify", "--head", empty["head"])["entries"] == 1


@pytest.mark.parametrize("head", ["xyz", "00", "00" * 31 + "0g", "00" * 33, ""])
def test_what_is_no_hash_says_nothing_about_the_log(tool: Tool, head: str) -> None:
    code, _, err = tool.run("auditlog", "verify", "--head", head, "--config", tool.config)
    assert (code, "64 hexadecimal digits" in " ".join(err.replace("│", " ").split())) == (2, True)
    assert "audit-log-broken" not in err


@pytest.mark.req("AT-17", "MA-25")
@pytest.mark.parametrize("use", ["voucher", "voucher-nonceless", "tls"])
def test_keys_rotate_under_the_same_root(tool: Tool, use: str) -> None:
    stem = tool.folder / "keys" / use
    before = load_pem(stem.with_name(f"{use}.chain.pem").read_bytes())
    tool.ask("key", "rotate", use)
    after = load_pem(stem.with_name(f"{use}.chain.pem").read_bytes())
    assert before[0].public_key() != after[0].public_key()
    assert before[1:] == after[1:]
    keys.load_credential(f"file:{stem}.key.pem", stem.with_name(f"{use}.chain.pem"))
    assert {each["use"] for each in tool.ask("key", "list")} == {"tls", "voucher", "voucher-nonceless", "idevid-ca"}


def test_a_rotation_tells_what_is_left_to_do(tool: Tool) -> None:
    code, _, err = tool.run("key", "rotate", "tls", "--config", tool.config)
    assert (code, "restart the service" in err, ".old" in err) == (0, True, True)
    assert (tool.folder / "keys" / "tls.key.pem.old").exists()


@pytest.mark.parametrize(
    ("root", "words"),
    [
        ("voucher-root", ("key", "rotate", "voucher")),
        ("voucher-root", ("key", "rotate", "voucher-nonceless")),
        ("tls-root", ("key", "rotate", "tls")),
        ("idevid-ca", ("idevid", "--serial", "R1", "--key", "P-256", "--out", "OUT")),
    ],
)
def test_a_key_that_was_put_away_is_asked_for(tool: Tool, tmp_path: Path, root: str, words: tuple[str, ...]) -> None:
    words = tuple(word.replace("OUT", str(tmp_path / "out")) for word in words)
    kept, away = tool.folder / "keys" / f"{root}.key.pem", tmp_path / "away.pem"
    kept.rename(away)
    code, _, err = tool.run(*words, "--config", tool.config)
    assert (code, f"{root}-key-missing: {kept}: " in err, "bring it back" in err) == (1, True, True)
    assert not list((tool.folder / "keys").glob("*.old"))
    away.rename(kept)
    assert tool.run(*words, "--config", tool.config)[0] == 0


def test_human_output_is_a_table_and_errors_are_one_line(tool: Tool) -> None:
    code, out, _ = tool.run("key", "list", "--config", tool.config)
    assert code == 0
    assert "CLI Maker" in out
    code, out, err = tool.run("device", "list", "--config", tool.folder / "missing.toml", "--json")
    assert (code, json.loads(out)["error"]) == (1, "settings-unreadable")
    assert len(err.strip().splitlines()) == 1
    code, out, err = tool.run("serve", "--config", tool.folder / "missing.toml", "--json")
    assert (code, json.loads(out)["error"]) == (1, "settings-unreadable")
    assert "make one with `brski-masa init DIR`" in err


def test_every_command_has_an_example(tool: Tool) -> None:
    words = [
        "",
        "init",
        "serve",
        "idevid",
        "device",
        "owner",
        "voucher",
        "auditlog",
        "key",
        "device list",
        "key rotate",
    ]
    for word in words:
        code, out, _ = tool.run(*word.split(), "--help")
        assert code == 0
        if word:
            assert "Example" in re.sub(r"\s+", " ", out)


def test_serve_says_where_it_listens_and_stops_cleanly(tool: Tool) -> None:
    environment = {**os.environ, "BRSKI_MASA_LISTEN__PORT": "0"}
    command = [sys.executable, "-m", "brski_masa", "serve", "--config", str(tool.config), "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
    ) as process:
        assert process.stdout is not None
        line = json.loads(process.stdout.readline())
        assert line["event"] == "listening"
        assert re.fullmatch(r"https://127\.0\.0\.1:\d+", line["url"])
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 0
        assert "Traceback" not in errors
        assert [json.loads(each)["event"] for each in errors.splitlines()] == ["listening", "stopping"]


INTERRUPTED = """
import signal, sys
MODULE = sys.argv.pop(1)
class Finder:
    def find_spec(self, name, *_):
        if name == MODULE:
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Finder())
from brski_masa.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("brski_common.errors", ("device", "list")),
        ("typer.models", ("device", "list", "--json")),
        ("brski_common.settings", ("serve", "--json")),
    ],
)
def test_ctrl_c_while_importing_is_one_line(module: str, words: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", INTERRUPTED, module, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "brski-masa: interrupted\n")
    expected = '{"error": "interrupted", "detail": ""}\n' if "--json" in words else ""
    assert done.stdout == expected


def test_serving_process_holds_no_console_libraries() -> None:
    code = (
        "import sys; sys.argv = ['brski-masa', 'serve', '--config', '/nonexistent.toml'];"
        "from brski_masa.__main__ import main; main();"
        "print([name for name in ('typer', 'rich', 'alembic', 'psycopg') if sys.modules.get(name)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
