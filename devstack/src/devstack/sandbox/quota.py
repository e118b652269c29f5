"""Usage plans: a token bucket per application, selling partner and operation."""

import msgspec


class Plan(msgspec.Struct, frozen=True):
    """A published usage plan; `rate` is in requests per second."""

    operation: str
    rate: float
    burst: int


# Rates: "Usage Plan" in the descriptions of the Orders v2026-01-01, Sellers and Messaging models.
SEARCH_ORDERS = Plan("searchOrders", 0.0056, 20)
GET_ORDER = Plan("getOrder", 0.5, 30)
GET_PARTICIPATIONS = Plan("getMarketplaceParticipations", 0.016, 15)
GET_MESSAGES = Plan("getMessages", 1, 5)
"""Of our own making, as the operation is: Messaging v1 has this plan for everything it does."""

PLANS = (SEARCH_ORDERS, GET_ORDER, GET_PARTICIPATIONS, GET_MESSAGES)


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
