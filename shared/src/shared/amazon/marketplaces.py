"""The marketplaces that sellers can connect, from Amazon's page "Marketplace IDs" and the Seller Central hosts of
its authorization guide. A consent covers every marketplace of its region.
"""

from enum import StrEnum

from msgspec import Struct


class Region(StrEnum):
    """A selling region; each has its own API host and its own authorizations."""

    NA = "na"
    EU = "eu"
    FE = "fe"


class Marketplace(Struct, frozen=True):
    country: str
    id: str
    region: Region
    seller_central: str
    domain: str
    """What follows `amazon.` in the shop's address, and `Amazon.` in the name of its sales channel."""


_EUROPE = "sellercentral-europe.amazon.com"

MARKETPLACES: tuple[Marketplace, ...] = (
    Marketplace("CA", "A2EUQ1WTGCTBG2", Region.NA, "sellercentral.amazon.ca", "ca"),
    Marketplace("US", "ATVPDKIKX0DER", Region.NA, "sellercentral.amazon.com", "com"),
    Marketplace("MX", "A1AM78C64UM0Y8", Region.NA, "sellercentral.amazon.com.mx", "com.mx"),
    Marketplace("BR", "A2Q3Y263D00KWC", Region.NA, "sellercentral.amazon.com.br", "com.br"),
    Marketplace("IE", "A28R8C7NBKEWEA", Region.EU, "sellercentral.amazon.ie", "ie"),
    Marketplace("ES", "A1RKKUPIHCS9HS", Region.EU, _EUROPE, "es"),
    Marketplace("UK", "A1F83G8C2ARO7P", Region.EU, _EUROPE, "co.uk"),
    Marketplace("FR", "A13V1IB3VIYZZH", Region.EU, _EUROPE, "fr"),
    Marketplace("DE", "A1PA6795UKMFR9", Region.EU, _EUROPE, "de"),
    Marketplace("IT", "APJ6JRA9NG5V4", Region.EU, _EUROPE, "it"),
    Marketplace("BE", "AMEN7PMS3EDWL", Region.EU, "sellercentral.amazon.com.be", "com.be"),
    Marketplace("NL", "A1805IZSGTT6HS", Region.EU, "sellercentral.amazon.nl", "nl"),
    Marketplace("SE", "A2NODRKZP88ZB9", Region.EU, "sellercentral.amazon.se", "se"),
    Marketplace("ZA", "AE08WJ6YKNBMC", Region.EU, "sellercentral.amazon.co.za", "co.za"),
    Marketplace("PL", "A1C3SOZRARQ6R3", Region.EU, "sellercentral.amazon.pl", "pl"),
    Marketplace("EG", "ARBP9OOSHTCHU", Region.EU, "sellercentral.amazon.eg", "eg"),
    Marketplace("TR", "A33AVAJ2PDY3EV", Region.EU, "sellercentral.amazon.com.tr", "com.tr"),
    Marketplace("SA", "A17E79C6D8DWNP", Region.EU, "sellercentral.amazon.sa", "sa"),
    Marketplace("AE", "A2VIGQ35RCS4UG", Region.EU, "sellercentral.amazon.ae", "ae"),
    Marketplace("IN", "A21TJRUUN4KGV", Region.EU, "sellercentral.amazon.in", "in"),
    Marketplace("SG", "A19VAU5U5O7RUS", Region.FE, "sellercentral.amazon.sg", "sg"),
    Marketplace("AU", "A39IBJ37TRP1C6", Region.FE, "sellercentral.amazon.com.au", "com.au"),
    Marketplace("JP", "A1VC38T7YXB528", Region.FE, "sellercentral.amazon.co.jp", "co.jp"),
)

BY_COUNTRY = {marketplace.country: marketplace for marketplace in MARKETPLACES}
BY_ID = {marketplace.id: marketplace for marketplace in MARKETPLACES}
BY_CHANNEL = {f"amazon.{marketplace.domain}": marketplace for marketplace in MARKETPLACES}
"""By the sales channel in small letters."""

AWS_REGIONS = {Region.NA: "us-east-1", Region.EU: "eu-west-1", Region.FE: "us-west-2"}
"""Where each region's API is, from Amazon's page "SP-API endpoints"."""
API_HOSTS = {region: f"https://sellingpartnerapi-{region}.amazon.com" for region in Region}
"""The page "SP-API endpoints"."""
