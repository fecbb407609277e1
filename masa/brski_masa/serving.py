"""Runs the service until it is told to stop. Imports no more than serving needs: typer, rich and Alembic stay out."""

import asyncio
import json
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from brski_common import event_loop, http, keys, logs, memory, tls
from brski_common import settings as settings_files
from brski_common.errors import Misconfigured
from brski_common.http_connection import Limits
from brski_masa.authentication import HttpAuthentication
from brski_masa.fetching import Fetcher
from brski_masa.http import Front
from brski_masa.keyring import load_signers, load_trust
from brski_masa.limiting import Allowance
from brski_masa.parties import IdentityKind
from brski_masa.revocation import Revocation
from brski_masa.service import CONTENT_TYPES, AuditTerms, Masa
from brski_masa.settings import ENVIRONMENT_PREFIX, Settings
from brski_masa.store import Store

Clock = Callable[[], datetime]

log = logs.logger("masa")


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


def load_settings(path: Path) -> Settings:
    """Read the settings; raises Misconfigured."""
    if not path.exists():
        advice = "make one with `brski-masa init DIR`, or name it with --config"
        raise Misconfigured("settings-unreadable", f"{path}: no such file; {advice}")
    return settings_files.load(Settings, path, ENVIRONMENT_PREFIX)


def assemble(settings: Settings, store: Store, clock: Clock = utc_now, secret: keys.Secret | None = None) -> Masa:
    """The service of these settings, without its face; raises Misconfigured."""
    audit = settings.audit_log
    trust = load_trust(settings)
    return Masa(
        store,
        load_signers(settings, secret, now=clock()),
        trust,
        settings.policy.terms(settings.authentication),
        clock=clock,
        audit_terms=AuditTerms(
            full_events=audit.full_events,
            always_abridge=audit.always_abridge,
            refuse_replays=audit.replay == "refuse",
            request_max_age=timedelta(days=audit.request_max_age_days),
            link_lifetime=timedelta(days=audit.link_days),
        ),
        revocation=_revocation(settings),
        content_type=CONTENT_TYPES[settings.signing.cms_content_type],
    )


def face(settings: Settings, masa: Masa) -> Front:
    """The HTTP front of the service."""
    limits = settings.limits
    authentication = None
    if IdentityKind.HTTP_USER in settings.authentication.accept:
        realm, schemes = settings.authentication.realm, settings.authentication.http_schemes
        authentication = HttpAuthentication(realm, schemes, masa.store.verifier_of, time.monotonic)
    return Front(
        masa,
        Allowance(limits.refusals_per_minute, limits.burst, time.monotonic),
        answer=settings.audit_log.answer,
        authentication=authentication,
    )


async def start(
    settings: Settings, store: Store, clock: Clock = utc_now, secret: keys.Secret | None = None
) -> http.Server:
    """Start listening; raises Misconfigured."""
    credential = keys.load_credential(
        settings.tls.key,
        settings.tls.chain,
        secret=secret,
        allow_published=settings.maker.unsafe_published_test_keys,
    )
    front = face(settings, assemble(settings, store, clock, secret))
    limits = Limits(connections=settings.limits.connections)
    return await http.serve(
        front.site(), settings.listen.host, settings.listen.port, tls.server_context(credential), limits=limits
    )


def run(config: Path, *, json_lines: bool) -> None:
    """Serve until SIGTERM or SIGINT; raises Misconfigured if it cannot even start."""
    settings = load_settings(config)
    logs.configure(json=json_lines or settings.log.json_lines, level=settings.log.level)
    event_loop.run(_run(settings, json_lines=json_lines))


async def _run(settings: Settings, *, json_lines: bool) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    store = Store.open(settings.database)
    try:
        server = await start(settings, store, secret=ask_secret)
        memory.settle()
        _announce(server.url, json_lines=json_lines)
        await stop.wait()
        log.info("stopping")
        await server.close()
    finally:
        await store.close()


def _announce(url: str, *, json_lines: bool) -> None:
    if json_lines:
        with suppress(BrokenPipeError):
            print(json.dumps({"event": "listening", "url": url}), flush=True)
    log.info("listening", url=url)


def ask_secret(what: str) -> str:
    """Ask the operator for a passphrase or PIN; on no terminal, Misconfigured by an empty answer further down."""
    if not sys.stdin.isatty():
        return ""
    import getpass  # noqa: PLC0415 -- only who has a protected key needs it

    return getpass.getpass(f"Secret for {what}: ")


def _revocation(settings: Settings) -> Revocation | None:
    terms = settings.revocation
    if not terms.check:
        return None
    fetcher = Fetcher(hosts=frozenset(terms.hosts), only_hosts=terms.only_hosts, seconds=terms.seconds)
    return Revocation(fetcher.fetch, refuse_unreachable=terms.unreachable == "refuse")
