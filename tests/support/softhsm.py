"""A PKCS#11 token in a folder: SoftHSM, from Debian's packages softhsm2 and libsofthsm2.

A test that wants it is marked with `pytest.mark.xdist_group("softhsm")`, so that one worker has the token.
The module reads its configuration once in a process, so one token serves a whole test process.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)
PIN = "9876-test"


@dataclass(frozen=True)
class SoftHsm:
    """A token with the keys `registrar` (P-256), `ca` (P-384) and `old` (RSA 2048)."""

    module: str
    token: str
    folder: Path

    def uri(self, key: str, *, query: str | None = None) -> str:
        """The URI of a key, with the PIN in a file unless `query` says otherwise."""
        pin = query if query is not None else f"&pin-source=file:{self.folder / 'pin'}"
        return f"pkcs11:token={self.token};object={key}?module-path={self.module}{pin}"

    def library(self) -> Any:  # noqa: ANN401 -- python-pkcs11 makes its classes at run time
        """The module as python-pkcs11 shows it, to do a token's mischief."""
        import pkcs11

        return pkcs11.lib(self.module)


@pytest.fixture(scope="session")
def softhsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftHsm]:
    """A token with three keys; skips where SoftHSM is not installed."""
    module = next((path for path in MODULES if Path(path).exists()), None)
    if module is None or shutil.which("softhsm2-util") is None:
        pytest.skip("SoftHSM is not installed: apt-get install softhsm2")
    pytest.importorskip("pkcs11", reason="pip install python-pkcs11")
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    (folder / "pin").write_text(PIN + "\n")
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder / 'tokens'}\nlog.level = ERROR\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(folder / "softhsm2.conf"))
        hsm = SoftHsm(module, "brski-test", folder)
        make = ["--init-token", "--free", "--label", hsm.token, "--pin", PIN, "--so-pin", PIN]
        subprocess.run(["softhsm2-util", *make], check=True, capture_output=True, env=os.environ)
        _make_keys(hsm)
        yield hsm


def _make_keys(hsm: SoftHsm) -> None:
    import pkcs11
    from pkcs11.util.ec import encode_named_curve_parameters

    token = hsm.library().get_token(token_label=hsm.token)
    with token.open(rw=True, user_pin=PIN) as session:
        for label, curve, number in (("registrar", "secp256r1", b"\x01"), ("ca", "secp384r1", b"\x02")):
            parameters = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters(curve)}
            domain = session.create_domain_parameters(pkcs11.KeyType.EC, parameters, local=True)
            domain.generate_keypair(store=True, label=label, id=number)
        session.generate_keypair(pkcs11.KeyType.RSA, 2048, store=True, label="old", id=b"\x03")
