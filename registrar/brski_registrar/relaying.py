"""What a registration authority passes on: requests up, certificates down, and what the CA wants (RFC 7030, 3.7).

The laws of this file:

1. The local CA takes nothing from a request but its key. A CA elsewhere may copy all of it, and it believes an RA: what
   goes up holds nothing that the device does not own, or that was not asked of it word for word.
2. A request is passed on or refused, never changed: its signature is the device's proof of possession.
3. A certificate that comes down is judged like a stranger's before anybody hears of it.
4. Devices trust the CA certificates that they get here, so each of them leads to an anchor that the operator named, by
   signatures; one of a new root leads there by way of its cross-certificate (RFC 7030, 4.1.3; RFC 4210, 4.4).
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from brski_common import csrattrs, der
from brski_common.certificates import (
    ID_KP_CMC_RA,
    extended_key_usages,
    extension,
    is_ca,
    is_self_issued,
    spki,
    without_duplicates,
)
from brski_common.csr import attributes, requested_extensions
from brski_common.csrattrs import EXTENSION_REQUEST, CsrAttributes, Style
from brski_common.csrwishes import (
    CHALLENGE_PASSWORD,
    SUBJECT_ALTERNATIVE_NAME,
    SUBJECT_ATTRIBUTES,
    ExtensionWish,
    NameWish,
    Wishes,
    general_names,
    subject_wish,
)
from brski_common.errors import BrskiError, PeerFailed, Refused, Untrusted
from brski_common.paths import MAX_POOL, Anchors, build_path, check_link, check_path
from brski_common.telemetry import printable
from brski_registrar.enrolling import HARMLESS_EXTENSIONS, Profile, alternative_names

UPSTREAM: Final = "upstream-"  # how every reason begins that has to do with a CA elsewhere

_SERIAL_NUMBER: Final = NameOID.SERIAL_NUMBER.dotted_string
_COMMON_NAME: Final = NameOID.COMMON_NAME.dotted_string
_HARMLESS: Final = frozenset(each.dotted_string for each in HARMLESS_EXTENSIONS)
_PASSED_ON: Final = frozenset({EXTENSION_REQUEST, CHALLENGE_PASSWORD})  # attributes of a request

Pair = tuple[str, str]  # of a name: attribute type and value


# What the CA wants


def merge(wanted: Wishes, own: Wishes, idevid: x509.Name) -> CsrAttributes:
    """What a device is asked for: what the CA wants and we can check, and what we want ourselves.

    1. Of the subject every value is given: what the CA left open is taken from the device's IDevID. The serial number
       is the device's.
    2. A kind of key that the CA wants counts more than ours.
    3. Extensions and names that a device would fill in are left out: nobody here could tell whether they are true.
    4. Of the rest only the link of proof and session (RFC 7030, 3.5) and the hash; the template cannot say either, so
       the older form alone does (RFC 9908, 4).
    """
    wishes = Wishes(
        subject=_subject(wanted, own, idevid),
        key=wanted.key or own.key,
        hash=wanted.hash,
        extensions=tuple(_extensions(wanted, own)),
        others=(CHALLENGE_PASSWORD,) if CHALLENGE_PASSWORD in wanted.others else (),
    )
    if wishes.hash or wishes.others:
        return csrattrs.ask(replace(wishes, subject=own.subject), Style.LEGACY)
    return csrattrs.ask(wishes)


def _subject(wanted: Wishes, own: Wishes, idevid: x509.Name) -> tuple[tuple[NameWish, ...], ...]:
    (serial,) = (wish for rdn in own.subject or () for wish in rdn)
    listed = (oid for oid in wanted.others if oid.startswith(SUBJECT_ATTRIBUTES))
    asked = wanted.subject if wanted.subject is not None else tuple((NameWish(oid),) for oid in listed)
    rdns = tuple(tuple(closed for wish in rdn for closed in _closed(wish, serial, idevid)) for rdn in asked)
    named = any(wish.oid == _SERIAL_NUMBER for rdn in rdns for wish in rdn)
    return (*(() if named else ((serial,),)), *filter(None, rdns))


def _closed(wish: NameWish, serial: NameWish, idevid: x509.Name) -> Iterator[NameWish]:
    """The wish with a value; nothing where there is none to give."""
    if wish.oid == _SERIAL_NUMBER:
        yield serial
    elif wish.value is not None:
        yield wish
    else:
        own = next((value for oid, value in _pairs(idevid) if oid == wish.oid), None)
        # What people call a device by, if its maker gave it no common name.
        value = serial.value if own is None and wish.oid == _COMMON_NAME else own
        if value is not None:
            yield subject_wish((wish.oid, value))[0][0]


def _extensions(wanted: Wishes, own: Wishes) -> Iterator[ExtensionWish]:
    ours = {wish.oid: wish for wish in own.extensions}
    for wish in wanted.extensions:
        if wish.is_partial:
            continue
        mine = ours.pop(wish.oid, None)
        if mine is None:
            yield wish
        elif wish.oid == SUBJECT_ALTERNATIVE_NAME:
            names = dict.fromkeys((*general_names(mine), *general_names(wish)))
            yield ExtensionWish(wish.oid, der.sequence(*names), mine.critical or wish.critical)
        else:
            yield mine
    yield from ours.values()


# Up


def check_request(csr: x509.CertificateSigningRequest, profile: Profile, wanted: Wishes) -> None:
    """Judge what `enrolling` let pass with a CA's eyes, which may copy it; raises Refused `csr-…`.

    1. The subject has the device's serial number, and nothing but what it was asked for or what its IDevID says; of a
       renewal, what is certified already.
    2. No extensions but those that were asked for, in a renewal those that the CA wants (`wanted`) word for word, and
       those that give no powers.
    3. No attributes but these extensions and the link to the session: some CAs choose a profile by others.
    """
    serials = _serials(csr.subject)
    if len(serials) != 1 or serials != _serials(profile.subject):  # 1
        raise Refused("csr-serial-number-missing", f"{csr.subject.rfc4514_string()} has to name the device")
    if not set(_pairs(csr.subject)) <= _nameable(profile):
        raise Refused("csr-subject-mismatch", f"{csr.subject.rfc4514_string()} says more than was asked for")
    asked = {(wish.oid, wish.value) for wish in (profile.asked.wishes if profile.asked else wanted).extensions}
    for wish in requested_extensions(csr):  # 2
        if wish.oid not in _known(profile) and (wish.oid, wish.value) not in asked:
            raise Refused("csr-extension-not-asked", wish.oid)
    for attribute in attributes(csr):  # 3
        if attribute.oid not in _PASSED_ON:
            raise Refused("csr-attribute-not-asked", attribute.oid)


def _known(profile: Profile) -> frozenset[str]:
    """The extensions that `enrolling` has judged: alternative names are those asked for, or those certified before."""
    return _HARMLESS | {SUBJECT_ALTERNATIVE_NAME} if profile.alternative_names else _HARMLESS


def _nameable(profile: Profile) -> set[Pair]:
    asked = (profile.asked.wishes.subject or ()) if profile.asked is not None else ()
    given = {(wish.oid, wish.value) for rdn in asked for wish in rdn if wish.value is not None}
    idevid = () if profile.idevid is None else _pairs(profile.idevid.subject)
    return {*_pairs(profile.subject), *idevid, *given}


def _serials(name: x509.Name) -> list[str]:
    return [value for oid, value in _pairs(name) if oid == _SERIAL_NUMBER]


def _pairs(name: x509.Name) -> Iterator[Pair]:
    return ((attribute.oid.dotted_string, str(attribute.value)) for attribute in name)


# Down


@dataclass(frozen=True, slots=True)
class Authorities:
    """The CA's own certificates that lead to an anchor, for devices, and the anchors they lead to."""

    certificates: tuple[x509.Certificate, ...]
    anchors: Anchors


def authorities(sent: Iterable[x509.Certificate], anchors: Anchors, now: datetime) -> Authorities:
    """Law 4, for an answer to /cacerts; raises PeerFailed `upstream-untrusted` if nothing of it holds.

    1. What is an anchor, or leads to one, holds.
    2. So does a root whose key another certificate that holds has certified under the same name.
    3. And what leads to such a root.
    """
    pool = [certificate for certificate in without_duplicates(sent) if is_ca(certificate)]
    if len(pool) > MAX_POOL:
        raise PeerFailed("upstream-untrusted", f"{len(pool)} CA certificates, at most {MAX_POOL}")
    paths = _paths(pool, pool, anchors, now)  # 1
    known = {(path[0].subject, spki(path[0])) for path in paths}
    roots = [root for root in pool if (root.subject, spki(root)) in known and _signs_itself(root)]  # 2
    paths += _paths(pool, pool, Anchors(roots), now)  # 3
    if not paths:
        raise PeerFailed("upstream-untrusted", "none of the CA's certificates leads to an anchor that was named for it")
    return Authorities(
        without_duplicates((*(path[0] for path in paths), *(each for path in paths for each in path))),
        Anchors(path[-1] for path in paths),
    )


def check_issued(
    certificate: x509.Certificate, profile: Profile, known: Authorities, now: datetime
) -> tuple[x509.Certificate, ...]:
    """Judge a certificate for the device's key before it is recorded or handed out; returns its path.

    1. It is an end entity's, and not that of an RA, who speaks for others.
    2. It names the device, and has the alternative names that were to be in it.
    3. A path valid now leads from it to the CA's anchors by way of its own certificates, which is all a device has.

    Raises PeerFailed `upstream-certificate-unfit` (1, 2) or `upstream-certificate-untrusted` (3).
    """
    usage = extension(certificate, x509.KeyUsage)
    if is_ca(certificate) or (usage is not None and (usage.key_cert_sign or usage.crl_sign)):  # 1
        raise _unfit(certificate, "it is a CA's")
    if ID_KP_CMC_RA in extended_key_usages(certificate):
        raise _unfit(certificate, "it is an RA's")
    if _serials(certificate.subject) != _serials(profile.subject):  # 2
        raise _unfit(certificate, f"it is for {printable(certificate.subject.rfc4514_string())}")
    if not set(profile.alternative_names) <= set(alternative_names(certificate)):
        raise _unfit(certificate, "it lacks names that were asked for")
    try:
        return build_path(certificate, known.certificates, known.anchors, now)  # 3
    except Untrusted as error:
        raise PeerFailed("upstream-certificate-untrusted", f"{_which(certificate)}: {error}") from error


def _unfit(certificate: x509.Certificate, why: str) -> BrskiError:
    return PeerFailed("upstream-certificate-unfit", f"{_which(certificate)}: {why}")


def _which(certificate: x509.Certificate) -> str:
    """How the operator of the CA finds a certificate that he may want to revoke."""
    return f"the certificate {certificate.serial_number:x}"


def _paths(
    leaves: Iterable[x509.Certificate], pool: Iterable[x509.Certificate], anchors: Anchors, now: datetime
) -> list[tuple[x509.Certificate, ...]]:
    found = []
    for leaf in leaves:
        with suppress(Untrusted):
            found.append(_path(leaf, pool, anchors, now))
    return found


def _path(
    leaf: x509.Certificate, pool: Iterable[x509.Certificate], anchors: Anchors, now: datetime
) -> tuple[x509.Certificate, ...]:
    if leaf in anchors:  # which need not be a root
        check_path((leaf,), now)
        return (leaf,)
    return build_path(leaf, pool, anchors, now)


def _signs_itself(root: x509.Certificate) -> bool:
    if not is_self_issued(root):
        return False
    with suppress(Untrusted):
        check_link(root, root)
        return True
    return False
