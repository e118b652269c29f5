"""Mails that say they are Amazon's and are not, or may not be: everything else about them is as it should be."""

from collections.abc import Callable

from .letters import Desk, Letter, plain, word

Change = Callable[[Desk, Letter], None]


def _not_amazon(change: Change) -> Callable[[Desk], Letter]:
    """An ordinary message but for one thing, which says that it is not Amazon's or may not be."""

    def write(desk: Desk) -> Letter:
        letter = desk.letter()
        letter.expected.is_from_amazon = False
        change(desk, letter)
        return letter

    return write


def _results(*forms: str) -> Callable[[Desk], Letter]:
    """With these Authentication-Results, nearest first; of a header there are several by `|`."""

    def change(desk: Desk, letter: Letter) -> None:
        own = f"amazon.{letter.marketplace.domain}"
        form = desk.draw.pick(forms)
        values = [each.format(server=desk.server, own=own, relay=f"marketplace.{own}") for each in form.split(" | ")]
        letter.replace("Authentication-Results", *(value for value in values if value))

    return _not_amazon(change)


def _sender(form: str, sender: str, *, kind: str = "BUYER_MESSAGE") -> Callable[[Desk], Letter]:
    """With this From, whose own domain's signature is right."""

    def change(desk: Desk, letter: Letter) -> None:
        domain = sender.rpartition("@")[2] or "evil.test"
        letter.replace("From", *form.format(address=letter.expected.sender).split(" | "))
        letter.replace(
            "Authentication-Results", f"{desk.server}; dkim=pass header.d={domain}; spf=pass smtp.mailfrom={domain}"
        )
        letter.expected.sender, letter.expected.kind = sender.format(address=letter.expected.sender), kind

    return _not_amazon(change)


def _twice(name: str, value: str) -> Callable[[Desk], Letter]:
    """A second one above what was signed."""

    def change(desk: Desk, letter: Letter) -> None:
        letter.headers.insert(3, (name, value))
        letter.entity = plain(desk.framed(letter, letter.expected.text))
        if name == "Subject":
            letter.expected.subject = value

    return _not_amazon(change)


FORGED: dict[str, Callable[[Desk], Letter]] = {
    "look-alike below another domain": _sender(
        "A <a@marketplace.amazon.fr.evil.test>", "a@marketplace.amazon.fr.evil.test"
    ),
    "look-alike with a dash": _sender("A <a@marketplace-amazon.fr>", "a@marketplace-amazon.fr"),
    "look-alike in punycode": _sender("A <a@marketplace.xn--mazon-wqa.fr>", "a@marketplace.xn--mazon-wqa.fr"),
    "sub-domain of the relay": _sender("A <a@x.marketplace.amazon.fr>", "a@x.marketplace.amazon.fr"),
    "suffix without a dot": _sender("A <a@evilmarketplace.amazon.fr>", "a@evilmarketplace.amazon.fr"),
    "trailing dot": _sender("A <a@marketplace.amazon.fr.>", ""),
    "address as a name": _sender('"{address}" <a@evil.test>', "a@evil.test"),
    "address as an encoded name": _sender(f"{word('b@amazon.fr <b@amazon.fr>,')} <a@evil.test>", "a@evil.test"),
    "address in a comment": _sender("a@evil.test ({address})", "a@evil.test"),
    "address before another": _sender("{address}, a@evil.test", ""),
    "address in a group": _sender("Amazon: {address};", ""),
    "two From": _sender("A <{address}> | B <b@evil.test>", ""),
    "name that is an address": _sender("{address} <a@evil.test>", ""),
    "quoted local part": _sender('"b@amazon.fr"@evil.test', ""),
    "unclosed quote": _sender('"{address} <a@evil.test>', ""),
    "no From": _sender("", ""),
    "no results": _results(""),
    "empty results": _results("{server}", "{server}; none", ";", "; dkim=pass header.d={own}"),
    "results of another server": _results(
        "mx.evil.test; dkim=pass header.d={own}",
        "x{server}; dkim=pass header.d={own}",
        "{server}.evil.test; dkim=pass header.d={own}",
        "(x {server}) mx.evil.test; dkim=pass header.d={own}",
    ),
    "results of another version": _results("{server} 2; dkim=pass header.d={own}"),
    "forged results below": _results("{server}; dkim=none | {server}; dkim=pass header.d={own}"),
    "forged results below another's": _results("mx.other.test; dkim=none | {server}; dkim=pass header.d={own}"),
    "another domain passed": _results(
        "{server}; dkim=pass header.d=evil.test",
        "{server}; dkim=pass header.d={own}.evil.test",
        "{server}; dkim=pass header.d=x{own}",
        "{server}; dkim=pass header.d={own}_evil.test",
        "{server}; spf=pass smtp.mailfrom={own}@evil.test",
        "{server}; dkim=pass header.d={own} header.i=@evil.test",
        "{server}; dkim=pass header.d=evil.test header.d={own}",
    ),
    "nothing passed": _results(
        "{server}; dkim=fail header.d={own}",
        "{server}; dkim=passed header.d={own}",
        "{server}; dkim=softpass header.d={own}; spf=neutral smtp.mailfrom={own}",
        "{server}; dkim=pass",
        "{server}; x-dkim=pass header.d={own}",
        "{server}; dkim=fail (dkim=pass) header.d={own}",
        "{server}; dmarc=pass header.from={own}",
        "{server}; dkim=pass header.d={own}; dmarc=fail header.from={own}",
    ),
    "only the helo passed": _results("{server}; spf=pass smtp.helo={own}", "{server}; iprev=pass policy.iprev={own}"),
    "results in quotes": _results(
        '{server}; spf=pass smtp.mailfrom="x; dkim=pass header.d={own};"@evil.test',
        '{server}; dkim=fail reason="; dkim=pass header.d={own};" header.d=evil.test',
        '{server}; spf=fail reason="\\"; dkim=pass header.d={own}; a=\\""',
        "{server}; spf=pass smtp.mailfrom=header.d={own}@evil.test",
        "{server}; dkim=pass reason=a.header.d={own}",
    ),
    "results in comments": _results(
        "{server}; spf=fail (; dkim=pass header.d={own}; )",
        "{server}; spf=fail (a (b) ; dkim=pass header.d={own}; )",
        "{server}; spf=fail (\\) ; dkim=pass header.d={own}; )",
        '{server}; spf=fail (of ");dkim=pass header.d={own};(" @evil.test)',
    ),
    "results without an end": _results(
        "{server}; (dkim=pass header.d={own}",
        '{server}; "dkim=pass header.d={own}',
        "{server}; dkim=pass header.d={own} )",
    ),
    "second subject": _twice("Subject", "Pay to another account"),
    "second Content-Type": _twice("Content-Transfer-Encoding", "8bit"),
}
