"""Mails as Amazon's, any number of them from a seed, each with what a reader has to find in it: buyers' messages in the
languages whose wording is known, copies of replies, returns, and what else arrives in a mailbox.
"""

import string
from collections.abc import Callable, Iterator, Sequence

import msgspec

from .draw import Draw
from .forgedmails import FORGED
from .letters import DASHES, LANGUAGES, Desk, Expected, Letter, attached, multipart, page, plain
from .oddmails import ODD

RECIPIENT = "amazon.kbz-001.fr.abc123@inbound.test"
SERVER = "mx.inbound.test"
ORDER_IDS = ("407-8949262-6149120", "171-3125066-7920325", "111-1234567-1234567")


class Generated(msgspec.Struct, frozen=True):
    sort: str
    raw: bytes
    expected: Expected


def generate(
    seed: int,
    count: int,
    *,
    recipient: str = RECIPIENT,
    server: str = SERVER,
    order_ids: Sequence[str] = ORDER_IDS,
    sorts: Sequence[str] = (),
) -> Iterator[Generated]:
    """The sorts one after another, or those that are named: their first ones are in any hundred and fifty. Copies and
    follow-ups answer the last message before them.
    """
    writers = {name: SORTS[name] for name in sorts} if sorts else SORTS
    names = tuple(writers)
    last: Letter | None = None
    for number in range(count):
        sort = names[number % len(names)]
        desk = Desk(Draw(seed, number, 21), number, recipient, server, order_ids)
        letter = writers[sort](desk) if sort not in _ANSWERS or last is None else _ANSWERS[sort](desk, last)
        if sort == "buyer" or (sort in _ANSWERS and sort != "copy"):
            last = letter
        yield Generated(sort, letter.raw(), letter.expected)


def _alternative(desk: Desk) -> Letter:
    letter = desk.letter()
    html = page(f"<html><body><p>{letter.expected.text}</p></body></html>")
    letter.entity = multipart("alternative", [plain(desk.framed(letter, letter.expected.text)), html], "=_alt 1")
    return letter


def _html_only(desk: Desk) -> Letter:
    """The buyer's words stand in a <pre>, and there is no frame."""
    letter = desk.letter()
    letter.expected.language = None
    style = "white-space: pre-wrap; white-space: -o-pre-wrap"
    letter.entity = page(
        "<html><head><title>x</title><style>p{color:red}</style></head><body><!-- <p>no</p> -->"
        '<div style="display:none">preview</div><table><tr><td>You have\n received a message.</td></tr></table>'
        f'<pre style="{style}">{_escaped(letter.expected.text)}</pre><p>[commMgrTok:A0]</p></body></html>'
    )
    return letter


def _html_frame(desk: Desk) -> Letter:
    letter = desk.letter()
    letter.entity = page(
        "".join(f"<p>{_escaped(line)}</p>" for line in desk.framed(letter, letter.expected.text).split("\n\n"))
    )
    letter.expected.text = letter.expected.text.replace("\n\n", "\f").replace("\n", " ").replace("\f", "\n\n")
    return letter


def _inline_copy(desk: Desk) -> Letter:
    """A reply's copy as it came from Brazil: HTML only, all of it in one line."""
    letter = desk.letter("pt")
    letter.expected.text = "Olá! Tem cadeado e cabe, sim."
    html = (
        f"<div>Prezado, {DASHES} Iniciar mensagem {DASHES} {letter.expected.text} {DASHES} Mensagem final {DASHES}"
        " Atenciosamente, Amazon.com.br</div>"
    )
    letter.entity = page(html)
    _as_copy(desk, letter)
    return letter


def _as_copy(desk: Desk, letter: Letter) -> None:
    letter.replace("From", '"Amazon" <donotreply@amazon.com>')
    letter.replace("Authentication-Results", f"{desk.server}; dkim=pass header.d=amazon.com")
    letter.replace("X-Space-Notification-Type", "BBC_MESSAGE_CONFIRMATION_TO_MERCHANT")
    letter.expected.sender, letter.expected.kind = "donotreply@amazon.com", "SELLER_REPLY"


def _copy(desk: Desk, last: Letter) -> Letter:
    letter = _answer(desk, last)
    _as_copy(desk, letter)
    return letter


def _answer(desk: Desk, last: Letter) -> Letter:
    """Of the same buyer, threaded to the one before."""
    letter = desk.letter(last.expected.language)
    was = last.expected
    references = [*was.references, was.message_id or ""]
    for name in ("From", "Subject", "X-Marketplace-ID", "Authentication-Results"):
        letter.replace(name, *(value for each, value in last.headers if each == name))
    letter.headers += [
        ("In-Reply-To", f"<{was.message_id}>"),
        ("References", "\r\n\t".join(f"<{each}>" for each in references)),
    ]
    made = letter.expected
    made.sender, made.subject, made.marketplace_id, made.order_id = (
        was.sender,
        was.subject,
        was.marketplace_id,
        was.order_id,
    )
    made.in_reply_to, made.references = was.message_id, references
    letter.entity = plain(desk.framed(letter, made.text))
    return letter


def _follow_up(desk: Desk, last: Letter) -> Letter:
    """The buyer answers from a mail program, which quotes."""
    letter = _answer(desk, last)
    own = letter.expected.text
    quote = QUOTES[letter.expected.language or "en"]
    letter.entity = plain(desk.framed(letter, f"{own}\n\n{desk.draw.pick(quote)}\n> old words\n> of yours"))
    return letter


QUOTES = {
    "en": ("On Mon, 5 Jan 2026 at 09:00, Shop <x@shop.test> wrote:", "-----Original Message-----\nFrom: Shop"),
    "de": ("Am 05.01.2026 um 09:00 schrieb Shop <x@shop.test>:", "-----Ursprüngliche Nachricht-----\nVon: Shop"),
    "fr": ("Le lun. 5 janv. 2026 à 09:00, Boutique\n<x@shop.test> a écrit :", "----- Message d'origine -----"),
    "it": ("Il giorno lun 5 gen 2026 alle 09:00 Negozio ha scritto:", "Da: N\nInviato: lunedì\nA: tu\nOggetto: x"),
    "es": ("El lun, 5 ene 2026 a las 9:00, Tienda (<x@shop.test>) escribió:", "-----Mensaje original-----"),
    "pt": ("Em seg., 5 de jan. de 2026 às 09:00, Loja escreveu:", "De: L\nEnviado: segunda\nPara: tu\nAssunto: x"),
    "ja": ("2026年1月5日(月) 9:00 店 <x@shop.test>:", "差出人: 店\n送信日時: 2026年1月5日\n宛先: 私"),
}


def _notice(kind: str, told: str) -> Callable[[Desk], Letter]:
    def write(desk: Desk) -> Letter:
        letter = desk.letter()
        made = letter.expected
        letter.replace("From", '"donotreply@amazon.com" <donotreply@amazon.com>')
        letter.replace("Authentication-Results", f"{desk.server}; dkim=pass header.d=amazon.com")
        letter.replace("X-Space-Notification-Type", told)
        made.sender, made.kind, made.language = "donotreply@amazon.com", kind, None
        made.order_id = made.order_id or "302-0000002-0000002"
        made.text = f"Order {made.order_id}\nReason: broken"
        letter.entity = plain(made.text)
        return letter

    return write


def _with_files(desk: Desk) -> Letter:
    letter = desk.letter()
    image, first = attached(
        "photo.jpg", "image/jpeg", b"\xff\xd8" + desk.draw.text(string.printable, 300).encode(), "inline"
    )
    document, second = attached("Rechnung.pdf", "application/pdf", b"%PDF-1.4 " + bytes(range(256)))
    letter.entity = multipart("mixed", [letter.entity, image, document], "=_mixed")
    letter.expected.attachments = [first, second]
    return letter


def _untold(desk: Desk) -> Letter:
    """Without Amazon's own header, a buyer's alias is enough."""
    letter = desk.letter()
    letter.replace("X-Space-Notification-Type")
    return letter


def _no_end(desk: Desk) -> Letter:
    """Amazon's links end it."""
    letter = desk.letter("de")
    text = desk.framed(letter, letter.expected.text).replace(f"{DASHES} {letter.frame[1]} {DASHES}", "")
    letter.entity = plain(text)
    letter.expected.language = None if letter.frame[0].startswith("Message") else "de"
    return letter


def _no_begin(desk: Desk) -> Letter:
    letter = desk.letter("es")
    if letter.expected.order_id is None:
        return letter
    letter.entity = plain(desk.framed(letter, letter.expected.text).replace(f"{DASHES} {letter.frame[0]} {DASHES}", ""))
    return letter


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("é", "&eacute;")


def _in(language: str) -> Callable[[Desk], Letter]:
    return lambda desk: desk.letter(language)


_ANSWERS: dict[str, Callable[[Desk, Letter], Letter]] = {"copy": _copy, "follow-up": _follow_up, "answer": _answer}
SORTS: dict[str, Callable[[Desk], Letter]] = {
    "buyer": Desk.letter,
    "answer": Desk.letter,
    "copy": Desk.letter,
    "follow-up": Desk.letter,
    **{f"buyer in {language}": _in(language) for language in LANGUAGES},
    "alternative": _alternative,
    "html only": _html_only,
    "html with a frame": _html_frame,
    "copy in one line": _inline_copy,
    "return": _notice("RETURN", "RETURN_REQUEST"),
    "refund": _notice("REFUND", "refund_issued"),
    "claim": _notice("CLAIM", "A_Z_CLAIM_RESPONDENT_NOTIFY"),
    "closed claim": _notice("CLAIM", "A_Z_CLAIM_RESPONDENT_CLOSE"),
    "unsubscribed": _notice("OTHER", "BUYER_OPTED_OUT_BSM_MESSAGES"),
    "unknown notice": _notice("OTHER", "BBC_MESSAGE_SENT_TO_MERCHANT_2"),
    "files": _with_files,
    "untold": _untold,
    "without end": _no_end,
    "without begin": _no_begin,
    **FORGED,
    **ODD,
}
