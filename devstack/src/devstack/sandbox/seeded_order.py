"""The body of a made-up order, as Orders v2026-01-01 has it, and the buyer's messages about it."""

import functools

import msgspec

from .draw import Draw, ShortDraw, code
from .life import DAY, State
from .marketplaces import Marketplace
from .orderbook import Json, Line, Sale, Traits, iso, money

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
    ('"Bistro" wall clock, 12"', 2750),  # as it stands in reports, whose quotes have no meaning
)
_LOCAL_GOODS = {"ja": ("南部鉄器の急須 500ml", 9800)}
_OTHER_GOODS = ("Crème brûlée set, 4 pieces", 2199)
_QUANTITIES = (1, 1, 1, 2, 3)
_SERVICE_LEVELS = ("STANDARD", "EXPEDITED", "SECOND_DAY")
_BUYER, _LINES, _SENDING = range(3)
"""Draws that do not depend on each other: what an order's next state adds changes nothing that was told before."""
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


class Outline(msgspec.Struct, frozen=True, kw_only=True):
    """What is settled before the body is written. Times in milliseconds since 1970."""

    order_id: str
    created: int
    state: State
    traits: Traits
    marketplace: Marketplace
    total: int | None
    """In the currency's smallest unit; None draws the items and lets them decide."""
    split: bool
    """Two of its first item are sent one by one."""
    seed: int


def sale(outline: Outline) -> Sale:
    return Sale(
        order_id=outline.order_id,
        created=outline.created,
        updated=outline.state.updated,
        traits=outline.traits,
        marketplace=outline.marketplace,
        delivered=outline.state.package == "DELIVERED",
        service_level=_SERVICE_LEVELS[outline.seed % 3],
        place=(outline.marketplace.city, "", outline.marketplace.postal_code, outline.marketplace.country),
        lines=_lines(outline),
    )


def order(outline: Outline) -> Json:
    """All sections; totals are the sums of the items, whose price times quantity is their total."""
    sold, traits, marketplace = sale(outline), outline.traits, outline.marketplace
    draw = ShortDraw(outline.seed, _BUYER)
    name = _name(draw, outline.marketplace)
    merchant = traits.fulfilled_by == "MERCHANT"
    buyer: Json = {"buyerName": name}
    if merchant:  # Amazon gives the address of merchant-fulfilled orders only
        buyer["buyerEmail"] = f"{code(draw.word(), 12).lower()}@marketplace.amazon.{marketplace.domain}"
    proceeds: Json = {}
    if traits.status != "CANCELLED":
        total = sum(line.price * line.quantity for line in sold.lines)
        proceeds = _proceeds("grandTotal", _money(total, marketplace))
    elif outline.seed & 1:
        proceeds = {"grandTotal": _money(0, marketplace)}
    body: Json = {
        "orderId": outline.order_id,
        "createdTime": iso(outline.created),
        "lastUpdatedTime": iso(outline.state.updated),
        "programs": ["PRIME"] if draw.chance(20) else [],
        "salesChannel": {
            "channelName": "AMAZON",
            "marketplaceId": marketplace.id,
            "marketplaceName": marketplace.name,
        },
        "buyer": buyer,
        "recipient": {"deliveryAddress": _address(draw, marketplace, name, full=merchant)},
        "proceeds": proceeds,
        "fulfillment": {
            "fulfillmentStatus": traits.status,
            "fulfilledBy": traits.fulfilled_by,
            "fulfillmentServiceLevel": sold.service_level,
            "shipByWindow": _window(outline.created // DAY, 0, 2),
            "deliverByWindow": _window(outline.created // DAY, 3, 6),
        },
        "orderItems": [_item(outline, line) for line in sold.lines],
    }
    if outline.state.package is not None:
        body["packages"] = [_package(outline, sold)]
    return body


def messages(outline: Outline, count: int, latest: int) -> list[Json]:
    """Messages of the buyer in the three days after the order, none later than `latest`."""
    name = _name(ShortDraw(outline.seed, _BUYER), outline.marketplace)  # the first draw, as in the order
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


def _lines(outline: Outline) -> list[Line]:
    """A cancelled order's quantities are 0; of a partially shipped one, half of the first item is sent."""
    draw = ShortDraw(outline.seed, _LINES)
    status, marketplace = outline.traits.status, outline.marketplace
    lines = []
    for number in range(1 if outline.total is not None else draw.pick((1, 1, 1, 2, 2, 3))):
        word = draw.word()
        word, good = divmod(word, len(_GOODS) + 1)
        word, quantity = divmod(word, len(_QUANTITIES))
        word, sku = divmod(word, 10_000)
        word, tenth = divmod(word, 10)
        local = _LOCAL_GOODS.get(marketplace.language[:2], _OTHER_GOODS)
        title, price = _GOODS[good] if good < len(_GOODS) else local
        pieces = 2 if outline.split and number == 0 else _QUANTITIES[quantity]
        if outline.total is not None:
            price, pieces = outline.total, 1
        shipped = pieces if status == "SHIPPED" else 0
        if status == "PARTIALLY_SHIPPED" and number == 0:
            shipped = (pieces + 1) // 2
        lines.append(
            Line(
                item_id=f"{outline.seed % 10**12 * 10 + number:014}",
                asin=f"B0{code(draw.word(), 8)}",
                sku=f"KB-{sku:04}-{marketplace.country}",
                title=title,
                price=price,
                quantity=0 if status == "CANCELLED" else pieces,
                shipped=shipped,
                promotion=f"PAWS-{word % 10**6:06}" if tenth == 0 else None,
            )
        )
    return lines


def _item(outline: Outline, line: Line) -> Json:
    item: Json = {
        "orderItemId": line.item_id,
        "quantityOrdered": line.quantity,
        "product": {
            "asin": line.asin,
            "title": line.title,
            "sellerSku": line.sku,
            "condition": {"conditionType": "NEW", "conditionSubtype": "NEW"},
            "price": {"unitPrice": _money(line.price, outline.marketplace)},
        },
        "proceeds": _proceeds("proceedsTotal", _money(line.price * line.quantity, outline.marketplace)),
        "fulfillment": {"quantityFulfilled": line.shipped, "quantityUnfulfilled": line.quantity - line.shipped},
    }
    if outline.traits.status == "CANCELLED":
        item["cancellation"] = {
            "cancellationExecution": {
                "cancelledBy": ("BUYER", "MERCHANT", "AMAZON")[outline.seed % 3],
                "cancelReason": "ORDER_CREATED_BY_MISTAKE",
            }
        }
    if line.promotion is not None:
        item["promotion"] = {"breakdowns": [{"promotionId": line.promotion}]}
    return item


def _package(outline: Outline, sold: Sale) -> Json:
    draw, marketplace, state = ShortDraw(outline.seed, _SENDING), outline.marketplace, outline.state
    handed_over = iso(state.updated if state.shipped is None else state.shipped)
    word = draw.word()
    drawn = f"{code(word, 2)}{word % 10**9:09}{marketplace.country}"
    return {
        "packageReferenceId": f"{draw.below(10**9):09}",
        "createdTime": handed_over,
        "packageStatus": {"status": state.package},
        "carrier": state.carrier or draw.pick(_CARRIERS.get(marketplace.country, ("DHL", "UPS"))),
        "shipTime": handed_over,
        "shippingService": "Standard",
        "trackingNumber": state.tracking or drawn,
        "shipFromAddress": _warehouse(marketplace),
        "packageItems": [
            {"orderItemId": line.item_id, "quantity": line.shipped} for line in sold.lines if line.shipped
        ],
    }


@functools.cache
def _warehouse(marketplace: Marketplace) -> Json:
    return {
        "name": "KeyBuzz demo warehouse",
        "addressLine1": f"1 {_STREETS.get(marketplace.language[:2], _STREETS['en'])}",
        "city": marketplace.city,
        "postalCode": marketplace.postal_code,
        "countryCode": marketplace.country,
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
    word, number = divmod(draw.word(), 180)
    street = _STREETS.get(marketplace.language[:2], _STREETS["en"])
    return {
        "name": name,
        "addressLine1": f"{number + 1} {street}",
        **place,
        "phone": f"+00 {word % 10**9:09}",
        "addressType": "COMMERCIAL" if draw.chance(15) else "RESIDENTIAL",
    }


def _name(draw: Draw, marketplace: Marketplace) -> str:
    first, last = _NAMES.get(marketplace.language[:2], _NAMES["en"])
    word, number = divmod(draw.word(), len(first))
    return f"{first[number]} {last[word % len(last)]}"


def _proceeds(total: str, amount: Json) -> Json:
    return {total: amount, "breakdowns": [{"type": "ITEM", "subtotal": amount}]}


def _money(amount: int, marketplace: Marketplace) -> Json:
    return {"amount": money(amount, marketplace), "currencyCode": marketplace.currency}


@functools.lru_cache(maxsize=4096)
def _window(day: int, first: int, last: int) -> Json:
    return {"earliestDateTime": iso((day + first) * DAY), "latestDateTime": iso((day + last + 1) * DAY - 1000)}
