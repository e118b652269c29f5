"""What must not be found, and how it is looked for; a wire that somebody listens to."""

import asyncio
import base64
import contextlib
import json
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from urllib.parse import quote, quote_plus

GRAM = 16
"""So much of a long secret is enough to count as found."""
PUBLIC = ("Atzr|", "Atza|", "amzn1.oa2-cs.v1.", "Bearer ")
"""How some secrets begin, all of them alike."""


class Hidden:
    """Texts that must not be seen anywhere, by their kind; in any of the forms that programs write a text in."""

    def __init__(self) -> None:
        self.of_kind: dict[str, set[str]] = defaultdict(set)
        self._grams: dict[str, str] = {}
        self._wholes: dict[str, str] = {}

    def add(self, kind: str, secret: str, *, fragments: bool = True) -> None:
        """fragments: parts of it count as well, where it is long."""
        for prefix in PUBLIC:
            secret = secret.removeprefix(prefix)
        if secret in self.of_kind[kind]:
            return
        assert len(secret) >= 6, f"{secret!r} is found by chance"
        self.of_kind[kind].add(secret)
        for form in _forms(secret):
            if fragments and len(form) >= GRAM:
                self._grams.update(dict.fromkeys(_grams(form), kind))
            else:
                self._wholes[form] = kind

    def found_in(self, text: str) -> set[str]:
        """The kinds of what a text gives away."""
        found = {self._grams[gram] for gram in _grams(text) if gram in self._grams}
        return found | {kind for form, kind in self._wholes.items() if form in text}


def _forms(secret: str) -> set[str]:
    raw = secret.encode()
    forms = {secret, quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1], raw.hex()}
    for shift in range(3):  # base64 looks different by where in a text it begins
        encoded = base64.b64encode(bytes(shift) + raw).decode().rstrip("=")
        whole = encoded[(shift * 8 + 5) // 6 : len(encoded) - (1 if (len(raw) + shift) % 3 else 0)]
        forms |= {whole, whole.replace("+", "-").replace("/", "_")}
    return forms


def _grams(text: str) -> Iterable[str]:
    return (text[start : start + GRAM] for start in range(len(text) - GRAM + 1))


class Wire:
    """Between a service and a server: passes all of it on, and keeps it, by connection and direction."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.heard: list[bytearray] = []


@asynccontextmanager
async def tapped(
    port: int, listener: ssl.SSLContext | None = None, onward: ssl.SSLContext | None = None
) -> AsyncIterator[Wire]:
    """A wire to this port. With TLS the contexts are those of its two ends."""

    async def passed_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard = bytearray()
        wire.heard.append(heard)
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                heard += data
                writer.write(data)
                await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_connection("127.0.0.1", port, ssl=onward)
        except OSError:
            writer.close()
            return
        await asyncio.gather(passed_on(reader, there[1]), passed_on(there[0], writer))

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=listener)
    wire = Wire(server.sockets[0].getsockname()[1])
    try:
        yield wire
    finally:
        server.close()
        await server.wait_closed()
