from datetime import datetime

import pytest

from tests.sandbox.conftest import Amazon, Answer

SELLER = "A12BCIS2R7HD4D"
NUMBER = "407-8949262-6149120"


def path(number: str) -> str:
    return f"/messaging/v1/orders/{number}/messages"


async def talkative(amazon: Amazon) -> str:
    """The default seller's order of 1229.91 has more messages than a page."""
    for order in await amazon.truth(SELLER):
        if order["proceeds"].get("grandTotal", {}).get("amount") == "1229.91":
            return str(order["orderId"])
    raise AssertionError("The order of 1229.91 is missing.")


async def test_the_known_order_has_messages_of_its_buyer(amazon: Amazon) -> None:
    tokens = await amazon.connect(SELLER)
    body = (await amazon.get(path(NUMBER), tokens)).json()
    order = next(one for one in await amazon.truth(SELLER) if one["orderId"] == NUMBER)
    assert body["pagination"] == {}
    assert len(body["messages"]) == 3
    for message in body["messages"]:
        assert message.keys() == {"messageId", "orderId", "subject", "body", "senderName", "createdTime"}
        assert message["orderId"] == NUMBER
        assert NUMBER in message["subject"]
        assert message["senderName"] == order["buyer"]["buyerName"]
        assert datetime.fromisoformat(message["createdTime"]) > datetime.fromisoformat(order["createdTime"])


@pytest.mark.parametrize("size", [None, 5])
async def test_messages_come_in_pages(amazon: Amazon, size: int | None) -> None:
    number, tokens = await talkative(amazon), await amazon.connect(SELLER)
    parameters: dict[str, str | int | list[str]] = {} if size is None else {"pageSize": size}
    pages: list[list[Answer]] = []
    while True:
        answer = await amazon.get(path(number), tokens, parameters)
        if answer.status_code == 429:
            await amazon.advance(5)
            continue
        pages.append(answer.json()["messages"])
        if "nextToken" not in answer.json()["pagination"]:
            break
        parameters["nextToken"] = answer.json()["pagination"]["nextToken"]
    assert [len(page) for page in pages] == ([10, 2] if size is None else [5, 5, 2])
    messages = [message for page in pages for message in page]
    assert len({message["messageId"] for message in messages}) == 12
    assert messages == sorted(messages, key=lambda message: str(message["createdTime"]))


async def test_most_orders_have_no_messages_and_some_have(amazon: Amazon) -> None:
    seller = await amazon.seller(60)
    tokens = await amazon.connect(seller)
    counts = []
    for order in await amazon.truth(seller):
        answer = await amazon.get(path(order["orderId"]), tokens)
        if answer.status_code == 429:
            await amazon.advance(5)
            answer = await amazon.get(path(order["orderId"]), tokens)
        counts.append(len(answer.json()["messages"]))
    assert counts.count(0) > 40
    assert max(counts) > 0


async def test_what_is_wrong_is_said(amazon: Amazon) -> None:
    await amazon.advance(5)
    number, tokens = await talkative(amazon), await amazon.connect(SELLER)
    unknown = await amazon.get(path("999-9999999-9999999"), tokens)
    assert (unknown.status_code, unknown.json()["errors"][0]["code"]) == (404, "NotFound")
    token = (await amazon.get(path(number), tokens)).json()["pagination"]["nextToken"]
    other = await amazon.get(path(NUMBER), tokens, {"nextToken": token})
    made_up = await amazon.get(path(number), tokens, {"nextToken": "made-up"})
    large = await amazon.get(path(number), tokens, {"pageSize": 101})
    for answer in (other, made_up, large):
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, "InvalidInput")


async def test_what_a_buyer_is_made_to_write_comes_after_the_seeds_messages(amazon: Amazon) -> None:
    await amazon.advance(5)
    seller = await amazon.seller(1)
    tokens = await amazon.connect(seller)
    [order] = await amazon.truth(seller)
    before = (await amazon.get(path(order["orderId"]), tokens)).json()["messages"]
    written = [
        await amazon.control("POST", f"sellers/{seller}/orders/{order['orderId']}/messages", {"body": body})
        for body in ("Hello?", "Is anybody there?")
    ]
    after = (await amazon.get(path(order["orderId"]), tokens)).json()["messages"]
    assert after == [*before, *written]
    assert len({message["messageId"] for message in after}) == len(after)
    assert {message["body"] for message in written} == {"Hello?", "Is anybody there?"}
