"""What the kit makes of a request over NATS, on a real server with the services' users."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta
from nats.aio.client import Client
from nats.errors import NoRespondersError

from devstack.stack import Stack
from shared.errors import NotFoundError, PermanentError, RetryLaterError
from shared.requests import MAX_BYTES, Asked, OfTenant, Operation, Requests
from tests.builders import Operator, answering
from tests.shared.conftest import nats_as

SERVICE = "orders"


class Wish(OfTenant, frozen=True):
    days: Annotated[int, Meta(ge=1, le=30)] = 7


async def grant(asked: Wish, greeting: str) -> dict[str, Any]:
    """Grant a wish."""
    return {"said": greeting, "tenantId": asked.tenant_id, "days": asked.days}


async def repeat(asked: Wish, _greeting: str) -> str:
    return "x" * (asked.days << 16)


async def fail(asked: Wish) -> None:
    errors: dict[int, Exception] = {
        1: NotFoundError("There is no such wish."),
        2: RetryLaterError("Not now.\nLater: é", delay_seconds=41.2),
        3: PermanentError("The tenant is too greedy.", field="tenantId"),
        4: ValueError("a bug with secretpart"),
    }
    raise errors[asked.days]


async def nothing(_: Asked) -> list[str]:
    return []


OPERATIONS: dict[str, Operation] = {"grant": grant, "wish.repeat": repeat, "fail": fail, "nothing": nothing}
DEPENDENCIES = {"greeting": "hello", "_greeting": "", "unused": 1}


@pytest.fixture
async def asker(stack: Stack) -> AsyncIterator[Operator]:
    async with answering(stack, SERVICE, OPERATIONS, DEPENDENCIES) as operator:
        yield operator


async def test_an_operation_gets_what_was_asked_and_its_dependencies_by_name(asker: Operator) -> None:
    assert await asker.ask("orders.grant", tenantId="kbz-001", days=3) == {
        "said": "hello",
        "tenantId": "kbz-001",
        "days": 3,
    }
    assert await asker.ask("orders.nothing") == []


@pytest.mark.parametrize(
    ("data", "code", "field", "words"),
    [
        (b'{"tenantId":"kbz-001","days":31}', "invalid_request", "days", "<= 30"),
        (b'{"tenantId":"kbz-001","days":"3"}', "invalid_request", "days", "Expected `int`"),
        (b'{"tenantId":"../x"}', "invalid_request", "tenantId", "matching regex"),
        (b'{"tenantId":"kbz-001","day":3}', "invalid_request", "day", "it takes: tenantId, days"),
        (b'{"days":3}', "invalid_request", "tenantId", "missing required field"),
        (b"", "invalid_request", "tenantId", "missing required field"),
        (b"[]", "invalid_request", "body", "Expected `object`"),
        (b"{'tenantId': 1}", "invalid_json", "body", "not valid JSON"),
        (b'{"tenantId":"\xff"}', "invalid_json", "body", "not valid JSON"),
        (b'"' + b"x" * MAX_BYTES, "request_too_large", None, "65536 bytes"),
        (b'{"tenantId":"kbz-001","a\\r\\nNats-Service-Error-Code: 200":1}', "invalid_request", None, "unknown field"),
    ],
)
async def test_what_is_wrong_with_a_request_is_named(
    asker: Operator, data: bytes, code: str, field: str | None, words: str
) -> None:
    answer = await asker.client.request("orders.grant", data, timeout=30)
    problem = msgspec.json.decode(answer.data)
    assert problem["code"] == code
    assert words in problem["detail"]
    assert answer.headers is not None
    assert answer.headers["Nats-Service-Error-Code"] == str(problem["status"]) == ("413" if "large" in code else "400")
    assert words in answer.headers["Nats-Service-Error"]
    if field:
        assert [each["field"] for each in problem["errors"]] == [field]


async def test_errors_say_over_nats_what_they_say_over_http(
    asker: Operator, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [await asker.ask("orders.fail", tenantId="kbz-001", days=days) for days in (1, 2, 3, 4)]
    assert [(each["status"], each["code"]) for each in found] == [
        (404, "not_found"),
        (503, "try_again_later"),
        (400, "invalid"),
        (500, "internal_error"),
    ]
    assert [each["title"] for each in found[:2]] == ["Not Found", "Service Unavailable"]
    assert found[2]["errors"] == [{"field": "tenantId", "message": "The tenant is too greedy."}]
    assert "secretpart" not in str(found)
    assert "secretpart" in capsys.readouterr().out
    answer = await asker.client.request("orders.fail", b'{"tenantId":"kbz-001","days":2}', timeout=30)
    assert answer.headers == {
        "Nats-Service-Error-Code": "503",
        "Nats-Service-Error": "Not now. Later: \\xe9",
        "Retry-After": "42",
    }


async def test_an_answer_that_nats_does_not_carry_is_refused_and_the_connection_stays(asker: Operator) -> None:
    assert len(await asker.ask("orders.wish.repeat", tenantId="kbz-001", days=15)) == 15 << 16
    assert await asker.code("orders.wish.repeat", tenantId="kbz-001", days=16) == "answer_too_large"
    assert await asker.ask("orders.nothing") == []


async def test_micro_tells_what_there_is_and_how_it_goes(asker: Operator) -> None:
    await asker.ask("orders.nothing")
    await asker.code("orders.grant", tenantId="")
    ping = await asker.ask("$SRV.PING")
    assert (ping["type"], ping["name"], ping["version"]) == ("io.nats.micro.v1.ping_response", "orders", "0.1.0")
    info = await asker.ask(f"$SRV.INFO.orders.{ping['id']}")
    endpoints = {each["subject"]: each for each in info["endpoints"]}
    assert list(endpoints) == ["orders.grant", "orders.wish.repeat", "orders.fail", "orders.nothing"]
    assert endpoints["orders.grant"]["metadata"] == {"about": "Grant a wish.", "takes": "tenantId, days"}
    stats = {each["name"]: each for each in (await asker.ask("$SRV.STATS.orders"))["endpoints"]}
    assert [(stats[name]["num_requests"], stats[name]["num_errors"]) for name in ("grant", "nothing")] == [
        (1, 1),
        (1, 0),
    ]


async def test_one_replica_answers_and_another_when_it_is_gone(stack: Stack, operator: Client) -> None:
    answered: list[str] = []

    async def note(_: Asked, replica: str) -> str:
        answered.append(replica)
        return replica

    async with nats_as(stack, SERVICE) as first, nats_as(stack, SERVICE) as second:
        for client, name in ((first, "first"), (second, "second")):
            await Requests(SERVICE).start(client, {"note": note}, {"replica": name})
        inbox = operator.new_inbox()
        answers = await operator.subscribe(inbox)
        await operator.publish("$SRV.PING.orders", reply=inbox)
        pings = [msgspec.json.decode((await answers.next_msg(timeout=30)).data)["id"] for _ in range(2)]
        assert len(set(pings)) == 2
        said = await asyncio.gather(*(operator.request("orders.note", timeout=30) for _ in range(50)))
        assert sorted(answered) == sorted(msgspec.json.decode(each.data) for each in said)
        assert set(answered) == {"first", "second"}
        await first.drain()
        assert {(await operator.request("orders.note", timeout=30)).data for _ in range(5)} == {b'"second"'}
        await second.drain()
        with pytest.raises(NoRespondersError):
            await operator.request("orders.note", timeout=30)
