"""Certificates and keys into a TLS connection and out of it, in the bytes they are encoded in.

pyOpenSSL makes objects of its own of each, which costs a connection more than what OpenSSL does with them. So this goes
to the library beneath it, call by call as pyOpenSSL does.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from OpenSSL import SSL
from OpenSSL._util import ffi
from OpenSSL._util import lib as openssl

from brski_common.certificates import Credential, to_der
from brski_common.errors import Malformed


def put(connection: SSL.Connection, credential: Credential) -> bool:
    """Have the connection use this certificate and key; False where OpenSSL rejects them.

    A key whose bytes cannot be had raises, as pyca has it.
    """
    key = credential.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return _put_certificate(connection, to_der(credential.certificate)) and _put_key(connection, key)


def _put_certificate(connection: SSL.Connection, data: bytes) -> bool:
    certificate = _read(openssl.d2i_X509_bio, data)
    if certificate == ffi.NULL:
        return False
    done = openssl.SSL_use_certificate(connection._ssl, certificate)
    openssl.X509_free(certificate)  # the connection has a hold of its own
    return bool(done == 1)


def _put_key(connection: SSL.Connection, data: bytes) -> bool:
    key = _read(openssl.d2i_PrivateKey_bio, data)
    if key == ffi.NULL:
        return False
    done = openssl.SSL_use_PrivateKey(connection._ssl, key)  # OpenSSL compares it with the certificate
    openssl.EVP_PKEY_free(key)
    return bool(done == 1)


def _read(parse: Callable[[Any, Any], Any], data: bytes) -> Any:  # noqa: ANN401 -- a pointer
    bio = openssl.BIO_new_mem_buf(ffi.from_buffer(data), len(data))
    found = parse(bio, ffi.NULL)
    openssl.BIO_free(bio)
    return found


def shown(connection: SSL.Connection, most: int, *, server_side: bool) -> list[bytes]:
    """The certificates that the peer showed, as received, leaf first; raises Malformed if they are more than `most`."""
    ssl = connection._ssl
    stack = openssl.SSL_get_peer_cert_chain(ssl)
    number = 0 if stack == ffi.NULL else openssl.sk_X509_num(stack)
    leaf = openssl.SSL_get_peer_certificate(ssl) if server_side else ffi.NULL
    if server_side and leaf == ffi.NULL:
        return []
    # OpenSSL keeps a client's leaf apart from the rest of the chain.
    certificates = [ffi.gc(leaf, openssl.X509_free)] if server_side else []
    if number + len(certificates) > most:
        raise Malformed("chain-too-long", f"{number + len(certificates)} certificates, at most {most}")
    return _encoded(certificates + [openssl.sk_X509_value(stack, index) for index in range(number)])


def _encoded(certificates: Sequence[Any]) -> list[bytes]:
    """Pointers in, DER out: one behind the other in one buffer, then cut."""
    bio, content, ends = openssl.BIO_new(openssl.BIO_s_mem()), ffi.new("char **"), [0]
    for certificate in certificates:
        openssl.i2d_X509_bio(bio, certificate)
        ends.append(openssl.BIO_get_mem_data(bio, content))
    data = ffi.buffer(content[0], ends[-1]) if certificates else b""
    encoded = [data[start:end] for start, end in pairwise(ends)]
    openssl.BIO_free(bio)
    return encoded
