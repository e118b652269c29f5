"""Opaque tokens: signed, so that nobody can make or change one, and nothing has to be remembered."""

import base64
import binascii
import hashlib
import hmac
from typing import TypeVar

import msgspec

_MAC_BYTES = 16
Content = TypeVar("Content", bound=msgspec.Struct)


class SignatureError(Exception):
    """The token was not made here, not for this purpose, or was changed."""


def seal(key: bytes, purpose: str, content: msgspec.Struct) -> str:
    body = msgspec.json.encode(content)
    return base64.urlsafe_b64encode(_mac(key, purpose, body) + body).decode().rstrip("=")


def unseal(key: bytes, purpose: str, token: str, kind: type[Content]) -> Content:
    try:
        raw = base64.urlsafe_b64decode(token.encode() + b"=" * (-len(token) % 4))
        mac, body = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not hmac.compare_digest(mac, _mac(key, purpose, body)):
            raise SignatureError
        return msgspec.json.decode(body, type=kind)
    except (binascii.Error, UnicodeError, msgspec.MsgspecError):
        raise SignatureError from None


def _mac(key: bytes, purpose: str, body: bytes) -> bytes:
    return hmac.new(key, purpose.encode() + b"\0" + body, hashlib.sha256).digest()[:_MAC_BYTES]
