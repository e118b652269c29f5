"""What else arrives in a mailbox: broken, too large, in odd encodings, by machines. Each with what a reader has to
find in it all the same.
"""

import gzip
import hashlib
import zlib
from collections.abc import Callable
from datetime import UTC, datetime

from .letters import Desk, File, Letter, attached, multipart, page, part, plain, word

_SPOKEN = {
    "iso-2022-jp": "荷物はどこですか?",
    "cp932": "①荷物はどこですか㈱?",
    "euc-jp": "荷物はどこですか?",
    "gb18030": "我的包裹在哪里?你好,谢谢",
    "big5": "我的包裹在哪裡?你好,謝謝",
    "euc-kr": "소포가 어디에 있나요? 감사합니다",
    "koi8-r": "Здравствуйте, где моя посылка?",
    "windows-1251": "Здравствуйте, где моя посылка?",
    "windows-1252": "Où est mon colis à 12 € ?",
    "iso-8859-15": "Où est mon colis à 12 € ?",
    "utf-7": "Où est mon colis à 12 € ?",
    "utf-16": "Où est mon colis à 12 € ?",
    "utf-16-be": "Où est mon colis ?",
    "windows-1254": "Kargom nerede? Teşekkürler, ığüş",
    "iso-8859-2": "Gdzie jest moja paczka? Dziękuję, źdźbło",
    "windows-1256": "أين الطرد الخاص بي؟ شكرا",
}


def _charset(codec: str, declared: str | None = None) -> Callable[[Desk], Letter]:
    """In one encoding and declared as another, or as none."""

    def write(desk: Desk) -> Letter:
        letter = desk.letter("en", _SPOKEN.get(codec, "Où est mon colis à 12 € ?"))
        text = desk.framed(letter, letter.expected.text).replace("\n", "\r\n")
        about = f"; charset={declared}" if declared else ""
        letter.entity = part(f"text/plain{about}", text.encode(codec), "base64" if "16" in codec else "8bit")
        return letter

    return write


def _headers(**changes: str) -> Callable[[Desk], Letter]:
    """An ordinary message with other headers; an empty one is left out."""

    def write(desk: Desk) -> Letter:
        letter = desk.letter()
        for name, value in changes.items():
            letter.replace(name.replace("_", "-"), *([value] if value else []))
        return letter

    return write


def _without_id(desk: Desk) -> Letter:
    letter = _headers(Message_ID="")(desk)
    letter.expected.message_id = None
    return letter


def _bare_id(desk: Desk) -> Letter:
    letter = _headers(Message_ID="abc.1@mail.test")(desk)
    letter.expected.message_id = "abc.1@mail.test"
    return letter


def _same_id(desk: Desk) -> Letter:
    letter = _headers(Message_ID="<same@mail.test>")(desk)
    letter.expected.message_id = "same@mail.test"
    return letter


def _dated(told: str, sent_at: datetime | None) -> Callable[[Desk], Letter]:
    def write(desk: Desk) -> Letter:
        letter = _headers(Date=told)(desk)
        letter.expected.sent_at = sent_at
        return letter

    return write


def _subject(told: str, subject: str) -> Callable[[Desk], Letter]:
    def write(desk: Desk) -> Letter:
        letter = _headers(Subject=told)(desk)
        letter.expected.subject, letter.expected.order_id = subject, None
        letter.entity = plain(letter.expected.text)
        letter.expected.language = None
        return letter

    return write


def _machine(desk: Desk, **headers: str) -> Letter:
    letter = _headers(**headers, X_Space_Notification_Type="")(desk)
    letter.expected.kind = "OTHER"
    return letter


def _bounce(desk: Desk) -> Letter:
    letter = _machine(desk, Return_Path="<>", Auto_Submitted="auto-replied")
    letter.replace("From", "Mail Delivery System <MAILER-DAEMON@mx.test>")
    letter.expected.sender, letter.expected.is_from_amazon = "mailer-daemon@mx.test", False
    report = part("message/delivery-status", b"Action: failed\r\n")
    letter.entity = multipart("report; report-type=delivery-status", [plain("It failed."), report], "=_r")
    letter.expected.text, letter.expected.language = "It failed.", None
    content = b"Action: failed\r\n"
    letter.expected.attachments = [
        File(None, "message/delivery-status", len(content), hashlib.sha256(content).hexdigest())
    ]
    return letter


def _spam(desk: Desk) -> Letter:
    letter = _machine(desk)
    letter.replace("From", "Prize <win@evil.test>")
    letter.replace("Subject", "You won $$$")
    letter.replace("X-Marketplace-ID")
    letter.replace("Authentication-Results", f"{desk.server}; dkim=pass header.d=evil.test")
    letter.entity = page("<font color=red><b>Click <a href=http://evil.test>here</a></b></font><script>x()</script>")
    made = letter.expected
    made.sender, made.subject, made.text, made.is_from_amazon = "win@evil.test", "You won $$$", "Click here", False
    made.language = made.order_id = made.marketplace_id = None
    return letter


def _entity(entity: Callable[[Desk, Letter], bytes], **expected: object) -> Callable[[Desk], Letter]:
    """An ordinary message with another body."""

    def write(desk: Desk) -> Letter:
        letter = desk.letter()
        letter.entity = entity(desk, letter)
        for name, value in expected.items():
            setattr(letter.expected, name, value)
        return letter

    return write


def _many(count: int) -> Callable[[Desk], Letter]:
    """So many empty parts after the message."""
    return _entity(
        lambda _, letter: multipart("mixed", [letter.entity, *([b"Content-Type: text/plain\r\n\r\n"] * count)], "b"),
        is_cut=count > 250,  # noqa: PLR2004 - more than any reader should take
    )


def _deep(depth: int) -> Callable[[Desk], Letter]:
    def entity(_: Desk, letter: Letter) -> bytes:
        made = letter.entity
        for level in range(depth):
            made = multipart("mixed", [made], f"b{level}b")
        return made

    return _entity(entity)


def _file(name: str, media_type: str, content: bytes, found: str | None = None) -> Callable[[Desk], Letter]:
    def write(desk: Desk) -> Letter:
        letter = desk.letter()
        made, file = attached(name, media_type, content)
        letter.entity = multipart("mixed", [letter.entity, made], "=_f")
        letter.expected.attachments = [File(found or file.name, file.media_type, file.size_bytes, file.sha256)]
        return letter

    return write


def _large(desk: Desk) -> Letter:
    letter = desk.letter()
    size = 11 << 20
    made, _ = attached("large.bin", "application/octet-stream", bytes(size))
    letter.entity = multipart("mixed", [letter.entity, made], "=_f")
    letter.expected.attachments = [File("large.bin", "application/octet-stream", size, None)]
    return letter


def _forwarded(desk: Desk) -> Letter:
    inner = b"From: x@y.test\r\nSubject: inner\r\n\r\nInner 999-9999999-9999999\r\n"
    letter = desk.letter()
    letter.entity = multipart("mixed", [letter.entity, b"Content-Type: message/rfc822\r\n\r\n" + inner], "=_f")
    letter.expected.attachments = [File(None, "message/rfc822", len(inner), hashlib.sha256(inner).hexdigest())]
    return letter


def _long(desk: Desk) -> Letter:
    letter = desk.letter("en")
    words = "wide words " * 40_000
    letter.entity = plain(words)
    letter.expected.text, letter.expected.is_cut, letter.expected.language = words[:50_000].strip(), True, None
    return letter


def _no_blank_line(desk: Desk) -> Letter:
    letter = desk.letter("en")
    letter.expected.text = "Where is it, please?"
    letter.expected.language = None
    letter.entity = b"Content-Type: text/plain\r\nWhere is it, please?\r\n"
    return letter


def _line_ends(end: bytes) -> Callable[[Desk], Letter]:
    """All of the mail with other line ends."""

    def write(desk: Desk) -> Letter:
        letter = desk.letter("fr")
        letter.entity = plain(desk.framed(letter, letter.expected.text), encoding="base64").replace(b"\r\n", end)
        letter.headers = [(name, value.replace("\r\n", end.decode())) for name, value in letter.headers]
        return _Ended(**{name: getattr(letter, name) for name in letter.__struct_fields__}, end=end)

    return write


class _Ended(Letter, kw_only=True):
    end: bytes

    def raw(self) -> bytes:
        head = b"".join(f"{name}: {value}".encode() + self.end for name, value in self.headers)
        return head + self.entity


def _bomb(desk: Desk) -> Letter:
    """64 kB that open to 64 MB, of which nothing is ever opened."""
    machine = zlib.compressobj(9, wbits=31)
    piece = bytes(1 << 20)
    packed = b"".join([*(machine.compress(piece) for _ in range(64)), machine.flush()])
    return _file("photos.gz", "application/gzip", packed)(desk)


_NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
ODD: dict[str, Callable[[Desk], Letter]] = {
    **{f"in {codec}": _charset(codec, codec) for codec in _SPOKEN},
    "utf-8 undeclared": _charset("utf-8"),
    "utf-8 as latin-1": _charset("utf-8", "iso-8859-1"),
    "utf-8 as ascii": _charset("utf-8", '"us-ascii"'),
    "windows-1252 as utf-8": _charset("windows-1252", "utf-8"),
    "windows-1252 as latin-1": _charset("windows-1252", "iso-8859-1"),
    "gb18030 as gb2312": _charset("gb18030", "gb2312"),
    "cp932 as shift_jis": _charset("cp932", "Shift_JIS"),
    "unknown charset": _charset("utf-8", "x-klingon"),
    "iso-2022-jp undeclared": _charset("iso-2022-jp"),
    "utf-8 with a mark": _charset("utf-8-sig", "windows-1252"),
    "binary charset": _charset("utf-8", "zlib_codec"),
    "bounce": _bounce,
    "out of office": lambda desk: _machine(desk, Auto_Submitted="auto-replied; owner-email=x"),
    "not automatic": _headers(Auto_Submitted="No", X_Space_Notification_Type=""),
    "automatic answer": lambda desk: _machine(desk, X_Autoreply="yes"),
    "spam": _spam,
    "without Message-ID": _without_id,
    "bare Message-ID": _bare_id,
    "the same Message-ID": _same_id,
    "no date": _dated("", None),
    "invalid date": _dated("Mon, 32 Foo 2026 99:99:99 +9999", None),
    "date of another age": _dated("Fri, 31 Dec 9999 23:59:59 -2359", None),
    "date without zone": _dated("5 Jan 2026 12:00:00 -0000", _NOON),
    "date with comment": _dated("Mon, 5 Jan 2026 13:00:00 +0100 (CET)", _NOON),
    "line end in the subject": _subject(word("a\r\nBcc: x@evil.test\r\n\r\nb"), "a Bcc: x@evil.test b"),
    "zero in the subject": _subject(word("a\0b\x1b[31m\u202ec"), "a b [31mc"),
    "surrogate in the subject": _subject("=?utf-7?Q?a+2AA-b?=", "a b"),
    "words of several charsets": _subject("=?koi8-r?Q?=F0?= =?utf-8?Q?_=C3=A9?= x =?nope?Q?y?=", "П é x y"),
    "broken words": _subject("=?utf-8?B?YWJjZA?= =?utf-8?X?a?= =?=", "abcd =?utf-8?X?a?= =?="),
    "raw subject": _subject("Où ça ?", "Où ça ?"),
    "right to left": lambda desk: desk.letter("en", "أين الطرد \u202bהחבילה\u202c؟ 123"),  # noqa: RUF001 - Hebrew
    "emoji": lambda desk: desk.letter("en", "🧨👨‍👩‍👧‍👦🇫🇷 ok ✅"),
    "two hundred parts": _many(200),
    "ten thousand parts": _many(10_000),
    "nested": _deep(8),
    "no last boundary": _entity(lambda _, letter: multipart("mixed", [letter.entity], "b", closed=False)),
    "no boundary told": _entity(
        lambda _, letter: multipart("mixed", [letter.entity], "b").replace(b'; boundary="b"', b"")
    ),
    "another boundary told": _entity(
        lambda _, letter: multipart("mixed", [letter.entity], "b").replace(b'boundary="b"', b"boundary=c")
    ),
    "boundary within a boundary": _entity(
        lambda _, letter: multipart("mixed", [multipart("mixed", [letter.entity], "b1")], "b")
    ),
    "multipart that is none": _entity(
        lambda _, letter: b"Content-Type: multipart/mixed; boundary=zz\r\n\r\n" + letter.expected.text.encode(),
        language=None,
    ),
    "base64 that is none": _entity(
        lambda *_: part("text/plain", b"", "base64") + b"Hello, where is my parcel?\r\n",
        text="Hello, where is my parcel?",
        language=None,
    ),
    "HTML above a footer": _entity(
        lambda *_: multipart("mixed", [page("<p>First</p>"), plain("scanned")], "=_l"),
        text="First\n\nscanned",
        language=None,
    ),
    "empty text beside HTML": _entity(
        lambda *_: multipart("alternative", [plain(" \n"), page("<p>Only here</p>")], "a"),
        text="Only here",
        language=None,
    ),
    "flowed": _entity(
        lambda *_: part("text/plain; format=flowed", b"One line \r\nof text.\r\n\r\nTwo."),
        text="One line of text.\n\nTwo.",
        language=None,
    ),
    "all of it quoted": _entity(lambda *_: plain("> only\n> this"), text="> only\n> this", language=None),
    "zip bomb": _bomb,
    "file with a path": _file("../../etc/passwd", "image/png", b"x", "passwd"),
    "file with a Windows path": _file("C:\\\\x\\\\y.png", "image/png", b"x", "y.png"),
    "file of two letters": _file("=?utf-8?B?w6kucG5n?=", "image/png", gzip.compress(b"x", mtime=0), "é.png"),
    "file whose name turns": _file("a\u202egpj.exe", "image/png", b"x", "agpj.exe"),
    "large file": _large,
    "forwarded mail": _forwarded,
    "long text": _long,
    "no blank line": _no_blank_line,
    "line feeds only": _line_ends(b"\n"),
    "carriage returns only": _line_ends(b"\r"),
}
