"""Mails of any size made of one piece again and again, each a question to a reader: does twice the mail take twice the
work? What regular expressions, decoders and trees are slow at, in each place that a sender can fill.
"""

from collections.abc import Callable

Grow = Callable[[int], bytes]
"""About so many bytes of it."""

_FROM = b"From: a@marketplace.amazon.fr\r\n"
_TEXTS = (
    *(
        "-",
        "- ",
        "--- ",
        "---Message",
        "--- Message: ---\n",
        "--- End message ---\n",
        "--- Message: --- End message ---",
    ),
    *(
        " ",
        "\t",
        "\n",
        "> ",
        ">\n",
        " \n",
        "x \n",
        "\xa0",
        "\r",
        "\u2028",
        "\0",
        "&",
        "a",
        "a@",
        "é",
        "😀",
        "[ASIN: B012345678]\n",
    ),
    *(
        "On ",
        "On \n",
        "On x\n",
        "Le 123456\n",
        "Am 1234567schrieb ",
        "Am 1234567 schrieb :",
        "2026年1月1日<",
        "On 123456\nwrote: ",
    ),
    *("_", "From: a\n", "From: a\nSent: b\n", "From:", "111-", "111-1234567-123456", "https://a/", "SPC-USAmazon-\n"),
    *(
        "On " + "a" * 197 + "\n",
        "_" * 20 + "\n",
        "2026年1月1日" + "<a" * 95 + "\n",
        "https://" + "a" * 80,
        "a" * 190 + "https://a/x\n",
    ),
)
_MARKUP = (
    *(
        "<",
        "<a",
        "<a ",
        "<a =",
        '<a ="',
        "<a ='",
        "<div>",
        "<b x>",
        "<ul><li>",
        "<table><tr><td>",
        "<!--",
        "<!-- ->",
        "<!",
        "<?",
    ),
    *(
        "<script>",
        "</script",
        "<pre>",
        "</",
        "</p ",
        "<title>",
        "<td>",
        "<br>",
        "<p>\n",
        "<p   ",
        "<p = ",
        "<p hidden ",
        "a<",
    ),
    *(
        '<p style="display:none">',
        '<a href="x">',
        "<blockquote type=cite>",
        "<pre style=pre-wrap>x",
        "display:",
        "<p class= id= ",
    ),
    *("&amp;", "&a;", "&a", "&#", "&#1;", "&#x", "&#99999999999;", "<a b=c ", "<font color=red>"),
)
_HEADERS = (
    *(
        '"',
        "(",
        ")",
        "<",
        ">",
        ",",
        ";",
        "\\",
        "=",
        "a",
        "a.",
        "a=",
        " ",
        "\t",
        "é",
        "\0",
        "\r\n a",
        "\x1b$B",
        "a@b.c,",
        "a@",
        "<a@b.c>",
    ),
    *(
        "=?",
        "=?a?q?",
        "=?utf-8?q?a?=",
        "=?utf-8?q?a?= ",
        '; a="',
        "; a=",
        "; a*0*=x",
        '; a*0="',
        "; dkim=pass header.d=",
    ),
)
_HEADER_NAMES = {
    "From": "",
    "To": "",
    "Subject": "",
    "References": "",
    "Message-ID": "",
    "Date": "Mon, ",
    "Content-Type": "text/plain",
    "Content-Disposition": "attachment",
    "Authentication-Results": "mx.inbound.test; dkim=pass ",
}
_PIECES = {
    "near a boundary": b"--bx\r\n",
    "boundaries": b"--b\r\n",
    "boundaries in a line": b"--b   ",
    "parts": b"--b\r\n\r\nx\r\n",
    "parts of headers": b"--b\r\nA: b\r\n",
    "multiparts": b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\n",
    "multiparts in themselves": b"--b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n",
    "files": b"--b\r\nContent-Type: a/b\r\nContent-Transfer-Encoding: base64\r\n\r\nAAAA\r\n",
    "charsets": b"--b\r\nContent-Type: text/plain; charset=utf-7\r\n\r\n+AAAA\r\n",
}
_ENCODED = {
    "base64": (b"A", b"=", b"!", b"A=", b"\n", b"AAAA\r\n"),
    "quoted-printable": (b"=", b"=\n", b" ", b"=41", b" \n"),
}
_CHARSETS = (
    "utf-7",
    "utf-16",
    "utf-32",
    "iso-2022-jp",
    "iso-2022-kr",
    "hz",
    "gb18030",
    "shift_jis",
    "johab",
    "utf-8",
    "latin-1",
)
_BYTES = (b"+", b"+2AA-", b"\xff", b"\x1b$B", b"\x1b(B", b"~{", b"\x81", b"\xc3\xa9", b"\xc3\xa9\xff", b"a\0")


def _body(piece: bytes, media_type: str = "text/plain", encoding: str = "8bit") -> Grow:
    head = _FROM + f"Content-Type: {media_type}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n".encode()
    return lambda size: head + (piece * (size // len(piece) + 1))[:size]


def _header(name: str, begin: str, piece: str) -> Grow:
    def grow(size: int) -> bytes:
        value = f"{name}: {begin}{(piece * (size // len(piece) + 1))[:size]}\r\n".encode()
        return value + (b"" if name == "From" else _FROM) + b"\r\nhello"

    return grow


def _nested(size: int) -> bytes:
    levels = size // 60
    return _FROM + b"".join(
        f'Content-Type: multipart/mixed; boundary="b{level}"\r\n\r\n--b{level}\r\n'.encode() for level in range(levels)
    )


def _charset_names(size: int) -> bytes:
    """Each another that nobody knows."""
    return _FROM + b"Subject: " + b" ".join(b"=?x%d?q?a?=" % number for number in range(size // 12)) + b"\r\n\r\n"


SHAPES: dict[str, Grow] = {
    **{f"text of {piece[:20]!r}": _body(piece.encode()) for piece in _TEXTS},
    **{f"HTML of {piece!r}": _body(piece.encode(), "text/html") for piece in _MARKUP},
    **{
        f"{name} of {piece!r}": _header(name, begin, piece)
        for name, begin in _HEADER_NAMES.items()
        for piece in _HEADERS
    },
    **{name: _body(piece, "multipart/mixed; boundary=b") for name, piece in _PIECES.items()},
    **{f"{name} untold": _body(piece, "multipart/mixed") for name, piece in _PIECES.items()},
    **{
        f"{encoding} {media_type} of {piece!r}": _body(piece, media_type, encoding)
        for encoding, pieces in _ENCODED.items()
        for piece in pieces
        for media_type in ("text/plain", "text/html", "image/png")
    },
    **{
        f"{charset} of {piece!r}": _body(piece, f"text/plain; charset={charset}")
        for charset in _CHARSETS
        for piece in _BYTES
    },
    "headers without a colon": lambda size: b"A\n" * (size // 2),
    "headers": lambda size: b"A: b\n" * (size // 5),
    "folded lines": lambda size: b"A: b" + b"\n b" * (size // 3),
    "spaces": lambda size: b" \n" * (size // 2),
    "one line": lambda size: b"A" * size,
    "carriage returns": lambda size: b"\r" * size,
    "nested": _nested,
    "charset names": _charset_names,
}
