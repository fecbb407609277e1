"""Who may have devices certified that this registrar never saw: RAs elsewhere, when the CA is here (RFC 7030, 3.7).

The laws of this file:

1. An RA is who shows, in TLS, one of the very certificates that the operator named; each has id-kp-cmcRA, is no CA's
   and counts while it is valid. Whoever else has id-kp-cmcRA is nobody: there are none unless the operator names some.
2. An RA answers for the device: for its voucher, and for the link of proof and session, which it alone could verify.
   What a request may ask for, and what a certificate says, is decided here all the same (`enrolling.delegated`).
"""

from collections.abc import Iterable
from datetime import datetime

from cryptography import x509

from brski_common.certificates import ID_KP_CMC_RA, Peer, common_name, extended_key_usages, fingerprint, is_ca
from brski_common.errors import Misconfigured
from brski_common.paths import check_dates


class Delegates:
    """The RAs that the operator named; raises Misconfigured `ra-certificate-unfit`."""

    def __init__(self, certificates: Iterable[x509.Certificate] = ()) -> None:
        named = tuple(certificates)
        for certificate in named:
            if is_ca(certificate) or ID_KP_CMC_RA not in extended_key_usages(certificate):
                advice = "wanted are the RAs' own certificates, with id-kp-cmcRA"
                raise Misconfigured("ra-certificate-unfit", f"{common_name(certificate)}: {advice}")
        self._known = frozenset(map(fingerprint, named))

    def __bool__(self) -> bool:
        return bool(self._known)

    def include(self, peer: Peer | None, now: datetime) -> bool:
        """Whether a TLS client is one of them; raises Untrusted for one whose certificate is not valid now."""
        if peer is None or fingerprint(peer.certificate) not in self._known:
            return False
        check_dates(peer.certificate, now)
        return True
