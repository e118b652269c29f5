"""What becomes of a connection. One rule carries it: the database follows Vault. A consent writes its credentials to
Vault and then has settle() make the database say so; whoever dies in between, the next settle() does the same.
"""

from collections.abc import Awaitable
from datetime import datetime

import msgspec
from msgspec import Struct
from prometheus_client import Counter

from shared.amazon import credentials, sellers
from shared.amazon.credentials import Held, TenantCredentials
from shared.amazon.errors import AccessDeniedError, AuthorizationRevokedError, BadRequestError
from shared.amazon.spapi import SpApi
from shared.db import Conn, Pool
from shared.errors import RetryLaterError
from shared.events import AMAZON, ConnectionConnected, ConnectionDisconnected, DisconnectReason
from shared.outbox import Outbox
from shared.telemetry import log
from shared.vault import Vault

from . import queries
from .domain import Connection, NoConnectionError, Status
from .settings import OauthSettings

VERIFIED = Counter("authorizations_verified_total", "Refreshes that asked whether an authorization stands", ["outcome"])

NO_CREDENTIALS = "no_credentials"
APP_CHANGED = "app_changed"
DISCONNECTED = "disconnected"
TENANT_ARCHIVED = "tenant_archived"
RECONNECT = "The account authorized an application that is not in use any more: connect it again."


class Parts(Struct, frozen=True):
    """What works on a connection."""

    pool: Pool
    outbox: Outbox
    api: SpApi
    vault: Vault
    settings: OauthSettings


async def settle(
    parts: Parts, tenant_id: str, *, verify: bool = True, trusted: datetime | None = None
) -> Connection | None:
    """Make the database say what Vault holds of the tenant: connect what is there and stands, end what is gone or
    stands no more, destroy what is over. Amazon is asked about what the database has not connected yet, but for the
    authorization of that time, which a consent has just been given; and, with verify, about what it has. Safe at any
    time, by any number at once.
    What Vault raises, AppCredentialsError or AmazonUnavailableError: nothing has changed then.
    """
    known = await queries.get_connection(parts.pool, tenant_id)  # before Vault: a consent goes there first
    held = await credentials.look_tenant(parts.vault, tenant_id)
    if held.credentials is None:
        return await _lost(parts, known, held)
    given_at = held.credentials.created_at
    if (known is not None and known.voids(given_at)) or await queries.is_archived(parts.pool, tenant_id):
        await credentials.destroy_tenant(parts.vault, tenant_id, held)
        log.info("credentials_destroyed", tenant_id=tenant_id)
        return known
    ours = parts.settings.amazon_spapi_app_source
    if (held.credentials.app_source or (known.app_source if known else ours)) != ours:
        return await _of_other_application(parts, tenant_id, known, held.credentials)
    connected = known if known and known.status is Status.CONNECTED and known.authorized_at == given_at else None
    asked = given_at != trusted and (verify or connected is None)
    if asked and not await _stands(parts, tenant_id, known, held, held.credentials):
        return await queries.get_connection(parts.pool, tenant_id)
    if connected is not None:
        if verify:
            await queries.note_verified(parts.pool, connected)
        return connected
    return await _connect(
        parts, tenant_id, known, held.credentials, await _marketplace_ids(parts, tenant_id, held.credentials)
    )


async def disconnect(parts: Parts, tenant_id: str) -> bool:
    """The tenant's own wish: the others are told, the credentials destroyed, a consent on its way is void.
    False while Vault is away, and the reconciler destroys them later. NoConnectionError when there is nothing to
    disconnect.
    """
    async with parts.pool.acquire() as conn, conn.transaction():
        await queries.lock_tenant(conn, tenant_id)
        connection = await end(conn, parts.outbox, tenant_id, DisconnectReason.USER)
    if connection is None:
        raise NoConnectionError("The tenant has no Amazon account to disconnect.")
    return await destroy_if_possible(parts, tenant_id)


async def end(conn: Conn, outbox: Outbox, tenant_id: str, reason: DisconnectReason) -> Connection | None:
    """DISCONNECTED, in the transaction of a caller who has locked the tenant; None when there is no connection. What
    Vault holds has to be destroyed after it.
    """
    known = await queries.get_connection(conn, tenant_id)
    if known is None:
        return None
    await queries.finish_states(conn, tenant_id, "DISCONNECTED")
    if known.status is Status.DISCONNECTED:
        await queries.void_authorizations(conn, tenant_id)
        return known
    archived = reason is DisconnectReason.TENANT_ARCHIVED
    ended = await queries.move_connection(
        conn,
        known,
        Status.DISCONNECTED,
        TENANT_ARCHIVED if archived else DISCONNECTED,
        "The tenant was archived." if archived else "The account was disconnected here.",
    )
    await queries.void_authorizations(conn, tenant_id)
    await _tell_end(conn, outbox, known, reason)
    log.info("connection_disconnected", tenant_id=tenant_id, reason=reason.value)
    return ended


def switched(connection: Connection) -> Connection:
    """How a connection for another application than the one in use reads until the reconciler has been there."""
    return msgspec.structs.replace(
        connection, status=Status.RECONNECT_REQUIRED, last_error_code=APP_CHANGED, last_error=RECONNECT
    )


async def destroy_if_possible(parts: Parts, tenant_id: str) -> bool:
    """After the end of a connection; what cannot be destroyed now stays due for the reconciler."""
    try:
        await settle(parts, tenant_id, verify=False)
    except RetryLaterError as error:
        log.warning("credentials_not_destroyed_yet", tenant_id=tenant_id, error=str(error))
        return False
    return True


async def fail_consent(parts: Parts, tenant_id: str, state_hash: bytes, code: str, reason: str) -> None:
    """A consent came to nothing; a connection that worked before still does."""
    async with parts.pool.acquire() as conn, conn.transaction():
        await queries.lock_tenant(conn, tenant_id)
        await queries.finish_state(conn, state_hash, "FAILED")
        await _note_failure(conn, tenant_id, code, reason)
    log.warning("consent_failed", tenant_id=tenant_id, code=code, reason=reason)


async def end_lost_consents(parts: Parts, tenant_id: str) -> None:
    """Consents whose seller never came back, or whose callback died without a trace in Vault: after settle()."""
    async with parts.pool.acquire() as conn, conn.transaction():
        await queries.lock_tenant(conn, tenant_id)
        ended = await queries.end_lost_states(conn, tenant_id)
        if "LOST" in ended:
            reason = "The connection was interrupted here before it was complete: start again."
            await _note_failure(conn, tenant_id, "consent_interrupted", reason)
        elif ended and not await queries.has_open_state(conn, tenant_id):
            known = await queries.get_connection(conn, tenant_id)
            if known is not None and known.status is Status.PENDING:
                reason = "The seller did not come back from Amazon within 15 minutes: start again."
                await _note_failure(conn, tenant_id, "consent_not_finished", reason)


async def _note_failure(conn: Conn, tenant_id: str, code: str, reason: str) -> None:
    known = await queries.get_connection(conn, tenant_id)
    if known is None:
        return
    if known.status in {Status.PENDING, Status.ERROR}:
        await queries.move_connection(conn, known, Status.ERROR, code, reason)
    else:
        await queries.note_error(conn, tenant_id, code, reason)


async def _lost(parts: Parts, known: Connection | None, held: Held) -> Connection | None:
    """Vault has nothing that can be used: CONNECTED would be a lie."""
    if known is None or known.status is not Status.CONNECTED:
        return known
    async with parts.pool.acquire() as conn, conn.transaction():
        await queries.lock_tenant(conn, known.tenant_id)
        now = await queries.get_connection(conn, known.tenant_id)
        if now is None or now.status is not Status.CONNECTED or now.authorized_at != known.authorized_at:
            return now
        lost = await queries.move_connection(conn, now, Status.ERROR, NO_CREDENTIALS, held.problem)
        await _tell_end(conn, parts.outbox, now, DisconnectReason.CREDENTIALS_LOST)
    log.error("credentials_lost", tenant_id=known.tenant_id, reason=held.problem)
    return lost


async def _stands(parts: Parts, tenant_id: str, known: Connection | None, held: Held, given: TenantCredentials) -> bool:
    """Ask Amazon; an authorization that it does not know any more is REVOKED and destroyed."""
    try:
        await _counted(parts.api.verify(given))
    except AuthorizationRevokedError as error:
        await _revoke(parts, tenant_id, known, given, error)
        await credentials.destroy_tenant(parts.vault, tenant_id, held)
        return False
    return True


async def _counted(verify: Awaitable[None]) -> None:
    try:
        await verify
    except (AuthorizationRevokedError, RetryLaterError) as error:
        VERIFIED.labels(error.code).inc()
        raise
    VERIFIED.labels("stands").inc()


async def _revoke(
    parts: Parts,
    tenant_id: str,
    known: Connection | None,
    judged: TenantCredentials,
    error: AuthorizationRevokedError,
) -> None:
    async with parts.pool.acquire() as conn, conn.transaction():
        await queries.lock_tenant(conn, tenant_id)
        now = await queries.get_connection(conn, tenant_id)
        if now is None or not now.may_become(Status.REVOKED):
            return
        if _is_overtaken(now, known, judged):
            return
        await queries.move_connection(conn, now, Status.REVOKED, error.code, str(error), void_until=judged.created_at)
        await _tell_end(conn, parts.outbox, now, DisconnectReason.REVOKED)
    log.warning("connection_revoked", tenant_id=tenant_id)


async def _of_other_application(
    parts: Parts, tenant_id: str, known: Connection | None, judged: TenantCredentials
) -> Connection | None:
    """The authorization is for the application that is not in use: it is kept, for the day that it is again."""
    async with parts.pool.acquire() as conn, conn.transaction():
        archived = await queries.lock_tenant(conn, tenant_id)
        now = await queries.get_connection(conn, tenant_id)
        if archived:
            return now
        if now is None:
            return await queries.insert_other_source(
                conn,
                tenant_id,
                seller_id=judged.seller_id,
                region=judged.region,
                app_source=judged.app_source,
                vault_path=credentials.tenant_path(tenant_id),
                authorized_at=judged.created_at,
                code=APP_CHANGED,
                reason=RECONNECT,
            )
        if not now.may_become(Status.RECONNECT_REQUIRED) or _is_overtaken(now, known, judged):
            return now
        changed = await queries.move_connection(conn, now, Status.RECONNECT_REQUIRED, APP_CHANGED, RECONNECT)
        await _tell_end(conn, parts.outbox, now, DisconnectReason.APP_CHANGED)
    log.warning("reconnect_required", tenant_id=tenant_id, app_source=now.app_source)
    return changed


async def _connect(
    parts: Parts, tenant_id: str, known: Connection | None, given: TenantCredentials, marketplace_ids: list[str]
) -> Connection | None:
    """CONNECTED, and the event, in one transaction; unless something later was said meanwhile."""
    async with parts.pool.acquire() as conn, conn.transaction():
        archived = await queries.lock_tenant(conn, tenant_id)
        now = await queries.get_connection(conn, tenant_id)
        if archived:
            return now
        if now is not None:
            if now.voids(given.created_at) or _is_overtaken(now, known, given):
                return now
            if now.status is Status.CONNECTED and now.authorized_at == given.created_at:
                return now
        if now is not None and now.seller_id not in {None, given.seller_id}:
            await _tell_end(conn, parts.outbox, now, DisconnectReason.USER)  # before: its time is the earlier one
        connection = await queries.connect(
            conn,
            now,
            tenant_id,
            seller_id=given.seller_id,
            marketplace_ids=marketplace_ids,
            region=given.region,
            app_source=parts.settings.amazon_spapi_app_source,
            vault_path=credentials.tenant_path(tenant_id),
            authorized_at=given.created_at,
        )
        await queries.finish_states(conn, tenant_id, "CONNECTED", until=given.created_at)
        await parts.outbox.add(conn, _connected(connection))
    log.info("connection_connected", tenant_id=tenant_id, seller_id=given.seller_id)
    return connection


def _is_overtaken(now: Connection, known: Connection | None, judged: TenantCredentials) -> bool:
    """Was a later authorization connected than the one that we looked at? One that was connected before we looked
    does not count: Vault had it, and was set back since.
    """
    if now.authorized_at is None or now.authorized_at <= judged.created_at:
        return False
    return known is None or known.authorized_at != now.authorized_at


def _connected(connection: Connection) -> ConnectionConnected:
    if connection.seller_id is None or connection.connected_at is None or connection.reauthorize_by is None:
        raise RuntimeError("a connected connection has its seller and its dates")
    return ConnectionConnected(
        tenant_id=connection.tenant_id,
        marketplace=AMAZON,
        connection_id=connection.id,
        seller_id=connection.seller_id,
        marketplace_ids=connection.marketplace_ids,
        region=connection.region,
        app_source=connection.app_source,
        connected_at=connection.connected_at,
        reauthorize_by=connection.reauthorize_by,
    )


async def _tell_end(conn: Conn, outbox: Outbox, ended: Connection, reason: DisconnectReason) -> None:
    """Only of a connection that was CONNECTED: the others have heard of its end before, or never of it."""
    if ended.status is Status.CONNECTED:
        await outbox.add(
            conn,
            ConnectionDisconnected(
                tenant_id=ended.tenant_id,
                marketplace=AMAZON,
                connection_id=ended.id,
                reason=reason,
                at=await queries.get_now(conn),
            ),
        )


async def _marketplace_ids(parts: Parts, tenant_id: str, given: TenantCredentials) -> list[str]:
    """Where the seller sells. The authorization is good all the same where Amazon does not say it now, also for an
    application without the role for the Sellers API; the marketplace of the consent is certain.
    """
    try:
        return await sellers.marketplace_ids(parts.api, given)
    except (RetryLaterError, AccessDeniedError, BadRequestError) as error:
        log.warning("marketplaces_not_known", tenant_id=tenant_id, reason=error.code)
        return [given.marketplace_id]
