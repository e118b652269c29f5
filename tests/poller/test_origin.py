"""Whom a mail is from, and whether it is Amazon's: what an attacker would write."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devstack.sandbox.marketplaces import MARKETPLACES
from poller.origin import MAX_CHARS, addresses, is_from_amazon, is_relay, sender_of, without_quotes
from poller.wording import AMAZON_DOMAINS, RELAY_DOMAINS

SERVER = "mx.inbound.test"
SENDER = "abc123@marketplace.amazon.fr"
PASSED = "mx.inbound.test; dkim=pass header.d=amazon.fr"


def test_the_domains_are_those_of_the_marketplaces() -> None:
    own = {f"amazon.{marketplace.domain}" for marketplace in MARKETPLACES.values()}
    assert {f"marketplace.{domain}" for domain in own} == RELAY_DOMAINS
    assert own | RELAY_DOMAINS == AMAZON_DOMAINS


@pytest.mark.parametrize(
    ("value", "sender"),
    [
        ("a@b.test", "a@b.test"),
        ("<A+1@B.Test>", "a+1@b.test"),
        ('"b@c.test" <a@b.test>', "a@b.test"),
        ('"b@c.test, \\"x" <a@b.test> (d@e.test)', "a@b.test"),
        ("=?utf-8?Q?Jos=C3=A9,_a@b.c:?= <a@b.test>", "a@b.test"),
        ("(a (b) \\) c@d.test) a@b.test", "a@b.test"),
        ("a@b.test, c@d.test", ""),
        ("a@b.test,", ""),
        ("Group: a@b.test;", ""),
        ("a@b.test <c@d.test>", ""),
        ("<a@b.test> <c@d.test>", ""),
        ("<@x.test:a@b.test>", ""),
        ("<a@b.test", ""),
        ("<a@b.test> c", ""),
        ('"a@b.test', ""),
        ("(a@b.test", ""),
        ("a@b.test)", ""),
        ('"a b"@c.test', ""),
        ("a@b.test.", ""),
        ("a@b", ""),
        ("a@b..test", ""),
        ("a@[192.0.2.1]", ""),
        ("a@b\0.test", ""),
        ("a@märket.test", ""),
        ("a" * 65 + "@b.test", ""),
        ("a@" + "b." * 200 + "test", ""),
        ("", ""),
    ],
)
def test_a_sender_is_one_address_or_none(value: str, sender: str) -> None:
    assert sender_of([value]) == sender


def test_two_from_headers_are_no_sender() -> None:
    assert sender_of(["a@b.test", "a@b.test"]) == ""
    assert sender_of([]) == ""
    assert sender_of([" " * MAX_CHARS + "a@b.test"]) == ""


def test_addresses_are_those_outside_names_and_comments() -> None:
    value = 'x@y.test, "q@r.test" <A@b.test> (c@d.test), group: e@f.test;, broken, <>, =?utf-8?q?i@j.k?= <l@m.test>'
    assert list(addresses(value)) == ["x@y.test", "a@b.test", "e@f.test", "l@m.test"]


@pytest.mark.parametrize(
    ("domain", "relay"),
    [
        ("marketplace.amazon.fr", True),
        ("amazon.fr", False),
        ("marketplace.amazon.fr.evil.test", False),
        ("x.marketplace.amazon.fr", False),
        ("evilmarketplace.amazon.fr", False),
        ("marketplace-amazon.fr", False),
    ],
)
def test_a_relay_is_exactly_one_of_amazons(domain: str, relay: bool) -> None:
    assert is_relay(f"a@{domain}") is relay


@pytest.mark.parametrize(
    "told",
    [
        "dkim=pass header.d=amazon.fr",
        "dkim=pass header.d=marketplace.amazon.fr",
        "dkim=pass header.d=mail.amazon.fr",
        "dkim=pass header.i=@amazon.fr",
        "dkim=pass header.i=x@amazon.fr",
        "DKIM/1=PASS HEADER.D=Amazon.FR.",
        "dkim = pass ( good ) header . d = amazon.fr",
        "spf=pass smtp.mailfrom=bounces.amazon.fr",
        "spf=pass smtp.mailfrom=2026-abc@bounces.amazon.fr",
        "dkim=fail header.d=amazon.fr; dkim=pass header.d=amazon.fr",
        "dkim=pass header.d=amazon.fr; dkim=fail header.d=evil.test",
        'dkim=pass reason="good; signature" header.d=amazon.fr',
        "x=y; dkim=pass header.d=amazon.fr; none",
        "dkim=pass header.d=amazon.fr; dmarc=pass header.from=marketplace.amazon.fr",
    ],
)
def test_what_the_server_has_seen_is_believed(told: str) -> None:
    assert is_from_amazon([f"{SERVER}; {told}", "evil.test; dkim=fail"], SENDER, SERVER)
    assert is_from_amazon([f"{SERVER.upper()}. 1 ; {told}"], SENDER, SERVER)
    assert not is_from_amazon([f"{SERVER}; {told}"], SENDER, "mx.other.test")
    assert not is_from_amazon([f"{SERVER}; {told}"], "a@evil.test", SERVER)
    assert not is_from_amazon([f"{SERVER}; {told}"], "a@amazon.de", SERVER)


@pytest.mark.parametrize(
    "told",
    [
        "dkim=pass header.d=amazon.com",
        "dkim=pass header.d=fr",
        "dkim=pass header.d=xamazon.fr",
        "dkim=pass header.d=amazon.fr.evil.test",
        "dkim=pass header.d=amazon.fr_evil.test",
        "dkim=pass header.d=amazon.fr/evil.test",
        "dkim=pass header.d=xn--amazon-abc.fr",
        "dkim=pass header.d=amazon.fr header.i=@evil.test",
        "dkim=pass header.i=amazon.fr@evil.test",
        "dkim=pass header.i=@evil@amazon.fr",
        'dkim=pass header.d="amazon.fr"',
        "dkim=pass",
        "dkim=passed header.d=amazon.fr",
        "dkim=pass-ish header.d=amazon.fr",
        "dkim=fail (dkim=pass) header.d=amazon.fr",
        "dkim=fail dkim=pass header.d=amazon.fr",
        "dkim-atps=pass header.d=amazon.fr",
        "arc=pass header.d=amazon.fr",
        "dmarc=pass header.from=amazon.fr",
        "spf=pass smtp.helo=amazon.fr",
        "spf=pass header.d=amazon.fr",
        "spf=pass smtp.mailfrom=amazon.fr@evil.test",
        "spf=softfail smtp.mailfrom=amazon.fr",
        'spf=pass smtp.mailfrom="a; dkim=pass header.d=amazon.fr; b"@evil.test',
        'spf=pass smtp.mailfrom="a\\"; dkim=pass header.d=amazon.fr; b"@evil.test',
        'spf=fail (of "a);dkim=pass header.d=amazon.fr;(b"@evil.test)',
        "spf=fail (; dkim=pass header.d=amazon.fr)",
        "spf=fail (a (b); dkim=pass header.d=amazon.fr)",
        "spf=fail (\\); dkim=pass header.d=amazon.fr)",
        "spf=pass smtp.mailfrom=dkim=pass+header.d=amazon.fr@evil.test",
        "dkim=pass reason=x.header.d=amazon.fr header.d=evil.test",
        "dkim=pass reason=x.header.d=amazon.fr",
        "dkim=pass header.d=amazon.fr (",
        "dkim=pass header.d=amazon.fr )",
        'dkim=pass header.d=amazon.fr "',
        "dkim=pass header.d=amazon.fr; dmarc=fail",
        "dkim=pass header.d=amazon.fr" + " " * MAX_CHARS,
    ],
)
def test_what_only_looks_like_it_is_not_believed(told: str) -> None:
    assert not is_from_amazon([f"{SERVER}; {told}"], SENDER, SERVER)


@pytest.mark.parametrize(
    ("results", "trusted"),
    [
        ([], SERVER),
        ([""], ""),
        (["; dkim=pass header.d=amazon.fr"], ""),
        (["; dkim=pass header.d=amazon.fr"], SERVER),
        (["mx.evil.test; dkim=pass header.d=amazon.fr", PASSED], SERVER),
        ([f"{SERVER}; dkim=none", PASSED], SERVER),
        ([f"{SERVER} 2; dkim=pass header.d=amazon.fr"], SERVER),
        ([f"{SERVER} evil.test; dkim=pass header.d=amazon.fr"], SERVER),
        ([f"evil.test ({SERVER}); dkim=pass header.d=amazon.fr"], SERVER),
        ([f'"{SERVER}"; dkim=pass header.d=amazon.fr'], SERVER),
        ([f"{SERVER}.evil.test; dkim=pass header.d=amazon.fr"], SERVER),
        (["dkim=pass header.d=amazon.fr"], SERVER),
    ],
)
def test_only_the_nearest_header_counts_and_only_of_the_trusted_server(results: list[str], trusted: str) -> None:
    assert not is_from_amazon(results, SENDER, trusted)


pieces = st.sampled_from(
    [
        '"',
        "(",
        ")",
        "\\",
        ";",
        " ",
        "=",
        "dkim=pass",
        "header.d=amazon.fr",
        "header.d=evil.test",
        "spf=fail",
        "\0",
        "x",
        "@",
    ]
)


@given(st.lists(pieces, max_size=25).map("".join))
def test_nothing_that_stands_in_quotes_or_comments_is_believed(inside: str) -> None:
    """A server writes what a sender claims either quoted or as a comment, with what would end it escaped."""
    escaped = inside.replace("\\", "\\\\").replace('"', '\\"').replace("(", "\\(").replace(")", "\\)")
    assert not is_from_amazon([f'{SERVER}; spf=pass smtp.mailfrom="{escaped}"@evil.test'], SENDER, SERVER)
    assert not is_from_amazon([f"{SERVER}; spf=fail ({escaped}) smtp.mailfrom=evil.test"], SENDER, SERVER)


@given(st.lists(pieces, max_size=25).map("".join))
def test_any_header_is_read(value: str) -> None:
    assert set(without_quotes(value)) <= {*value, " ", "\0"}
    assert all("@" in address for address in addresses(value))
    is_from_amazon([value], SENDER, SERVER)
