"""What survives a kill, and what an end looks like."""

import json
import signal
import subprocess
import sys
import threading
from datetime import datetime
from pathlib import Path

import httpx

from tests.sandbox.conftest import CALLBACK, Amazon


async def test_a_killed_sandbox_comes_back_with_all_that_it_gave_out(own: Amazon) -> None:
    seller = await own.seller(7)
    tokens = await own.connect(seller)
    revoked = await own.connect("A12BCIS2R7HD4D")
    await own.control("POST", "sellers/A12BCIS2R7HD4D/revoke")
    code = await own.code(seller)
    before = await own.truth(seller)
    token = (await own.search(tokens, maxResultsPerPage=3)).json()["pagination"]["nextToken"]
    await own.advance(1800)
    new_secret = (await own.control("POST", "applications/external_test/secret"))["newClientSecret"]
    body = {"expireOldNow": True}
    keybuzz_secret = (await own.control("POST", "applications/keybuzz/secret", body))["newClientSecret"]
    await own.control("PUT", "applications/keybuzz", {"draft": True})
    clock = await own.control("POST", "clock", {"speed": 3})

    own.server.end(signal.SIGKILL)
    own.server.start()

    refreshed = await own.token("refresh_token", refresh_token=tokens.refresh)
    assert refreshed.status_code == 200
    assert refreshed.json()["refresh_token"] == tokens.refresh
    assert (await own.token("refresh_token", refresh_token=revoked.refresh)).status_code == 400
    assert (await own.token("authorization_code", code=code, redirect_uri=CALLBACK)).status_code == 400
    assert await own.truth(seller) == before
    rest = (await own.search(tokens, paginationToken=token)).json()["orders"]
    assert [one["orderId"] for one in rest] == [one["orderId"] for one in before[3:]]
    after = await own.control("GET", "clock")
    assert after["speed"] == 3
    assert datetime.fromisoformat(after["now"]) > datetime.fromisoformat(clock["now"])
    for client, status in (
        ({"client_secret": new_secret}, 200),
        ({"client_secret": own.server.secret}, 200),
        (own.keybuzz(client_secret=keybuzz_secret), 200),
        (own.keybuzz(), 401),
    ):
        answer = await own.token("client_credentials", scope="sellingpartnerapi::notifications", **client)
        assert answer.status_code == status
    assert [one["draft"] for one in (await own.control("GET", "applications"))["applications"]] == [False, True]
    kept = (Path(own.server.environment["SANDBOX_STATE"]) / "sandbox.json").read_text()
    for secret in (tokens.refresh, own.server.secret, own.server.keybuzz_secret, new_secret, keybuzz_secret):
        assert secret not in kept
        assert secret not in own.server.log.read_text()

    # Another application: what sellers granted to the old one is not its own.
    assert own.server.end() < 2
    own.server.environment["SANDBOX_CLIENT_ID"] = "amzn1.application-oa2-client.next"
    own.server.environment["SANDBOX_CLOCK_SPEED"] = "60"
    own.server.start()
    changed = await own.token("refresh_token", refresh_token=tokens.refresh)
    assert (await own.control("GET", "clock"))["speed"] == 60
    assert (changed.status_code, changed.json()["error"]) == (400, "unauthorized_client")


async def test_another_secret_in_the_settings_is_the_only_one(own: Amazon) -> None:
    before = own.server.secret
    own.server.end()
    own.server.secret = own.server.environment["SANDBOX_CLIENT_SECRET"] = "the-next"
    own.server.start()
    for secret, status in ((before, 401), ("the-next", 200)):
        answer = await own.token("client_credentials", scope="sellingpartnerapi::notifications", client_secret=secret)
        assert answer.status_code == status


async def test_a_state_from_before_there_were_two_applications_is_read(own: Amazon) -> None:
    tokens, code = await own.connect("A12BCIS2R7HD4D"), await own.code("A12BCIS2R7HD4D")
    own.server.end()
    file = Path(own.server.environment["SANDBOX_STATE"]) / "sandbox.json"
    kept = json.loads(file.read_text())
    for name in ("renewals", "client_secrets", "drafts"):
        del kept[name]
    for one in kept["codes"].values():
        del one["client_id"]
    file.write_text(json.dumps(kept))
    own.server.start()
    assert (await own.token("refresh_token", refresh_token=tokens.refresh)).status_code == 200
    assert (await own.token("authorization_code", code=code, redirect_uri=CALLBACK)).status_code == 400


async def test_sigterm_ends_it_quickly_even_while_a_caller_waits(own: Amazon) -> None:
    tokens = await own.connect(await own.seller())
    fault = {"operation": "getMarketplaceParticipations", "status": "timeout"}
    await own.control("POST", "faults", fault)

    def wait() -> None:
        headers = {"x-amz-access-token": tokens.access}
        try:
            httpx.get(f"{own.server.url}/sellers/v1/marketplaceParticipations", headers=headers, trust_env=False)
        except httpx.TransportError:
            return

    waiting = threading.Thread(target=wait)
    waiting.start()
    while "getMarketplaceParticipations" not in await own.control("GET", "calls"):
        pass
    assert own.server.end() < 2
    waiting.join()
    log = own.server.log.read_text()
    for secret in (tokens.access, tokens.refresh, own.server.secret):
        assert secret not in log


def test_a_start_without_settings_names_them_all() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "devstack.sandbox"],
        env={"SANDBOX_CLIENT_ID": "x"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    for name in ("PORT", "STATE", "CLIENT_SECRET", "APPLICATION_ID", "REDIRECT_URIS"):
        assert f"SANDBOX_{name}" in ended.stderr
    assert "SANDBOX_CLIENT_ID" not in ended.stderr
    assert "Traceback" not in ended.stderr
