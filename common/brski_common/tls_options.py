"""What every TLS connection of the suite has in common: versions, ciphers, groups, the own certificate and key.

The floor is TLS 1.2 with ECDHE and AEAD (RFC 8995, 5.1), without renegotiation, compression or resumption: a resumed
session has no certificate chain. Whom to trust is not said here (`tls`).
"""

import ssl

from cryptography.exceptions import UnsupportedAlgorithm
from OpenSSL import SSL
from OpenSSL._util import lib as openssl

from brski_common.certificates import Credential
from brski_common.errors import Misconfigured

CIPHERS_TLS12 = b"ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AESCCM:!AESCCM8:!aNULL"
# X25519MLKEM768 is taken, not offered first: it costs a handshake 135 µs and 2.3 kB, and a voucher is no secret.
GROUPS = b"X25519:P-256:P-384:P-521:X25519MLKEM768"
ALPN = [b"http/1.1"]
SESSION_CONTEXT = (
    b"brski"  # without one, OpenSSL answers an attempt to resume with an alert instead of a full handshake
)
NO_AUTO_CHAIN = 0x8  # SSL_MODE_NO_AUTO_CHAIN: send the chain we were given, look for no issuers
LEAF_ONLY_DEPTH = -2  # see `_new_context`


def new_context(
    method: int, credential: Credential | None, minimum: ssl.TLSVersion, maximum: ssl.TLSVersion
) -> SSL.Context:
    """An OpenSSL context for one side; raises Misconfigured for a key or chain that OpenSSL rejects."""
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
    if credential is not None:
        _use(context, credential)
    return context


def _set_groups(context: SSL.Context) -> None:
    """pyOpenSSL can name one group only, by `set_tmp_ecdh`; the library beneath it takes a list."""
    if not openssl.SSL_CTX_set1_curves_list(context._context, GROUPS):
        raise Misconfigured("tls-groups-rejected", GROUPS.decode())


def _use(context: SSL.Context, credential: Credential) -> None:
    try:
        context.use_certificate(credential.certificate)
        for certificate in credential.chain[1:]:
            context.add_extra_chain_cert(certificate)
        context.use_privatekey(credential.key)  # OpenSSL compares it with the certificate
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
