"""Bytes as text, whatever they claim to be, and text that JSON and PostgreSQL take. It never raises.
Sources: RFC 2047; for names that mean more than they say, the WHATWG's Encoding Standard.
"""

import binascii
import codecs
import re
from encodings.aliases import aliases

MAX_WORDS_CHARS = 16 << 10
"""Of one header: encoded words in what comes after are dropped with it."""

_BINARY = {
    "base64_codec",
    "bz2_codec",
    "hex_codec",
    "quopri_codec",
    "rot_13",
    "uu_codec",
    "zlib_codec",
    "mbcs",
    "tactis",
}
_EBCDIC = {"cp037", "cp273", "cp424", "cp500", "cp875", "cp1026", "cp1140"}
_NO_ALIAS = ("cp720", "cp737", "cp856", "cp874", "cp1006", "koi8_r", "koi8_t", "koi8_u", "kz1048", "utf_8_sig")
_OTHER_NAMES = {"x_sjis": "cp932", "x_euc_jp": "euc_jp", "x_gbk": "gb18030", "windows_874": "cp874", "utf8mb4": "utf_8"}
_MEANT = {
    "ascii": "cp1252",
    "latin_1": "cp1252",
    "iso8859_1": "cp1252",
    "iso8859_9": "cp1254",
    "iso8859_11": "cp874",
    "tis_620": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "euc_kr": "cp949",
    "shift_jis": "cp932",
    "iso2022_jp": "iso2022_jp_ext",
}
_NAMES = {codec: codec for codec in (*aliases.values(), *_NO_ALIAS)} | aliases | _OTHER_NAMES
CODECS = {
    name: _MEANT.get(codec, codec) for name, codec in _NAMES.items() if codec not in _BINARY and codec not in _EBCDIC
}
"""By the name that a mail gives, `-` and `.` as `_`. Others are not looked up: Python would try to import a module for
each, and keep each name that it does not know.
"""
_WIDE = re.compile("utf_(?:16|32)(?:_[bl]e)?")
_OF_SEVEN_BITS = re.compile("utf_7|hz|iso2022_.*")
_OF_ONE_BYTE = re.compile("cp(?:437|7..|8..|1...)|iso8859_.*|koi8_.|mac_.*|hp_roman8|kz1048|ptcp154|utf_8(?:_sig)?")
_NO_BASE64 = bytes(byte for byte in range(256) if not (chr(byte).isalnum() and byte < 128) and byte not in b"+/")  # noqa: PLR2004
_SAMPLE = 4 << 10
_IN_CP1252 = bytes(0x20 if byte in b"\x81\x8d\x8f\x90\x9d" else byte for byte in range(256))
"""It has no characters for the others."""
_MARKS = (
    (codecs.BOM_UTF8, "utf_8_sig"),
    (codecs.BOM_UTF32_LE, "utf_32"),
    (codecs.BOM_UTF32_BE, "utf_32"),
    (codecs.BOM_UTF16_LE, "utf_16"),
    (codecs.BOM_UTF16_BE, "utf_16"),
)
_JAPANESE = re.compile(rb"\x1b(?:\$[@B(]|\([IJ])")

_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
_NEW_LINES = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_TURNS = re.compile("[\u202a-\u202e\u2066-\u2069\ufeff]")
"""They let a name show something else than it is."""
_WORD = re.compile(r"=\?([!->@-~]{1,64})\?([bBqQ])\?([^?\r\n]{0,4096})\?=")


def decode_text(raw: bytes, charset: str | None, limit: int | None = None) -> str:
    """As declared, unless the bytes say otherwise; what is left of it where it is broken. At most limit characters."""
    text = _decode(raw, CODECS.get((charset or "").strip("\"' ").lower().replace("-", "_").replace(".", "_")))[:limit]
    return storable(text)


def storable(text: str) -> str:
    """Without what JSON or PostgreSQL refuse, or a terminal obeys; lines end in one way."""
    return _CONTROLS.sub(" ", _NEW_LINES.sub("\n", text))


def _decode(raw: bytes, declared: str | None) -> str:
    for mark, codec in _MARKS:
        if raw.startswith(mark) and (b"\0" in raw or mark == codecs.BOM_UTF8):
            return raw.decode(codec, "replace")
    if declared and _WIDE.fullmatch(declared) and b"\0" in raw:
        return raw.decode(declared, "replace")
    if raw.isascii():
        if declared and _OF_SEVEN_BITS.fullmatch(declared):
            return raw.decode(declared, "replace")
        return raw.decode("iso2022_jp_ext" if _JAPANESE.search(raw) else "ascii", "replace")
    many = declared is not None and not _OF_ONE_BYTE.fullmatch(declared) and not _WIDE.fullmatch(declared)
    for name in (declared, "utf_8") if many else ("utf_8", declared):
        if name is not None and (text := _if_it_fits(raw, name)) is not None:
            return text
    return raw.translate(_IN_CP1252).decode("cp1252")


def _if_it_fits(raw: bytes, codec: str) -> str | None:
    """A few broken characters among many that are not do not make it another encoding, as where it was cut."""
    try:
        return raw.decode(codec)
    except UnicodeDecodeError as error:
        after = max(0, min(error.start, len(raw) - _SAMPLE))
        sample = raw[after : after + _SAMPLE].decode(codec, "replace")
        broken = sample.count("\ufffd")
        beyond_ascii = len(sample) - len(sample.encode("ascii", "ignore")) - broken
        return raw.decode(codec, "replace") if broken * 4 < beyond_ascii else None


def decode_header(value: str) -> str:
    """A header as it came (a character a byte), as one line of text; encoded words where they are right."""
    value = value[:MAX_WORDS_CHARS]
    pieces: list[str] = []
    charset, pending, position = "", b"", 0
    for found in _WORD.finditer(value):
        between = value[position : found.start()]
        told = found[1].partition("*")[0].lower()
        if pending and (told != charset or between.strip(" ")):
            pieces.append(decode_text(pending, charset))
            pending = b""
        if between.strip(" ") or (between and not position):
            pieces.append(_plain(between))
        charset, pending, position = told, pending + _word(found), found.end()
    pieces += [decode_text(pending, charset), _plain(value[position:])]
    return one_line("".join(pieces))


def one_line(text: str) -> str:
    return " ".join(_TURNS.sub("", _CONTROLS.sub(" ", text)).split())


def _plain(value: str) -> str:
    return decode_text(value.encode("latin-1", "replace"), None)


def _word(found: re.Match[str]) -> bytes:
    raw = found[3].encode("latin-1", "replace")
    return decode_base64(raw) if found[2] in "bB" else binascii.a2b_qp(raw.replace(b"_", b" "), header=False)


def decode_base64(raw: bytes | memoryview) -> bytes:
    """What can be read of it, where it was cut too."""
    try:
        return binascii.a2b_base64(raw)
    except binascii.Error:
        letters = bytes(raw).translate(None, _NO_BASE64)
        letters = letters[: len(letters) - (len(letters) % 4 == 1)]
        return binascii.a2b_base64(letters + b"=" * (-len(letters) % 4))
