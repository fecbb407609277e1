"""A small, seeded share of `make fuzz` in every test run, and proof that the fuzzer finds what it is for."""

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from brski_common import der, strictcbor
from brski_common.artifact import Format
from brski_common.errors import Malformed
from tests.fuzz import __main__ as command
from tests.fuzz import running, seeds
from tests.fuzz.layouts import CBOR, DER, JSON, Layout, indexed
from tests.fuzz.mutation import Mutator
from tests.fuzz.running import ACCEPTED, Feeder, run_chunk
from tests.fuzz.signed import Broken
from tests.fuzz.targets import TARGETS, Target

INPUTS = 2_000  # of each target; `make fuzz` runs a million
SEED = "8995"


@pytest.mark.req("AT-10")
@pytest.mark.parametrize("name", TARGETS)
def test_bad_input_raises_only_the_suites_errors_within_its_bounds(name: str) -> None:
    tally = run_chunk(name, SEED, 0, INPUTS)
    assert tally.findings == []
    assert tally.inputs == INPUTS
    assert tally.accepted, "the good inputs are not taken: then nothing behind the first reader is reached"


# The inputs


def test_the_same_seed_gives_the_same_inputs() -> None:
    corpus = seeds.signed(Format.CMS)
    one, other, third = (Mutator(Random(seed), corpus) for seed in ("1", "1", "2"))
    first = [one.mutate(corpus[0]) for _ in range(50)]
    assert first == [other.mutate(corpus[0]) for _ in range(50)]
    assert first != [third.mutate(corpus[0]) for _ in range(50)]


_ELEMENTS = (der.integer(5), der.octet_string(der.sequence(der.oid("1.2.3"))), der.set_of(der.boolean(True)))
Read = Callable[[bytes], object]


@pytest.mark.parametrize(
    ("layout", "read", "data"),
    [
        (DER, der.parse, der.sequence(*_ELEMENTS)),
        (CBOR, strictcbor.loads, bytes.fromhex("a2016161024482f6820a")),
        (JSON, json.loads, b'{"a":[1,{"b":"c"},null],"d":true}'),
    ],
    ids=["der", "cbor", "json"],
)
def test_a_structural_edit_keeps_everything_around_it_readable(layout: Layout, read: Read, data: bytes) -> None:
    found, nodes = indexed(data)
    assert found is layout
    assert len(nodes) >= 3
    for node in nodes:
        assert layout.with_unit(data, node, data[node.start : node.end]) == data
        if node.start > 0:
            read(layout.with_unit(data, node, b"", -1))


def test_what_is_inside_base64_inside_json_is_mutated_as_what_it_is() -> None:
    """Some inputs must get as far as a certificate in an x5c that is well-formed base64 and ASN.1 but changed."""
    corpus = [seed for seed in seeds.signed(Format.JWS) if b"payload" in seed][:1]
    mutator = Mutator(Random(7), corpus)
    changed = {tuple(chain) for _ in range(3000) for chain in _x5c(mutator.mutate(corpus[0]))}
    (original,) = _x5c(corpus[0])
    assert len(changed - {tuple(original)}) > 10


def _x5c(data: bytes) -> Iterator[list[bytes]]:
    try:
        protected = json.loads(data)["signatures"][0]["protected"]
        headers = json.loads(base64.urlsafe_b64decode(protected + "=="))
        chain = [base64.b64decode(text, validate=True) for text in headers["x5c"]]
        for certificate in chain:
            der.parse(certificate)
    except (ValueError, TypeError, LookupError, Malformed, AttributeError):
        return
    yield chain


# The runner


def feeder(read: object, *corpus: bytes) -> Feeder:
    return Feeder(Target("toy", read, lambda: corpus or (b"{}",)))  # type: ignore[arg-type]  # any reader will do


def escape(data: bytes) -> None:
    if b"x" in data:
        raise LookupError("escaped")


def test_an_escape_is_found_once_with_its_input_and_traceback() -> None:
    fed = feeder(escape)
    for data in (b"a", b"x1", b"x2"):
        fed.feed(data)
    (finding,) = fed.tally.findings
    assert (finding.kind, finding.data) == ("escape", b"x1")
    assert "escaped" in finding.detail
    assert fed.tally.accepted == 1


def test_a_broken_property_is_a_finding_and_a_refusal_is_none() -> None:
    def read(data: bytes) -> None:
        if data == b"bad":
            raise Broken("they differ")
        raise Malformed("toy-malformed")

    fed = feeder(read)
    assert fed.feed(b"fine")
    assert not fed.feed(b"fine")
    fed.feed(b"bad")
    assert fed.tally.outcomes == {"toy-malformed", "broken"}
    assert [finding.kind for finding in fed.tally.findings] == ["broken"]


def test_a_reader_that_is_always_slow_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "MAX_SECONDS", 0.002)
    warmed: list[bytes] = []

    def read(data: bytes) -> None:
        if data == b"always" or not warmed:
            sum(range(400_000))
        warmed.append(data)

    fed = feeder(read)
    fed.feed(b"first")
    assert fed.tally.findings == []
    fed.feed(b"always")
    assert [finding.kind for finding in fed.tally.findings] == ["slow"]


def test_a_reader_that_hoards_memory_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    held = [0]  # KiB
    monkeypatch.setattr(running, "_peak", lambda: sum(held))
    fed = feeder(lambda data: held.append(running.MAX_GROWTH + len(data)))
    fed.feed(b"")
    assert fed.tally.findings == []
    fed.feed(b"bomb")
    assert [finding.kind for finding in fed.tally.findings] == ["memory"]


def test_memory_is_measured_in_kibibytes_of_the_whole_process() -> None:
    assert running._peak() > 10 * 1024


def test_a_reader_that_does_not_come_back_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "HANG_SECONDS", 0.05)

    def read(data: bytes) -> None:
        while data:
            pass

    tally = feeder(read, b"loop").run(SEED, 0, 1)
    assert [finding.kind for finding in tally.findings][:1] == ["hang"]


def test_an_input_that_ends_in_a_new_way_becomes_a_seed() -> None:
    def read(data: bytes) -> None:
        raise Malformed(f"first-octet-{data[:1].hex()}")

    fed = feeder(read, b"\x30\x03\x02\x01\x05")
    outcomes = len(fed.run(SEED, 1, 500).outcomes)
    assert outcomes > 20


# The command


def test_a_finding_is_saved_and_can_be_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(TARGETS, "toy", Target("toy", escape, lambda: (b"{}",)))
    fed = Feeder(TARGETS["toy"])
    fed.feed(b"x")
    command._save(fed.tally.findings[0], tmp_path, SEED)  # the run itself is in other processes
    (saved,) = tmp_path.glob("toy-*.bin")
    assert "LookupError" in saved.with_suffix(".txt").read_text(encoding="utf-8")
    assert command.main(["--replay", str(saved)]) == 1
    assert "escape at" in capsys.readouterr().out
    saved.write_bytes(b"harmless")
    assert command.main(["--replay", str(saved)]) == 0
    assert ACCEPTED in capsys.readouterr().out


def test_the_command_runs_its_targets_over_processes_and_prints_a_row_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--inputs", "50", "--jobs", "1", "est-body", "grasp"]) == 0
    head, *rows, end = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["target", "inputs"]
    assert [row.split()[:2] for row in rows] == [["est-body", "50"], ["grasp", "50"]]
    assert end == "100 inputs, 0 findings"


def test_an_unknown_target_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["nonsense"]) == 2
    assert "no such target: nonsense" in capsys.readouterr().err
