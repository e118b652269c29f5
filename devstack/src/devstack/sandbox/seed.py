"""Any number of orders from a few numbers: each is computed from its index when it is asked for, and so is what was
updated when. Nothing is kept for an order but what the control changed.
"""

import copy
import hashlib
import heapq
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from .draw import Draw, mix
from .life import CANCELLED, COURSES, DAY, SENT, SPLIT, Change, Course, Pace, State
from .marketplaces import MARKETPLACES
from .orderbook import UNKNOWN_STATUS, Family, Sale, Traits
from .seeded_order import Outline, messages, order, sale

_QUIET = 6 * 60_000
"""No order is younger than this at the anchor: Amazon serves none of the last two minutes."""
_NEVER = 1 << 60
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


class Stretch(msgspec.Struct, frozen=True):
    """Orders that come evenly, in milliseconds: the first ones at most half a step after `start`."""

    first: int
    count: int
    start: int
    step: float


class SeededBook:
    """Orders of a seller, evenly spread over `days` before `anchor`; the index is their age's rank.

    Without a pace, time stands still for them a little before the anchor. From the first pace on they go on from where
    they stood, and new ones come. Every step of a course comes to orders in the order of their indexes, so that what
    was updated is a merge of sorted streams, each of which can begin anywhere.
    """

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
        unknown_every: int | None = None,
        paces: Sequence[Pace] = (),
        changes: Mapping[str, Sequence[Change]] | None = None,
    ) -> None:
        self._key = int.from_bytes(hashlib.sha256(f"{seed} {seller_id}".encode()).digest()[:8], "big")
        self._marketplaces = [MARKETPLACES[marketplace_id] for marketplace_id in marketplace_ids]
        self._prefixes = _PREFIXES[self._marketplaces[0].region]
        self._pins = STORY if story else {}
        self._older = 1 if story else 0  # orders before the window, at the first indexes
        self._seeded = orders + self._older
        self.days = days
        self._cancelled_every = cancelled_every
        self._unknown_every = unknown_every
        self._anchor = int(anchor) * 1000
        self._end = self._anchor - _QUIET
        start = self._anchor - days * DAY + days * DAY // 90
        # An affine map of the index gives ids that are unique, look random and can be read back.
        self._factor = mix(self._key, 11) % (_SPACE // 10) * 10 + 3
        self._shift = mix(self._key, 12) % _SPACE
        self._inverse = pow(self._factor, -1, _SPACE)
        if orders and (self._end - start) // orders < 4:  # noqa: PLR2004
            raise ValueError("More orders than milliseconds to place them in.")
        self._stretches = [Stretch(self._older, orders, start, (self._end - start) / max(1, orders))]
        self._gap = paces[0].since - self._end if paces else _NEVER
        self._add(paces)
        self.now = max(self._anchor, paces[-1].since if paces else 0)
        self._changes: dict[int, Sequence[Change]] = {}
        for order_id, made in (changes or {}).items():
            index = self._index(order_id)
            if index is not None:
                self._changes[index] = made

    def at(self, now: int) -> "SeededBook":
        """The same orders at another moment, in milliseconds since 1970."""
        book = copy.copy(self)
        book.now = now
        return book

    def __len__(self) -> int:
        last = self._stretches[-1]
        return self._first(self.now + 1, self._stretches[1:]) if len(self._stretches) > 1 else last.first + last.count

    def walk(self, family: Family, start: tuple[int, int]) -> Iterator[tuple[int, int]]:
        places = self._by_creation(start) if family == "created" else heapq.merge(*self._streams(start))
        return itertools.dropwhile(lambda place: place < start, places)

    def time(self, family: Family, index: int) -> int:
        return self._created(index) if family == "created" else self.state(index).updated

    def traits(self, index: int) -> Traits:
        return self._traits(index, self.state(index).status, self._seed(index))

    def state(self, index: int) -> State:
        return self._state(index, self._created(index), self._course(index))

    def sale(self, index: int) -> Sale:
        return sale(self._outline(index))

    def order(self, index: int) -> Mapping[str, object]:
        return order(self._outline(index))

    def find(self, order_id: str) -> int | None:
        index = self._index(order_id)
        return index if index is not None and index < len(self) else None

    def messages(self, index: int) -> Sequence[Mapping[str, object]]:
        pin = self._pins.get(index)
        draw = Draw(self._key, index, 2)
        count = draw.below(3) + 1 if draw.below(12) == 0 else 0
        if pin is not None and pin.messages is not None:
            count = pin.messages
        return messages(self._outline(index), count, max(self._end, self._created(index)))

    def _add(self, paces: Sequence[Pace]) -> None:
        """A stretch of each pace, which ends where the next one begins."""
        for number, pace in enumerate(paces):
            last = self._stretches[-1]
            first = last.first + last.count
            count = _NEVER if pace.orders_per_day else 0
            step = DAY / pace.orders_per_day if pace.orders_per_day else 0.0
            self._stretches.append(Stretch(first, count, pace.since, step))
            if number + 1 < len(paces):
                until = self._first(paces[number + 1].since, self._stretches[-1:])
                self._stretches[-1] = Stretch(first, until - first, pace.since, step)

    def _first(self, time: int, stretches: Sequence[Stretch]) -> int:
        """The first index that is created at `time` or later; beyond the last one when there is none."""
        for stretch in stretches:
            if not stretch.count:
                continue
            guess = int((time - stretch.start) / stretch.step) - 2
            index = stretch.first + min(max(0, guess), stretch.count)
            end = stretch.first + stretch.count
            while index < end and self._created(index) < time:
                index += 1
            if index < end:
                return index
        return stretches[-1].first + stretches[-1].count

    def _by_creation(self, start: tuple[int, int]) -> Iterator[tuple[int, int]]:
        first = 0 if self._older and start[0] <= self._created(0) else self._first(start[0], self._stretches)
        for index in range(first, len(self)):
            yield self._created(index), index

    def _streams(self, start: tuple[int, int]) -> Iterator[Iterable[tuple[int, int]]]:
        """Of each course and step the orders that stand there; and those that left their course."""
        end = len(self)
        for number, course in enumerate(COURSES):
            for step in range(len(course)):
                yield self._standing(course, step, start[0], end, number)
        for step in range(len(CANCELLED)):
            yield self._standing(CANCELLED, step, start[0], end, None)
        apart = {*self._pins, *self._changes}
        yield sorted((self.time("updated", index), index) for index in apart if index < end)

    def _standing(
        self, course: Course, step: int, since: int, end: int, number: int | None
    ) -> Iterator[tuple[int, int]]:
        after = course[step].after
        first = self._first_due(since, after)
        if step + 1 < len(course):
            first = max(first, self._first_due(self.now + 1, course[step + 1].after))
        for index in self._members(number, first, end):
            if index in self._pins or index in self._changes:
                continue
            time = self._due(index, self._created(index) + after)
            if time > self.now:
                return
            yield time, index

    def _members(self, number: int | None, first: int, end: int) -> Iterator[int]:
        """Indexes of a course's orders, of the cancelled ones without a number."""
        if number is None:
            every = self._cancelled_every or _NEVER
            offset = self._older + every - 1
            yield from range(offset + max(0, -((offset - first) // every)) * every, end, every)
            return
        for block in itertools.count(max(0, first) // len(COURSES)):
            index = block * len(COURSES) + (number - self._turn(block)) % len(COURSES)
            if index >= end:
                if block * len(COURSES) >= end:
                    return
            elif index >= first and not self._is_every(self._cancelled_every, index):
                yield index

    def _turn(self, block: int) -> int:
        return mix(self._key, block, 7)

    def _course(self, index: int) -> Course:
        if index in self._pins:
            return SENT
        if self._is_every(self._cancelled_every, index):
            return CANCELLED
        block, place = divmod(index, len(COURSES))
        return COURSES[(place + self._turn(block)) % len(COURSES)]

    def _is_every(self, every: int | None, index: int) -> bool:
        return every is not None and (index - self._older) % every == every - 1

    def _due(self, index: int, time: int) -> int:
        """When it comes, of what would come at `time` had time not stood still."""
        return time + self._gap if index < self._seeded and time > self._end else time

    def _first_due(self, time: int, after: int) -> int:
        """The first index whose step comes at `time` or later; see _due()."""
        unmoved = time if time <= self._end else max(self._end + 1, time - self._gap)
        seeded = self._first(unmoved - after, self._stretches[:1])
        if seeded < self._seeded or len(self._stretches) == 1:
            return seeded
        return self._first(time - after, self._stretches[1:])

    def _traits(self, index: int, status: str, seed: int) -> Traits:
        if index in self._pins:
            return Traits(status, self._marketplaces[0].id, "MERCHANT")
        marketplace = self._marketplaces[seed // 128 % len(self._marketplaces)]
        return Traits(status, marketplace.id, "AMAZON" if (seed >> 32) % 100 < 30 else "MERCHANT")  # noqa: PLR2004

    def _seed(self, index: int) -> int:
        return mix(self._key, index, 3)

    def _state(self, index: int, created: int, course: Course) -> State:
        changes = self._changes.get(index, ())
        until = min(self.now, changes[0].at - 1) if changes else self.now
        status, updated, shipped, package = "PENDING", created, None, None
        for step in course:
            due = self._due(index, created + step.after)
            if due > until:
                break
            status, updated, package = step.status, due, step.package
            if package is not None and shipped is None:
                shipped = due
        carrier = tracking = None
        for change in changes:
            if change.at <= self.now:
                status, updated, package = change.status, change.at, change.package
                carrier, tracking = change.carrier, change.tracking
                shipped = shipped or change.at
        if self._is_every(self._unknown_every, index):
            status, package = UNKNOWN_STATUS, None
        return State(
            status=status, updated=updated, shipped=shipped, package=package, carrier=carrier, tracking=tracking
        )

    def _outline(self, index: int) -> Outline:
        created, course, seed = self._created(index), self._course(index), self._seed(index)
        state = self._state(index, created, course)
        traits = self._traits(index, state.status, seed)
        pin = self._pins.get(index)
        return Outline(
            order_id=self._order_id(index, seed),
            created=created,
            state=state,
            traits=traits,
            marketplace=MARKETPLACES[traits.marketplace_id],
            total=pin.total if pin is not None else None,
            split=course is SPLIT,
            seed=seed,
        )

    def _index(self, order_id: str) -> int | None:
        """Of an order that there is or will be."""
        if not _ORDER_ID.fullmatch(order_id):
            return None
        for index, pin in self._pins.items():
            if pin.order_id == order_id:
                return index
        index = (int(order_id[4:].replace("-", "")) - self._shift) * self._inverse % _SPACE
        return index if self._order_id(index, self._seed(index)) == order_id else None

    def _order_id(self, index: int, seed: int) -> str:
        pin = self._pins.get(index)
        if pin is not None and pin.order_id is not None:
            return pin.order_id
        digits = f"{(index * self._factor + self._shift) % _SPACE:014}"
        return f"{self._prefixes[seed // 8 % len(self._prefixes)]}-{digits[:7]}-{digits[7:]}"

    def _created(self, index: int) -> int:
        if index < self._older:
            return self._anchor - (self._pins[index].days_ago or 0) * DAY
        stretch = next(stretch for stretch in reversed(self._stretches) if index >= stretch.first)
        place = int((index - stretch.first) * stretch.step) + mix(self._key, index, 5) % int(stretch.step / 2)
        created = stretch.start + place
        # Whole seconds, unless there are so many orders that these would be the same.
        return created // 1000 * 1000 if stretch.step >= 4000 else created  # noqa: PLR2004
