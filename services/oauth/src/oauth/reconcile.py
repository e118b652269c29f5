"""What nobody else is there to do: look after each connection from time to time and after every consent, remind of
what runs out, find what only Vault knows, count.
"""

import asyncio
from datetime import timedelta

import msgspec
from prometheus_client import Gauge

from shared.amazon.credentials import TENANTS
from shared.errors import PermanentError, RetryLaterError, UnavailableError
from shared.events import ApplicationSecretExpiring, ConnectionExpiring, TenantId
from shared.telemetry import log

from . import lifecycle, queries
from .domain import SECRET_LIFE, Due, Status
from .lifecycle import Parts

CONNECTIONS = Gauge("connections", "Connections by status", ["status"])
RENEWALS = Gauge("connections_to_renew", "Connected accounts to be authorized anew within so many days", ["days"])
SECRET_AGE = Gauge(
    "application_secret_age_days", "How old the client secret is; Amazon allows 180 days", ["app_source"]
)

LEASE = timedelta(seconds=60)
AT_ONCE = 20
IDLE_SECONDS = 0.5
OUTAGE_SECONDS = 10
TIDY_SECONDS = 60
SEARCH_SECONDS = 3_600


async def run(parts: Parts) -> None:
    """Look after the connections that are due, for as long as the service runs; replicas share them."""
    await queries.make_switched_due(parts.pool, parts.settings.amazon_spapi_app_source)
    while True:
        due = await queries.claim_due(parts.pool, AT_ONCE, LEASE, timedelta(seconds=parts.settings.verify_seconds))
        looked = await asyncio.gather(*(_check_or_note(parts, each) for each in due))
        if not all(looked):
            await asyncio.sleep(OUTAGE_SECONDS)
        elif not due:
            await asyncio.sleep(IDLE_SECONDS)


async def tidy(parts: Parts) -> None:
    """Once a minute: old states, reminders, metrics."""
    while True:
        await queries.delete_old_states(parts.pool)
        await remind(parts)
        await measure(parts)
        await asyncio.sleep(TIDY_SECONDS)


async def search(parts: Parts) -> None:
    """At the start and once an hour: what Vault holds of tenants that have no connection here."""
    while True:
        await find_unknown(parts)
        await asyncio.sleep(SEARCH_SECONDS)


async def check(parts: Parts, tenant_id: str, *, verify: bool) -> None:
    """All that can be due of one connection. What settle() raises; it is due again then when its lease ends."""
    await lifecycle.settle(parts, tenant_id, verify=verify)
    await lifecycle.end_lost_consents(parts, tenant_id)
    await queries.schedule_check(parts.pool, tenant_id, timedelta(seconds=parts.settings.check_seconds))


async def _check_or_note(parts: Parts, due: Due) -> bool:
    """False when something that we need is away: it is no use to go on at once."""
    try:
        await check(parts, due.tenant_id, verify=due.verify)
    except RetryLaterError as error:
        log.warning("connection_not_checked", tenant_id=due.tenant_id, code=error.code, error=str(error))
        return False
    except PermanentError as error:
        log.error("connection_not_checked", tenant_id=due.tenant_id, code=error.code, error=str(error))
    return True


async def remind(parts: Parts) -> None:
    """Tell 30, 7 and 1 days ahead which authorizations end, and when the client secret has to be changed; once each."""
    source = parts.settings.amazon_spapi_app_source
    try:
        created_at = (await parts.api.app()).client_secret_created_at
    except RetryLaterError as error:
        log.warning("application_not_checked", code=error.code, error=str(error))
        created_at = None
    async with parts.pool.acquire() as conn, conn.transaction():
        if created_at is not None:
            await queries.upsert_application(conn, source, created_at + SECRET_LIFE)
        told: list[ConnectionExpiring | ApplicationSecretExpiring] = [
            *await queries.remind_of_secret(conn, source),
            *await queries.remind_of_renewals(conn),
        ]
        if told:
            await parts.outbox.add(conn, *told)
    for event in told:
        log.warning("reminded", subject=event.SUBJECT, about=event.key, days_left=event.days_left)


async def measure(parts: Parts) -> None:
    counted = await queries.count_connections(parts.pool)
    for status in set(Status) - {Status.NOT_CONNECTED}:
        CONNECTIONS.labels(status.value).set(counted.get(status, 0))
    for days, count in (await queries.count_renewals(parts.pool)).items():
        RENEWALS.labels(str(days)).set(count)
    source = parts.settings.amazon_spapi_app_source
    rotate_by = await queries.get_rotate_by(parts.pool, source)
    if rotate_by is not None:
        age = SECRET_LIFE - (rotate_by - await queries.get_now(parts.pool))
        SECRET_AGE.labels(source).set(age / timedelta(days=1))


async def find_unknown(parts: Parts) -> None:
    """Connect what Vault holds and the database lacks altogether, as after a restore of the database.
    UnavailableError when some could not be looked at, after all the others.
    """
    names = [name for name in await parts.vault.list_keys(TENANTS) if _is_tenant_id(name)]
    unknown = await queries.list_unknown(parts.pool, names)
    missed = [each for each in unknown if not await _check_or_note(parts, Due(each, verify=True))]
    if missed:
        raise UnavailableError(f"{len(missed)} of {len(unknown)} unknown tenants could not be looked at.")


def _is_tenant_id(name: str) -> bool:
    try:
        msgspec.convert(name, TenantId)
    except msgspec.ValidationError:
        return False
    return True
