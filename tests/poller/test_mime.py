"""MIME as it comes: headers, parameters, parts, and no more of them than is told."""

import email
import email.policy
from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller import mime

BOUNDARY = 'Content-Type: multipart/mixed; boundary="b"\r\n\r\n'


def parts_of(raw: str | bytes) -> list[bytes]:
    raw = raw.encode() if isinstance(raw, str) else raw
    return [bytes(part.body) for part in mime.read(raw).parts]


def test_headers_are_unfolded_in_their_order_and_by_any_case() -> None:
    message = mime.read(b"X-A: 1\r\nSubject:a\r\n\tb\r\n  c \r\nx-a : 2\r\n\r\nbody")
    assert message.headers == {"x-a": ["1", "2"], "subject": ["a\tb  c"]}
    assert message.first("x-a") == "1"
    assert message.first("none") == ""
    assert parts_of(b"A: b\r\n\r\nbody\r\n") == [b"body\r\n"]


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r"])
def test_lines_end_as_they_like(end: str) -> None:
    message = mime.read(f"From: a{end}To: b{end}{end}c{end}".encode())
    assert message.headers == {"from": ["a"], "to": ["b"]}
    assert bytes(message.parts[0].body).strip() == b"c"


@pytest.mark.parametrize(
    ("raw", "headers", "body"),
    [
        (b"", {}, b""),
        (b"\r\nbody", {}, b"body"),
        (b"\nbody", {}, b"body"),
        (b"hello\r\n\r\nworld", {}, b"hello\r\n\r\nworld"),
        (b"From x Mon\nA: b\n\nc", {"a": ["b"]}, b"c"),
        (b"A: b\njunk line\nC: d\n\ne", {"a": ["b"], "c": ["d"]}, b"e"),
        (b"A: b\nwords and no blank line\n", {"a": ["b"]}, b"words and no blank line\n"),
        (b"A: b\n \t\n c\n\nd", {"a": ["b \t c"]}, b"d"),
        (b"A: b\n\nC: d\n\n", {"a": ["b"]}, b"C: d\n\n"),
        (b"A:b\0c\n\n", {"a": ["b\0c"]}, b""),
        (b"\xe9: b\nA: \xe9\n\n", {"a": ["é"]}, b""),
    ],
)
def test_what_is_no_header_is_none(raw: bytes, headers: dict[str, list[str]], body: bytes) -> None:
    message = mime.read(raw)
    assert message.headers == headers
    assert [bytes(part.body) for part in message.parts] == [body]


def test_only_so_many_headers_and_bytes_of_them_are_read() -> None:
    many = mime.read(b"A: b\n" * (mime.MAX_HEADERS + 1) + b"\nc")
    assert (len(many.headers["a"]), many.cut, many.has_all_headers) == (mime.MAX_HEADERS, True, False)
    long = mime.read(b"A: " + b"b" * mime.MAX_HEADER_BYTES + b"\nFrom: c\n\nd")
    assert (long.cut, long.has_all_headers, "from" in long.headers) == (True, False, False)
    just = mime.read(b"A: b\n" * mime.MAX_HEADERS + b"\nc")
    assert (just.cut, just.has_all_headers) == (False, True)


@pytest.mark.parametrize(
    ("value", "parameters"),
    [
        ('a/b; c="d;e\\"f"', {"c": 'd;e"f'}),
        ("a/b;c=d;c=e", {"c": "d"}),
        ("a/b ; C = d ", {"c": "d"}),
        ("a/b; c*=utf-8'fr'%C3%A9", {"c": "é"}),
        ("a/b; c*0*=utf-8''%C3; c*1*=%A9; c*2=x%41", {"c": "éx%41"}),
        ("a/b; c*1=b; c*0=a", {"c": "ab"}),
        ("a/b; c*=iso-2022-jp''%1B%24B%259%1B%28B", {"c": "ス"}),
        ("a/b; c*=nothing", {"c": "nothing"}),
        ("a/b; c*=x; c=y", {"c": "y"}),
        ("a/b; c*²=x", {}),
        ("a/b; c*9999=x", {}),
        ('a/b; c="never closed; d=e', {"c": "never closed; d=e"}),
        ('a/b; filename="=?utf-8?Q?=C3=A9?="', {"filename": "é"}),
        ("a/b; =x; c", {}),
        ("a/b;" + " " * mime.MAX_PARAMETERS_CHARS + "c=d", {}),
    ],
)
def test_parameters_are_read(value: str, parameters: dict[str, str]) -> None:
    assert mime.parse_parameters(value) == ("a/b", parameters)


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ("--b\r\n\r\none\r\n--b\r\n\r\ntwo\r\n--b--\r\nafter", [b"one", b"two"]),
        ("before\r\n--b\r\n\r\none", [b"one"]),
        ("--b  \r\n\r\none\r\n--b--  ", [b"one"]),
        ("--b\n\none\n--b--", [b"one"]),
        ("--b\r\n\r\none\r\n--bc\r\n--b--", [b"one\r\n--bc"]),
        ("--b\r\n\r\none --b\r\n--b--", [b"one --b"]),
        ("--b\r\n\r\n\r\n--b--", [b""]),
        ("--b\r\n--b\r\n\r\nx\r\n--b--", [b"", b"x"]),
        ("--b\r\nno headers\r\n--b--", [b"no headers"]),
        ("--b--\r\nnothing", [b"--b--\r\nnothing"]),
        ("no boundary at all", [b"no boundary at all"]),
        ("--c\r\nA: b\r\n\r\none\r\n--c--", [b"one"]),
    ],
)
def test_parts_stand_between_the_lines_of_a_boundary(body: str, parts: list[bytes]) -> None:
    assert parts_of(BOUNDARY + body) == parts


def test_a_boundary_may_be_the_beginning_of_another() -> None:
    inner = 'Content-Type: multipart/mixed; boundary="bb"\r\n\r\n--bb\r\n\r\none\r\n--bb--\r\n'
    assert parts_of(f"{BOUNDARY}--b\r\n{inner}\r\n--b\r\n\r\ntwo\r\n--b--") == [b"one", b"two"]


def test_an_inner_multipart_that_does_not_end_ends_with_the_outer_one() -> None:
    inner = 'Content-Type: multipart/mixed; boundary="i"\r\n\r\n--i\r\n\r\none\r\n'
    assert parts_of(f"{BOUNDARY}--b\r\n{inner}--b\r\n\r\ntwo\r\n--b--") == [b"one", b"two"]


def test_what_is_beyond_the_limits_is_noted_and_not_read() -> None:
    part = "--b\r\n\r\nx\r\n"
    all_of_them = mime.read((BOUNDARY + part * (mime.MAX_ENTITIES - 1)).encode())
    assert (len(all_of_them.parts), all_of_them.cut) == (mime.MAX_ENTITIES - 1, False)
    too_many = mime.read((BOUNDARY + part * mime.MAX_ENTITIES).encode())
    assert (len(too_many.parts), too_many.cut, too_many.has_all_headers) == (mime.MAX_ENTITIES - 1, True, True)
    hollow = "--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\n"
    assert len(mime.read((BOUNDARY + hollow * 5_000).encode()).parts) <= mime.MAX_ENTITIES
    lines = mime.read((BOUNDARY + "--b\r\n\r\nx\r\n" + "--bc\r\n" * (mime.MAX_LINES + 1) + "--b--").encode())
    assert lines.cut


def test_only_so_deep_a_tree_is_read() -> None:
    def nested(levels: int) -> mime.Message:
        made = "Content-Type: text/plain\r\n\r\nleaf"
        for level in range(levels):
            made = f"Content-Type: multipart/mixed; boundary=l{level}l\r\n\r\n--l{level}l\r\n{made}\r\n--l{level}l--"
        return mime.read(made.encode())

    assert [bytes(part.body) for part in nested(mime.MAX_DEPTH).parts] == [b"leaf"]
    assert not nested(mime.MAX_DEPTH).cut
    assert [part.media_type for part in nested(mime.MAX_DEPTH + 1).parts] == ["multipart/mixed"]
    assert nested(mime.MAX_DEPTH + 1).cut
    assert nested(3_000).cut


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ('attachment; filename="a.png"', "a.png"),
        ('attachment; filename="/etc/passwd"', "passwd"),
        ('attachment; filename="..\\\\..\\\\x.exe"', "x.exe"),
        ("attachment; filename*=utf-8''%E2%82%AC%00%0A.png", "€ .png"),
        ('attachment; filename="dir/"', None),
        ('attachment; filename=""', None),
        (f'attachment; filename="{"a" * 300}.png"', "a" * 251 + ".png"),
    ],
)
def test_a_file_has_a_name_without_folders(disposition: str, name: str | None) -> None:
    [part] = mime.read(f"Content-Type: image/png\r\nContent-Disposition: {disposition}\r\n\r\n".encode()).parts
    assert (part.filename, part.disposition) == (name, "attachment")


@pytest.mark.parametrize(
    ("encoding", "body", "decoded"),
    [
        ("base64", b"YWJj\r\nZGU=\r\n", b"abcde"),
        ("BASE64 ", b"YWJjZGU", b"abcde"),
        ("base64;", b"YWJjZ", b"abc"),
        ("base64", b"Where is my parcel?", b"Where is my parcel?"),
        ("base64", b"Hello you", b"Hello you"),
        ("base64", b"", b""),
        ("quoted-printable", b"a=C3=A9=\r\nb", b"a\xc3\xa9b"),
        ("quoted-printable", b"a=ZZb=", b"a=ZZb"),
        ("8bit", b"\xff", b"\xff"),
        ("x-unknown", b"a", b"a"),
    ],
)
def test_bodies_are_decoded_as_far_as_they_can_be(encoding: str, body: bytes, decoded: bytes) -> None:
    [part] = mime.read(f"Content-Transfer-Encoding: {encoding}\r\n\r\n".encode() + body).parts
    assert mime.decode_body(part, 100) == decoded


@pytest.mark.parametrize("encoding", ["base64", "quoted-printable", "binary"])
def test_no_more_of_a_body_is_decoded_than_is_asked_for(encoding: str) -> None:
    [part] = mime.read(f"Content-Transfer-Encoding: {encoding}\r\n\r\n".encode() + b"AAAA" * 100).parts
    assert len(mime.decode_body(part, 10)) == 10


def test_the_size_of_base64_is_told_without_decoding_it() -> None:
    for size in (0, 1, 2, 3, 1_000, 3 << 20):
        message = EmailMessage()
        message.add_attachment(bytes(size), maintype="a", subtype="b")
        [part] = mime.read(message.as_bytes()).parts
        assert mime.size_of(part) == size


@st.composite
def trees(draw: st.DrawFn, depth: int = 3) -> EmailMessage:
    """Made by the standard library."""
    message = EmailMessage()
    if depth and draw(st.booleans()):
        for _ in range(draw(st.integers(1, 3))):
            message.make_mixed() if not message.is_multipart() else None
            message.attach(draw(trees(depth - 1)))
        return message
    encoding = draw(st.sampled_from(["base64", "quoted-printable", "8bit"]))
    message.set_content(draw(st.text("ab é€😀.-= \n", max_size=80)) + "\n", cte=encoding)
    return message


@given(trees())
def test_parts_are_those_that_the_standard_library_finds(message: EmailMessage) -> None:
    raw = message.as_bytes(policy=email.policy.SMTP)
    theirs = [part.get_payload(decode=True) for part in email.message_from_bytes(raw).walk() if not part.is_multipart()]
    assert [mime.decode_body(part, 10_000).replace(b"\r\n", b"\n").strip() for part in mime.read(raw).parts] == [
        each.replace(b"\r\n", b"\n").strip() if isinstance(each, bytes) else b"" for each in theirs
    ]


@given(st.binary(max_size=400))
def test_any_bytes_are_a_message(raw: bytes) -> None:
    message = mime.read(raw)
    assert len(message.parts) <= mime.MAX_ENTITIES
    assert sum(len(part.body) for part in message.parts) <= len(raw)
