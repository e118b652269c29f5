"""Mails made from a seed: the same ones each time, whole and threaded."""

import email
import email.policy

from devstack.sandbox.growingmails import SHAPES
from devstack.sandbox.mails import ORDER_IDS, RECIPIENT, SORTS, generate


def test_a_seed_gives_the_same_mails_and_another_one_others() -> None:
    first = [each.raw for each in generate(1, len(SORTS))]
    assert first == [each.raw for each in generate(1, len(SORTS))]
    assert sum(one == other.raw for one, other in zip(first, generate(2, len(SORTS)), strict=True)) < 5


def test_mails_go_to_the_address_and_name_the_orders_that_are_asked_for() -> None:
    made = list(generate(1, 40, recipient="x@y.test", order_ids=["999-0000000-0000000"], sorts=["buyer", "copy"]))
    assert {each.sort for each in made} == {"buyer", "copy"}
    assert all(each.expected.recipients == ["x@y.test"] and b"x@y.test" in each.raw for each in made)
    assert {each.expected.order_id for each in made} == {"999-0000000-0000000", None}
    assert [each.expected.order_id for each in generate(1, 5, order_ids=[], sorts=["buyer"])] == [None] * 5


def test_answers_are_threaded_to_the_message_before_them() -> None:
    buyer, answer, copy, follow_up = (each.expected for each in generate(1, 4))
    assert (buyer.in_reply_to, buyer.references) == (None, [])
    assert (answer.in_reply_to, answer.references) == (buyer.message_id, [buyer.message_id])
    assert copy.in_reply_to == follow_up.in_reply_to == answer.message_id
    assert follow_up.references == [buyer.message_id, answer.message_id]
    assert (copy.kind, follow_up.sender, follow_up.order_id) == ("SELLER_REPLY", buyer.sender, buyer.order_id)


def test_ordinary_mails_are_what_the_standard_library_reads_too() -> None:
    for each in generate(1, 30, sorts=["buyer", "alternative", "files"]):
        message = email.message_from_bytes(each.raw, policy=email.policy.default)
        assert message["Message-ID"] == f"<{each.expected.message_id}>"
        assert message["Subject"] == each.expected.subject
        assert message["Delivered-To"] == RECIPIENT
        body = message.get_body(("plain",))
        assert body is not None
        assert each.expected.text in body.get_content().replace("\r\n", "\n")
        assert [part.get_filename() for part in message.iter_attachments() if part.get_filename()] == [
            file.name for file in each.expected.attachments
        ]
    assert len(ORDER_IDS) == 3


def test_mails_of_one_piece_are_as_large_as_is_asked_for() -> None:
    for grow in SHAPES.values():
        assert 1_500 < len(grow(2_000)) < 8_000
