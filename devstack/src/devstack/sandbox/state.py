"""The running sandbox: what it keeps across restarts, and what it holds in memory only."""

import asyncio
import hashlib
import logging
import os
import re
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from .clock import Clock, ClockReading
from .faults import Fault
from .life import Change, Pace
from .marketplaces import BY_COUNTRY, Region
from .official import OfficialBook
from .orderbook import OrderBook
from .quota import Buckets
from .reportbook import Habits, Report
from .seed import SeededBook
from .settings import ORDERS_MODEL, Application, Settings

log = logging.getLogger("sandbox")

DEFAULT_SELLER = "A12BCIS2R7HD4D"
NEW_SELLER = "A2NEWSELLER0000"
OFFICIAL_SELLER = "A3OFFICIALMODEL"
SELLER_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
SECRET_OVERLAP_SECONDS = 7 * 86_400
"""How long the secret before is valid beside a new one: rotateApplicationClientSecret, Application Management model."""


class Seller(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A selling partner: its orders follow from these few values."""

    seller_id: str
    region: Region
    marketplace_ids: tuple[str, ...]
    orders: int
    days: int
    seed: int
    cancelled_every: int | None
    anchor: float
    """When the seller was made; its orders lie in the `days` before, as seconds since 1970."""
    story: bool = False
    """The default seller, among whose orders are the known ones."""
    unknown_every: int | None = None
    """How many orders there are to one of a status that Amazon's model has not."""
    paces: tuple[Pace, ...] = ()
    """Without one, nothing becomes of the seller's orders."""
    reports: Habits = Habits()


class Grant(msgspec.Struct, frozen=True):
    """A seller's consent, behind one refresh token; without it, its access tokens are revoked."""

    seller_id: str
    client_id: str


class Code(msgspec.Struct, frozen=True):
    seller_id: str
    redirect_uri: str
    expires_at: float
    client_id: str = ""
    """Empty in a state from before there were two applications: no one's."""


class Renewal(msgspec.Struct, frozen=True):
    """A seller on the way from Amazon through the application's Login URI back to Amazon."""

    seller_id: str
    client_id: str
    expires_at: float


class Kept(msgspec.Struct, kw_only=True):
    """What survives a restart. Codes, grants and renewals stand under the hash of what was given out for them."""

    key: bytes
    clock: ClockReading
    sellers: dict[str, Seller] = {}
    grants: dict[str, Grant] = {}
    codes: dict[str, Code] = {}
    renewals: dict[str, Renewal] = {}
    client_secrets: dict[str, dict[str, float | None]] = {}
    """By client id: the hash of each secret, and when it ends; None for the newest."""
    drafts: set[str] = set()
    """Client ids."""
    changes: dict[str, dict[str, list[Change]]] = {}
    """By seller and order, in the order in which they were made."""
    reports: dict[str, dict[str, Report]] = {}
    """By seller and report."""


class Sandbox:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._file = settings.state / "sandbox.json"
        self.kept = _load(self._file) or _new(settings)
        self.clock = Clock(self.kept.clock)
        if settings.clock_speed is not None:
            self.clock.change(speed=settings.clock_speed)
        for application in settings.applications:
            self._know(application)
        self.buckets = Buckets()
        self.faults: list[Fault] = []
        self.calls: Counter[tuple[str, str, str]] = Counter()
        self.writing: dict[Path, asyncio.Task[int]] = {}
        """Reports' documents."""
        self._books: dict[str, SeededBook] = {}
        self._official: Seller | None = None
        if settings.models is not None:
            self._examples = book = OfficialBook(settings.models / ORDERS_MODEL)
            self._official = Seller(
                seller_id=OFFICIAL_SELLER,
                region="EU",
                marketplace_ids=book.marketplace_ids,
                orders=len(book),
                days=0,
                seed=0,
                cancelled_every=None,
                anchor=self.clock.seconds(),
            )
        self.save()

    def save(self) -> None:
        """Write a new file and put it in the place of the old one: a kill leaves one of the two whole."""
        self.kept.clock = self.clock.reading()
        new = self._file.with_suffix(".new")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(msgspec.json.encode(self.kept))
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._file)

    def sellers(self) -> Iterator[Seller]:
        yield from self.kept.sellers.values()
        if self._official is not None:
            yield self._official

    def seller(self, seller_id: str) -> Seller | None:
        if seller_id == OFFICIAL_SELLER and self._official is not None:
            return self._official
        return self.kept.sellers.get(seller_id)

    def put_seller(self, seller: Seller) -> None:
        """Create or replace; its orders begin anew."""
        self.kept.changes.pop(seller.seller_id, None)
        self._keep_seller(seller)
        log.info("seller put: %s with %s orders", seller.seller_id, seller.orders)

    def set_pace(self, seller: Seller, orders_per_day: float) -> Seller:
        """From now on."""
        since = self.now() // 1000 * 1000 + 1000
        pace = Pace(since=since, orders_per_day=orders_per_day)
        changed = msgspec.structs.replace(seller, paces=(*seller.paces, pace))
        self._keep_seller(changed)
        return changed

    def set_habits(self, seller: Seller, habits: Habits) -> Seller:
        changed = msgspec.structs.replace(seller, reports=habits)
        self._keep_seller(changed)
        return changed

    def change_order(self, seller: Seller, order_id: str, change: Change) -> None:
        self.kept.changes.setdefault(seller.seller_id, {}).setdefault(order_id, []).append(change)
        self._books.pop(seller.seller_id, None)
        self.save()

    def _keep_seller(self, seller: Seller) -> None:
        self.kept.sellers[seller.seller_id] = seller
        self._books.pop(seller.seller_id, None)
        self.save()

    def now(self) -> int:
        """Milliseconds since 1970, by the sandbox's clock."""
        return int(self.clock.seconds() * 1000)

    def book(self, seller: Seller, at: int | None = None) -> OrderBook:
        """The seller's orders as they are now, or were at another moment."""
        return self._examples if seller is self._official else self.seeded_book(seller, at)

    def seeded_book(self, seller: Seller, at: int | None = None) -> SeededBook:
        if seller.seller_id not in self._books:
            self._books[seller.seller_id] = SeededBook(
                seller_id=seller.seller_id,
                marketplace_ids=seller.marketplace_ids,
                orders=seller.orders,
                days=seller.days,
                seed=seller.seed,
                cancelled_every=seller.cancelled_every,
                anchor=seller.anchor,
                story=seller.story,
                unknown_every=seller.unknown_every,
                paces=seller.paces,
                changes=self.kept.changes.get(seller.seller_id),
            )
        return self._books[seller.seller_id].at(self.now() if at is None else at)

    def revoke(self, seller_id: str) -> int:
        """Forget every consent of the seller and say how many there were."""
        revoked = [key for key, grant in self.kept.grants.items() if grant.seller_id == seller_id]
        for key in revoked:
            del self.kept.grants[key]
        self.save()
        log.info("seller revoked: %s, %s consents", seller_id, len(revoked))
        return len(revoked)

    def is_draft(self, application: Application) -> bool:
        return application.client_id in self.kept.drafts

    def set_draft(self, application: Application, *, draft: bool) -> None:
        if draft:
            self.kept.drafts.add(application.client_id)
        else:
            self.kept.drafts.discard(application.client_id)
        self.save()
        log.info("application %s is %s", application.source, "a draft" if draft else "published")

    def is_secret(self, application: Application, secret: str) -> bool:
        ends = self.kept.client_secrets[application.client_id].get(digest(secret), 0.0)
        return ends is None or self.clock.seconds() < ends

    def rotate_secret(self, application: Application, *, overlap: float) -> str:
        """A new client secret; those before end after `overlap` seconds, if not earlier."""
        secret = "amzn1.oa2-cs.v1." + secrets.token_hex(32)
        end = self.clock.seconds() + overlap
        held = self.kept.client_secrets[application.client_id]
        for key, ends in held.items():
            held[key] = end if ends is None else min(ends, end)
        held[digest(secret)] = None
        self.save()
        log.info("client secret rotated: %s", application.source)
        return secret

    def _know(self, application: Application) -> None:
        """The secret of the settings is the only one, unless the state knows what became of it."""
        key = digest(application.client_secret)
        if key not in self.kept.client_secrets.get(application.client_id, {}):
            self.kept.client_secrets[application.client_id] = {key: None}

    def count(self, operation: str, seller_id: str, status: int | str) -> None:
        self.calls[operation, seller_id, str(status)] += 1


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _load(file: Path) -> Kept | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Kept)
    except FileNotFoundError:
        return None


def _new(settings: Settings) -> Kept:
    settings.state.mkdir(parents=True, exist_ok=True)
    now = time.time()
    story = Seller(
        seller_id=DEFAULT_SELLER,
        region="EU",
        marketplace_ids=tuple(BY_COUNTRY[country] for country in ("FR", "DE", "ES", "IT")),
        orders=94,
        days=90,
        seed=1,
        cancelled_every=15,
        anchor=now,
        story=True,
    )
    new = Seller(
        seller_id=NEW_SELLER,
        region="NA",
        marketplace_ids=(BY_COUNTRY["US"],),
        orders=0,
        days=90,
        seed=1,
        cancelled_every=15,
        anchor=now,
    )
    return Kept(
        key=secrets.token_bytes(32),
        clock=ClockReading(wall=now, sandbox=now),
        sellers={seller.seller_id: seller for seller in (story, new)},
    )
