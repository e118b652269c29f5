"""Opaque cursors for keyset pages: the place of the last row, so that the deepest page costs what the first does."""

import base64
import binascii
from datetime import datetime
from uuid import UUID

import msgspec

from .errors import PermanentError


def encode_cursor(at: datetime, row_id: UUID) -> str:
    return base64.urlsafe_b64encode(msgspec.msgpack.encode((at, row_id))).decode().rstrip("=")


def decode_cursor(cursor: str) -> tuple[datetime, UUID]:
    """PermanentError names the parameter when it is not one of our cursors."""
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        return msgspec.msgpack.decode(raw, type=tuple[datetime, UUID])
    except (binascii.Error, ValueError, msgspec.MsgspecError) as error:
        raise PermanentError(
            "The cursor is not one that this service gave: begin without it.", field="cursor"
        ) from error
