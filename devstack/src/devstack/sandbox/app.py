"""The sandbox's application: its routes, and nothing that decides."""

from litestar import Litestar, get
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.response import Response

from . import appstore, consent, control, lwa, messaging, orders, ordersv0, reports, sellers
from .http import HttpRequest, json_response
from .settings import Settings
from .spapi import request_id
from .state import Sandbox


@get("/health", sync_to_thread=False)
def health(sandbox: Sandbox) -> Response[bytes]:
    return json_response({"status": "ok", "now": sandbox.clock.now()})


def create_app(settings: Settings) -> Litestar:
    sandbox = Sandbox(settings)
    return Litestar(
        [
            health,
            consent.consent_page,
            consent.consent_decision,
            appstore.manage_page,
            appstore.renew,
            appstore.confirm,
            lwa.token,
            orders.search_orders,
            orders.get_order,
            ordersv0.get_orders,
            ordersv0.get_order,
            ordersv0.get_order_items,
            ordersv0.get_order_address,
            ordersv0.get_order_buyer_info,
            reports.create_report,
            reports.get_report,
            reports.get_reports,
            reports.cancel_report,
            reports.get_report_document,
            reports.download,
            sellers.get_marketplace_participations,
            messaging.get_messages,
            *control.ROUTES,
        ],
        dependencies={"sandbox": Provide(lambda: sandbox, sync_to_thread=False)},
        exception_handlers={HTTPException: _refused},
        logging_config=None,
        openapi_config=None,
    )


def _refused(_: HttpRequest, error: HTTPException) -> Response[bytes]:
    """What no operation answers, in the same ErrorList as theirs."""
    details = f"{error.detail} {error.extra}" if error.extra else error.detail
    code = {400: "InvalidInput", 404: "NotFound"}.get(error.status_code, "Error")
    body = {"errors": [{"code": code, "message": error.detail, "details": details}]}
    return json_response(body, error.status_code, request_id())
