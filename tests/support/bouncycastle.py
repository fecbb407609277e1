"""BouncyCastle as a peer: Debian's libbcpkix-java and a JDK, compiled once for each worker."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

JARS = tuple(Path("/usr/share/java") / name for name in ("bcpkix.jar", "bcprov.jar", "bcutil.jar"))
SOURCE = Path(__file__).parent / "java" / "BouncyPeer.java"
SECONDS = 120.0


@dataclass(frozen=True)
class BouncyPeer:
    """The compiled peer."""

    classes: Path

    def run(self, *arguments: str | Path) -> "subprocess.CompletedProcess[bytes]":
        """Run one command of the peer."""
        path = ":".join(map(str, (self.classes, *JARS)))
        command = [
            "java",
            "-XX:TieredStopAtLevel=1",
            "-XX:+UseSerialGC",
            "-cp",
            path,
            "BouncyPeer",
            *map(str, arguments),
        ]
        return subprocess.run(command, capture_output=True, check=False, timeout=SECONDS)

    def __call__(self, *arguments: str | Path) -> bytes:
        """Run one command that has to succeed; its standard output."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return done.stdout


@pytest.fixture(scope="session")
def bouncycastle(tmp_path_factory: pytest.TempPathFactory) -> BouncyPeer:
    """The peer, or a skip that names the Debian packages."""
    if shutil.which("javac") is None:
        pytest.skip("needs a JDK: install the Debian package default-jdk-headless")
    if not all(jar.exists() for jar in JARS):
        pytest.skip("needs BouncyCastle: install the Debian package libbcpkix-java")
    classes = tmp_path_factory.mktemp("bouncycastle")
    command = ["javac", "-nowarn", "-cp", ":".join(map(str, JARS)), "-d", str(classes), str(SOURCE)]
    subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
    return BouncyPeer(classes)
