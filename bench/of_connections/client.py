"""Sellers' browsers for bench/connections.py, by a client of its own: what httpx costs for a request is more than some
of the answers cost.
"""

import asyncio
import time
from collections.abc import Sequence
from urllib.parse import parse_qs, urlencode, urlsplit
from uuid import uuid4

import jwt
import msgspec
from msgspec import Struct

from devstack.endpoints import HOST
from oauth.routes import API


class Driven(Struct, frozen=True):
    """What came of some requests: their time together, each one's, and their bodies in their order."""

    seconds: float
    milliseconds: list[float]
    bodies: list[bytes]

    @property
    def rate(self) -> float:
        return len(self.bodies) / self.seconds


async def drive(port: int, requests: Sequence[bytes], at_once: int) -> Driven:
    """Each of so many connections sends its next request when the one before is answered."""
    waiting = iter(enumerate(requests))
    milliseconds = [0.0] * len(requests)
    bodies = [b""] * len(requests)
    connections = [await asyncio.open_connection(HOST, port) for _ in range(at_once)]

    async def worker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for place, request in waiting:
            began = time.perf_counter()
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]) if b"content-length:" in head else 0
            bodies[place] = await reader.readexactly(length)
            milliseconds[place] = (time.perf_counter() - began) * 1_000
            if head.split(b" ", 2)[1] not in {b"200", b"304"}:
                raise SystemExit(f"A request failed: {head.decode()}{bodies[place].decode()}")

    began = time.perf_counter()
    await asyncio.gather(*(worker(*connection) for connection in connections))
    seconds = time.perf_counter() - began
    for _, writer in connections:
        writer.close()
    return Driven(seconds, milliseconds, bodies)


class Seller(Struct, frozen=True):
    """One tenant's browser."""

    tenant_id: str
    token: str
    address: str

    @classmethod
    def some(cls, number: int, jwt_secret: str) -> list["Seller"]:
        made = []
        for _ in range(number):
            one = uuid4()
            claims = {"sub": "agent", "role": "agent", "tenantId": f"bench-{one.hex}", "exp": time.time() + 3_600}
            address = "10." + ".".join(str(byte) for byte in one.bytes[-3:])
            made.append(cls(f"bench-{one.hex}", jwt.encode(claims, jwt_secret, algorithm="HS256"), address))
        return made

    def start(self) -> bytes:
        return self._request("POST", "/oauth/start", "{}")

    def callback(self, started: bytes) -> bytes:
        """Without a token, as a browser that comes from Amazon."""
        state = parse_qs(urlsplit(msgspec.json.decode(started)["authUrl"]).query)["state"][0]
        back = {"state": state, "selling_partner_id": f"A{self.tenant_id[-12:]}", "spapi_oauth_code": uuid4().hex}
        return self._request("GET", f"/oauth/callback?{urlencode(back)}", signed_in=False)

    def status(self) -> bytes:
        return self._request("GET", "/status")

    def _request(self, method: str, path: str, body: str = "", *, signed_in: bool = True) -> bytes:
        lines = [f"{method} {API}{path} HTTP/1.1", f"Host: {HOST}", f"X-Forwarded-For: {self.address}"]
        if signed_in:
            lines.append(f"Authorization: Bearer {self.token}")
        if body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        return "\r\n".join([*lines, "", body]).encode()


async def connect_and_read(port: int, jwt_secret: str, connections: int, reads: int, at_once: int) -> dict[str, Driven]:
    sellers = Seller.some(connections, jwt_secret)
    starts = await drive(port, [seller.start() for seller in sellers], at_once)
    back = [seller.callback(body) for seller, body in zip(sellers, starts.bodies, strict=True)]
    callbacks = await drive(port, back, at_once)
    asked = [sellers[number % connections].status() for number in range(reads)]
    statuses = await drive(port, asked, at_once)
    if not all(b'"credentialsPresent":true' in body for body in statuses.bodies):
        raise SystemExit("Not every connection was made.")
    return {"start": starts, "callback": callbacks, "status": statuses}


def token_requests(number: int, form: dict[str, str]) -> list[bytes]:
    body = urlencode(form)
    kind = "application/x-www-form-urlencoded"
    head = f"POST /auth/o2/token HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return [f"{head}{body}".encode()] * number
