"""From settings to a running registrar: the one place where its parts are put together.

The order of ending is the reverse of the order of starting: first nobody is told of the registrar any more, then
running requests finish, then the database closes.
"""

import asyncio
import getpass
import json
import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from brski_common import event_loop, keys, logs, memory, tls
from brski_common import http as brski_http
from brski_common import settings as common_settings
from brski_common.certificates import ID_KP_CMC_RA, Credential, extended_key_usages
from brski_common.database import Database
from brski_common.errors import Misconfigured, Untrusted
from brski_common.http_connection import Limits
from brski_common.keys import Secret
from brski_common.paths import Anchors, build_path
from brski_registrar import http, renewing
from brski_registrar.ca import CertificateAuthority, LocalAuthority
from brski_registrar.delegates import Delegates
from brski_registrar.est_service import DEFAULT_LABEL, EstService
from brski_registrar.masa_client import HttpMasaClient
from brski_registrar.policy_store import PolicyStore, PolicyView
from brski_registrar.service import RegistrarService
from brski_registrar.settings import ENV_PREFIX, Settings
from brski_registrar.store import MIGRATIONS, Store
from brski_registrar.upstream import UpstreamAuthority

MAX_SECRET_BYTES: Final = 4096

Clock = Callable[[], datetime]

log = logs.logger("registrar")


def utc_now() -> datetime:
    """The time of this machine."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Parts:
    """A registrar put together, which listens nowhere yet: enough for a command that asks a MASA."""

    credential: Credential
    service: RegistrarService
    store: Store
    policies: PolicyStore


@dataclass(frozen=True, slots=True)
class Registrar:
    """A registrar that listens."""

    server: brski_http.Server
    parts: Parts

    @property
    def url(self) -> str:
        """`https://…`, as it listens."""
        return self.server.url


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Database]:
    """The registrar's database, its schema up to date; raises Misconfigured."""
    async with Database.open(settings.database.url, migrations=MIGRATIONS) as database:
        yield database


@asynccontextmanager
async def assembled(settings: Settings, secret: Secret | None = None, clock: Clock = utc_now) -> AsyncIterator[Parts]:
    """Store, policy and service of a registrar with these settings; raises Misconfigured."""
    credential = load_identity(settings, secret)
    async with opened(settings) as database:
        masa = HttpMasaClient(
            credential,
            clock=clock,
            secret=lambda name: read_secret(settings.masa.secrets, name),
            request_seconds=settings.masa.request_seconds,
        )
        store, policies = Store(database), PolicyStore(database)
        service = RegistrarService(store, PolicyView(policies), credential, masa, clock=clock)
        try:
            yield Parts(credential, service, store, policies)
        finally:
            await service.close()


@asynccontextmanager
async def serving(settings: Settings, secret: Secret | None = None, clock: Clock = utc_now) -> AsyncIterator[Registrar]:
    """A registrar with these settings, which listens until the block ends.

    Raises Misconfigured: keys, certificates, the database, the policy or the address cannot be used.
    """
    _warn_of_expiry(settings, clock())
    async with AsyncExitStack() as stack:
        parts = await stack.enter_async_context(assembled(settings, secret, clock))
        await parts.service.policies.current()  # a policy that cannot be read shall show now
        authority = await stack.enter_async_context(certifying(settings, parts.credential, clock, secret))
        authorities = dict.fromkeys((DEFAULT_LABEL, *settings.est.labels), authority)
        delegates = Delegates(keys.read_certificates(settings.est.ras) if settings.est.ras is not None else ())
        site = http.site(parts.service, EstService(parts.service, authorities, delegates))
        context = tls.server_context(parts.credential)
        server = await brski_http.serve(
            site, settings.listen.host, settings.listen.port, context, limits=_limits(settings)
        )
        stack.push_async_callback(server.close)
        stack.push_async_callback(_ended, asyncio.create_task(parts.service.watch()))
        if settings.discovery.is_on:
            from brski_registrar.announcing import announce  # noqa: PLC0415 -- zeroconf takes 3 MB

            await stack.enter_async_context(announce(settings.discovery, server.port))
        yield Registrar(server, parts)


def run(config: Path, *, as_json: bool = False) -> None:
    """Serve until SIGTERM or SIGINT. With `as_json` a line on standard output says where, and
    the log is JSON too; raises BrskiError."""
    settings = load_settings(config)
    logs.configure(json=as_json or settings.log.json_lines, level=settings.log.level)
    logging.getLogger("zeroconf").setLevel(logging.ERROR)  # it warns of every odd packet that somebody sends
    logging.getLogger("alembic").setLevel(logging.WARNING)
    event_loop.run(_run(settings, as_json=as_json))


async def _run(settings: Settings, *, as_json: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serving(settings, ask_secret) as registrar:
        memory.settle()
        log.info("listening", url=registrar.url)
        if as_json:
            print(json.dumps({"event": "listening", "url": registrar.url}), flush=True)
        await stop.wait()
        log.info("stopping")


def load_settings(config: Path) -> Settings:
    """The settings in a file; raises Misconfigured."""
    if not config.exists():
        advice = "make one with `brski-registrar init DIR`, or name it with --config"
        raise Misconfigured("settings-unreadable", f"{config}: no such file; {advice}")
    return common_settings.load(Settings, config, ENV_PREFIX)


def ask_secret(what: str) -> str:
    """Ask the person at the terminal for a passphrase or PIN; raises Misconfigured where there is none."""
    if not sys.stdin.isatty():
        raise Misconfigured("secret-missing", f"{what}: a passphrase or PIN is needed, and there is no terminal to ask")
    return getpass.getpass(f"Passphrase or PIN for {what}: ")


def load_identity(settings: Settings, secret: Secret | None = None) -> Credential:
    """The registrar's credential; raises Misconfigured, also for a certificate that no MASA would take."""
    credential = keys.load_credential(settings.registrar.key, settings.registrar.certificates, secret=secret)
    if ID_KP_CMC_RA not in extended_key_usages(credential.certificate):
        advice = "it lacks id-kp-cmcRA (RFC 8995, 5.5.4); `ca renew` makes one that has it"
        raise Misconfigured("registrar-certificate-unfit", f"{settings.registrar.certificates}: {advice}")
    return credential


def load_authority(settings: Settings, clock: Clock = utc_now, secret: Secret | None = None) -> LocalAuthority:
    """The local CA of the settings; raises Misconfigured."""
    issuer = keys.load_credential(settings.ca.key, settings.ca.certificates, secret=secret)
    rollover = settings.ca.rollover
    return LocalAuthority(
        issuer,
        clock=clock,
        rollover=keys.read_certificates(rollover) if rollover.exists() else (),
        key_kind=settings.ca.csr_key,
        addressing=settings.ca.addressing,
        in_thread=settings.ca.key.startswith("pkcs11:"),
    )


@asynccontextmanager
async def certifying(
    settings: Settings, credential: Credential, clock: Clock = utc_now, secret: Secret | None = None
) -> AsyncIterator[CertificateAuthority]:
    """The CA of the settings: the local one, or one elsewhere to which `credential` is an RA; raises Misconfigured."""
    ca = settings.ca
    if ca.upstream is None or ca.upstream_anchors is None:  # they come together
        yield load_authority(settings, clock, secret)
        return
    anchors = Anchors(keys.read_certificates(ca.upstream_anchors))
    _warn_of_another_ca(credential, anchors, clock())
    authority = UpstreamAuthority(
        ca.upstream,
        anchors,
        credential,
        clock=clock,
        label=ca.upstream_label,
        key_kind=ca.csr_key,
        addressing=ca.addressing,
        request_seconds=ca.upstream_seconds,
    )
    try:
        yield authority
    finally:
        await authority.close()


def read_secret(folder: Path, name: str) -> str:
    """A secret that the policy names: the first line of a file of that name; raises Misconfigured."""
    if not name or name != Path(name).name:
        raise Misconfigured("secret-missing", f"{name!a} is no file name")
    try:
        with (folder / name).open("rb") as file:
            return file.read(MAX_SECRET_BYTES).decode().splitlines()[0]
    except (OSError, ValueError, IndexError) as error:
        raise Misconfigured("secret-missing", f"{folder / name} cannot be read, or is empty") from error


def _limits(settings: Settings) -> Limits:
    listen = settings.listen
    return Limits(
        connections=listen.connections, request_seconds=listen.request_seconds, idle_seconds=listen.idle_seconds
    )


def _warn_of_expiry(settings: Settings, now: datetime) -> None:
    for certificate in renewing.expiring(settings, now):
        log.warning(
            "a certificate ends soon; see `brski-registrar ca renew`",
            subject=certificate.subject.rfc4514_string(),
            not_after=certificate.not_valid_after_utc,
        )


def _warn_of_another_ca(credential: Credential, anchors: Anchors, now: datetime) -> None:
    """Devices trust what their CA vouches for, and an RA is one whom the CA certified as such (RFC 7030, 3.7)."""
    try:
        build_path(credential.certificate, credential.chain[1:], anchors, now)
    except Untrusted as error:
        log.warning("the registrar's certificate is not of the CA elsewhere: devices cannot renew", why=str(error))


async def _ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
