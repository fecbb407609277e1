"""A device, a join proxy and a registrar on three hosts: link-local addresses with scopes, multicast, real programs."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path

import pytest
from typer.testing import CliRunner

from brski_common import grasp
from brski_registrar.commands.application import app
from tests.support.hosts import Host, connect, hosts

DEVICE, PROXY, PROXY_UP, REGISTRAR = "fe80::d", "fe80::1", "fd00:10::1", "fd00:10::2"

FIND_PROXY = """
import asyncio, sys
from brski_registrar.discovery import PROXY_SERVICE, find
print(asyncio.run(find(["dev0"], service=PROXY_SERVICE))[0].port)
"""
FETCH = """
import socket, ssl, sys
host, port, anchor = sys.argv[1:]
context = ssl.create_default_context(cafile=anchor)
with socket.create_connection((host, int(port)), timeout=10) as raw:
    with context.wrap_socket(raw, server_hostname="registrar.example") as line:
        line.sendall(b"GET /.well-known/est/cacerts HTTP/1.1\\r\\nHost: registrar.example\\r\\n\\r\\n")
        print(line.version(), line.recv(16).decode())
"""
HEAR_FLOOD = """
import socket, struct
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as ear:
    ear.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
    ear.bind(("::", 7017))
    group = socket.inet_pton(socket.AF_INET6, "ff02::13")
    index = socket.if_nametoindex("dev0")
    ear.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group + struct.pack("@I", index))
    print("listening", flush=True)
    data, options, _, source = ear.recvmsg(2048, 128)
    print(data.hex(), source[0].partition("%")[0], struct.unpack("@i", options[0][2])[0], flush=True)
"""


@dataclass(frozen=True)
class Site:
    device: Host
    proxy: Host
    registrar: Host
    folder: Path


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with hosts("device", "proxy", "registrar") as (device, proxy, registrar):
        connect(device, "dev0", [f"{DEVICE}/64"], proxy, "dev0", [f"{PROXY}/64"])
        connect(proxy, "up0", [f"{PROXY_UP}/64", "fe80::a/64"], registrar, "eth0", [f"{REGISTRAR}/64", "fe80::b/64"])
        arguments = ["init", str(tmp_path / "plant"), "--host", "registrar.example", "--port", "0"]
        made = CliRunner().invoke(app, [*arguments, "--listen", "::", "--interface", "eth0"])
        assert made.exit_code == 0, made.output
        yield Site(device, proxy, registrar, tmp_path / "plant")


def brski(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "brski_registrar", *arguments]


@pytest.mark.req("PX-02", "PX-03", "DS-12", "DS-18", "DS-20", "DS-23")
@pytest.mark.xdist_group("mdns")
def test_a_device_reaches_the_registrar_through_a_proxy_that_found_it_by_itself(site: Site) -> None:
    serve = brski("serve", "--config", str(site.folder / "registrar.toml"), "--json")
    join = brski("join-proxy", "--interface", "dev0", "--registrar", "mdns", "--registrar-interface", "up0")
    anchor = str(site.folder / "anchors/domain-ca.pem")
    with (
        site.registrar.started(*serve) as registrar,
        site.device.started(sys.executable, "-c", HEAR_FLOOD) as ear,
    ):
        assert json.loads(registrar.readline())["event"] == "listening"
        assert ear.readline() == "listening\n"
        with site.proxy.started(*join, "--announce", "dev0", "--grasp", "--json") as proxy:
            event = json.loads(proxy.readline())
            assert event["host"] == f"{PROXY}%dev0"

            data, source, hops = ear.readline().split()
            (objective,) = grasp.read_flood(bytes.fromhex(data)).objectives
            assert objective.locator is not None
            assert (str(objective.locator.address), objective.locator.port) == (PROXY, event["port"])
            assert (source, hops) == (PROXY, "255")

            assert site.device.python(FIND_PROXY).strip() == str(event["port"])
            told = site.device.python(FETCH, f"{PROXY}%dev0", str(event["port"]), anchor)
            assert told.startswith("TLSv1.3 HTTP/1.1 200")
            # Only the link: the proxy's port is not there on its other side.
            with pytest.raises(subprocess.CalledProcessError):
                site.registrar.python(FETCH, PROXY_UP, str(event["port"]), anchor)


@pytest.mark.req("DS-19")
def test_a_registrar_floods_its_own_objective(site: Site) -> None:
    text = (site.folder / "registrar.toml").read_text().replace("mdns = true", "grasp = true")
    (site.folder / "registrar.toml").write_text(text)
    serve = brski("serve", "--config", str(site.folder / "registrar.toml"), "--json")
    with site.proxy.started(sys.executable, "-c", HEAR_FLOOD.replace("dev0", "up0")) as ear:
        assert ear.readline() == "listening\n"
        with site.registrar.started(*serve) as registrar:
            port = int(json.loads(registrar.readline())["url"].rpartition(":")[2])
            (objective,) = grasp.read_flood(bytes.fromhex(ear.readline().split()[0])).objectives
    assert (objective.name, objective.value, objective.loop_count) == ("AN_join_registrar", "EST-TLS", 255)
    assert objective.locator == grasp.Locator(IPv6Address("fe80::b"), 6, port)
