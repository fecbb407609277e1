"""What every TLS connection of the suite has in common: versions, ciphers, groups, the own certificate and key.

The floor is TLS 1.2 with ECDHE and AEAD (RFC 8995, 5.1), without renegotiation, compression or resumption: a resumed
session has no certificate chain. Whom to trust is not said here (`tls`).
"""

import ssl
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from OpenSSL import SSL
from OpenSSL._util import ffi
from OpenSSL._util import lib as openssl

from brski_common.certificates import Credential
from brski_common.errors import Misconfigured
from brski_common.tls_certificates import put

CIPHERS_TLS12 = b"ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AESCCM:!AESCCM8:!aNULL"
# X25519MLKEM768 is taken, not offered first: it costs a handshake 135 µs and 2.3 kB, and a voucher is no secret.
GROUPS = b"X25519:P-256:P-384:P-521:X25519MLKEM768"
ALPN = [b"http/1.1"]
SESSION_CONTEXT = (
    b"brski"  # without one, OpenSSL answers an attempt to resume with an alert instead of a full handshake
)
REMEMBERED_CLIENTS = 32  # contexts; a device needs two, for its IDevID and its LDevID
NO_AUTO_CHAIN = 0x8  # SSL_MODE_NO_AUTO_CHAIN: send the chain we were given, look for no issuers
LEAF_ONLY_DEPTH = -2  # see `_new_context`


def server_options(credential: Credential, minimum: ssl.TLSVersion, maximum: ssl.TLSVersion) -> SSL.Context:
    """What all connections of a server share; raises Misconfigured for a key or chain that OpenSSL rejects."""
    context = _new_context(SSL.TLS_SERVER_METHOD, credential.chain[1:], minimum, maximum)
    openssl.SSL_CTX_set_verify(context._context, SSL.VERIFY_PEER, _TAKE_ANY)
    context.set_alpn_select_callback(lambda _, offered: ALPN[0] if ALPN[0] in offered else SSL.NO_OVERLAPPING_PROTOCOLS)
    use(context, credential)
    return context


# OpenSSL asks for each thing it has against a chain. pyOpenSSL would make an object of the certificate each time.
_TAKE_ANY = ffi.callback("int (*)(int, X509_STORE_CTX *)", lambda _ok, _store: 1)


@lru_cache(maxsize=REMEMBERED_CLIENTS)
def client_options(
    issuers: tuple[x509.Certificate, ...], minimum: ssl.TLSVersion, maximum: ssl.TLSVersion
) -> SSL.Context:
    """What all client connections share whose certificate, if any, goes out with `issuers`; the key is each one's own.

    Made once, because a context costs two thirds of a handshake; without resumption nothing passes from one of its
    connections to another.
    """
    context = _new_context(SSL.TLS_CLIENT_METHOD, issuers, minimum, maximum)
    context.set_verify(SSL.VERIFY_NONE)
    context.set_alpn_protos(ALPN)
    return context


def _new_context(
    method: int, issuers: tuple[x509.Certificate, ...], minimum: ssl.TLSVersion, maximum: ssl.TLSVersion
) -> SSL.Context:
    context = SSL.Context(method)
    context.set_min_proto_version(minimum)
    context.set_max_proto_version(maximum)
    context.set_options(SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION | SSL.OP_NO_TICKET)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_session_id(SESSION_CONTEXT)
    context.set_mode(NO_AUTO_CHAIN)
    context.set_cipher_list(CIPHERS_TLS12)
    _set_groups(context)
    # OpenSSL tries to build and check a path although its result is ignored. With a depth that not even the leaf's
    # issuer fits in it checks no signature: ours are checked in `paths`, with a cache.
    context.set_verify_depth(LEAF_ONLY_DEPTH)
    try:
        for certificate in issuers:
            context.add_extra_chain_cert(certificate)
    except SSL.Error as error:
        raise Misconfigured("tls-credential-rejected", error_text(error)) from error
    return context


def _set_groups(context: SSL.Context) -> None:
    """pyOpenSSL can name one group only, by `set_tmp_ecdh`; the library beneath it takes a list."""
    if not openssl.SSL_CTX_set1_curves_list(context._context, GROUPS):
        raise Misconfigured("tls-groups-rejected", GROUPS.decode())


def use(side: SSL.Context | SSL.Connection, credential: Credential) -> None:
    """Set the own certificate and key; raises Misconfigured where OpenSSL rejects them."""
    try:
        if isinstance(side, SSL.Connection) and put(side, credential):
            return
        # The long way, by which OpenSSL's reasons come out.
        side.use_certificate(credential.certificate)
        side.use_privatekey(credential.key)  # OpenSSL compares it with the certificate
    except SSL.Error as error:
        raise Misconfigured("tls-credential-rejected", error_text(error)) from error
    except (TypeError, ValueError, AttributeError, NotImplementedError, UnsupportedAlgorithm) as error:
        advice = "TLS needs a key whose bytes can be read: name a file: key here, keep the token's key for signing"
        raise Misconfigured("tls-key-not-usable", advice) from error


def error_text(error: SSL.Error) -> str:
    """OpenSSL's reasons, without its function names and numbers."""
    queue = error.args[0] if error.args else None
    if isinstance(queue, list):
        return "; ".join(str(entry[-1]) for entry in queue) or "TLS failed"
    return " ".join(str(part) for part in error.args) or "TLS failed"
