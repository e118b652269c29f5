"""The control API: what a test, a demo or a person sets and sees, under /sandbox."""

import itertools
from datetime import timedelta
from typing import Annotated, Literal

import msgspec
from litestar import delete, get, post, put
from litestar.exceptions import ClientException, NotFoundException
from litestar.params import Parameter
from litestar.response import Response

from .clock import MAX_SPEED
from .faults import DOWNLOAD, LOGIN, Fault
from .http import json_response
from .life import SENT_STATUSES, Change, PackageStatus
from .marketplaces import BY_COUNTRY, MARKETPLACES, Region
from .orderbook import Json
from .quota import PLANS
from .reportbook import Habits
from .settings import Application
from .state import OFFICIAL_SELLER, SECRET_OVERLAP_SECONDS, SELLER_ID, Sandbox, Seller, log

_HOME: dict[Region, str] = {"NA": "US", "EU": "FR", "FE": "JP"}
_OPERATIONS = (LOGIN, DOWNLOAD, *(plan.operation for plan in PLANS))


OrdersPerDay = Annotated[float, msgspec.Meta(ge=0, le=1_000_000)]


class SellerSpec(msgspec.Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    orders: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
    days: Annotated[int, msgspec.Meta(ge=1, le=3650)] = 90
    seed: int = 1
    region: Region = "EU"
    marketplace_ids: tuple[str, ...] = ()
    cancelled_every: Annotated[int, msgspec.Meta(ge=1)] | None = 15
    unknown_every: Annotated[int, msgspec.Meta(ge=1)] | None = None
    orders_per_day: OrdersPerDay | None = None
    """See set_pace(); None leaves the orders as they are."""
    reports: Habits = Habits()


class PaceSpec(msgspec.Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    orders_per_day: OrdersPerDay


class OrderChange(msgspec.Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What is left out stays as it is; SHIPPED and PARTIALLY_SHIPPED come with a parcel that is on its way."""

    status: (
        Literal[
            "PENDING_AVAILABILITY",
            "PENDING",
            "UNSHIPPED",
            "PARTIALLY_SHIPPED",
            "SHIPPED",
            "CANCELLED",
            "UNFULFILLABLE",
            "INVOICE_UNCONFIRMED",
        ]
        | None
    ) = None
    package_status: PackageStatus | None = None
    carrier: str | None = None
    tracking_number: str | None = None


class ClockChange(msgspec.Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    advance_seconds: Annotated[float, msgspec.Meta(ge=0, le=315_360_000)] = 0
    speed: Annotated[float, msgspec.Meta(ge=0, le=MAX_SPEED)] | None = None


class ApplicationChange(msgspec.Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    draft: bool


class SecretRotation(msgspec.Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    expire_old_now: bool = False


@put("/sandbox/sellers/{seller_id:str}", sync_to_thread=False)
def put_seller(seller_id: str, data: SellerSpec, sandbox: Sandbox) -> Response[bytes]:
    """Create or replace; its consents stay valid, as Amazon's would."""
    if not SELLER_ID.fullmatch(seller_id) or seller_id == OFFICIAL_SELLER:
        raise ClientException(f"No seller can be called {seller_id!r}.")
    marketplace_ids = data.marketplace_ids or (BY_COUNTRY[_HOME[data.region]],)
    for marketplace_id in marketplace_ids:
        marketplace = MARKETPLACES.get(marketplace_id)
        if marketplace is None or marketplace.region != data.region:
            raise ClientException(f"{marketplace_id!r} is no marketplace of {data.region}.")
    seller = Seller(
        seller_id=seller_id,
        region=data.region,
        marketplace_ids=marketplace_ids,
        orders=data.orders,
        days=data.days,
        seed=data.seed,
        cancelled_every=data.cancelled_every,
        anchor=sandbox.clock.seconds(),
        unknown_every=data.unknown_every,
        reports=data.reports,
    )
    sandbox.put_seller(seller)
    if data.orders_per_day is not None:
        seller = sandbox.set_pace(seller, data.orders_per_day)
    return json_response(seller)


@put("/sandbox/sellers/{seller_id:str}/pace", sync_to_thread=False)
def set_pace(seller_id: str, data: PaceSpec, sandbox: Sandbox) -> Response[bytes]:
    """From now on the seller's orders go on (status, parcel, delivery), and so many new ones come a day."""
    return json_response(sandbox.set_pace(_changeable(sandbox, seller_id), data.orders_per_day))


@put("/sandbox/sellers/{seller_id:str}/reports", sync_to_thread=False)
def set_habits(seller_id: str, data: Habits, sandbox: Sandbox) -> Response[bytes]:
    """How reports come that are asked for from now on."""
    return json_response(sandbox.set_habits(_changeable(sandbox, seller_id), data))


@post("/sandbox/sellers/{seller_id:str}/orders/{order_id:str}", status_code=200, sync_to_thread=False)
def change_order(seller_id: str, order_id: str, data: OrderChange, sandbox: Sandbox) -> Response[bytes]:
    """Now; nothing else becomes of the order until it is changed again."""
    seller = _changeable(sandbox, seller_id)
    book = sandbox.seeded_book(seller)
    index = book.find(order_id)
    if index is None:
        raise NotFoundException(f"There is no order {order_id!r} of {seller_id!r}.")
    state = book.state(index)
    status = data.status or state.status
    package: PackageStatus | None = None
    if status in SENT_STATUSES:
        package = data.package_status or state.package or "SHIPPED"
    elif data.package_status or data.carrier or data.tracking_number:
        raise ClientException(f"An order that is {status} has no parcel.")
    change = Change(
        at=sandbox.now(),
        status=status,
        package=package,
        carrier=data.carrier or state.carrier,
        tracking=data.tracking_number or state.tracking,
    )
    sandbox.change_order(seller, order_id, change)
    return json_response(sandbox.book(seller).order(index))


@get("/sandbox/sellers", sync_to_thread=False)
def list_sellers(sandbox: Sandbox) -> Response[bytes]:
    return json_response({"sellers": list(sandbox.sellers())})


@get("/sandbox/sellers/{seller_id:str}/orders", sync_to_thread=False)
def list_orders(
    seller_id: str,
    sandbox: Sandbox,
    offset: Annotated[int, Parameter(ge=0)] = 0,
    limit: Annotated[int, Parameter(ge=1, le=1000)] = 100,
) -> Response[bytes]:
    """The ground truth: the orders with all of their sections, oldest first; it costs no quota."""
    book = sandbox.book(_known(sandbox, seller_id))
    places = itertools.islice(book.walk("created", (0, -1)), offset, offset + limit)
    return json_response({"total": len(book), "orders": [book.order(index) for _, index in places]})


@post("/sandbox/sellers/{seller_id:str}/revoke", sync_to_thread=False)
def revoke(seller_id: str, sandbox: Sandbox) -> Response[bytes]:
    return json_response({"revoked": sandbox.revoke(_known(sandbox, seller_id).seller_id)})


@get("/sandbox/applications", sync_to_thread=False)
def list_applications(sandbox: Sandbox) -> Response[bytes]:
    return json_response({"applications": [_application(sandbox, one) for one in sandbox.settings.applications]})


@put("/sandbox/applications/{source:str}", sync_to_thread=False)
def change_application(source: str, data: ApplicationChange, sandbox: Sandbox) -> Response[bytes]:
    """A draft can be authorized with version=beta only."""
    application = _registered(sandbox, source)
    sandbox.set_draft(application, draft=data.draft)
    return json_response(_application(sandbox, application))


@post("/sandbox/applications/{source:str}/secret", sync_to_thread=False)
def rotate_secret(source: str, sandbox: Sandbox, data: SecretRotation | None = None) -> Response[bytes]:
    """A new client secret; those before are valid for a week more of the sandbox's clock, as Amazon's are."""
    application = _registered(sandbox, source)
    expire = data is not None and data.expire_old_now
    secret = sandbox.rotate_secret(application, overlap=0 if expire else SECRET_OVERLAP_SECONDS)
    return json_response({"clientId": application.client_id, "newClientSecret": secret})


@get("/sandbox/calls", sync_to_thread=False)
def list_calls(sandbox: Sandbox) -> Response[bytes]:
    """{operation: {seller: {status: count}}}; a seller that is not known is `-`."""
    tree: dict[str, dict[str, dict[str, int]]] = {}
    for (operation, seller_id, status), number in sandbox.calls.items():
        tree.setdefault(operation, {}).setdefault(seller_id, {})[status] = number
    return json_response(tree)


@delete("/sandbox/calls", status_code=204, sync_to_thread=False)
def clear_calls(sandbox: Sandbox) -> None:
    sandbox.calls.clear()


@get("/sandbox/clock", sync_to_thread=False)
def read_clock(sandbox: Sandbox) -> Response[bytes]:
    return json_response(_clock(sandbox))


@post("/sandbox/clock", sync_to_thread=False)
def change_clock(data: ClockChange, sandbox: Sandbox) -> Response[bytes]:
    sandbox.clock.change(advance=timedelta(seconds=data.advance_seconds), speed=data.speed)
    sandbox.save()
    log.info("clock changed: now %s, speed %s", sandbox.clock.now(), sandbox.clock.speed)
    return json_response(_clock(sandbox))


@post("/sandbox/faults", sync_to_thread=False)
def add_fault(data: Fault, sandbox: Sandbox) -> Response[bytes]:
    if data.operation not in _OPERATIONS:
        raise ClientException(f"{data.operation!r} is none of {', '.join(_OPERATIONS)}.")
    sandbox.faults.append(data)
    log.info("fault added: %s answers %s, %s times", data.operation, data.status, data.times)
    return json_response({"faults": sandbox.faults}, 201)


@delete("/sandbox/faults", status_code=204, sync_to_thread=False)
def clear_faults(sandbox: Sandbox) -> None:
    sandbox.faults.clear()


def _known(sandbox: Sandbox, seller_id: str) -> Seller:
    seller = sandbox.seller(seller_id)
    if seller is None:
        raise NotFoundException(f"There is no seller {seller_id!r}.")
    return seller


def _changeable(sandbox: Sandbox, seller_id: str) -> Seller:
    if seller_id == OFFICIAL_SELLER:
        raise ClientException("Amazon's own examples stay as they are.")
    return _known(sandbox, seller_id)


def _registered(sandbox: Sandbox, source: str) -> Application:
    for application in sandbox.settings.applications:
        if application.source == source:
            return application
    raise NotFoundException(f"There is no application {source!r}.")


def _application(sandbox: Sandbox, application: Application) -> Json:
    return {
        "source": application.source,
        "clientId": application.client_id,
        "applicationId": application.application_id,
        "draft": sandbox.is_draft(application),
    }


def _clock(sandbox: Sandbox) -> Json:
    return {"now": sandbox.clock.now(), "speed": sandbox.clock.speed}


ROUTES = (
    put_seller,
    set_pace,
    set_habits,
    change_order,
    list_sellers,
    list_orders,
    revoke,
    list_applications,
    change_application,
    rotate_secret,
    list_calls,
    clear_calls,
    read_clock,
    change_clock,
    add_fault,
    clear_faults,
)
