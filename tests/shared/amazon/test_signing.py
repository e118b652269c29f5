"""Signatures of calls, checked as AWS's documentation describes them ("Create a signed AWS API request"), by hand."""

import hashlib
import hmac
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import reduce
from urllib.parse import quote

import httpx
import msgspec
import pytest

from devstack.stack import Stack
from shared.amazon import orders, reports
from shared.amazon.credentials import store_tenant
from shared.amazon.errors import AppCredentialsError, BadRequestError
from shared.amazon.reports import ReportType
from shared.amazon.spapi import SpApi
from shared.settings import SettingsError
from shared.vault import Vault
from tests.builders import APP_PATH, new_id, operator_vault
from tests.shared.amazon.conftest import Amazon

MINUTE = timedelta(minutes=1)
KEY_ID, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def mac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")


def expected(request: httpx.Request, aws_region: str) -> str:
    """The header Authorization that the request has to have."""
    time = request.headers["x-amz-date"]
    scope = f"{time[:8]}/{aws_region}/execute-api/aws4_request"
    names = sorted({"host", "x-amz-access-token", "x-amz-date", "content-type"} & set(request.headers))
    canonical = "\n".join(
        [
            request.method,
            quote(request.url.raw_path.decode().partition("?")[0], safe="/-_.~"),
            "&".join(
                sorted(
                    f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}"
                    for name, value in request.url.params.multi_items()
                )
            ),
            *(f"{name}:{request.headers[name].strip()}" for name in names),
            "",
            ";".join(names),
            sha256(request.content),
        ]
    )
    to_sign = "\n".join(["AWS4-HMAC-SHA256", time, scope, sha256(canonical.encode())])
    signature = mac(reduce(mac, scope.split("/"), b"AWS4" + SECRET.encode()), to_sign).hex()
    return f"AWS4-HMAC-SHA256 Credential={KEY_ID}/{scope}, SignedHeaders={';'.join(names)}, Signature={signature}"


@pytest.fixture
async def keys(stack: Stack, amazon: Amazon) -> AsyncIterator[None]:
    """The application's credentials in Vault have them."""
    vault, app = operator_vault(stack), msgspec.to_builtins(amazon.app)
    await vault.write(APP_PATH, app | {"aws_access_key_id": KEY_ID, "aws_secret_access_key": SECRET})
    yield
    await vault.write(APP_PATH, app)


async def send(amazon: Amazon, *, sigv4: bool = True) -> list[httpx.Request]:
    """What goes out for a page of orders, one order and a new report."""
    requests: list[httpx.Request] = []

    async def note(request: httpx.Request) -> None:
        if "x-amz-access-token" in request.headers:
            requests.append(request)

    tenant_id, seller_id = new_id(), await amazon.seller()
    await store_tenant(Vault(amazon.settings), tenant_id, await amazon.connect(seller_id))
    settings = msgspec.structs.replace(amazon.settings, amazon_sigv4=sigv4)
    now = datetime.now(UTC)
    span = (now - timedelta(days=20), now - timedelta(minutes=3))
    async with httpx.AsyncClient(trust_env=False, event_hooks={"request": [note]}) as http:
        api = SpApi(settings, Vault(settings), http, gate=None)
        with pytest.raises(BadRequestError):
            await orders.search_orders(api, tenant_id, *span, "no+token/of=theirs~")
        await orders.get_order(api, tenant_id, (await amazon.order_ids(seller_id))[0])
        await reports.create_report(api, tenant_id, ReportType.ORDERS_BY_ORDER_DATE, ["A13V1IB3VIYZZH"], *span)
    return requests


@pytest.mark.usefixtures("keys")
async def test_every_call_is_signed_where_that_is_on(amazon: Amazon) -> None:
    requests = await send(amazon)
    assert [request.method for request in requests] == ["GET", "GET", "POST"]
    for request in requests:
        assert request.headers["authorization"] == expected(request, "eu-west-1")
        assert abs(datetime.strptime(request.headers["x-amz-date"], "%Y%m%dT%H%M%S%z") - datetime.now(UTC)) < MINUTE
    assert "content-type" in requests[2].headers["authorization"]


@pytest.mark.usefixtures("keys")
async def test_no_call_is_signed_otherwise(amazon: Amazon) -> None:
    requests = await send(amazon, sigv4=False)
    assert len(requests) == 3
    assert not any("authorization" in request.headers for request in requests)


async def test_keys_that_are_missing_are_asked_for_before_anything_goes_out(amazon: Amazon) -> None:
    with pytest.raises(AppCredentialsError, match="have no aws_access_key_id and aws_secret_access_key"):
        await send(amazon)


async def test_without_botocore_the_service_does_not_start_and_says_what_to_install(
    amazon: Amazon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "botocore.auth", None)
    monkeypatch.delitem(sys.modules, "shared.amazon.signing", raising=False)
    async with httpx.AsyncClient() as http:
        SpApi(amazon.settings, Vault(amazon.settings), http, gate=None)
        with pytest.raises(SettingsError, match=r"requirements/sigv4\.txt"):
            SpApi(msgspec.structs.replace(amazon.settings, amazon_sigv4=True), Vault(amazon.settings), http, gate=None)
