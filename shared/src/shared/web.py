"""HTTP the same way in every service: problem details, health, readiness, metrics, documentation."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from litestar import Litestar, MediaType, Request, Response, get
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException, SerializationException, ValidationException
from litestar.middleware import DefineMiddleware
from litestar.openapi import OpenAPIConfig
from litestar.stores.base import Store
from litestar.types import ControllerRouterHandler
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from . import problems
from .auth import Authenticate, Keys, tenant_of
from .errors import PermanentError, RetryLaterError
from .problems import FieldProblem, Problem
from .telemetry import log

VERSION = "0.1.0"
ENCODER = msgspec.json.Encoder(decimal_format="number")
_AFTER_UNDERSCORE = re.compile(r"_(\w)")
_NAMED_FIELD = re.compile(r"field `(\w+)`")

Check = Callable[[], Awaitable[str | None]]
"""Says what is not ready, in a sentence; None when all is."""
HttpRequest = Request[Any, Any, State]


def respond(problem: Problem, headers: Mapping[str, str] | None = None) -> Response[bytes]:
    """An error as the one answer that every route gives for it."""
    return Response(
        msgspec.json.encode(problem),
        status_code=problem.status,
        media_type="application/problem+json",
        headers=dict(headers or {}),
    )


def json_body(body: Any) -> bytes:
    """A struct as JSON with amounts as exact decimal numbers, as the product app knows them."""
    return ENCODER.encode(body)


def json_response(body: Any, status: int = 200) -> Response[bytes]:
    return Response(json_body(body), status_code=status, media_type=MediaType.JSON)


def _on_permanent(_: HttpRequest, error: PermanentError) -> Response[bytes]:
    headers = {"WWW-Authenticate": "Bearer"} if error.status == HTTPStatus.UNAUTHORIZED else {}
    return respond(problems.of_error(error), headers)


def _on_retry_later(_: HttpRequest, error: RetryLaterError) -> Response[bytes]:
    return respond(problems.of_error(error), problems.retry_after(error))


def _on_invalid(_: HttpRequest, error: ValidationException) -> Response[bytes]:
    found = [_field_problem(each) for each in (error.extra or []) if isinstance(each, dict)]
    return respond(problems.of_fields(found or [FieldProblem("body", error.detail)]))


def _field_problem(found: dict[str, Any]) -> FieldProblem:
    """Litestar names the body "data" where msgspec names the field only in its message, and a query parameter as the
    route's argument is called.
    """
    message = str(found.get("message", "is wrong"))
    key = str(found.get("key") or "data")
    if key == "data":
        named = _NAMED_FIELD.search(message)
        key = named.group(1) if named else "body"
    return FieldProblem(_AFTER_UNDERSCORE.sub(lambda found: found.group(1).upper(), key.rstrip("_")), message)


def _on_http(_: HttpRequest, error: HTTPException) -> Response[bytes]:
    if isinstance(error.__cause__, SerializationException):
        return respond(problems.of_json(error.detail))
    phrase = HTTPStatus(error.status_code).phrase
    if error.status_code == HTTPStatus.TOO_MANY_REQUESTS:
        seconds = (error.headers or {}).get("RateLimit-Reset", "60")
        detail = f"Too many requests came from this address: try again in {seconds} s."
        found = problems.problem(429, "too_many_requests", detail)
        return respond(found, {**(error.headers or {}), "Retry-After": seconds})
    found = problems.problem(error.status_code, phrase.lower().replace(" ", "_"), error.detail or phrase)
    return respond(found, error.headers)


def _on_bug(request: HttpRequest, error: Exception) -> Response[bytes]:
    log.error("request_failed", method=request.method, path=request.url.path, exc_info=error)
    return respond(problems.of_bug())


def create_app(
    service: str,
    routes: Sequence[ControllerRouterHandler],
    *,
    keys: Keys,
    dependencies: Mapping[str, Any],
    checks: Mapping[str, Check],
    asyncapi: Mapping[str, Any],
    middleware: Sequence[DefineMiddleware] = (),
    stores: Mapping[str, Store] | None = None,
    version: str = VERSION,
) -> Litestar:
    """A service's HTTP: its routes, asking for credentials unless a route says opt={"public": True},
    and what operators look at. The dependencies reach the routes by name; tenant_id is who is asked about.
    """

    @get("/health", opt={"public": True}, summary="Is it running")
    async def health() -> dict[str, str]:
        return {"status": "ok", "service": service, "version": version}

    @get("/livez", opt={"public": True}, summary="Is the process alive")
    async def livez() -> dict[str, str]:
        return {"status": "ok"}

    @get("/readyz", opt={"public": True}, summary="Can it do its work, and what is missing")
    async def readyz() -> Response[dict[str, Any]]:
        missing = {name: reason for name, check in checks.items() if (reason := await check())}
        return Response(
            {"status": "unavailable" if missing else "ok", "missing": missing},
            status_code=503 if missing else 200,
        )

    @get("/metrics", opt={"public": True}, media_type=MediaType.TEXT, summary="Prometheus metrics")
    async def metrics() -> Response[bytes]:
        return Response(generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    @get("/asyncapi.json", opt={"public": True}, summary="The events, as AsyncAPI 3")
    async def asyncapi_json() -> dict[str, Any]:
        return dict(asyncapi)

    return Litestar(
        [health, livez, readyz, metrics, asyncapi_json, *routes],
        dependencies={
            "tenant_id": Provide(tenant_of),
            **{name: Provide(_giver(value), sync_to_thread=False) for name, value in dependencies.items()},
        },
        middleware=[
            DefineMiddleware(Authenticate, keys=keys, exclude_from_auth_key="public", exclude="^/schema"),
            *middleware,
        ],
        stores=dict(stores or {}),
        exception_handlers={
            PermanentError: _on_permanent,
            RetryLaterError: _on_retry_later,
            ValidationException: _on_invalid,
            HTTPException: _on_http,
            Exception: _on_bug,
        },
        openapi_config=OpenAPIConfig(title=f"KeyBuzz {service}", version=version),
        request_max_body_size=1 << 20,
        signature_types=[],
        logging_config=None,
    )


def _giver(value: Any) -> Callable[[], Any]:
    def give() -> Any:
        return value

    return give
