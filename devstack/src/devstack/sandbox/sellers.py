"""getMarketplaceParticipations (Sellers model v1)."""

from litestar import get
from litestar.response import Response

from .http import HttpRequest
from .marketplaces import MARKETPLACES
from .orderbook import Json
from .quota import GET_PARTICIPATIONS
from .spapi import answer
from .state import Sandbox, Seller


@get("/sellers/v1/marketplaceParticipations")
async def get_marketplace_participations(request: HttpRequest, sandbox: Sandbox) -> Response[bytes]:
    return await answer(request, sandbox, GET_PARTICIPATIONS, _participations)


def _participations(seller: Seller) -> Json:
    marketplaces = [MARKETPLACES[marketplace_id] for marketplace_id in seller.marketplace_ids]
    return {
        "payload": [
            {
                "marketplace": {
                    "id": marketplace.id,
                    "name": marketplace.name,
                    "countryCode": marketplace.country,
                    "defaultCurrencyCode": marketplace.currency,
                    "defaultLanguageCode": marketplace.language,
                    "domainName": f"www.amazon.{marketplace.domain}",
                },
                "storeName": f"Store of {seller.seller_id}",
                "participation": {"isParticipating": True, "hasSuspendedListings": False},
            }
            for marketplace in marketplaces
        ]
    }
