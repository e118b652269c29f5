"""NATS in: what operators ask of a service (`nats req`), and what it tells of itself (`nats micro`)."""

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, get_type_hints

import msgspec
from msgspec import Struct
from nats import micro
from nats.aio.client import Client
from nats.micro.request import Request, ServiceError

from . import problems
from .bus import one_line
from .errors import PermanentError, RetryLaterError
from .events import TenantId
from .problems import FieldProblem, Problem
from .telemetry import log
from .web import ENCODER, VERSION

OPERATOR = "operator"
"""Who asks over NATS: no other user may, and NATS does not tell which person it is."""
MAX_BYTES = 64 << 10
HEADERS_BYTES = 1 << 10
_PLACE = re.compile(r"^(.*?)(?: - at `(?:key in )?\$\.?(.*)`)?$", re.DOTALL)
_NAMED = re.compile(r"field `(.*?)`", re.DOTALL)

Operation = Callable[..., Awaitable[Any]]
"""async def operation(asked: SomeAsked, pool: Pool, …): its dependencies reach it by name, as they reach a route."""


class Asked(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """What a request says, as JSON; an empty body says nothing."""


class OfTenant(Asked, frozen=True):
    tenant_id: TenantId


class RequestTooLargeError(PermanentError):
    code = "request_too_large"
    status = 413


class AnswerTooLargeError(PermanentError):
    """NATS carries a megabyte."""

    code = "answer_too_large"


class StoppingError(RetryLaterError):
    """The replica that had the request in hand stopped."""

    code = "stopping"


class Requests:
    """A service's operations on the subjects `<service>.<operation>`. One replica takes each request; a replica does
    the requests of one operation one after the other.
    """

    def __init__(self, service: str) -> None:
        self.service = service
        self._stop_at: float | None = None
        self._in_hand: set[asyncio.Timeout] = set()

    async def start(self, client: Client, operations: Mapping[str, Operation], dependencies: Mapping[str, Any]) -> None:
        """Answer until the connection is drained."""
        service = await micro.add_service(client, name=self.service, version=VERSION)
        for name, operation in operations.items():
            asked, *needed = inspect.signature(operation).parameters
            wanted: type[Asked] = get_type_hints(operation)[asked]
            takes = ", ".join(field.encode_name for field in msgspec.structs.fields(wanted))
            bound = partial(operation, **{each: dependencies[each] for each in needed})
            await service.add_endpoint(
                name=name.replace(".", "-"),
                subject=f"{self.service}.{name}",
                handler=partial(self._receive, msgspec.json.Decoder(wanted), takes, bound, client.max_payload),
                metadata={"about": inspect.getdoc(operation) or "", "takes": takes},
            )
        # The first PING overtakes the subscriptions that are still buffered; the second follows them.
        await client.flush()
        await client.flush()

    def stop_in(self, seconds: float) -> None:
        """What is not answered by then is ended, and its caller is told to ask again."""
        self._stop_at = asyncio.get_running_loop().time() + seconds
        for limit in self._in_hand:
            limit.reschedule(self._stop_at)

    async def _receive(
        self,
        decoder: msgspec.json.Decoder[Asked],
        takes: str,
        operation: Operation,
        max_payload: int,
        request: Request,
    ) -> None:
        headers: dict[str, str] = {}
        try:
            if len(request.data) > MAX_BYTES:
                raise RequestTooLargeError(f"A request has at most {MAX_BYTES} bytes.")  # noqa: TRY301 - as any other
            answer = ENCODER.encode(await self._in_time(operation(decoder.decode(request.data or b"{}"))))
            if len(answer) > max_payload - HEADERS_BYTES:
                raise AnswerTooLargeError("The answer is larger than NATS carries: ask for less of it.")  # noqa: TRY301
        except msgspec.ValidationError as error:
            found = problems.of_fields([_field_problem(error, takes)])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            found = problems.of_json(str(error))
        except PermanentError as error:
            found = problems.of_error(error)
        except RetryLaterError as error:
            found, headers = problems.of_error(error), problems.retry_after(error)
        except Exception as error:  # noqa: BLE001 - nats-py would tell the caller of it in its own words
            log.error("request_failed", subject=request.subject, exc_info=error)
            found = problems.of_bug()
        else:
            await request.respond(answer)
            return
        raise _refusal(request, found, headers)

    async def _in_time(self, answer: Awaitable[Any]) -> Any:
        try:
            async with asyncio.timeout_at(self._stop_at) as limit:
                self._in_hand.add(limit)
                try:
                    return await answer
                finally:
                    self._in_hand.discard(limit)
        except TimeoutError as error:
            if limit.expired():
                raise StoppingError("The service stopped meanwhile: ask again.", delay_seconds=1) from error
            raise


def _field_problem(error: msgspec.ValidationError, takes: str) -> FieldProblem:
    """Msgspec names an unknown or missing field in its words, any other by its place."""
    message, place = _PLACE.findall(str(error))[0]
    named = _NAMED.search(message)
    field = named.group(1) if named else place or "body"
    return FieldProblem(field, f"{message} (it takes: {takes or 'nothing'})")


def _refusal(request: Request, found: Problem, headers: Mapping[str, str]) -> ServiceError:
    """The problem as micro's error headers and as the body. nats-py counts as errors what is raised, and answers that
    without a body: so the request is made to know it.
    """
    body = msgspec.json.encode(found)
    respond = partial(request.respond_error, data=body, headers=dict(headers))
    request.respond_error = respond  # type: ignore[method-assign] # of this request alone, not its class
    return ServiceError(str(found.status), one_line(found.detail))
