"""A host on a link of its own: the fake registrar on a link-local address, announced by GRASP and mDNS.

    python -m tests.support.link_host INTERFACE ADDRESS FOLDER grasp|mdns

It writes the pledge's files into FOLDER, prints one line when it listens, and runs until it is ended.
"""

import asyncio
import ipaddress
import socket
import sys
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from zeroconf import ServiceInfo
from zeroconf.asyncio import AsyncZeroconf

from brski_common import grasp
from brski_common.certificates import to_pem
from tests.support.registrar_fake import FakeRegistrar, serve
from tests.support.world import Manufacturer

FLOOD_SECONDS = 0.5  # far more often than a real proxy, for a test that does not wait


def write_device(folder: Path, maker: Manufacturer, serial: str = "SN-1") -> Path:
    """A device's own things, and a settings file that names them."""
    idevid = maker.idevid(serial)
    (folder / "idevid.pem").write_bytes(to_pem(*idevid.chain))
    key = folder / "idevid.key"
    key.write_bytes(idevid.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    key.chmod(0o600)
    (folder / "anchors.pem").write_bytes(to_pem(*maker.voucher_anchors.certificates))
    settings = folder / "pledge.toml"
    settings.write_text(
        'state = "state"\ncertificate = "idevid.pem"\nkey = "idevid.key"\n'
        'voucher_anchors = "anchors.pem"\nmdns = false\n'
    )
    return settings


async def flood(interface: str, address: str, port: int) -> None:
    """Announce a join proxy again and again, as a proxy does."""
    index = socket.if_nametoindex(interface)
    message = grasp.write_flood(grasp.proxy_flood(1, ipaddress.IPv6Address(address), port))
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
        sender.bind((address, 0, 0, index))
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        while True:
            sender.sendto(message, (str(grasp.GROUP), grasp.PORT, 0, index))
            await asyncio.sleep(FLOOD_SECONDS)


async def announce(interface: str, address: str, port: int) -> None:
    """Announce a join proxy by mDNS."""
    zeroconf = AsyncZeroconf(interfaces=[socket.if_nametoindex(interface)])
    packed = ipaddress.IPv6Address(address).packed
    name = "proxy._brski-proxy._tcp.local."
    service = ServiceInfo("_brski-proxy._tcp.local.", name, port, addresses=[packed], server="proxy.local.")
    await zeroconf.async_register_service(service)
    await asyncio.Event().wait()


async def main(interface: str, address: str, folder: str, how: str) -> None:
    """Serve and announce."""
    registrar = FakeRegistrar()
    write_device(Path(folder), registrar.maker)
    server = await serve(registrar, host=f"{address}%{interface}")
    print("listening", server.port, flush=True)
    await (flood if how == "grasp" else announce)(interface, address, server.port)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:5]))
