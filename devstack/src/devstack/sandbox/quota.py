"""Usage plans: a token bucket per application, selling partner and operation."""

import msgspec


class Plan(msgspec.Struct, frozen=True):
    """A published usage plan; `rate` is in requests per second."""

    operation: str
    rate: float
    burst: int


# Rates: "Usage Plan" in the descriptions of the Orders, Reports, Sellers and Messaging models.
SEARCH_ORDERS = Plan("searchOrders", 0.0056, 20)
GET_ORDER = Plan("getOrder", 0.5, 30)
GET_PARTICIPATIONS = Plan("getMarketplaceParticipations", 0.016, 15)
GET_MESSAGES = Plan("getMessages", 1, 5)
"""Of our own making, as the operation is: Messaging v1 has this plan for everything it does."""
CREATE_REPORT = Plan("createReport", 0.0167, 15)
GET_REPORT = Plan("getReport", 2, 15)
GET_REPORTS = Plan("getReports", 0.0222, 10)
GET_REPORT_DOCUMENT = Plan("getReportDocument", 0.0167, 15)
CANCEL_REPORT = Plan("cancelReport", 0.0222, 10)
GET_ORDERS_V0 = Plan("getOrders", 0.0167, 20)
GET_ORDER_V0 = Plan("getOrderV0", 0.5, 30)
"""Amazon calls it getOrder, as it does the newer one."""
GET_ORDER_ITEMS = Plan("getOrderItems", 0.5, 30)
GET_ORDER_ADDRESS = Plan("getOrderAddress", 0.5, 30)
GET_ORDER_BUYER_INFO = Plan("getOrderBuyerInfo", 0.5, 30)

PLANS = (
    SEARCH_ORDERS,
    GET_ORDER,
    GET_PARTICIPATIONS,
    GET_MESSAGES,
    CREATE_REPORT,
    GET_REPORT,
    GET_REPORTS,
    GET_REPORT_DOCUMENT,
    CANCEL_REPORT,
    GET_ORDERS_V0,
    GET_ORDER_V0,
    GET_ORDER_ITEMS,
    GET_ORDER_ADDRESS,
    GET_ORDER_BUYER_INFO,
)


class Buckets:
    """All buckets; a new one is full."""

    def __init__(self) -> None:
        self._levels: dict[tuple[str, str, str], tuple[float, float]] = {}

    def take(self, plan: Plan, client_id: str, seller_id: str, now: float) -> bool:
        """Take one token, False when there is none. `now` is in seconds of the sandbox's clock."""
        key = (client_id, seller_id, plan.operation)
        level, since = self._levels.get(key, (float(plan.burst), now))
        level = min(float(plan.burst), level + (now - since) * plan.rate)
        allowed = level >= 1
        self._levels[key] = (level - 1 if allowed else level, now)
        return allowed
