"""Bytes as text, whatever they claim to be."""

import codecs
import encodings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.charset import CODECS, decode_base64, decode_header, decode_text

CONTROLS = {*map(chr, range(32)), *map(chr, range(0x7F, 0xA0)), "\u2028", "\u2029", "\ufffe", "\uffff"}


def is_storable(text: str) -> bool:
    """JSON and PostgreSQL take it."""
    return not any("\ud800" <= each <= "\udfff" or each in CONTROLS - {"\n", "\t"} for each in text)


@pytest.mark.parametrize(
    ("raw", "charset", "text"),
    [
        ("Où ?".encode(), None, "Où ?"),
        ("Où ?".encode(), "iso-8859-1", "Où ?"),
        ("Où ?".encode(), " 'UTF-8' ", "Où ?"),
        ("Où ?".encode("cp1252"), None, "Où ?"),
        ("Où ?".encode("cp1252"), "utf-8", "Où ?"),
        ("12 €".encode("cp1252"), "iso-8859-1", "12 €"),
        ("①㈱".encode("cp932"), "shift_jis", "①㈱"),
        ("荷物".encode("iso-2022-jp"), None, "荷物"),
        ("荷物".encode("iso-2022-jp"), "utf-8", "荷物"),
        ("镕".encode("gb18030"), "gb2312", "镕"),
        ("똠방각하".encode("cp949"), "euc-kr", "똠방각하"),
        ("посылка".encode("koi8-r"), "KOI8-R", "посылка"),
        ("Où".encode("utf-16"), None, "Où"),
        ("Où".encode("utf-16-be"), "UTF-16BE", "Où"),
        (b"plain", "utf-16", "plain"),
        (b"Hi +AOk-", "utf-7", "Hi é"),
        (b"\xef\xbb\xbfx", "koi8-r", "x"),
        (b"a\x81b", None, "a b"),
        (b"a\0b\x1b[0m\x7fc", None, "a b [0m c"),
        (b"a\r\nb\rc\x0bd", None, "a\nb\nc\nd"),
        (b"x+2AA-y", "utf-7", "x y"),
        (b"Hello", "zlib_codec", "Hello"),
        (b"Hello", "unicode_escape", "Hello"),
        (b"\\u0041", "raw_unicode_escape", "\\u0041"),
        (b"Hello", "cp037", "Hello"),
        (b"Hello", "nope", "Hello"),
        (b"Hello", "é" * 5_000, "Hello"),
    ],
)
def test_bytes_are_read_as_what_they_are(raw: bytes, charset: str | None, text: str) -> None:
    assert decode_text(raw, charset) == text


@pytest.mark.parametrize("codec", ["utf-8", "gb18030", "shift_jis", "euc-jp", "big5"])
def test_a_character_that_is_cut_does_not_spoil_those_before_it(codec: str) -> None:
    raw = ("一二三四五六七八九十" * 50).encode(codec)
    assert decode_text(raw[:-1], codec).startswith("一二三四五六七八九十" * 49)


def test_a_short_text_of_another_charset_is_not_taken_for_a_broken_one() -> None:
    assert decode_text("déjà vu à Évry, ça m'a plu".encode("cp1252"), "utf-8") == "déjà vu à Évry, ça m'a plu"


@pytest.mark.parametrize("name", sorted(CODECS))
def test_every_charset_that_is_known_decodes_anything(name: str) -> None:
    assert codecs.lookup(CODECS[name])._is_text_encoding
    for raw in (b"", b"abc", bytes(range(256)), b"\xff" * 9, b"\x1b$B", b"+2AA-"):
        assert is_storable(decode_text(raw, name))


def test_python_is_not_asked_for_names_that_a_mail_makes_up() -> None:
    """It would keep each of them for as long as it runs."""
    before = len(encodings._cache)
    for number in range(50):
        decode_text(b"x", f"made-up-{number}")
        decode_header(f"=?made-up-{number}?Q?x?=")
    assert len(encodings._cache) == before


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ("=?utf-8?Q?Caf=C3=A9?=", "Café"),
        ("=?utf-8?Q?Caf=C3?= =?utf-8?B?qQ==?=", "Café"),
        ("=?utf-8?q?a?=  =?utf-8?q?b?=", "ab"),
        ("=?utf-8?q?a?= b =?utf-8?q?c?=", "a b c"),
        ("x=?utf-8?q?a?=y", "xay"),
        ("=?utf-8*fr?Q?=C3=A9t=C3=A9?=", "été"),
        ("=?iso-2022-jp?B?GyRCJTklSA==?= =?iso-2022-jp?B?GyRCJSIbKEI=?=", "ストア"),
        ("=?utf-8?Q?two words?=", "two words"),
        ("=?utf-8?B?YWJjZA?=", "abcd"),
        ("=?utf-8?B?YWJjZ?=", "abc"),
        ("=?utf-8?Q?a=0D=0AX:_y=00?=", "a X: y"),
        ("Où".encode().decode("latin-1"), "Où"),
        ("a\u202eb".encode().decode("latin-1"), "ab"),
        ("=?utf-8?Q?=E2=80=AEgpj.exe?=", "gpj.exe"),
        ("=?utf-8?X?a?=", "=?utf-8?X?a?="),
        ("=??Q?a?=", "=??Q?a?="),
    ],
)
def test_encoded_words_become_one_line_of_text(value: str, text: str) -> None:
    assert decode_header(value) == text


@given(st.binary(max_size=300), st.sampled_from([*sorted(CODECS), "made-up", ""]))
def test_any_bytes_in_any_charset_are_text_that_can_be_stored(raw: bytes, charset: str) -> None:
    assert is_storable(decode_text(raw, charset))


@given(st.text(max_size=100), st.sampled_from(["utf-8", "utf-16", "utf-32", "utf-7", "gb18030"]))
def test_text_comes_back_from_what_can_encode_all_of_it(text: str, codec: str) -> None:
    kept = "".join(each for each in text if is_storable(each) and each not in "\ufffd\ufeff") + "\n"
    assert decode_text(kept.encode(codec), codec) == kept


@given(st.text(alphabet=st.characters(max_codepoint=255), max_size=200))
def test_any_header_becomes_one_line(value: str) -> None:
    line = decode_header(value)
    assert is_storable(line)
    assert "\n" not in line
    assert line == line.strip()


@given(st.binary(max_size=200))
def test_base64_never_fails(raw: bytes) -> None:
    decode_base64(raw)
    decode_base64(memoryview(raw))
