"""The orders in Amazon's own examples, served as they stand."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import msgspec

from .marketplaces import MARKETPLACES
from .orderbook import Family, Json, Line, Sale, Traits


class _Model(msgspec.Struct):
    paths: Json


class _Channel(msgspec.Struct, rename="camel"):
    marketplace_id: str


class _Fulfillment(msgspec.Struct, rename="camel"):
    fulfillment_status: str
    fulfilled_by: str
    fulfillment_service_level: str = "STANDARD"


class _Money(msgspec.Struct, frozen=True):
    amount: Decimal = Decimal(0)


class _Price(msgspec.Struct, frozen=True, rename="camel"):
    unit_price: _Money = _Money()


class _Product(msgspec.Struct, frozen=True, rename="camel"):
    asin: str = ""
    title: str = ""
    seller_sku: str = ""
    price: _Price = _Price()


class _Done(msgspec.Struct, frozen=True, rename="camel"):
    quantity_fulfilled: int = 0


class _Promoted(msgspec.Struct, frozen=True, rename="camel"):
    promotion_id: str = ""


class _Promotion(msgspec.Struct, frozen=True):
    breakdowns: list[_Promoted] = []


class _Item(msgspec.Struct, frozen=True, rename="camel"):
    order_item_id: str
    quantity_ordered: int
    product: _Product
    fulfillment: _Done = _Done()
    promotion: _Promotion = _Promotion()


class _Address(msgspec.Struct, frozen=True, rename="camel"):
    city: str = ""
    state_or_region: str = ""
    postal_code: str = ""
    country_code: str = ""


class _Recipient(msgspec.Struct, frozen=True, rename="camel"):
    delivery_address: _Address = _Address()


class _PackageStatus(msgspec.Struct, frozen=True):
    status: str = ""


class _Package(msgspec.Struct, frozen=True, rename="camel"):
    package_status: _PackageStatus = _PackageStatus()


class _Facts(msgspec.Struct, rename="camel"):
    order_id: str
    created_time: datetime
    last_updated_time: datetime
    sales_channel: _Channel
    fulfillment: _Fulfillment
    order_items: list[_Item]
    recipient: _Recipient = _Recipient()
    packages: list[_Package] = []

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

    def walk(self, family: Family, start: tuple[int, int]) -> Iterator[tuple[int, int]]:
        places = sorted((self.time(family, index), index) for index in range(len(self)))
        return (place for place in places if place >= start)

    def time(self, family: Family, index: int) -> int:
        return self._facts[index].time(family)

    def traits(self, index: int) -> Traits:
        facts = self._facts[index]
        return Traits(
            facts.fulfillment.fulfillment_status,
            facts.sales_channel.marketplace_id,
            facts.fulfillment.fulfilled_by,
        )

    def sale(self, index: int) -> Sale:
        facts, traits = self._facts[index], self.traits(index)
        marketplace, address = MARKETPLACES[traits.marketplace_id], facts.recipient.delivery_address
        return Sale(
            order_id=facts.order_id,
            created=facts.time("created"),
            updated=facts.time("updated"),
            traits=traits,
            marketplace=marketplace,
            delivered=any(package.package_status.status == "DELIVERED" for package in facts.packages),
            service_level=facts.fulfillment.fulfillment_service_level,
            place=(address.city, address.state_or_region, address.postal_code, address.country_code),
            lines=[
                Line(
                    item_id=item.order_item_id,
                    asin=item.product.asin,
                    sku=item.product.seller_sku,
                    title=item.product.title,
                    price=int(item.product.price.unit_price.amount.scaleb(marketplace.decimals)),
                    quantity=item.quantity_ordered,
                    shipped=item.fulfillment.quantity_fulfilled,
                    promotion=",".join(one.promotion_id for one in item.promotion.breakdowns) or None,
                )
                for item in facts.order_items
            ],
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
