"""The Selling Partner API, against the sandbox: the same call, and every way in which it can end."""

from datetime import UTC, datetime, timedelta

import httpx
import msgspec
import pytest

from devstack.stack import Stack
from shared.amazon import orders, sellers, spapi
from shared.amazon.credentials import destroy_tenant, look_tenant, read_app, read_tenant, store_tenant, tenant_path
from shared.amazon.errors import (
    AccessDeniedError,
    AmazonNotFoundError,
    AmazonUnavailableError,
    AppCredentialsError,
    AuthorizationRevokedError,
    BadRequestError,
    NotConnectedError,
    QuotaExceededError,
)
from shared.amazon.spapi import SpApi, decode
from shared.vault import Vault
from tests.shared.amazon.conftest import Amazon, Odd, settings_of


async def connected(amazon: Amazon, count: int = 3) -> tuple[str, str]:
    """A tenant whose credentials are in Vault, and its seller."""
    seller_id = await amazon.seller(count)
    tenant_id = f"kbz-{seller_id.lower()}"
    await store_tenant(Vault(amazon.settings), tenant_id, await amazon.connect(seller_id))
    return tenant_id, seller_id


async def test_a_page_of_orders_comes_with_items_and_amounts(amazon: Amazon) -> None:
    tenant_id, seller_id = await connected(amazon, 5)
    now = datetime.now(UTC)
    page = await orders.search_orders(amazon.api, tenant_id, now - timedelta(days=400), now - timedelta(minutes=3))
    assert {order.order_id for order in page.orders} == set(await amazon.order_ids(seller_id))
    assert all(order.order_items for order in page.orders)
    assert page.next_token is None


async def test_one_order_and_a_sellers_marketplaces_are_read(amazon: Amazon) -> None:
    tenant_id, seller_id = await connected(amazon)
    (order_id, *_) = await amazon.order_ids(seller_id)
    assert (await orders.get_order(amazon.api, tenant_id, order_id)).order_id == order_id
    tenant = await read_tenant(Vault(amazon.settings), tenant_id)
    assert await sellers.marketplace_ids(amazon.api, tenant) == ["A13V1IB3VIYZZH"]


async def test_an_access_token_that_expired_on_the_way_is_replaced_once(amazon: Amazon) -> None:
    tenant_id, seller_id = await connected(amazon)
    (order_id, *_) = await amazon.order_ids(seller_id)
    await orders.get_order(amazon.api, tenant_id, order_id)
    await amazon.control("POST", "clock", {"advanceSeconds": 3_700})
    await amazon.control("DELETE", "calls")
    assert (await orders.get_order(amazon.api, tenant_id, order_id)).order_id == order_id
    assert await amazon.calls("token", seller_id) == {"200": 1}
    assert await amazon.calls("getOrder", "-") == {"403": 1}
    assert await amazon.calls("getOrder", seller_id) == {"200": 1}


async def test_a_seller_that_revoked_is_told_apart_with_and_without_a_cached_token(amazon: Amazon) -> None:
    tenant_id, seller_id = await connected(amazon)
    (order_id, *_) = await amazon.order_ids(seller_id)
    await orders.get_order(amazon.api, tenant_id, order_id)
    await amazon.control("POST", f"sellers/{seller_id}/revoke")
    with pytest.raises(AuthorizationRevokedError):
        await orders.get_order(amazon.api, tenant_id, order_id)
    fresh = SpApi(amazon.settings, Vault(amazon.settings), amazon.http, gate=None)
    with pytest.raises(AuthorizationRevokedError):
        await orders.get_order(fresh, tenant_id, order_id)


async def test_a_connections_credentials_are_asked_for_once_a_minute(
    amazon: Amazon, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant_id, seller_id = await connected(amazon)
    (before, *_) = await amazon.order_ids(seller_id)
    first, second = datetime.now(UTC), datetime.now(UTC) + timedelta(seconds=1)
    await orders.get_order(amazon.api, tenant_id, before, connected_at=first)
    other_seller_id = await amazon.seller()
    await store_tenant(Vault(amazon.settings), tenant_id, await amazon.connect(other_seller_id))
    (after, *_) = await amazon.order_ids(other_seller_id)
    assert (await orders.get_order(amazon.api, tenant_id, before, connected_at=first)).order_id == before
    assert (await orders.get_order(amazon.api, tenant_id, after, connected_at=second)).order_id == after
    assert (await orders.get_order(amazon.api, tenant_id, after)).order_id == after
    monkeypatch.setattr(spapi, "TENANT_SECONDS", 0)
    tenant_id, seller_id = await connected(amazon)
    (before, *_) = await amazon.order_ids(seller_id)
    await orders.get_order(amazon.api, tenant_id, before, connected_at=first)
    await store_tenant(Vault(amazon.settings), tenant_id, await amazon.connect(other_seller_id))
    assert (await orders.get_order(amazon.api, tenant_id, after, connected_at=first)).order_id == after


async def test_credentials_that_were_changed_are_read_when_the_old_ones_are_refused(amazon: Amazon) -> None:
    tenant_id, seller_id = await connected(amazon)
    (order_id, *_) = await amazon.order_ids(seller_id)
    moment = datetime.now(UTC)
    await orders.get_order(amazon.api, tenant_id, order_id, connected_at=moment)
    await amazon.control("POST", f"sellers/{seller_id}/revoke")
    await store_tenant(Vault(amazon.settings), tenant_id, await amazon.connect(seller_id))
    assert (await orders.get_order(amazon.api, tenant_id, order_id, connected_at=moment)).order_id == order_id
    assert await amazon.calls("getOrder", seller_id) == {"200": 2}
    await amazon.control("POST", f"sellers/{seller_id}/revoke")
    with pytest.raises(AuthorizationRevokedError):
        await orders.get_order(amazon.api, tenant_id, order_id, connected_at=moment)
    assert await amazon.calls("getOrder", "-") == {"403": 2}


async def test_credentials_that_were_destroyed_meanwhile_are_not_used_again(amazon: Amazon) -> None:
    tenant_id, seller_id = await connected(amazon)
    (order_id, *_) = await amazon.order_ids(seller_id)
    moment = datetime.now(UTC)
    await orders.get_order(amazon.api, tenant_id, order_id, connected_at=moment)
    vault = Vault(amazon.settings)
    await destroy_tenant(vault, tenant_id, await look_tenant(vault, tenant_id))
    with pytest.raises(NotConnectedError):
        await orders.get_order(amazon.api, tenant_id, order_id)
    with pytest.raises(NotConnectedError):
        await orders.get_order(amazon.api, tenant_id, order_id, connected_at=moment)


async def test_a_used_up_quota_says_when_one_call_more_fits(amazon: Amazon) -> None:
    tenant_id, seller_id = await connected(amazon)
    await amazon.fail("getOrder", 429, seller_id)
    with pytest.raises(QuotaExceededError) as refused:
        await orders.get_order(amazon.api, tenant_id, "407-8949262-6149120")
    assert refused.value.delay_seconds == 1 / orders.GET_ORDER.rate
    assert refused.value.patient


@pytest.mark.parametrize("status", [500, 503])
async def test_a_failure_of_amazon_is_to_be_tried_again(amazon: Amazon, status: int) -> None:
    tenant_id, seller_id = await connected(amazon)
    await amazon.fail("getOrder", status, seller_id)
    with pytest.raises(AmazonUnavailableError, match=f"getOrder with {status}") as refused:
        await orders.get_order(amazon.api, tenant_id, "407-8949262-6149120")
    assert "request id" in str(refused.value)


async def test_an_answer_that_does_not_come_is_to_be_tried_again(amazon: Amazon) -> None:
    tenant_id, seller_id = await connected(amazon)
    (order_id, *_) = await amazon.order_ids(seller_id)
    await amazon.fail("getOrder", "timeout", seller_id)
    async with httpx.AsyncClient(trust_env=False, timeout=httpx.Timeout(5, read=0.3)) as impatient:
        api = SpApi(amazon.settings, Vault(amazon.settings), impatient, gate=None)
        with pytest.raises(AmazonUnavailableError, match="ReadTimeout"):
            await orders.get_order(api, tenant_id, order_id)


async def test_an_order_that_the_seller_does_not_have_is_not_found(amazon: Amazon) -> None:
    tenant_id, _ = await connected(amazon)
    with pytest.raises(AmazonNotFoundError):
        await orders.get_order(amazon.api, tenant_id, "407-8949262-6149120")


@pytest.mark.parametrize(
    "order_id", ["../../../sellers/v1/marketplaceParticipations", "..", ".", "", "a/b", "a?b=c", "a#b", "é", "a%2Fb"]
)
async def test_what_is_no_order_id_cannot_leave_its_path(amazon: Amazon, order_id: str) -> None:
    tenant_id, _ = await connected(amazon)
    asked: list[str] = []

    async def remember(request: httpx.Request) -> None:
        asked.append(request.url.raw_path.decode())

    async with httpx.AsyncClient(trust_env=False, event_hooks={"request": [remember]}) as http:
        api = SpApi(amazon.settings, Vault(amazon.settings), http, gate=None)
        with pytest.raises((AmazonNotFoundError, BadRequestError)):
            await orders.get_order(api, tenant_id, order_id)
    for path in asked:
        before, _, rest = path.partition("?")[0].partition("/orders/2026-01-01/orders/")
        assert before == "" or path == "/auth/o2/token"
        assert "/" not in rest


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", BadRequestError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", BadRequestError),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"\xff\xfe"', BadRequestError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nshort", AmazonUnavailableError),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnone", AmazonUnavailableError),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 6\r\n\r\n<html>", AmazonUnavailableError),
        (b"HTTP/1.1 429 Too Many\r\nContent-Length: 6\r\n\r\n<html>", QuotaExceededError),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\n<html>", AccessDeniedError),
        (b'HTTP/1.1 403 Forbidden\r\nContent-Length: 13\r\n\r\n{"errors": 7}', AccessDeniedError),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", AmazonNotFoundError),
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 6\r\n\r\n<html>", BadRequestError),
        (b"HTTP/1.1 301 Moved\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", BadRequestError),
        (b"", AmazonUnavailableError),
        (b"SSH-2.0-nonsense\r\n", AmazonUnavailableError),
    ],
)
async def test_an_answer_that_is_not_amazons_json_is_told_by_its_status(
    stack: Stack, amazon: Amazon, answering: Odd, answer: bytes, error: type[Exception]
) -> None:
    tenant_id, _ = await connected(amazon)
    async with answering(answer) as url:
        settings = settings_of(stack, AMAZON_SPAPI_URL=url)
        api = SpApi(settings, Vault(settings), amazon.http, gate=None)
        with pytest.raises(error):
            await orders.get_order(api, tenant_id, "407-8949262-6149120")


async def test_a_tenant_without_credentials_is_not_connected(amazon: Amazon) -> None:
    with pytest.raises(NotConnectedError, match="kbz-nobody"):
        await orders.get_order(amazon.api, "kbz-nobody", "407-8949262-6149120")


@pytest.mark.parametrize(
    "changes", [{"refresh_token": None}, {"created_at": "yesterday"}, {"region": "atlantis"}, {"seller_id": 7}]
)
async def test_credentials_that_cannot_be_used_are_named_and_not_shown(
    amazon: Amazon, changes: dict[str, object]
) -> None:
    vault = Vault(amazon.settings)
    complete: dict[str, object] = {
        "refresh_token": "secretpart",
        "seller_id": "A1",
        "marketplace_id": "A13V1IB3VIYZZH",
        "region": "eu",
        "created_at": "2026-01-01T00:00:00Z",
    }
    held = {name: value for name, value in (complete | changes).items() if value is not None}
    await vault.write(tenant_path("kbz-broken"), held)
    with pytest.raises(NotConnectedError, match=next(iter(changes))) as refused:
        await read_tenant(vault, "kbz-broken")
    assert "secretpart" not in str(refused.value)


async def test_an_application_without_credentials_asks_for_an_operator(amazon: Amazon) -> None:
    with pytest.raises(AppCredentialsError, match="keybuzz/ai/nothing"):
        await read_app(Vault(amazon.settings), "keybuzz/ai/nothing")


def test_credentials_do_not_print(amazon: Amazon) -> None:
    assert amazon.app.client_secret not in repr(amazon.app)
    assert amazon.app.client_secret not in repr([msgspec.structs.replace(amazon.app)])


def test_a_nul_in_a_text_is_left_out_and_all_else_stays() -> None:
    content = rb'{"a\u0000b": ["x\u0000", {"n": 1.5, "plain": "\u00e9"}], "none": null}'
    assert decode(content, dict) == {"ab": ["x", {"n": 1.5, "plain": "é"}], "none": None}
