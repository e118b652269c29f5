"""A mail in the making: its headers, its parts and what a reader has to find in it. Encoded by hand, so that what is
wrong on purpose can be written too.
"""

import base64
import binascii
import hashlib
import string
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import msgspec

from .draw import Draw
from .marketplaces import BY_COUNTRY, MARKETPLACES, Marketplace

DASHES = "-------------"
EPOCH = datetime(2026, 1, 5, 8, tzinfo=UTC)


class Language(msgspec.Struct, frozen=True):
    """How Amazon words the frame of a mail, as far as it is known, and what buyers say."""

    countries: tuple[str, ...]
    begin: tuple[str, ...]
    end: tuple[str, ...]
    subject: str
    order: str
    names: tuple[str, ...]
    texts: tuple[str, ...]


LANGUAGES = {
    "en": Language(
        ("US", "GB", "CA", "AU", "IN", "SG", "IE"),
        ("Begin message", "Message: "),
        ("End message",),
        "Product details inquiry from Amazon customer {}",
        " (Order: {})",
        ("Emma", "Noah O'Brien"),
        (
            "Hello, where is my parcel?",
            "It arrived broken.\n\nPlease send another one 😀👩‍👩‍👧.",
            "Is it 5 > 4 inches?",
        ),
    ),
    "de": Language(
        ("DE",),
        ("Anfang der Nachricht", "Message: "),
        ("Ende der Nachricht",),
        "Anfrage vom Amazon-Kunden {}",
        " (Bestellung: {})",
        ("Jürgen", "Sabine Schäfer"),
        ("Guten Tag, wo bleibt mein Paket?", "Ich brauche eine Rechnung über 12,50 €.\nGrüße"),
    ),
    "fr": Language(
        ("FR",),
        ("Début du message", "Message:  "),
        ("Fin du message",),
        "Demande de renseignements de la part du client Amazon {}",
        " (Commande : {})",
        ("Élodie", "Camille Lefèvre"),
        ("Bonjour, où en est ma commande ?", "C'est cassé.\n\nQue dois-je faire ?", "Merci — à bientôt « ici »"),
    ),
    "it": Language(
        ("IT",),
        ("Inizio messaggio", "Message: "),
        ("Fine messaggio",),
        "Richiesta del cliente Amazon {}",
        " (Ordine: {})",
        ("Niccolò", "Giulia D'Angelo"),
        ("Buongiorno, dov'è il mio pacco?", "È arrivato rotto, perché?"),
    ),
    "es": Language(
        ("ES", "MX"),
        ("Iniciar mensaje", "Mensaje: ", "Message:  "),
        ("Finalizar mensaje",),
        "Consulta sobre detalles del producto del cliente de Amazon {}",
        " (Pedido: {})",
        ("Íñigo", "Lucía Ibáñez"),
        ("Hola, ¿dónde está mi pedido?", "¿Es compatible?\nGracias."),
    ),
    "pt": Language(
        ("BR",),
        ("Mensagem:  ",),
        ("Encerrar mensagem",),
        "Detalhes do produto Amazon {} pergunta do cliente",
        " (Pedido: {})",
        ("João", "Conceição"),
        ("Olá, a mala tem cadeado?\n\nE cabe no bagageiro?", "Não chegou ainda."),
    ),
    "ja": Language(
        ("JP",),
        ("メッセージはここから", "メッセージ: "),
        ("メッセージはここまで",),
        "Amazon購入者 {} からの質問",
        " (注文番号: {})",
        ("陽子", "健太"),
        ("こんにちは。荷物はどこですか?", "壊れていました。\n交換できますか?"),
    ),
}


class File(msgspec.Struct, frozen=True):
    """An attachment that has to be found; without digest where it has to be noted only."""

    name: str | None
    media_type: str
    size_bytes: int
    sha256: str | None


class Expected(msgspec.Struct, kw_only=True):
    """What a reader has to find."""

    message_id: str | None
    """None where the mail has none, and the reader makes one."""
    in_reply_to: str | None = None
    references: list[str] = []
    sender: str
    recipients: list[str]
    subject: str
    sent_at: datetime | None
    kind: str = "BUYER_MESSAGE"
    marketplace_id: str | None
    order_id: str | None
    language: str | None
    text: str
    attachments: list[File] = []
    is_from_amazon: bool = True
    is_cut: bool = False


class Letter(msgspec.Struct, kw_only=True):
    headers: list[tuple[str, str]]
    """Top first, as text or already encoded."""
    entity: bytes
    """Its Content headers, a blank line, its body."""
    expected: Expected
    marketplace: Marketplace
    frame: tuple[str, str]

    def replace(self, name: str, *values: str) -> None:
        """All headers of that name, at the place of the first of them."""
        place = next((place for place, (each, _) in enumerate(self.headers) if each == name), len(self.headers))
        kept = [pair for pair in self.headers if pair[0] != name]
        self.headers = [*kept[:place], *((name, value) for value in values), *kept[place:]]

    def raw(self) -> bytes:
        head = "".join(f"{name}: {value}\r\n" for name, value in self.headers)
        return head.encode("utf-8", "surrogateescape") + self.entity


def word(text: str, charset: str = "utf-8", way: str = "B") -> str:
    """Encoded words, the bytes cut where they are long, in the middle of a character too."""
    raw = text.encode(charset)
    pieces = [raw[place : place + 30] for place in range(0, len(raw), 30)] if charset == "utf-8" else [raw]
    return "\r\n ".join(f"=?{charset}?{way}?{_coded(piece, way)}?=" for piece in pieces)


def _coded(piece: bytes, way: str) -> str:
    if way == "B":
        return base64.b64encode(piece).decode()
    return "".join(chr(byte) if chr(byte).isalnum() and byte < 128 else f"={byte:02X}" for byte in piece)  # noqa: PLR2004


def part(media_type: str, content: bytes, encoding: str = "8bit", **more: str) -> bytes:
    """An entity. More headers by name, `_` as `-`."""
    body = content
    if encoding == "base64":
        body = base64.encodebytes(content).replace(b"\n", b"\r\n")
    elif encoding == "quoted-printable":
        body = binascii.b2a_qp(content, istext=True)
    head = f"Content-Type: {media_type}\r\nContent-Transfer-Encoding: {encoding}\r\n"
    head += "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in more.items())
    return head.encode() + b"\r\n" + body


def plain(text: str, charset: str = "utf-8", encoding: str = "8bit") -> bytes:
    return part(f"text/plain; charset={charset}", text.replace("\n", "\r\n").encode(charset), encoding)


def page(html: str) -> bytes:
    return part('text/html; charset="UTF-8"', html.encode(), "quoted-printable")


def multipart(kind: str, parts: Sequence[bytes], boundary: str, *, closed: bool = True) -> bytes:
    line = f"--{boundary}".encode()
    body = b"".join(line + b"\r\n" + each + b"\r\n" for each in parts) + (line + b"--\r\n" if closed else b"")
    return f'Content-Type: multipart/{kind}; boundary="{boundary}"\r\n\r\n'.encode() + body


def attached(name: str, media_type: str, content: bytes, disposition: str = "attachment") -> tuple[bytes, File]:
    made = part(media_type, content, "base64", Content_Disposition=f'{disposition}; filename="{name}"')
    return made, File(name, media_type, len(content), hashlib.sha256(content).hexdigest())


class Desk:
    """Writes a buyer's message as Amazon sends it, all of it drawn."""

    def __init__(self, draw: Draw, number: int, recipient: str, server: str, order_ids: Sequence[str]) -> None:
        self.draw = draw
        self.number = number
        self.recipient = recipient
        self.server = server
        self.order_ids = order_ids

    def letter(self, language: str | None = None, said: str | None = None) -> Letter:
        draw = self.draw
        language = language or draw.pick(tuple(LANGUAGES))
        wording = LANGUAGES[language]
        marketplace = MARKETPLACES[BY_COUNTRY[draw.pick(wording.countries)]]
        order_id = draw.pick(self.order_ids) if self.order_ids and draw.chance(70) else None
        name = draw.pick(wording.names)
        sender = f"{draw.text(string.ascii_lowercase + string.digits, 14)}@marketplace.amazon.{marketplace.domain}"
        subject = wording.subject.format(name) + (wording.order.format(order_id) if order_id else "")
        said = said or draw.pick(wording.texts)
        sent_at = EPOCH + timedelta(minutes=7 * self.number)
        message_id = f"{self.number:06}.{draw.text(string.ascii_uppercase + string.digits, 20)}@amazonses.test"
        frame = draw.pick(wording.begin), draw.pick(wording.end)
        headers = [
            ("Return-Path", f"<{message_id.partition('@')[0]}@bounces.amazon.{marketplace.domain}>"),
            ("Delivered-To", self.recipient),
            ("Authentication-Results", draw.pick(authentic(self.server, marketplace.domain))),
            ("Received", "from a.mail.test (a.mail.test [192.0.2.7]) by mx.test; Mon, 5 Jan 2026 08:00:00 +0000"),
            ("Date", format_datetime(sent_at)),
            ("From", f"{word(f'{name} - Amazon Marketplace')} <{sender}>"),
            ("To", f"<{self.recipient}>"),
            ("Message-ID", f"<{message_id}>"),
            ("Subject", word(subject, way=draw.pick("BQ"))),
            ("X-Space-Notification-Type", "BBC_MESSAGE_SENT_TO_MERCHANT"),
            ("X-Marketplace-ID", marketplace.id),
            ("MIME-Version", "1.0"),
        ]
        expected = Expected(
            message_id=message_id,
            sender=sender,
            recipients=[self.recipient],
            subject=subject,
            sent_at=sent_at,
            marketplace_id=marketplace.id,
            order_id=order_id,
            language=language,
            text=said,
        )
        made = Letter(headers=headers, entity=b"", expected=expected, marketplace=marketplace, frame=frame)
        made.entity = plain(self.framed(made, said), encoding=draw.pick(("8bit", "base64", "quoted-printable")))
        return made

    def framed(self, letter: Letter, said: str) -> str:
        """As Amazon's text shows what a buyer says."""
        order = (
            f"# {letter.expected.order_id}:\n1 / Lamp, 28 cm [ASIN: B0ABCDEFGH]\n\n" if letter.expected.order_id else ""
        )
        begin, end = letter.frame
        link = f"https://sellercentral.amazon.{letter.marketplace.domain}/messaging/inbox?fi=caseId&cc=0"
        return (
            f"...\n\n{order}{DASHES} {begin} {DASHES}\n\n{said}\n\n{DASHES} {end} {DASHES}\n\n"
            f"... {link}\n\nSPC-EUAmazon-000000000000 [commMgrTok:A0BCDEFGHIJKL]\n"
        )


def authentic(server: str, domain: str) -> tuple[str, ...]:
    """Ways in which a server says that it is Amazon's mail."""
    own, relay = f"amazon.{domain}", f"marketplace.amazon.{domain}"
    return (
        f"{server}; dkim=pass header.d={relay}",
        f"{server};\r\n\tdkim=pass header.i=@{relay} header.s=s1 header.b=aBc;\r\n\tspf=none smtp.helo=evil.test",
        f"{server} 1; spf=pass (sender SPF authorized) smtp.mailfrom=bounces.{own}",
        f"{server.upper()}; DKIM = Pass Header.D={own.upper()}",
        f"{server}; dkim=fail (bad (nested \\) ) one) header.d={own}; dkim=pass header.d={own}.",
        f'{server}.; dkim=pass header.d=other.test; dkim=pass reason="it; is" header.d={own}; dmarc=pass',
        f'(by "us") {server} (1); spf=pass (a "quoted )" one) smtp.mailfrom="odd; one"@{own}',
    )
