"""The connection pool. A transaction is always `async with conn.transaction()`."""

from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg
import msgspec

if TYPE_CHECKING:
    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
    Conn: TypeAlias = asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
else:  # Litestar reads annotations at run time, where asyncpg's classes take no parameter
    Pool = asyncpg.Pool
    Conn = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy


LOST = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What a query raises whose server dies; the last one is asyncpg caught in the middle of an operation."""


async def open_pool(url: str, service: str, *, size: int = 10) -> Pool:
    """A ready pool; one of LOST when the server cannot be reached or refuses, ValueError when the address is none."""
    return await asyncpg.create_pool(
        url,
        min_size=1,
        max_size=size,
        init=use_msgspec_for_json,
        reset=_no_reset,
        command_timeout=30,
        timeout=10,
        server_settings={"application_name": service},
    )


async def use_msgspec_for_json(conn: Conn) -> None:
    """Jsonb in and out as Python values and structs."""
    await conn.set_type_codec("jsonb", schema="pg_catalog", encoder=_encode_json, decoder=_decode_json, format="binary")


_JSONB_VERSION = b"\x01"
"""The binary form, which COPY takes, is this and the text."""


def _encode_json(value: Any) -> bytes:
    return _JSONB_VERSION + msgspec.json.encode(value)


def _decode_json(value: bytes) -> Any:
    return msgspec.json.decode(memoryview(value)[1:])


async def _no_reset(_conn: Conn) -> None:
    """No query on release: sessions keep nothing, as transactions end with their block and locks that last
    longer are taken on connections of their own. It saves a round trip per use.
    """
