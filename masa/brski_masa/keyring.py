"""The MASA's keys, loaded and checked against each other before the service starts.

Two keys sign vouchers: one with a short-lived certificate for vouchers with a nonce, one for those without
(RFC 8995, 11.6.2.2). Both lead to anchors that no IDevID leads to: else every device could sign vouchers (D-14).
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509

from brski_common import artifact, keys
from brski_common.artifact import Format
from brski_common.certificates import Credential, common_name, spki
from brski_common.errors import Misconfigured, Untrusted
from brski_common.paths import Anchors, build_path
from brski_common.voucher import Voucher
from brski_masa.settings import Settings
from brski_masa.vouchering import Trust


@dataclass(frozen=True, slots=True)
class Signers:
    """Who signs vouchers, and the formats that both keys can sign. `nonceless` None: no such vouchers."""

    nonced: Credential
    nonceless: Credential | None
    formats: frozenset[Format]

    def credential(self, nonce: str | None) -> Credential:
        """The credential for a voucher with this nonce; raises Misconfigured."""
        if nonce is not None:
            return self.nonced
        if self.nonceless is None:
            raise Misconfigured("nonceless-key-missing", "set signing.nonceless_key and signing.nonceless_chain")
        return self.nonceless


def load_signers(settings: Settings, secret: keys.Secret | None = None, *, now: datetime) -> Signers:
    """Load both signers; raises Misconfigured for keys and chains that cannot work."""
    signing = settings.signing
    allow = settings.maker.unsafe_published_test_keys
    nonced = keys.load_credential(signing.key, signing.chain, secret=secret, allow_published=allow)
    nonceless = None
    if signing.nonceless_key is not None and signing.nonceless_chain is not None:
        nonceless = keys.load_credential(
            signing.nonceless_key, signing.nonceless_chain, secret=secret, allow_published=allow
        )
    trust = load_trust(settings)
    credentials = [nonced] if nonceless is None else [nonced, nonceless]
    for credential in credentials:
        check_signer(credential, trust, signing.shared_anchor_policy, now)
    formats = frozenset(each for each in Format if all(_can_sign(credential, each) for credential in credentials))
    return Signers(nonced, nonceless, formats)


def load_trust(settings: Settings) -> Trust:
    """What requests are examined with; raises Misconfigured."""
    maker = settings.maker
    pool = () if maker.idevid_ca_chain is None else keys.read_certificates(maker.idevid_ca_chain)
    return Trust(
        idevid_anchors=Anchors(keys.read_certificates(maker.anchors)),
        voucher_anchors=Anchors(keys.read_certificates(settings.signing.anchors)),
        idevid_pool=pool,
        request_max_age=timedelta(hours=settings.policy.request_max_age_hours),
        ignore_idevid_dates=maker.ignore_expired_idevids,
        unsafe_allow_published_keys=maker.unsafe_published_test_keys,
    )


def check_signer(credential: Credential, trust: Trust, shared_policy: str | None, now: datetime) -> None:
    """A signer leads to an anchor of the devices, and no device can pass for one (D-14); raises Misconfigured."""
    leaf = credential.certificate
    try:
        path = build_path(leaf, credential.chain, trust.voucher_anchors, now, leaf_may_be_anchor=True)
    except Untrusted as error:
        raise Misconfigured("voucher-signer-untrusted", f"{common_name(leaf)}: {error}") from error
    idevid_keys = {spki(anchor) for anchor in trust.idevid_anchors.certificates}
    if spki(path[-1]) not in idevid_keys:
        return
    if shared_policy is None or shared_policy not in policies(leaf):
        raise Misconfigured(
            "voucher-anchor-shared",
            f"{common_name(path[-1])} is also an anchor of IDevIDs: any device could sign vouchers;"
            " use a root of its own, or set signing.shared_anchor_policy to a policy that only signers have",
        )


def policies(certificate: x509.Certificate) -> frozenset[str]:
    """The certificate policies, as dotted OIDs."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.CertificatePolicies).value
    except x509.ExtensionNotFound:
        return frozenset()
    return frozenset(policy.policy_identifier.dotted_string for policy in found)


def _can_sign(credential: Credential, each: Format) -> bool:
    """Try it, once: a kind of key that a format lacks must not show after the log is written."""
    sample = Voucher(serial_number="sample", created_on=datetime(2026, 1, 1, tzinfo=UTC))
    try:
        artifact.sign(sample, each, credential)
    except Untrusted:
        return False
    return True
