"""The body of a made-up order, as Orders v2026-01-01 has it, and the buyer's messages about it."""

import string

import msgspec

from .draw import Draw
from .marketplaces import Marketplace
from .orderbook import Json, Traits, iso

HOUR = 3_600_000
DAY = 24 * HOUR
_GOODS = (
    ("Stainless steel vacuum flask, 1 l", 2490),
    ("Wireless keyboard with number pad", 5990),
    ("Cast iron pan, 28 cm", 3995),
    ("LED desk lamp with USB port", 2999),
    ("Cotton bed linen, 140 x 200 cm", 4450),
    ("Hiking backpack, 40 l", 8310),
    ("Espresso machine, 15 bar", 19592),
    ("Ceramic knife set, 5 pieces", 1899),
    ("Bluetooth headphones, noise cancelling", 12900),
    ("Yoga mat, 6 mm", 2150),
    ("Garden hose, 30 m", 3573),
    ("Electric toothbrush with two heads", 6490),
)
_NAMES = {
    "fr": (("Camille", "Julien", "Élodie", "Antoine", "Chloé"), ("Moreau", "Lefèvre", "Garnier", "Roussel")),
    "de": (("Jürgen", "Anna", "Lukas", "Sabine", "Jonas"), ("Müller", "Schäfer", "Vogel", "Brandt")),
    "es": (("Lucía", "Javier", "Carmen", "Íñigo", "Marta"), ("García", "Ibáñez", "Navarro", "Muñoz")),
    "it": (("Giulia", "Matteo", "Chiara", "Niccolò", "Sara"), ("Rossi", "Ferrari", "D'Angelo", "Conti")),
    "ja": (("陽子", "健太", "美咲", "翔"), ("佐藤", "鈴木", "高橋", "田中")),
    "en": (("Emma", "Oliver", "Grace", "Noah", "Maeve"), ("Wilson", "O'Brien", "Clarke", "Patel")),
}
_STREETS = {
    "fr": "rue de la République",
    "de": "Lindenstraße",
    "es": "Calle Mayor",
    "it": "Via Garibaldi",
    "ja": "中央通り",
    "en": "High Street",
}
_CARRIERS = {
    "FR": ("Colissimo", "Chronopost"),
    "DE": ("DHL", "Hermes"),
    "ES": ("Correos", "SEUR"),
    "IT": ("Poste Italiane", "BRT"),
    "GB": ("Royal Mail", "Evri"),
    "US": ("USPS", "UPS"),
}
_SUBJECTS = {
    "fr": "Demande de renseignements de la part du client Amazon {name} (Commande : {order_id})",
    "de": "Anfrage vom Amazon-Kunden {name} (Bestellung: {order_id})",
    "en": "Product details inquiry from Amazon customer {name} (Order: {order_id})",
}
_BODIES = {
    "fr": (
        "Bonjour, où en est ma commande ?",
        "Merci, je l'attends toujours.",
        "Puis-je changer l'adresse ?",
    ),
    "de": ("Guten Tag, wo bleibt mein Paket?", "Vielen Dank für die Antwort.", "Ich brauche eine Rechnung."),
    "en": ("Hello, where is my parcel?", "Thank you for your answer.", "Could I have an invoice, please?"),
}


class Sold(msgspec.Struct, frozen=True):
    """An item of the order, with the figures that other sections need."""

    item: Json
    price: int
    quantity: int
    shipped: int


class Outline(msgspec.Struct, frozen=True, kw_only=True):
    """What is settled before the body is written. Times in milliseconds since 1970."""

    order_id: str
    created: int
    updated: int
    traits: Traits
    marketplace: Marketplace
    total: int | None
    """In the currency's smallest unit; None draws the items and lets them decide."""
    draw: Draw


def order(outline: Outline) -> Json:
    """All sections; totals are the sums of the items, whose price times quantity is their total."""
    draw, traits = outline.draw, outline.traits
    name = _name(draw, outline.marketplace)
    merchant = traits.fulfilled_by == "MERCHANT"
    sold = _items(outline)
    total = sum(one.price * one.quantity for one in sold)
    buyer: Json = {"buyerName": name}
    if merchant:  # Amazon gives the address of merchant-fulfilled orders only
        alias = draw.text(string.ascii_lowercase + string.digits, 14)
        buyer["buyerEmail"] = f"{alias}@marketplace.amazon.{outline.marketplace.domain}"
    proceeds: Json = {}
    if traits.status != "CANCELLED":
        proceeds = _proceeds("grandTotal", _money(outline, total))
    elif draw.chance(50):
        proceeds = {"grandTotal": _money(outline, 0)}
    body: Json = {
        "orderId": outline.order_id,
        "createdTime": iso(outline.created),
        "lastUpdatedTime": iso(outline.updated),
        "programs": ["PRIME"] if draw.chance(20) else [],
        "salesChannel": {
            "channelName": "AMAZON",
            "marketplaceId": outline.marketplace.id,
            "marketplaceName": outline.marketplace.name,
        },
        "buyer": buyer,
        "recipient": {"deliveryAddress": _address(draw, outline.marketplace, name, full=merchant)},
        "proceeds": proceeds,
        "fulfillment": {
            "fulfillmentStatus": traits.status,
            "fulfilledBy": traits.fulfilled_by,
            "fulfillmentServiceLevel": draw.pick(("STANDARD", "EXPEDITED", "SECOND_DAY")),
            "shipByWindow": _window(outline.created, 0, 2),
            "deliverByWindow": _window(outline.created, 3, 6),
        },
        "orderItems": [one.item for one in sold],
    }
    if traits.status in {"SHIPPED", "PARTIALLY_SHIPPED"}:
        body["packages"] = [_package(outline, sold)]
    return body


def messages(outline: Outline, count: int, latest: int) -> list[Json]:
    """Messages of the buyer in the three days after the order, none later than `latest`."""
    name = _name(outline.draw, outline.marketplace)  # the first draws, as in the order
    language = outline.marketplace.language[:2]
    subject = _SUBJECTS.get(language, _SUBJECTS["en"]).format(name=name, order_id=outline.order_id)
    bodies = _BODIES.get(language, _BODIES["en"])
    room = max(0, min(3 * DAY, latest - outline.created))
    return [
        {
            "messageId": f"MSG-{outline.order_id.replace('-', '')}-{number:03}",
            "orderId": outline.order_id,
            "subject": subject,
            "body": bodies[number % len(bodies)],
            "senderName": name,
            "createdTime": iso((outline.created + room * (number + 1) // (count + 1)) // 1000 * 1000),
        }
        for number in range(count)
    ]


def _items(outline: Outline) -> list[Sold]:
    draw = outline.draw
    count = 1 if outline.total is not None else draw.pick((1, 1, 1, 2, 2, 3))
    return [_item(outline, number) for number in range(count)]


def _item(outline: Outline, number: int) -> Sold:
    """A cancelled order's quantities are 0; of a partially shipped one, half of the first item is sent."""
    draw, status = outline.draw, outline.traits.status
    title, price = draw.pick(_GOODS)
    quantity = draw.pick((1, 1, 1, 2, 3))
    if outline.total is not None:
        price, quantity = outline.total, 1
    shipped = quantity if status == "SHIPPED" else 0
    if status == "CANCELLED":
        quantity = 0
    elif status == "PARTIALLY_SHIPPED" and number == 0:
        quantity, shipped = 2, 1
    item: Json = {
        "orderItemId": f"{draw.below(10**10) * 10 + number:014}",
        "quantityOrdered": quantity,
        "product": {
            "asin": "B0" + draw.text(string.ascii_uppercase + string.digits, 8),
            "title": title,
            "sellerSku": f"KB-{draw.below(10_000):04}-{outline.marketplace.country}",
            "condition": {"conditionType": "NEW", "conditionSubtype": "NEW"},
            "price": {"unitPrice": _money(outline, price)},
        },
        "proceeds": _proceeds("proceedsTotal", _money(outline, price * quantity)),
        "fulfillment": {"quantityFulfilled": shipped, "quantityUnfulfilled": quantity - shipped},
    }
    if status == "CANCELLED":
        item["cancellation"] = {
            "cancellationExecution": {
                "cancelledBy": draw.pick(("BUYER", "MERCHANT", "AMAZON")),
                "cancelReason": "ORDER_CREATED_BY_MISTAKE",
            }
        }
    elif draw.chance(10):
        item["promotion"] = {"breakdowns": [{"promotionId": f"PAWS-{draw.below(10**6):06}"}]}
    return Sold(item, price, quantity, shipped)


def _package(outline: Outline, sold: list[Sold]) -> Json:
    draw, marketplace = outline.draw, outline.marketplace
    took = outline.updated - outline.created
    status = "DELIVERED" if took > 4 * DAY else "IN_TRANSIT" if took > DAY else "SHIPPED"
    handed_over = (outline.created + took // 2) // 1000 * 1000
    letters = draw.text(string.ascii_uppercase, 2)
    return {
        "packageReferenceId": f"{draw.below(10**9):09}",
        "createdTime": iso(max(outline.created, handed_over)),
        "packageStatus": {"status": status},
        "carrier": draw.pick(_CARRIERS.get(marketplace.country, ("DHL", "UPS"))),
        "shipTime": iso(max(outline.created, handed_over)),
        "shippingService": "Standard",
        "trackingNumber": f"{letters}{draw.below(10**9):09}{marketplace.country}",
        "shipFromAddress": {
            "name": "KeyBuzz demo warehouse",
            "addressLine1": f"1 {_STREETS.get(marketplace.language[:2], _STREETS['en'])}",
            "city": marketplace.city,
            "postalCode": marketplace.postal_code,
            "countryCode": marketplace.country,
        },
        "packageItems": [
            {"orderItemId": one.item["orderItemId"], "quantity": one.shipped} for one in sold if one.shipped
        ],
    }


def _address(draw: Draw, marketplace: Marketplace, name: str, *, full: bool) -> Json:
    """Of what Amazon itself fulfils, a seller learns the place only."""
    place: Json = {
        "city": marketplace.city,
        "postalCode": marketplace.postal_code,
        "countryCode": marketplace.country,
    }
    if not full:
        return place
    street = _STREETS.get(marketplace.language[:2], _STREETS["en"])
    return {
        "name": name,
        "addressLine1": f"{draw.below(180) + 1} {street}",
        **place,
        "phone": f"+00 {draw.below(10**9):09}",
        "addressType": "COMMERCIAL" if draw.chance(15) else "RESIDENTIAL",
    }


def _name(draw: Draw, marketplace: Marketplace) -> str:
    first, last = _NAMES.get(marketplace.language[:2], _NAMES["en"])
    return f"{draw.pick(first)} {draw.pick(last)}"


def _proceeds(total: str, money: Json) -> Json:
    return {total: money, "breakdowns": [{"type": "ITEM", "subtotal": money}]}


def _money(outline: Outline, amount: int) -> Json:
    decimals = outline.marketplace.decimals
    whole, rest = divmod(amount, 10**decimals)
    text = f"{whole}.{rest:0{decimals}}" if decimals else str(whole)
    return {"amount": text, "currencyCode": outline.marketplace.currency}


def _window(created: int, first_day: int, last_day: int) -> Json:
    midnight = created // DAY * DAY
    return {
        "earliestDateTime": iso(midnight + first_day * DAY),
        "latestDateTime": iso(midnight + (last_day + 1) * DAY - 1000),
    }
