"""The orders in Amazon's own examples, served as they stand."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from .orderbook import Family, Json, Traits


class _Model(msgspec.Struct):
    paths: Json


class _Channel(msgspec.Struct, rename="camel"):
    marketplace_id: str


class _Fulfillment(msgspec.Struct, rename="camel"):
    fulfillment_status: str
    fulfilled_by: str


class _Facts(msgspec.Struct, rename="camel"):
    order_id: str
    created_time: datetime
    last_updated_time: datetime
    sales_channel: _Channel
    fulfillment: _Fulfillment

    def time(self, family: Family) -> int:
        moment = self.created_time if family == "created" else self.last_updated_time
        return int(moment.timestamp() * 1000)


class OfficialBook:
    """Distinct orders of the examples and static sandbox answers in the official Orders model."""

    def __init__(self, model: Path) -> None:
        paths = msgspec.json.decode(model.read_bytes(), type=_Model).paths
        found = {str(order["orderId"]): order for order in _orders(paths)}
        self._orders = list(found.values())
        self._facts = msgspec.convert(self._orders, list[_Facts])
        self._indexes = {facts.order_id: index for index, facts in enumerate(self._facts)}
        self.marketplace_ids = tuple(sorted({facts.sales_channel.marketplace_id for facts in self._facts}))

    def __len__(self) -> int:
        return len(self._orders)

    def positions(self, family: Family) -> Sequence[int]:
        return sorted(range(len(self)), key=lambda index: (self.time(family, index), index))

    def time(self, family: Family, index: int) -> int:
        return self._facts[index].time(family)

    def traits(self, index: int) -> Traits:
        facts = self._facts[index]
        return Traits(
            facts.fulfillment.fulfillment_status,
            facts.sales_channel.marketplace_id,
            facts.fulfillment.fulfilled_by,
        )

    def order(self, index: int) -> Mapping[str, object]:
        return self._orders[index]

    def find(self, order_id: str) -> int | None:
        return self._indexes.get(order_id)

    def messages(self, index: int) -> Sequence[Mapping[str, object]]:  # noqa: ARG002
        return ()


def _orders(node: object) -> Iterator[Json]:
    if isinstance(node, dict):
        if "orderId" in node and "orderItems" in node:
            yield node
        else:
            for value in node.values():
                yield from _orders(value)
    elif isinstance(node, list):
        for value in node:
            yield from _orders(value)
