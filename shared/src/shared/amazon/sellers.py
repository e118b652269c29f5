"""Sellers v1: in which marketplaces a seller sells (model sellers.json)."""

from msgspec import Struct

from .credentials import TenantCredentials
from .gate import Operation
from .spapi import SpApi

GET_MARKETPLACE_PARTICIPATIONS = Operation("getMarketplaceParticipations", 0.016, 15)


class _Marketplace(Struct, frozen=True, rename="camel"):
    id: str
    country_code: str


class _Participation(Struct, frozen=True, rename="camel"):
    is_participating: bool


class _MarketplaceParticipation(Struct, frozen=True, rename="camel"):
    marketplace: _Marketplace
    participation: _Participation


class _Answer(Struct, frozen=True):
    payload: list[_MarketplaceParticipation] = []


async def marketplace_ids(api: SpApi, tenant: TenantCredentials) -> list[str]:
    """The marketplaces that the seller takes part in; errors as SpApi.get_as()."""
    answer = await api.get_as(
        tenant, GET_MARKETPLACE_PARTICIPATIONS, "/sellers/v1/marketplaceParticipations", {}, _Answer
    )
    return [each.marketplace.id for each in answer.payload if each.participation.is_participating]
