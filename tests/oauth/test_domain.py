"""What needs no server: the table of changes, states, and the addresses that a browser may be sent to."""

import string
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from oauth.domain import (
    SELLER_ID,
    TRANSITIONS,
    AddressRefusedError,
    Connection,
    Status,
    check_transition,
    checked_return_url,
    display_name,
    new_state,
    seller_central_of,
    state_hash,
    with_query,
)
from shared.amazon.marketplaces import BY_COUNTRY, MARKETPLACES

STAND_IN = "http://127.0.0.1:4321"
ORIGINS = "https://app.test,http://localhost:3000"
AT = datetime(2026, 1, 1, tzinfo=UTC)
MOMENT = timedelta(microseconds=1)


def connection(**changes: Any) -> Connection:
    made = Connection(
        id=uuid4(),
        tenant_id="kbz-001",
        marketplace="AMAZON",
        status=Status.CONNECTED,
        seller_id="A1",
        marketplace_ids=[],
        region="eu",
        app_source="external_test",
        authorized_at=AT,
        connected_at=AT,
        reauthorize_by=AT,
        void_until=None,
        verified_at=None,
        last_error=None,
        last_error_code=None,
    )
    return msgspec.structs.replace(made, **changes)


@pytest.mark.parametrize("before", Status)
@pytest.mark.parametrize("after", Status)
def test_a_change_is_allowed_when_the_table_has_it(before: Status, after: Status) -> None:
    allowed = after in TRANSITIONS[before]
    assert connection(status=before).may_become(after) is allowed
    if allowed:
        check_transition(before, after)
    else:
        with pytest.raises(ValueError, match=f"{before} does not become {after}"):
            check_transition(before, after)


def test_a_connection_can_always_be_connected_anew_and_never_be_as_if_it_had_not_been() -> None:
    for before, afters in TRANSITIONS.items():
        assert Status.CONNECTED in afters
        assert Status.NOT_CONNECTED not in afters
        assert (Status.PENDING in afters) is (before is Status.NOT_CONNECTED)


def test_what_was_authorized_until_a_moment_is_void_from_then_on() -> None:
    ended = connection(void_until=AT)
    assert [ended.voids(AT + by * MOMENT) for by in (-1, 0, 1)] == [True, True, False]
    assert not connection(void_until=None).voids(AT)


def test_a_connection_has_its_authorization_and_those_before_it() -> None:
    assert [connection().has(AT + by * MOMENT) for by in (-1, 0, 1)] == [True, True, False]
    assert not connection(authorized_at=None).has(AT)
    for status in set(Status) - {Status.CONNECTED}:
        assert not connection(status=status).has(AT)


def test_states_are_told_apart_by_their_hash_which_is_not_theirs() -> None:
    states = [new_state() for _ in range(100)]
    assert len({state_hash(state) for state in states}) == 100
    assert state_hash("é") == state_hash("é")
    assert all(state.encode() not in state_hash(state) for state in states)


@given(st.text())
@example("A1\n")
@example("A1\x00")
@example("../x")
@example("")
@example("A" * 64)
@example("A" * 65)
@example("a-_9")
def test_a_seller_id_is_letters_digits_and_dashes(text: str) -> None:
    plain = set(text) <= {*string.ascii_letters, *string.digits, *"-_"}
    assert bool(SELLER_ID.fullmatch(text)) is (plain and 0 < len(text) <= 64)
    assert text in display_name(text)


# Addresses

HOSTS = sorted({each.seller_central for each in MARKETPLACES})
pieces = st.sampled_from([*"/\\?#@:.%&=;a \t\n\r\0é[]", "evil.test", "sellercentral.amazon.de"])
strange = st.lists(pieces, max_size=6).map("".join)


@pytest.mark.parametrize("host", HOSTS)
def test_every_seller_central_is_known(host: str) -> None:
    found = seller_central_of(f"https://{host}/apps/authorize/confirm/x?a=1", "JP")
    assert found.seller_central == host


def test_of_marketplaces_that_share_a_host_the_default_one_is_meant() -> None:
    europe = "https://sellercentral-europe.amazon.com/"
    sharing = {each.country for each in MARKETPLACES if f"https://{each.seller_central}/" == europe}
    assert len(sharing) > 1
    for country in sharing:
        assert seller_central_of(europe, country) is BY_COUNTRY[country]
    assert seller_central_of(europe, "JP").country in sharing


@given(st.sampled_from(["https://", "http://", "//", "", "javascript:"]), st.sampled_from(HOSTS), strange, strange)
@example("https://", HOSTS[0], "", ".evil.test/")
@example("https://", HOSTS[0], "", ":443/")
@example("https://", HOSTS[0], "evil.test/", "")
@example("https://", HOSTS[0], "user@", "/")
@example("https://", HOSTS[0], "", "\\@evil.test/")
@example("https://", HOSTS[0], "", "\t/")
@example("http://", HOSTS[0], "", "/")
def test_a_browser_is_sent_to_seller_central_or_nowhere(scheme: str, host: str, before: str, after: str) -> None:
    address = f"{scheme}{before}{host}{after}"
    try:
        found = seller_central_of(address, "FR", None)
    except AddressRefusedError as error:
        assert error.field == "amazonCallbackUri"  # noqa: PT017 - either is right, and each has its own proof
        return
    rest = address.removeprefix(f"https://{found.seller_central}")
    assert rest != address
    assert rest == "" or rest[0] in "/?#"
    assert rest.isascii()
    assert rest.isprintable()


def test_a_stand_in_is_taken_for_amazon_where_there_is_one() -> None:
    assert seller_central_of(f"{STAND_IN}/x", "DE", STAND_IN + "/").country == "DE"
    for address in (f"{STAND_IN}/x", "http://127.0.0.1:43210/x", "http://127.0.0.1/x", "https://127.0.0.1:4321/x"):
        with pytest.raises(AddressRefusedError):
            seller_central_of(address, "DE", STAND_IN if address != f"{STAND_IN}/x" else None)


@given(st.sampled_from([*ORIGINS.split(","), "https://evil.test", "https:", "javascript:", ""]), strange)
@example("https://app.test", ".evil.test/")
@example("https://app.test", "@evil.test/")
@example("https://app.test", ":444/")
@example("https://app.test", "\\evil.test")
@example("http://localhost:3000", "0/")
@example("", "")
def test_the_seller_is_led_back_to_an_allowed_origin_or_nowhere(origin: str, after: str) -> None:
    address = origin + after
    for origins in (ORIGINS, None):
        try:
            assert checked_return_url(address, origins) == address
        except AddressRefusedError as error:
            assert error.field == "returnUrl"  # noqa: PT017 - as above
            continue
        assert origins is not None
        allowed = [each for each in origins.split(",") if address.startswith(each)]
        assert allowed
        rest = address.removeprefix(allowed[0])
        assert rest == "" or rest[0] in "/?#"


@pytest.mark.parametrize("path", ["", "/", "/settings?tab=amazon#top", "?a=1"])
@pytest.mark.parametrize("origin", ORIGINS.split(","))
def test_an_allowed_origin_is_led_back_to(origin: str, path: str) -> None:
    assert checked_return_url(origin + path, ORIGINS) == origin + path


names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=5)
values = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8)


@given(st.lists(st.tuples(names, values), max_size=4), st.dictionaries(names, values, max_size=3), st.booleans())
def test_parameters_are_added_in_place_of_those_of_the_same_name(
    kept: list[tuple[str, str]], added: dict[str, str], fragment: bool
) -> None:
    end = "#top" if fragment else ""
    address = with_query(f"https://app.test/a%20b{end}", {})
    for number, (name, value) in enumerate(kept):
        address = with_query(address, {f"{number}{name}": value})
    parts = urlsplit(with_query(address, added))
    assert (f"{parts.scheme}://{parts.netloc}{parts.path}", parts.fragment) == ("https://app.test/a%20b", end[1:])
    expected = [(f"{number}{name}", value) for number, (name, value) in enumerate(kept)]
    expected = [pair for pair in expected if pair[0] not in added] + list(added.items())
    assert parse_qsl(parts.query, keep_blank_values=True) == expected
