"""NATS in: for operators."""

from shared.requests import OfTenant, Operation

from .lifecycle import Parts
from .routes import Disconnected, StatusAnswer, end_connection, status_of


async def status(asked: OfTenant, parts: Parts) -> StatusAnswer:
    """Is a tenant's Amazon account connected, and if not, why."""
    return await status_of(parts, asked.tenant_id)


async def disconnect(asked: OfTenant, parts: Parts) -> Disconnected:
    """End the connection and destroy its credentials."""
    return await end_connection(parts, asked.tenant_id)


OPERATIONS: dict[str, Operation] = {"status": status, "disconnect": disconnect}
