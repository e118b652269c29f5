"""Any number of orders from a few numbers: each is computed from its index when it is asked for."""

import hashlib
import re
from array import array
from collections.abc import Mapping, Sequence

import msgspec

from .draw import Draw, mix
from .marketplaces import MARKETPLACES, Marketplace
from .orderbook import Family, Traits
from .seeded_order import Outline, messages, order

DAY = 86_400_000
_QUIET = 6 * 60_000
"""No order is younger than this at the anchor: Amazon serves none of the last two minutes."""
_SPACE = 10**14
_ORDER_ID = re.compile(r"\d{3}-\d{7}-\d{7}")
_PREFIXES = {
    "EU": ("171", "302", "303", "305", "402", "403", "404", "405", "406", "407", "408"),
    "NA": ("111", "112", "113", "114", "701", "702"),
    "FE": ("249", "250", "503"),
}


class Pin(msgspec.Struct, frozen=True, kw_only=True):
    """An order of the default seller that people know by its number or its amount."""

    order_id: str | None = None
    total: int
    """In cents."""
    days_ago: int | None = None
    messages: int | None = None


STORY = {
    0: Pin(order_id="171-3125066-7920325", total=5890, days_ago=120, messages=0),
    20: Pin(total=44150),
    41: Pin(total=7146),
    63: Pin(total=122991, messages=12),
    71: Pin(total=8310),
    82: Pin(order_id="407-8949262-6149120", total=39184, messages=3),
}


class SeededBook:
    """Orders of a seller, evenly spread over `days` before `anchor`; the index is their age's rank."""

    def __init__(
        self,
        *,
        seller_id: str,
        marketplace_ids: Sequence[str],
        orders: int,
        days: int,
        seed: int,
        cancelled_every: int | None,
        anchor: float,
        story: bool = False,
    ) -> None:
        self._key = int.from_bytes(hashlib.sha256(f"{seed} {seller_id}".encode()).digest()[:8], "big")
        self._marketplaces = [MARKETPLACES[marketplace_id] for marketplace_id in marketplace_ids]
        self._prefixes = _PREFIXES[self._marketplaces[0].region]
        self._pins = STORY if story else {}
        self._older = 1 if story else 0  # orders before the window, at the first indexes
        self._count = orders
        self.days = days
        self._cancelled_every = cancelled_every
        self._anchor = int(anchor) * 1000
        self._end = self._anchor - _QUIET
        self._start = self._anchor - days * DAY + days * DAY // 90
        # An affine map of the index gives ids that are unique, look random and can be read back.
        self._factor = mix(self._key, 11) % (_SPACE // 10) * 10 + 3
        self._shift = mix(self._key, 12) % _SPACE
        self._inverse = pow(self._factor, -1, _SPACE)
        self._by_updated: array[int] | None = None
        if orders and (self._end - self._start) // orders < 4:  # noqa: PLR2004
            raise ValueError("More orders than milliseconds to place them in.")

    def __len__(self) -> int:
        return self._count + self._older

    def positions(self, family: Family) -> Sequence[int]:
        if family == "created":
            return range(len(self))
        if self._by_updated is None:  # one machine word an order, made when first asked for
            self._by_updated = array(
                "q", sorted(range(len(self)), key=lambda index: (self.time("updated", index), index))
            )
        return self._by_updated

    def time(self, family: Family, index: int) -> int:
        return self._created(index) if family == "created" else self._updated(index)

    def traits(self, index: int) -> Traits:
        draw = Draw(self._key, index, 1)
        marketplace = draw.pick(self._marketplaces)
        fulfilled_by = "AMAZON" if draw.chance(30) else "MERCHANT"
        if index in self._pins:
            return Traits("SHIPPED", self._marketplaces[0].id, "MERCHANT")
        every = self._cancelled_every
        if every and (index - self._older) % every == every - 1:
            return Traits("CANCELLED", marketplace.id, fulfilled_by)
        return Traits(_status(self._anchor - self._created(index), draw.below(100)), marketplace.id, fulfilled_by)

    def order(self, index: int) -> Mapping[str, object]:
        return order(self._outline(index))

    def find(self, order_id: str) -> int | None:
        if not _ORDER_ID.fullmatch(order_id):
            return None
        for index, pin in self._pins.items():
            if pin.order_id == order_id:
                return index
        index = (int(order_id[4:].replace("-", "")) - self._shift) * self._inverse % _SPACE
        return index if index < len(self) and self._order_id(index) == order_id else None

    def messages(self, index: int) -> Sequence[Mapping[str, object]]:
        pin = self._pins.get(index)
        draw = Draw(self._key, index, 2)
        count = draw.below(3) + 1 if draw.below(12) == 0 else 0
        if pin is not None and pin.messages is not None:
            count = pin.messages
        return messages(self._outline(index), count, self._end)

    def _outline(self, index: int) -> Outline:
        traits = self.traits(index)
        pin = self._pins.get(index)
        return Outline(
            order_id=self._order_id(index),
            created=self._created(index),
            updated=self._updated(index),
            traits=traits,
            marketplace=self._marketplace(traits),
            total=pin.total if pin is not None else None,
            draw=Draw(self._key, index, 3),
        )

    def _marketplace(self, traits: Traits) -> Marketplace:
        return MARKETPLACES[traits.marketplace_id]

    def _order_id(self, index: int) -> str:
        pin = self._pins.get(index)
        if pin is not None and pin.order_id is not None:
            return pin.order_id
        digits = f"{(index * self._factor + self._shift) % _SPACE:014}"
        prefix = self._prefixes[mix(self._key, index, 4) % len(self._prefixes)]
        return f"{prefix}-{digits[:7]}-{digits[7:]}"

    def _created(self, index: int) -> int:
        pin = self._pins.get(index)
        if pin is not None and pin.days_ago is not None:
            return self._anchor - pin.days_ago * DAY
        span = self._end - self._start
        step = span // self._count
        place = span * (index - self._older) // self._count + mix(self._key, index, 5) % (step // 2)
        return self._whole(self._start + place)

    def _updated(self, index: int) -> int:
        created = self._created(index)
        later = created + 60_000 + mix(self._key, index, 6) % (10 * DAY)
        return max(created, self._whole(min(later, self._end)))

    def _whole(self, milliseconds: int) -> int:
        """Whole seconds, unless there are so many orders that these would be the same."""
        room = (self._end - self._start) // max(1, self._count)
        return milliseconds // 1000 * 1000 if room >= 4000 else milliseconds  # noqa: PLR2004


def _status(age: int, roll: int) -> str:
    """Young orders wait, older ones are shipped, and a few are neither."""
    if age < DAY:
        return "PENDING" if roll < 30 else "UNSHIPPED" if roll < 80 else "SHIPPED"  # noqa: PLR2004
    if age < 4 * DAY:
        return "UNSHIPPED" if roll < 25 else "PARTIALLY_SHIPPED" if roll < 35 else "SHIPPED"  # noqa: PLR2004
    return {0: "PENDING_AVAILABILITY", 1: "UNFULFILLABLE", 2: "PARTIALLY_SHIPPED"}.get(roll, "SHIPPED")
