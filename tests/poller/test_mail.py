"""A mail, read: those of the sandbox field by field, some by hand where the bytes matter, and anything at all."""

import hashlib
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from devstack.sandbox.mails import SERVER, SORTS, Generated, generate
from poller import body, markup, mime
from poller.mail import MAX_ATTACHMENT_BYTES, MAX_ATTACHMENTS, MAX_REFERENCES, MAX_SUBJECT, Attachment, Mail, read_mail
from poller.origin import MAX_RECIPIENTS
from poller.wording import Kind
from tests.poller.test_charset import is_storable

CORPUS = Path(__file__).parent / "corpus"
SMALL = 20_000
FIELDS = set(Mail.__struct_fields__) - {"message_id", "attachments"}

generated = list(generate(7, len(SORTS) * 3))


@pytest.mark.parametrize("sort", SORTS)
def test_what_is_in_a_mail_is_found(sort: str) -> None:
    of_the_sort = [each for each in generated if each.sort == sort]
    assert len(of_the_sort) == 3
    for each in of_the_sort:
        mail = read_mail(each.raw, SERVER)
        assert {name: getattr(mail, name) for name in FIELDS} == {name: getattr(each.expected, name) for name in FIELDS}
        assert [(one.name, one.media_type, one.size_bytes, one.sha256) for one in mail.attachments] == [
            (one.name, one.media_type, one.size_bytes, one.sha256) for one in each.expected.attachments
        ]
        assert mail.message_id == (each.expected.message_id or f"sha256:{hashlib.sha256(each.raw).hexdigest()}")
        assert not read_mail(each.raw, "mx.other.test").is_from_amazon
        check(mail)


def check(mail: Mail) -> None:
    """It can be stored, and is as small as was told."""
    again = msgspec.json.decode(msgspec.json.encode(mail), type=Mail)
    assert again == mail
    for text in (mail.message_id, mail.sender, mail.subject, mail.text, *mail.references, *mail.recipients):
        assert is_storable(text)
        assert "\n" not in text or text is mail.text
    assert all(is_storable(each.name or "") and each.media_type.isascii() for each in mail.attachments)
    assert (len(mail.subject) <= MAX_SUBJECT, len(mail.text) <= body.MAX_CHARS) == (True, True)
    assert (len(mail.message_id) <= 501, len(mail.references) <= MAX_REFERENCES) == (True, True)
    assert (len(mail.recipients) <= MAX_RECIPIENTS, len(mail.attachments) <= MAX_ATTACHMENTS) == (True, True)
    assert sum(len(each.content or b"") for each in mail.attachments) <= MAX_ATTACHMENT_BYTES
    for each in mail.attachments:
        kept = each.content
        assert each.sha256 == (None if kept is None else hashlib.sha256(kept).hexdigest())
        assert kept is None or each.size_bytes == len(kept)


def test_a_question_from_brazil() -> None:
    mail = read_mail((CORPUS / "brazil.eml").read_bytes(), SERVER)
    png = b"\x89PNG\r\n\x1a\n"
    assert mail == Mail(
        message_id="0100019-000000@email.amazonses.test",
        in_reply_to=None,
        references=[],
        sender="a1b2c3d4e5f6g7+11111111-2222-4333-8444-555555555555@marketplace.amazon.com.br",
        recipients=["loja@inbound.test"],
        subject="Detalhes do produto Amazon Conceição pergunta do cliente",
        sent_at=datetime(2026, 9, 28, 12, tzinfo=UTC),
        kind=Kind.BUYER_MESSAGE,
        marketplace_id="A2Q3Y263D00KWC",
        order_id=None,
        language="pt",
        text="Olá, a mala tem cadeado?\n\nE cabe no bagageiro do avião?",
        attachments=[Attachment("mala nº 1.png", "image/png", 8, hashlib.sha256(png).hexdigest(), png)],
        is_from_amazon=True,
        is_cut=False,
    )


def test_a_question_from_japan_in_its_own_encoding() -> None:
    mail = read_mail((CORPUS / "japan.eml").read_bytes(), SERVER)
    assert (mail.text, mail.language, mail.order_id) == ("こんにちは。\n荷物はどこですか?", "ja", "249-1234567-1234567")
    assert (mail.subject, mail.recipients) == ("お願い (249-1234567-1234567)", ["shop.jp@inbound.test"])
    assert (mail.is_from_amazon, mail.sent_at) == (True, datetime(2026, 1, 5, 8, tzinfo=UTC))


def test_an_answer_from_outlook_without_what_it_quotes() -> None:
    mail = read_mail((CORPUS / "outlook.eml").read_bytes(), SERVER)
    assert (mail.text, mail.is_from_amazon) == ("Danke, 12 € sind in Ordnung. Grüße", True)
    assert (mail.in_reply_to, mail.references) == ("de.1@mail.test", ["de.0@mail.test", "de.1@mail.test"])


def simple(*headers: str, text: str = "Hello") -> Mail:
    return read_mail("".join(f"{header}\r\n" for header in headers).encode() + b"\r\n" + text.encode(), SERVER)


def test_the_latest_references_are_kept_in_their_order_each_once() -> None:
    ids = [f"<{number}@x>" for number in range(MAX_REFERENCES + 10)]
    mail = simple(f"References: {' '.join([ids[-1], *ids])}", "References: <last@x>")
    assert mail.references == [each[1:-1] for each in [*ids, "<last@x>"]][-MAX_REFERENCES:]
    long = simple("References: " + "\r\n ".join(f"<{number}{'x' * 300}@x>" for number in range(200)))
    assert long.references[-1].startswith("199xxx")


@pytest.mark.parametrize("value", ["<a b@c>", "<é@x>", "<>", "<" + "a" * 600 + "@x>", "two words@x", ""])
def test_an_id_that_is_none_is_made_from_the_mail(value: str) -> None:
    assert simple(f"Message-ID: {value}").message_id.startswith("sha256:")
    assert simple(f"Message-ID: {value}") == simple(f"Message-ID: {value}")


def test_the_servers_word_about_recipients_comes_first_and_names_are_none() -> None:
    mail = simple(
        'To: "evil@inbound.test" <A@inbound.test>, b@inbound.test (c@inbound.test)',
        "Cc: d@inbound.test",
        "Delivered-To: last@inbound.test",
        "X-Original-To: first@inbound.test",
        "Delivered-To: forged@inbound.test",
    )
    assert mail.recipients == [f"{name}@inbound.test" for name in ("last", "forged", "first", "a", "b", "d")]


@pytest.mark.parametrize(
    ("subject", "text", "order_id"),
    [
        ("x 111-1234567-1234567", "222-1234567-1234567", "111-1234567-1234567"),
        ("x", "# 222-1234567-1234567:", "222-1234567-1234567"),
        ("1111-1234567-1234567", "111-1234567-12345678 111-1234567-1234567-8", None),
        ("\u0661\u0661\u0661-1234567-1234567", "", None),
    ],
)
def test_an_order_is_named_by_the_subject_before_the_text(subject: str, text: str, order_id: str | None) -> None:
    assert simple(f"Subject: {subject}", text=text).order_id == order_id


def test_files_are_kept_as_long_as_all_of_them_may_be() -> None:
    message = EmailMessage()
    message.set_content("Hello")
    half = MAX_ATTACHMENT_BYTES // 2
    for size in (half, half + 1, half, 1):
        message.add_attachment(bytes(size), maintype="image", subtype="png", filename="a.png")
    mail = read_mail(message.as_bytes(), SERVER)
    assert [each.size_bytes for each in mail.attachments] == [half, half + 1, half, 1]
    assert [each.content is not None for each in mail.attachments] == [True, False, True, False]
    check(mail)


def test_only_so_many_files_are_noted() -> None:
    message = EmailMessage()
    for number in range(MAX_ATTACHMENTS + 1):
        message.add_attachment(b"x", maintype="image", subtype="png", filename=f"{number}.png")
    mail = read_mail(message.as_bytes(), SERVER)
    assert (len(mail.attachments), mail.is_cut) == (MAX_ATTACHMENTS, True)


@pytest.mark.parametrize("encoding", ["8bit", "base64", "quoted-printable"])
def test_text_is_cut_and_said_to_be_wherever_it_is_too_long(encoding: str) -> None:
    for kind in ("plain", "html"):
        message = EmailMessage()
        message.set_content("é" * (body.MAX_CHARS + 1), subtype=kind, cte=encoding, charset="utf-8")
        mail = read_mail(message.as_bytes(), SERVER)
        assert (len(mail.text), mail.is_cut) == (body.MAX_CHARS, True)
        message.set_content("é" * 1_000, subtype=kind, cte=encoding, charset="utf-8")
        assert not read_mail(message.as_bytes(), SERVER).is_cut


def test_many_texts_together_are_no_longer_than_one() -> None:
    message = EmailMessage()
    message.make_mixed()
    for _ in range(100):
        part = EmailMessage()
        part.set_content("x" * 10_000)
        message.attach(part)
    mail = read_mail(message.as_bytes(), SERVER)
    assert (len(mail.text) <= body.MAX_CHARS, mail.is_cut) == (True, True)


@pytest.mark.parametrize("kind", ["plain", "html"])
def test_no_more_is_decoded_than_can_be_the_text(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    decode = mime.decode_body

    def counting(part: mime.Part, limit: int) -> bytes:
        made = decode(part, limit)
        decoded.append(len(made))
        return made

    monkeypatch.setattr(mime, "decode_body", counting)
    message = EmailMessage()
    message.make_mixed()
    for _ in range(100):
        part = EmailMessage()
        part.set_content("x" * 40_000, subtype=kind)
        message.attach(part)
    assert read_mail(message.as_bytes(), SERVER).is_cut
    assert sum(decoded) <= {"plain": body.MAX_BYTES, "html": body.MAX_HTML_BYTES}[kind]


def test_of_alternatives_one_is_read_and_of_what_stands_beside_it_all() -> None:
    message = EmailMessage()
    message.set_content("Plain")
    message.add_alternative("<p>Rich", subtype="html")
    assert read_mail(message.as_bytes(), SERVER).text == "Plain"
    message = EmailMessage()
    message.set_content("Plain")
    message.make_mixed()
    beside = EmailMessage()
    beside.set_content("<p>Rich", subtype="html")
    message.attach(beside)
    assert read_mail(message.as_bytes(), SERVER).text == "Plain\n\nRich"


def test_a_page_of_too_many_tags_is_said_to_be_cut() -> None:
    assert simple("Content-Type: text/html", text="<br>" * markup.MAX_TOKENS + "x").is_cut
    assert not simple("Content-Type: text/html", text="<br>" * 10 + "x").is_cut


REAL = next(each for each in generated if each.sort == "buyer").raw


@pytest.mark.parametrize(
    "name",
    ["Subject", "From", "Date", "Message-ID", "X-Space-Notification-Type", "Content-Type", "References", "In-Reply-To"],
)
def test_nothing_that_is_read_may_stand_twice_in_a_mail_of_amazons(name: str) -> None:
    assert read_mail(REAL, SERVER).is_from_amazon
    line = f"{name}: x\r\n".encode()
    twice = line * (1 if f"\r\n{name}:".encode() in REAL else 2)
    assert not read_mail(REAL.replace(b"Date: ", twice + b"Date: ", 1), SERVER).is_from_amazon
    assert not read_mail(
        REAL.replace(b"MIME-Version: ", b"X: y\r\n" * 500 + b"MIME-Version: ", 1), SERVER
    ).is_from_amazon


small = [each.raw for each in generated if len(each.raw) < SMALL]
junk = st.sampled_from(
    [
        b"\0",
        b"\r\n",
        b"\n\n",
        b"--",
        b"=?",
        b'"',
        b"(",
        b"<",
        b"\xff\xfe",
        b"Content-Type: multipart/mixed; boundary=b\r\n",
    ]
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A mail with bits turned, cut, pieces of it or junk again and again, anywhere."""
    raw = bytearray(draw(st.sampled_from(small)))
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, len(raw)))
        end = min(len(raw), place + draw(st.integers(0, 300)))
        match draw(st.integers(0, 4)):
            case 0 if place < len(raw):
                raw[place] ^= 1 << draw(st.integers(0, 7))
            case 1:
                del raw[place:end]
            case 2:
                raw[place:place] = raw[place:end] * draw(st.integers(1, 4))
            case 3:
                raw[place:place] = draw(junk) * draw(st.integers(1, 40))
            case _:
                raw[place:place] = draw(st.binary(max_size=20))
    return bytes(raw)


@given(mutated())
def test_any_mail_that_is_broken_anywhere_is_read(raw: bytes) -> None:
    check(read_mail(raw, SERVER))


@given(st.binary(max_size=2_000))
@example(b"")
@example(b"\0" * 100)
def test_any_bytes_are_read(raw: bytes) -> None:
    check(read_mail(raw, SERVER))


headers = st.sampled_from(
    [
        *(
            "From",
            "To",
            "Cc",
            "Subject",
            "Date",
            "Message-ID",
            "In-Reply-To",
            "References",
            "Delivered-To",
            "Return-Path",
        ),
        *("Content-Type", "Content-Disposition", "Content-Transfer-Encoding", "Authentication-Results"),
        *("X-Space-Notification-Type", "X-Marketplace-ID", "Auto-Submitted"),
    ]
)
values = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=30).map(lambda text: text.encode(errors="replace")),
    st.sampled_from(
        [
            b"multipart/mixed; boundary=b",
            b"multipart/alternative; boundary=b",
            b"text/html; charset=utf-7",
            b"text/plain; charset=utf-16; format=flowed",
            b"message/rfc822",
            b"base64",
            b"quoted-printable",
            b'attachment; filename="=?utf-8?B?/w==?="',
            b"=?utf-8?Q?=00=0D=0A=ED=A0=80?=",
            b"Mon, 31 Feb 99999 25:61:61 +99999999999",
            b"<a@marketplace.amazon.fr>",
            b"mx.inbound.test; dkim=pass header.d=amazon.fr",
        ]
    ),
)


@given(st.lists(st.tuples(headers, values), max_size=12), st.lists(values, max_size=6))
def test_any_headers_and_parts_are_read(named: list[tuple[str, bytes]], bodies: list[bytes]) -> None:
    head = b"".join(name.encode() + b": " + value + b"\r\n" for name, value in named)
    check(read_mail(head + b"\r\n" + b"\r\n--b\r\n".join([b"", *bodies]), SERVER))


def test_the_sorts_make_more_than_two_hundred_mails_that_differ() -> None:
    assert len({each.raw for each in generated}) > 300
    assert isinstance(generated[0], Generated)
