"""Cursors survive the way to the client and back; whatever else comes is the client's mistake."""

import base64
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.cursor import decode_cursor, encode_cursor
from shared.errors import PermanentError

AWARE = st.datetimes(
    min_value=datetime(1970, 1, 1),  # noqa: DTZ001 - the strategy adds the zone
    max_value=datetime(2200, 1, 1),  # noqa: DTZ001
    timezones=st.integers(-12 * 60, 12 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)


def packed(value: Any) -> str:
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(value)).decode().rstrip("=")


@given(at=AWARE, row_id=st.uuids())
def test_a_cursor_comes_back_as_it_was(at: datetime, row_id: UUID) -> None:
    cursor = encode_cursor(at, row_id)
    assert decode_cursor(cursor) == (at, row_id)
    assert cursor.replace("-", "").replace("_", "").isalnum()


def test_a_cursor_is_of_use_only_where_it_was_asked_for_the_same() -> None:
    at, row_id = datetime(2026, 1, 1, tzinfo=UTC), uuid4()
    asked = {"sort": "-orderDate", "orderStatus": ["SHIPPED"]}
    cursor = encode_cursor(at, row_id, asked=asked)
    assert decode_cursor(cursor, asked=dict(asked)) == (at, row_id)
    for other in (asked | {"sort": "orderDate"}, asked | {"orderStatus": []}, {}, None):
        with pytest.raises(PermanentError, match="another sort or other filters") as refused:
            decode_cursor(cursor, asked=other)
        assert refused.value.field == "cursor"


@given(text=st.text())
def test_any_other_text_is_refused_and_the_parameter_named(text: str) -> None:
    with pytest.raises(PermanentError) as refused:
        decode_cursor(text)
    assert refused.value.field == "cursor"


@given(raw=st.binary())
def test_any_other_bytes_in_the_form_of_a_cursor_are_refused(raw: bytes) -> None:
    with pytest.raises(PermanentError):
        decode_cursor(base64.urlsafe_b64encode(raw).decode())


@pytest.mark.parametrize(
    "forged",
    [
        (datetime(2026, 1, 1), uuid4()),  # noqa: DTZ001 - a time without a zone is the point
        ("0001-01-01T00:00:00+14:00", uuid4()),
        ("9999-12-31T23:59:59-12:00", uuid4()),
        (datetime(2026, 1, 1, tzinfo=UTC), "no id"),
        (datetime(2026, 1, 1, tzinfo=UTC),),
        (datetime(2026, 1, 1, tzinfo=UTC), uuid4()),
        (datetime(2026, 1, 1, tzinfo=UTC), uuid4(), 1),
        (datetime(2026, 1, 1, tzinfo=UTC), uuid4(), 1, 1),
        {"at": 1},
        1,
        None,
    ],
)
def test_a_forged_cursor_that_no_query_could_use_is_refused(forged: Any) -> None:
    with pytest.raises(PermanentError) as refused:
        decode_cursor(packed(forged))
    assert refused.value.field == "cursor"
