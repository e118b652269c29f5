"""Opaque cursors for keyset pages: the place of the last row, so that the deepest page costs what the first does, and
what the list was asked for, in which alone the place means something.
"""

import base64
import binascii
import zlib
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import msgspec

from .errors import PermanentError

_Place = tuple[Annotated[datetime, msgspec.Meta(tz=True)], UUID, int]


def encode_cursor(at: datetime, row_id: UUID, *, asked: object = None) -> str:
    """Asked is the sort and the filters of the list, whatever can be encoded."""
    place = (at, row_id, _checksum(asked))
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(place)).decode().rstrip("=")


def decode_cursor(cursor: str, *, asked: object = None) -> tuple[datetime, UUID]:
    """PermanentError names the parameter when it is not one of our cursors, or another list's."""
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        at, row_id, checksum = msgspec.msgpack.decode(raw, type=_Place)
        at = at.astimezone(UTC)  # PostgreSQL's client reads it so, and some times have no place there
    except (binascii.Error, ValueError, OverflowError, msgspec.MsgspecError) as error:
        raise PermanentError(
            "The cursor is not one that this service gave: begin without it.", field="cursor"
        ) from error
    if checksum != _checksum(asked):
        raise PermanentError(
            "The cursor belongs to another sort or other filters: ask as it was asked when it was given, or begin"
            " without it.",
            field="cursor",
        )
    return at, row_id


def _checksum(asked: object) -> int:
    return zlib.crc32(msgspec.json.encode(asked, order="deterministic"))  # sets come in another order everywhere
