"""Hosts on one machine: network namespaces joined by veth pairs, for tests of link-local addresses and multicast.

Needs root and `ip` (Debian package iproute2); a test that asks for hosts is skipped elsewhere, with that reason.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import IO

import pytest

_numbers = count()


@dataclass(frozen=True)
class Host:
    """One network namespace."""

    name: str

    def command(self, arguments: Sequence[str]) -> list[str]:
        """A command line that runs on this host."""
        return ["ip", "netns", "exec", self.name, *arguments]

    def run(self, *arguments: str) -> str:
        """Run a program here to its end; its output."""
        return subprocess.run(self.command(arguments), check=True, capture_output=True, text=True, timeout=60).stdout

    def python(self, script: str, *arguments: str) -> str:
        """Run a Python script here."""
        return self.run(sys.executable, "-c", script, *arguments)

    @contextmanager
    def started(self, *arguments: str) -> Iterator[IO[str]]:
        """Start a program here; yields its standard output, and kills it in the end."""
        command = self.command(arguments)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                yield process.stdout
            finally:
                process.kill()


@contextmanager
def hosts(*names: str) -> Iterator[list[Host]]:
    """Hosts without any link between them; skips the test where there can be none."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and ip: apt-get install iproute2, run as root")
    prefix = f"t{os.getpid()}-{next(_numbers)}"
    with ExitStack() as stack:
        made = []
        for name in names:
            host = Host(f"{prefix}-{name}")
            done = subprocess.run(["ip", "netns", "add", host.name], check=False, capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"this machine makes no network namespaces: {done.stderr.strip()}")
            stack.callback(subprocess.run, ["ip", "netns", "delete", host.name], check=False, capture_output=True)
            host.run("ip", "link", "set", "lo", "up")
            made.append(host)
        yield made


def connect(one: Host, port: str, addresses: Sequence[str], other: Host, far_port: str, far: Sequence[str]) -> None:
    """A cable between two hosts; each end gets its addresses, ready at once (no duplicate address detection)."""
    peer = ["peer", "name", far_port, "netns", other.name]
    done = subprocess.run(
        ["ip", "-n", one.name, "link", "add", port, "type", "veth", *peer], check=False, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"this machine makes no veth pairs: {done.stderr.strip()}")
    for host, name, given in ((one, port, addresses), (other, far_port, far)):
        host.run("ip", "link", "set", name, "addrgenmode", "none")
        for address in given:
            host.run("ip", "address", "add", address, "dev", name, *(["nodad"] if ":" in address else []))
        host.run("ip", "link", "set", name, "up")
