"""Whom a mail is from and to, and whether a server that we trust says that it is Amazon's.
Sources: RFC 5322 (addresses), RFC 8601 (Authentication-Results), RFC 7489 3.1 (alignment).
"""

import re
from collections.abc import Iterator, Sequence

from .wording import AMAZON_DOMAINS, RELAY_DOMAINS

MAX_CHARS = 8 << 10
MAX_RECIPIENTS = 50

_PIECE = re.compile(r'"((?:[^"\\]|\\.)*+)("?)|\\.?|[()]|[^"\\()]++', re.DOTALL)
_ADDRESS = re.compile(r"[!#$%&'*+/=?^_`{|}~A-Za-z0-9.-]{1,64}+@(?:[A-Za-z0-9-]{1,63}+\.)++[A-Za-z0-9-]{1,63}+")
_MAX_ADDRESS_CHARS = 254
_ENCODED = re.compile(r"=\?[^?\s]{1,64}\?[bBqQ]\?[^?]{0,1000}\?=")
_QUOTED = "\0"
"""Stands for a quoted string, whose content is never syntax."""
_METHOD = re.compile(r"([A-Za-z0-9-]++)(?:\s*+/\s*+[0-9]++)?+\s*+=\s*+([A-Za-z]++)(?=\s|$)")
_PROPERTY = re.compile(r"(?<!\S)([A-Za-z0-9-]++)\s*+\.\s*+([A-Za-z0-9_-]++)\s*+=\s*+([^\s]++)")
_DOMAIN = re.compile(r"(?:[^@]*+@)?+((?:[a-z0-9-]++\.)++[a-z0-9-]++)")
_SAYS_DOMAIN = {("dkim", "header.d"), ("dkim", "header.i"), ("spf", "smtp.mailfrom")}
_ORGANISATION = {domain: domain.removeprefix("marketplace.") for domain in AMAZON_DOMAINS}


def without_quotes(value: str) -> str:
    """Without comments, and with a mark in place of each quoted string; nothing where one of them has no end."""
    kept: list[str] = []
    depth = 0
    for piece in _PIECE.finditer(value[:MAX_CHARS]):
        if piece[1] is not None and not depth:
            if not piece[2]:
                return ""
            kept.append(_QUOTED)
        elif piece[0] == "(":
            depth += 1
            kept.append(" ")
        elif piece[0] == ")":
            if not depth:
                return ""
            depth -= 1
        elif not depth:
            kept.append(piece[0])
    return "" if depth else "".join(kept)


def sender_of(values: Sequence[str]) -> str:
    """The one address of the one From header, lower case; empty where there are more, or two ways to read it."""
    if len(values) != 1 or len(values[0]) > MAX_CHARS:
        return ""
    plain = without_quotes(_ENCODED.sub(_QUOTED, values[0]))
    if plain.count("@") != 1 or any(each in plain for each in ",:;"):
        return ""
    return next(addresses(plain), "")


def addresses(value: str) -> Iterator[str]:
    """Those of a header, lower case, without what only looks like one: names, comments, quoted strings."""
    for entry in re.split("[,;:]", without_quotes(_ENCODED.sub(_QUOTED, value))):
        name, bracket, rest = entry.partition("<")
        inside, closing, after = rest.partition(">")
        if bracket and (not closing or "<" in inside or after.strip()):
            continue
        address = (inside if bracket else name).strip()
        if len(address) <= _MAX_ADDRESS_CHARS and _ADDRESS.fullmatch(address):
            yield address.lower()


def is_relay(sender: str) -> bool:
    return sender.rpartition("@")[2] in RELAY_DOMAINS


def is_from_amazon(results: Sequence[str], sender: str, trusted: str) -> bool:
    """Does the trusted server say that DKIM or SPF passed for the domain that the mail claims to be from, and is that
    one of Amazon's? Only the nearest of the headers counts: what stands below may have come with the mail.
    """
    organisation = _ORGANISATION.get(sender.rpartition("@")[2])
    if organisation is None or not results or not trusted or len(results[0]) > MAX_CHARS:
        return False
    server, *told = without_quotes(results[0]).split(";")
    name, *version = server.split() or [""]
    if name.rstrip(".").lower() != trusted.rstrip(".").lower() or version not in ([], ["1"]):
        return False
    passed = False
    for each in told:
        method = _METHOD.match(each.strip())
        if method is None:
            continue
        kind, result = method[1].lower(), method[2].lower()
        if kind == "dmarc" and result == "fail":
            return False
        passed |= result == "pass" and _is_aligned(kind, each.strip()[method.end() :], organisation)
    return passed


def _is_aligned(method: str, properties: str, organisation: str) -> bool:
    """All domains that the result names are of the organisation, and it names one."""
    named = [
        _DOMAIN.fullmatch(value.lower().removesuffix("."))
        for kind, name, value in _PROPERTY.findall(properties)
        if (method, f"{kind}.{name}".lower()) in _SAYS_DOMAIN
    ]
    return bool(named) and all(
        found is not None and (found[1] == organisation or found[1].endswith(f".{organisation}")) for found in named
    )
