"""What stands in a log line, and what never does."""

import logging
import sys
from collections.abc import Iterator
from io import StringIO
from typing import Any
from uuid import UUID

import msgspec
import pytest
import structlog

from shared.amazon.credentials import AppCredentials
from shared.settings import Secret
from shared.telemetry import configure_logging, log

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZ2VudCJ9.c2lnbmF0dXJl"


class Lines:
    def __init__(self, written: StringIO) -> None:
        self._written = written

    def read(self) -> tuple[str, dict[str, Any]]:
        """The one line that was written: as text, and as what it says."""
        (line,) = self._written.getvalue().splitlines()
        found: dict[str, Any] = msgspec.json.decode(line)
        return line, found


@pytest.fixture
def lines() -> Iterator[Lines]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    configure_logging("orders", "INFO")
    (handler,) = root.handlers
    assert isinstance(handler, logging.StreamHandler)
    written = StringIO()
    assert handler.setStream(written) is sys.stdout
    yield Lines(written)
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()


def test_a_fact_is_one_json_line_with_its_fields(lines: Lines) -> None:
    job = UUID("01957f1e-6b1c-7d3e-8f00-2a4b6c8d0e25")
    log.info("backfill_done", tenant_id="kbz-001", job_id=job, orders=3, code="quota_exceeded", status_code=429)
    _, fact = lines.read()
    assert fact.pop("timestamp").endswith("Z")
    assert fact == {
        "event": "backfill_done",
        "level": "info",
        "service": "orders",
        "tenant_id": "kbz-001",
        "job_id": str(job),
        "orders": 3,
        "code": "quota_exceeded",
        "status_code": 429,
    }


def test_a_librarys_logger_writes_the_same_json(lines: Lines) -> None:
    logging.getLogger("some.library").warning("lost %s after %d s", "the server", 5)
    _, fact = lines.read()
    assert (fact["event"], fact["level"], fact["service"]) == ("lost the server after 5 s", "warning", "orders")


@pytest.mark.parametrize(
    "text",
    [
        "Order 407-8949262-6149120 of tenant kbz-001 is stored; 3 items, code 200, state RUNNING.",
        "see https://sellercentral.amazon.fr/orders?id=407-8949262-6149120&page=2 for more",
        "buyer wrote from a1b2c3@marketplace.amazon.fr",
        "GET /api/v1/orders?cursor=ksaB 404 exit code=1",
        "The token has expired: sign in again.",
        "s.durable is bound to hv.sys and Atlas",
        "nats://127.0.0.1:4222 and postgresql://db/keybuzz mail x@y.example",
    ],
)
def test_ordinary_text_stays(lines: Lines, text: str) -> None:
    log.info("said", text=text)
    assert lines.read()[1]["text"] == text


@pytest.mark.parametrize(
    "text",
    [
        "token Atza|IwEBsecretpart was refused",
        "Atzr|IwEBsecretpart",
        "refresh_token=Atzr%7CIwEBsecretpart&grant_type=refresh_token",
        "client amzn1.oa2-cs.v1.secretpart",
        "vault said no to hvs.CAESsecretpart-x",
        "batch hvb.AAAAsecretpart",
        "openbao s.secretpart0123456789ABCD",
        f"Authorization: Bearer {TOKEN}",
        f"jwt {TOKEN}.",
        "Authorization: Bearer secretpart",
        "nats://orders:secretpart@127.0.0.1:4222",
        "nats://secretpart@127.0.0.1:4222",
        "postgresql://orders:a@secretpart@db/keybuzz",
        "amqp://:secretpart@mq",
        "GET /callback?spapi_oauth_code=secretpart&state=secretpart&selling_partner_id=A1",
        "POST /token?code=secretpart",
        "client_secret=secretpart&x=1",
        '{"client_secret": "secretpart", "x": 1}',
        "{'password': 'secretpart'}",
        "password: secretpart",
        "X-Internal-Key: secretpart",
        "X-Vault-Token: secretpart",
    ],
)
@pytest.mark.parametrize("place", ["field", "event", "nested", "bytes", "exception", "traceback", "library"])
def test_a_secret_is_hidden_by_its_form_wherever_it_stands(lines: Lines, text: str, place: str) -> None:
    match place:
        case "field":
            log.info("said", text=text)
        case "event":
            log.info(text)
        case "nested":
            log.info("said", answers=[{"first": ({"second": text},)}])
        case "bytes":
            log.info("said", body=text.encode())
        case "exception":
            log.info("said", error=ValueError(text), errors=[OSError(text)])
        case "library":
            logging.getLogger("some.library").warning("said %s", text)
        case _:
            try:
                int(text)
            except ValueError:
                logging.getLogger("some.library").exception("failed")
    line, _ = lines.read()
    assert "secretpart" not in line
    assert TOKEN.split(".")[1] not in line
    assert "hidden" in line


@pytest.mark.parametrize(
    "name",
    [
        *("client_secret", "clientSecret", "refresh_token", "accessToken", "password", "POSTGRES_PASSWORD"),
        *("Authorization", "cookie", "Set-Cookie", "api_key", "apiKey", "X-Internal-Key", "internal_key"),
        *("spapi_oauth_code", "authorization_code", "oauth_state", "credentials", "secret_id"),
    ],
)
@pytest.mark.parametrize("value", ["secretpart", b"secretpart", {"inner": "secretpart"}, ["secretpart"]])
def test_a_secret_is_hidden_by_the_name_of_its_field(lines: Lines, name: str, value: Any) -> None:
    log.info("said", **{name: value}, headers={name: value})
    line, fact = lines.read()
    assert "secretpart" not in line
    assert fact[name] == "hidden"
    assert fact["headers"] == {name: "hidden"}


def test_an_authorization_code_under_the_name_of_an_error_code_is_hidden(lines: Lines) -> None:
    log.info("said", code="ANsecretpartXyz9")
    assert lines.read()[1]["code"] == "hidden"


def test_values_that_know_secrets_show_none(lines: Lines) -> None:
    app = AppCredentials(client_id="the-client", client_secret="secretpart", redirect_uri="https://x/callback")
    log.info("said", app=app, given=Secret("secretpart"))
    line, fact = lines.read()
    assert "secretpart" not in line
    assert "the-client" in fact["app"]


def test_what_json_cannot_say_is_logged_all_the_same(lines: Lines) -> None:
    log.info("said", text="\ud800", far=10**30, none=None, what=object, share=float("nan"))
    assert lines.read()[1]["event"] == "said"


def test_a_level_below_the_wanted_one_is_silent(lines: Lines) -> None:
    log.debug("detail")
    log.info("fact")
    assert lines.read()[1]["event"] == "fact"
