"""Opaque cursors for keyset pages: the place of the last row, so that the deepest page costs what the first does."""

import base64
import binascii
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import msgspec

from .errors import PermanentError

_Place = tuple[Annotated[datetime, msgspec.Meta(tz=True)], UUID]


def encode_cursor(at: datetime, row_id: UUID) -> str:
    return base64.urlsafe_b64encode(msgspec.msgpack.encode((at, row_id))).decode().rstrip("=")


def decode_cursor(cursor: str) -> tuple[datetime, UUID]:
    """PermanentError names the parameter when it is not one of our cursors."""
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        at, row_id = msgspec.msgpack.decode(raw, type=_Place)
        return at.astimezone(UTC), row_id  # PostgreSQL's client reads it so, and some times have no place there
    except (binascii.Error, ValueError, OverflowError, msgspec.MsgspecError) as error:
        raise PermanentError(
            "The cursor is not one that this service gave: begin without it.", field="cursor"
        ) from error
