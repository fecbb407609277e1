"""Specification vectors: read from `../shared/vectors` beside the repository, or from $BRSKI_VECTORS."""

import os
from pathlib import Path

import pytest

_DEFAULT = Path(__file__).resolve().parents[2].parent / "shared" / "vectors"


def vector_path() -> Path:
    """The folder of the vectors, whether or not it is there."""
    return Path(os.environ.get("BRSKI_VECTORS", _DEFAULT))


def vector(path: str) -> bytes:
    """The bytes of one vector, for example `rfc8995/voucher.cms.der`; skips the test where there are none."""
    folder = vector_path()
    if not folder.is_dir():
        pytest.skip("specification vectors not present")
    return (folder / path).read_bytes()
