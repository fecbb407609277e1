"""The whole conversation, on a stage: what a pledge says, to whom, in which order, and when it stops."""

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509

from brski_common import artifact, est, telemetry
from brski_common.artifact import Format
from brski_common.certificates import fingerprint, public_key_info, spki
from brski_common.csrwishes import ExtensionWish, KeyWish, Wishes
from brski_common.voucher import Assertion
from brski_pledge import actions, events
from brski_pledge.discovery import Source
from brski_pledge.phases import Phase
from brski_pledge.requests import GENERIC_REASON
from brski_pledge.settings import PledgeSettings
from tests.support.registrar_fake import Answer, FakeRegistrar, HangUp, Reply, Stage, with_pin
from tests.support.world import NOW, Domain, Manufacturer, key_for, self_signed_registrar


def onboarded(**kwargs: object) -> tuple[Stage, FakeRegistrar]:
    stage = Stage(**kwargs)  # type: ignore[arg-type] # as Stage takes them
    registrar = stage.add()
    stage.find()
    assert isinstance(stage.run(), actions.Done)
    return stage, registrar


def operations(registrar: FakeRegistrar) -> list[str]:
    return [send.path.rpartition("/")[2] for send in registrar.seen]


# The good way


@pytest.mark.req("ST-03", "EI-01", "EI-02", "EI-03", "EI-06", "EI-07", "VS-01", "PV-12")
def test_the_pledge_walks_from_discover_to_enrolled() -> None:
    stage, registrar = onboarded()
    assert stage.phases == [
        Phase.IDENTIFY,
        Phase.REQUEST,
        Phase.IMPRINT,
        Phase.ANCHORS,
        Phase.ATTRIBUTES,
        Phase.KEY,
        Phase.ENROLL,
        Phase.SAVE,
        Phase.CONFIRM,
    ]
    assert operations(registrar) == [
        "requestvoucher",
        "voucher_status",
        "cacerts",
        "csrattrs",
        "simpleenroll",
        "enrollstatus",
    ]
    assert stage.steps()[-1] == "operational"


@pytest.mark.req("VR-01", "VR-02", "EI-13", "E-11", "VS-01")
def test_every_request_has_its_path_and_media_type() -> None:
    _, registrar = onboarded()
    first, status, _, _, enroll, last = registrar.seen
    assert (first.method, first.path) == ("POST", "/.well-known/brski/requestvoucher")
    assert first.headers == {"Content-Type": "application/voucher-cms+json", "Accept": "application/voucher-cms+json"}
    assert first.body[0] == 0x30, "raw DER, no base64"
    assert (status.path, status.headers["Content-Type"]) == ("/.well-known/brski/voucher_status", "application/json")
    assert (enroll.path, enroll.headers["Content-Type"]) == ("/.well-known/est/simpleenroll", "application/pkcs10")
    est.read_csr(est.decode_body(enroll.body))
    assert last.path == "/.well-known/brski/enrollstatus"


@pytest.mark.req("VS-02", "EI-07")
def test_success_is_reported_with_the_two_members_that_must_be_there() -> None:
    _, registrar = onboarded()
    for operation in ("voucher_status", "enrollstatus"):
        (send,) = registrar.asked(operation)
        assert send.body == b'{"version":1,"status":true}'


@pytest.mark.req("TL-10", "EI-01", "EI-08")
def test_one_connection_serves_until_the_new_identity_opens_the_second() -> None:
    stage, registrar = onboarded()
    (first, second) = stage.did(actions.Connect)
    assert first.credential.certificate == stage.device.idevid.certificate
    done = stage.did(actions.Done)[0]
    assert second.credential.certificate == done.enrollment.credential.certificate
    assert done.confirmed
    sends = stage.did(actions.Send)
    closed = stage.did(actions.CloseConnection)
    assert len(closed) == 2
    order = [type(action) for _, action in stage.history]
    assert order.index(actions.CloseConnection) > order.index(actions.Persist)
    assert sends[-1].path.endswith("enrollstatus")
    assert len(registrar.clients) == 2


@pytest.mark.req("ID-14")
def test_tls_and_voucher_request_use_the_same_idevid() -> None:
    stage, registrar = onboarded()
    pvr = artifact.parse_voucher_request(registrar.asked("requestvoucher")[0].body, Format.CMS)
    pvr.verify_signed_by(stage.did(actions.Connect)[0].credential.certificate)


@pytest.mark.req("TL-15")
@pytest.mark.parametrize(("host", "name"), [("fe80::1%eth0", False), ("192.0.2.1", False), ("registrar.example", True)])
def test_no_name_is_sent_to_an_address(host: str, name: bool) -> None:
    stage = Stage()
    stage.add(host)
    stage.find(host)
    stage.run()
    assert {connect.server_name for connect in stage.did(actions.Connect)} == {name}


@pytest.mark.req("ST-04", "PV-13", "E-10", "EI-02")
def test_what_is_kept_is_complete() -> None:
    stage, registrar = onboarded()
    kept = stage.did(actions.Done)[0].enrollment
    assert spki(kept.credential.certificate) == public_key_info(kept.credential.key.public_key())
    assert kept.anchors == (registrar.domain.root.certificate,)
    assert kept.credential.chain[1:] == (registrar.domain.issuing.certificate,)
    assert artifact.parse_voucher(kept.voucher, Format.CMS).claimed.serial_number == stage.serial
    assert (kept.host, kept.port, kept.registrar) == ("192.0.2.1", 8443, registrar.domain.registrar.certificate)
    assert kept.enrolled_on == NOW


@pytest.mark.req("EI-15")
def test_one_certificate_is_asked_for() -> None:
    _, registrar = onboarded()
    assert len(registrar.asked("simpleenroll")) == 1


@pytest.mark.req("AR-07")
@pytest.mark.parametrize("kind", ["P-256", "P-384", "RSA-2048", "Ed25519"])
def test_every_kind_of_idevid_onboards(kind: str) -> None:
    onboarded(maker=Manufacturer(f"Maker of {kind}", kind=kind))


@pytest.mark.req("TL-06")
def test_a_lonely_self_signed_registrar_is_joined_if_the_voucher_pins_it() -> None:
    stage = Stage()
    lonely = self_signed_registrar()
    stage.add(credential=lonely, change_voucher=with_pin(lonely.certificate))
    stage.find()
    assert isinstance(stage.run(), actions.Done)


# Vouchers that do not hold


@pytest.mark.req("PV-11", "VS-01", "VS-03", "AT-21", "PV-12", "AT-01")
def test_a_rogue_registrar_hears_only_that_its_voucher_was_not_accepted() -> None:
    """It has a genuine voucher, but for another domain."""
    stage = Stage()
    rogue = stage.add(credential=Domain("Rogue").registrar)
    stage.find()
    stage.run(3)
    assert operations(rogue) == ["requestvoucher", "voucher_status"]
    (report,) = rogue.reports("voucher_status")
    assert report == telemetry.failure(GENERIC_REASON)
    assert stage.told(events.VoucherRefused)[0].reason == "registrar-not-pinned"
    assert stage.did(actions.CloseConnection)
    assert stage.told(events.AttemptFailed)[0].reason == "registrar-not-pinned"


@pytest.mark.req("DS-05", "PV-08", "PV-11", "HT-09", "DS-15")
def test_the_next_offer_is_tried_after_a_voucher_that_does_not_hold() -> None:
    stage = Stage()
    stage.add("192.0.2.1", change_voucher=lambda voucher: replace(voucher, pinned_domain_cert=None))
    good = stage.add("192.0.2.2")
    stage.find("192.0.2.1")
    stage.find("192.0.2.2")
    assert isinstance(stage.run(), actions.Done)
    assert operations(good)[-1] == "enrollstatus"
    assert stage.seconds == 0.0, "a failure needs no spacing"


@pytest.mark.req("AT-02", "ST-07", "DS-09", "VR-04")
def test_a_voucher_bought_with_an_old_request_is_worthless() -> None:
    stage = Stage()
    old: list[Reply] = []

    def replay(registrar: FakeRegistrar, send: actions.Send) -> Reply:
        old.append(registrar.behave("requestvoucher", send))
        return old[0]

    registrar = stage.add()
    registrar.script("requestvoucher", lambda r, s: (replay(r, s), HangUp())[1], replay)
    stage.find()
    stage.run(6)
    assert stage.told(events.VoucherRefused)[0].reason == "nonce-mismatch"
    nonces = [request.nonce for request in registrar.requests()]
    assert len(set(nonces)) == len(nonces) == 2


@pytest.mark.req("VR-04", "AT-11")
def test_nonces_never_repeat() -> None:
    from brski_common.voucher import new_nonce

    assert len({new_nonce() for _ in range(1000)}) == 1000


@pytest.mark.parametrize("media_type", ["application/json", "", "application/voucher-jws+json"])
def test_a_voucher_of_another_type_is_reported_as_not_accepted(media_type: str) -> None:
    stage = Stage()
    registrar = stage.add()
    registrar.script("requestvoucher", Answer(200, b"{}", {"Content-Type": media_type}))
    stage.find()
    stage.run(3)
    assert [report.status for report in registrar.reports("voucher_status")] == [False]


@pytest.mark.req("HT-09", "PV-12", "RS-02")
@pytest.mark.parametrize("status", [400, 401, 403, 404, 406, 415, 500, 502, 503, 204, 205, 418])
def test_a_refusal_ends_the_attempt_without_telemetry(status: int) -> None:
    stage = Stage()
    registrar = stage.add()
    registrar.script("requestvoucher", Answer(status, b"no\x1b[31m", {"Content-Type": "text/plain"}))
    stage.find()
    stage.run(3)
    assert operations(registrar) == ["requestvoucher"]
    failure = stage.told(events.AttemptFailed)[0]
    assert failure.reason == "voucher-request-refused"
    assert str(status) in failure.detail
    assert "\x1b" not in failure.detail


@pytest.mark.req("VS-06")
@pytest.mark.parametrize("reply", [Answer(404), Answer(500, b"x" * 1000), HangUp(), Answer(200, close=True)])
def test_the_answer_to_telemetry_is_ignored(reply: Reply) -> None:
    stage = Stage()
    registrar = stage.add()
    registrar.script("voucher_status", reply)
    registrar.script("enrollstatus", reply)
    stage.find()
    assert isinstance(stage.run(), actions.Done)


@pytest.mark.req("PV-07")
def test_an_assertion_the_device_does_not_take_is_refused() -> None:
    stage = Stage(settings=PledgeSettings(mdns=False, assertions=("proximity",)))
    stage.add(change_voucher=lambda voucher: replace(voucher, assertion=Assertion.LOGGED))
    stage.find()
    stage.run(3)
    assert stage.told(events.VoucherRefused)[0].reason == "assertion-not-accepted"


# The clock


@pytest.mark.req("ST-05", "AT-26")
@pytest.mark.parametrize("trusted", [True, False])
def test_a_device_without_a_clock_joins_where_dates_are_wrong(trusted: bool) -> None:
    stage = Stage(trusted_clock=trusted)
    stage.add(
        credential=Domain().registrar_with(not_after=NOW - timedelta(hours=1)),
        change_voucher=lambda voucher: replace(voucher, created_on=NOW + timedelta(days=999)),
        issue=_expired,
    )
    stage.find()
    assert isinstance(stage.run(3), actions.Wait if trusted else actions.Done)


def _expired(certificate: x509.Certificate) -> x509.Certificate:
    from brski_common import issuing

    return issuing.end_entity(
        Domain().issuing,
        certificate.public_key(),  # type: ignore[arg-type] # a key of our own
        certificate.subject,
        not_before=NOW - timedelta(days=2),
        not_after=NOW - timedelta(days=1),
    )


# Enrolling


@pytest.mark.req("CA-05", "CA-06", "D-10", "E-21")
def test_the_request_follows_the_csr_attributes() -> None:
    stage = Stage()
    name = x509.SubjectAlternativeName([x509.DNSName("device.plant.example")]).public_bytes()
    wishes = Wishes(key=KeyWish.of("P-384"), extensions=(ExtensionWish("2.5.29.17", name, critical=False),))
    registrar = stage.add(wishes=wishes)
    stage.find()
    assert isinstance(stage.run(), actions.Done)
    csr = est.read_csr(est.decode_body(registrar.asked("simpleenroll")[0].body))
    assert csr.public_key().key_size == 384  # type: ignore[union-attr] # an elliptic curve was asked for
    assert csr.extensions[0].value.public_bytes() == name
    assert stage.did(actions.MakeKey)[0].kind == "P-384"


@pytest.mark.req("EI-03")
@pytest.mark.parametrize("reply", [Answer(204), Answer(404), Answer(200, b"MAA=\n")])
def test_a_server_without_wishes_gets_the_idevids_subject(reply: Answer) -> None:
    stage = Stage()
    registrar = stage.add()
    registrar.script("csrattrs", reply)
    stage.find()
    assert isinstance(stage.run(), actions.Done)
    csr = est.read_csr(est.decode_body(registrar.asked("simpleenroll")[0].body))
    assert csr.subject == stage.device.idevid.certificate.subject


FAILURES = {
    "cacerts junk": ("cacerts", Answer(200, b"!"), "body-not-base64"),
    "cacerts empty": ("cacerts", Answer(200, est.encode_body(est.certs_only([]))), "cacerts-without-root"),
    "csrattrs refused": ("csrattrs", Answer(403), "csrattrs-refused"),
    "csrattrs junk": ("csrattrs", Answer(200, b"!!!"), "body-not-base64"),
    "enrollment refused": (
        "simpleenroll",
        Answer(403, b"audit log", {"Content-Type": "text/plain"}),
        "enrollment-refused",
    ),
    "server down": ("simpleenroll", Answer(503), "enrollment-refused"),
    "certificate junk": ("simpleenroll", Answer(200, b"AAAA\n"), "cms-malformed"),
    "somebody else's": (
        "simpleenroll",
        Answer(200, est.encode_body(est.certs_only([Domain().ldevid("other").certificate]))),
        "certificate-not-issued",
    ),
}


@pytest.mark.req("EI-09", "EI-07", "ST-03")
@pytest.mark.parametrize("story", FAILURES)
def test_a_failed_enrollment_is_reported_on_the_connection_that_saw_it(story: str) -> None:
    operation, reply, reason = FAILURES[story]
    stage = Stage()
    registrar = stage.add()
    registrar.script(operation, reply)
    stage.find()
    stage.run(3)
    (report,) = registrar.reports("enrollstatus")
    assert not report.status
    assert report.reason is not None
    assert reason in {report.reason, "cms-malformed"} or report.reason.startswith("der-")
    assert len(registrar.clients) == 1, "no new connection"
    assert stage.did(actions.Persist) == []
    assert stage.told(events.AttemptFailed)


def _ca(certificate: x509.Certificate) -> x509.Certificate:
    from brski_common import issuing

    key = certificate.public_key()
    return issuing.subordinate_ca(
        Domain().root,
        key,  # type: ignore[arg-type] # a key of our own
        certificate.subject,
        now=NOW,
        lifetime=timedelta(days=1),
    )


def _from_elsewhere(certificate: x509.Certificate) -> x509.Certificate:
    from brski_common import issuing

    return issuing.end_entity(
        Domain("Other Plant").issuing,
        certificate.public_key(),  # type: ignore[arg-type] # a key of our own
        certificate.subject,
        not_before=NOW - timedelta(days=1),
        not_after=NOW + timedelta(days=1),
    )


@pytest.mark.req("EI-06", "ST-06")
@pytest.mark.parametrize("issue", [_ca, _from_elsewhere, _expired])
def test_a_certificate_that_is_no_good_is_not_kept(issue: object) -> None:
    stage = Stage()
    registrar = stage.add(issue=issue)
    stage.find()
    stage.run(3)
    assert [report.status for report in registrar.reports("enrollstatus")] == [False]
    assert stage.did(actions.Persist) == []


def test_without_cacerts_the_pinned_ca_is_the_anchor() -> None:
    stage = Stage()
    registrar = stage.add()
    registrar.always["cacerts"] = Answer(404)
    registrar.issue = lambda certificate: certificate
    registrar.always["simpleenroll"] = _with_chain
    stage.find()
    done = stage.run()
    assert isinstance(done, actions.Done)
    assert done.enrollment.anchors == (registrar.domain.root.certificate,)


def _with_chain(registrar: FakeRegistrar, send: actions.Send) -> Reply:
    answer = registrar.behave("simpleenroll", send)
    assert isinstance(answer, Answer)
    leaf = est.parse_certs_only(est.decode_body(answer.body))
    return replace(answer, body=est.encode_body(est.certs_only([*leaf, *registrar.domain.issuing.chain])))


def test_without_cacerts_and_without_a_pinned_ca_enrolling_fails() -> None:
    stage = Stage()
    lonely = self_signed_registrar()
    registrar = stage.add(credential=lonely, change_voucher=with_pin(lonely.certificate))
    registrar.always["cacerts"] = Answer(500)
    stage.find()
    stage.run(3)
    assert registrar.reports("enrollstatus")[0].reason == "cacerts-refused"


def test_a_disk_that_fails_is_reported_and_the_device_is_not_enrolled() -> None:
    stage = Stage(save=lambda _: actions.NotDone(1, "disk-failed", "No space left"))
    registrar = stage.add()
    stage.find()
    stage.run(3)
    assert registrar.reports("enrollstatus")[0].reason == "disk-failed"
    assert stage.did(actions.Done) == []


@pytest.mark.req("EI-08")
def test_success_counts_even_if_the_registrar_cannot_be_told() -> None:
    stage = Stage()
    registrar = stage.add()
    registrar.always["enrollstatus"] = HangUp()
    stage.find()
    done = stage.run()
    assert isinstance(done, actions.Done)
    assert not done.confirmed
    assert len(registrar.asked("enrollstatus")) == 3


# More than one connection


@pytest.mark.req("TL-11", "AT-25")
def test_a_second_connection_with_another_certificate_is_refused() -> None:
    stage = Stage()
    registrar = stage.add()
    other = Domain().registrar_with(key=key_for("second registrar"))

    def switch(fake: FakeRegistrar, send: actions.Send) -> Reply:
        answer = fake.behave("requestvoucher", send)
        assert isinstance(answer, Answer)
        fake.credential = other
        return replace(answer, close=True)

    registrar.script("requestvoucher", switch)
    stage.find()
    stage.run(3)
    assert stage.told(events.AttemptFailed)[0].reason == "registrar-certificate-changed"
    assert operations(registrar) == ["requestvoucher"]


@pytest.mark.req("TL-11")
@pytest.mark.parametrize("operation", ["requestvoucher", "voucher_status", "cacerts", "csrattrs", "simpleenroll"])
def test_a_registrar_that_closes_after_each_answer_is_joined_if_it_stays_the_same(operation: str) -> None:
    stage = Stage()
    registrar = stage.add()

    def close(fake: FakeRegistrar, send: actions.Send) -> Reply:
        answer = fake.behave(operation, send)
        assert isinstance(answer, Answer)
        return replace(answer, close=True)

    registrar.script(operation, close)
    stage.find()
    assert isinstance(stage.run(), actions.Done)
    assert len(registrar.clients) <= 3


@pytest.mark.req("AT-25", "EI-08")
def test_the_registrar_that_hears_of_success_is_the_one_that_enrolled() -> None:
    stage = Stage()
    registrar = stage.add()

    def switch(enrollment: object) -> None:
        registrar.credential = Domain("Other Plant").registrar

    stage.save = switch
    stage.find()
    done = stage.run()
    assert isinstance(done, actions.Done)
    assert not done.confirmed
    assert registrar.asked("enrollstatus") == []


# The cloud


@pytest.mark.req("DS-16")
def test_a_cloud_registrar_is_verified_at_once() -> None:
    domain = Domain()
    named = domain.registrar_with(names=(x509.DNSName("*.cloud.example"),))
    settings = PledgeSettings(mdns=False, cloud_registrar="brski.cloud.example", once=True)
    good = Stage(settings=settings, cloud_anchors=domain.anchors)
    good.add("brski.cloud.example", 443, credential=named)
    assert isinstance(good.run(), actions.Done)


@pytest.mark.req("DS-16")
@pytest.mark.parametrize(
    ("host", "anchors"), [("brski.cloud.example", "Other Plant"), ("other.example", "Example Plant")]
)
def test_a_cloud_registrar_of_another_ca_or_name_gets_nothing(host: str, anchors: str) -> None:
    named = Domain().registrar_with(names=(x509.DNSName("*.cloud.example"),))
    settings = PledgeSettings(mdns=False, cloud_registrar=host, once=True)
    stage = Stage(settings=settings, cloud_anchors=Domain(anchors).anchors)
    cloud = stage.add(host, 443, credential=named)
    assert isinstance(stage.run(), actions.Failed)
    assert cloud.seen == []


# Renewal


def renewed(**kwargs: object) -> tuple[Stage, FakeRegistrar]:
    stage = _renewal(**kwargs)
    registrar = stage.add()
    stage.run()
    return stage, registrar


def _renewal(**kwargs: object) -> Stage:
    first, _ = onboarded()
    before = first.did(actions.Done)[0].enrollment
    return Stage(settings=PledgeSettings(mdns=False, once=True), renewing=before, **kwargs)  # type: ignore[arg-type] # as Stage takes them


@pytest.mark.req("E-16", "EI-16")
@pytest.mark.parametrize("rekey", [True, False])
def test_a_renewal_authenticates_by_the_ldevid_and_keeps_the_names(rekey: bool) -> None:
    stage, registrar = renewed(rekey=rekey)
    (done,) = stage.did(actions.Done)
    assert stage.renewing is not None
    before, after = stage.renewing.credential, done.enrollment.credential
    assert operations(registrar) == ["cacerts", "csrattrs", "simplereenroll"]
    assert registrar.clients == [before]
    assert after.certificate != before.certificate
    assert after.certificate.subject == before.certificate.subject
    same = spki(after.certificate) == spki(before.certificate)
    assert same is not rekey
    assert stage.steps()[-1] == "renewed"


@pytest.mark.req("E-06", "E-10", "E-23")
def test_a_renewal_talks_to_no_server_outside_the_explicit_anchors() -> None:
    stage = _renewal()
    registrar = stage.add(credential=Domain("Other Plant").registrar)
    failed = stage.run()
    assert isinstance(failed, actions.Failed)
    assert failed.reason == "path-not-found"
    assert registrar.seen == []


@pytest.mark.req("E-06")
@pytest.mark.parametrize(("name", "outcome"), [("192.0.2.1", actions.Done), ("192.0.2.9", actions.Failed)])
def test_without_cmc_ra_the_server_has_to_have_the_name(name: str, outcome: type) -> None:
    import ipaddress

    stage = _renewal()
    plain = Domain().registrar_with(
        key=key_for("plain EST server"), usages=(), names=(x509.IPAddress(ipaddress.ip_address(name)),)
    )
    stage.add(credential=plain)
    assert isinstance(stage.run(), outcome)


def test_a_failed_renewal_reports_nothing_and_changes_nothing() -> None:
    stage = _renewal()
    registrar = stage.add()
    registrar.always["simplereenroll"] = Answer(403)
    failed = stage.run()
    assert isinstance(failed, actions.Failed)
    assert failed.reason == "enrollment-refused"
    assert registrar.asked("enrollstatus") == []
    assert stage.did(actions.Persist) == []


@pytest.mark.req("EI-07")
def test_a_report_that_power_loss_cut_off_is_made_up_for() -> None:
    stage = _renewal(only_confirm=True)
    registrar = stage.add()
    done = stage.run()
    assert isinstance(done, actions.Done)
    assert done.confirmed
    assert operations(registrar) == ["enrollstatus"]


# Reset


@pytest.mark.req("ST-03", "AR-06")
def test_a_factory_reset_erases_and_begins_anew_from_any_phase() -> None:
    for stop in range(1, 25):
        stage = Stage(settings=PledgeSettings(mdns=False, registrars=("192.0.2.1:8443",)))
        registrar = stage.add()
        machine = stage.machine()
        for _ in range(stop):
            for told in stage.carry_out(machine.next(stage.now)):
                stage.tell(told)
        stage.tell(actions.FactoryReset())
        before = len(registrar.asked("requestvoucher"))
        assert isinstance(stage.run(), actions.Done)
        assert stage.did(actions.Erase)
        assert len(registrar.asked("requestvoucher")) == before + 1


@pytest.mark.req("RS-02")
def test_nothing_in_the_settings_skips_the_voucher() -> None:
    names = set(PledgeSettings.__dataclass_fields__)
    assert not [name for name in names if "tofu" in name or "trust" in name or "skip" in name or "insecure" in name]


def test_a_source_is_told_with_an_offer() -> None:
    stage = Stage()
    stage.find("192.0.2.7", 1, Source.MDNS)
    stage.run(1)
    assert stage.told(events.OfferFound)[0].detail == "192.0.2.7:1 by mdns"


# Somebody at the device


@pytest.mark.req("RS-04", "RS-06", "RS-02")
def test_a_server_that_somebody_compared_is_enrolled_at_without_a_voucher() -> None:
    domain = Domain()
    stage = Stage(
        settings=PledgeSettings(mdns=False, registrars=("192.0.2.1:8443",), once=True),
        fingerprint=fingerprint(domain.registrar.certificate),
    )
    registrar = stage.add()
    done = stage.run()
    assert isinstance(done, actions.Done)
    assert operations(registrar) == ["cacerts", "csrattrs", "simpleenroll"]
    assert done.enrollment.pinned == domain.registrar.certificate
    assert done.enrollment.voucher == b""


@pytest.mark.req("RS-04", "RS-02")
def test_a_server_with_another_fingerprint_gets_nothing() -> None:
    stage = Stage(
        settings=PledgeSettings(mdns=False, registrars=("192.0.2.1:8443",), once=True),
        fingerprint=fingerprint(Domain("Other Plant").registrar.certificate),
    )
    registrar = stage.add()
    failed = stage.run()
    assert isinstance(failed, actions.Failed)
    assert failed.reason == "fingerprint-mismatch"
    assert registrar.seen == []
