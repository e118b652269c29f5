"""Amazon's marketplaces (developer-docs.amazon.com/sp-api/docs/marketplace-ids)."""

from typing import Literal

import msgspec

Region = Literal["NA", "EU", "FE"]


class Marketplace(msgspec.Struct, frozen=True):
    id: str
    region: Region
    country: str
    domain: str
    """What follows `amazon.`: also the end of the buyers' anonymised addresses."""
    currency: str
    language: str
    city: str
    postal_code: str
    decimals: int = 2

    @property
    def name(self) -> str:
        return f"Amazon.{self.domain}"


_ALL = (
    Marketplace("A2EUQ1WTGCTBG2", "NA", "CA", "ca", "CAD", "en_CA", "Toronto", "M5V 2T6"),
    Marketplace("ATVPDKIKX0DER", "NA", "US", "com", "USD", "en_US", "Seattle", "98101"),
    Marketplace("A1AM78C64UM0Y8", "NA", "MX", "com.mx", "MXN", "es_MX", "Guadalajara", "44100"),
    Marketplace("A2Q3Y263D00KWC", "NA", "BR", "com.br", "BRL", "pt_BR", "São Paulo", "01310-100"),
    Marketplace("A28R8C7NBKEWEA", "EU", "IE", "ie", "EUR", "en_IE", "Cork", "T12 XF62"),
    Marketplace("A1RKKUPIHCS9HS", "EU", "ES", "es", "EUR", "es_ES", "Valencia", "46001"),
    Marketplace("A1F83G8C2ARO7P", "EU", "GB", "co.uk", "GBP", "en_GB", "Manchester", "M1 2AB"),
    Marketplace("A13V1IB3VIYZZH", "EU", "FR", "fr", "EUR", "fr_FR", "Lyon", "69003"),
    Marketplace("A1PA6795UKMFR9", "EU", "DE", "de", "EUR", "de_DE", "Hamburg", "20095"),
    Marketplace("APJ6JRA9NG5V4", "EU", "IT", "it", "EUR", "it_IT", "Torino", "10121"),
    Marketplace("AMEN7PMS3EDWL", "EU", "BE", "com.be", "EUR", "fr_BE", "Namur", "5000"),
    Marketplace("A1805IZSGTT6HS", "EU", "NL", "nl", "EUR", "nl_NL", "Utrecht", "3511 AB"),
    Marketplace("A2NODRKZP88ZB9", "EU", "SE", "se", "SEK", "sv_SE", "Uppsala", "753 10"),
    Marketplace("AE08WJ6YKNBMC", "EU", "ZA", "co.za", "ZAR", "en_ZA", "Durban", "4001"),
    Marketplace("A1C3SOZRARQ6R3", "EU", "PL", "pl", "PLN", "pl_PL", "Kraków", "30-001"),
    Marketplace("ARBP9OOSHTCHU", "EU", "EG", "eg", "EGP", "ar_EG", "Giza", "12511"),
    Marketplace("A33AVAJ2PDY3EV", "EU", "TR", "com.tr", "TRY", "tr_TR", "Izmir", "35210"),
    Marketplace("A17E79C6D8DWNP", "EU", "SA", "sa", "SAR", "ar_SA", "Jeddah", "22230"),
    Marketplace("A2VIGQ35RCS4UG", "EU", "AE", "ae", "AED", "ar_AE", "Sharjah", "00000"),
    Marketplace("A21TJRUUN4KGV", "EU", "IN", "in", "INR", "en_IN", "Pune", "411001"),
    Marketplace("A19VAU5U5O7RUS", "FE", "SG", "sg", "SGD", "en_SG", "Singapore", "018956"),
    Marketplace("A39IBJ37TRP1C6", "FE", "AU", "com.au", "AUD", "en_AU", "Brisbane", "4000"),
    Marketplace("A1VC38T7YXB528", "FE", "JP", "co.jp", "JPY", "ja_JP", "Osaka", "530-0001", decimals=0),
)

MARKETPLACES = {marketplace.id: marketplace for marketplace in _ALL}
BY_COUNTRY = {marketplace.country: marketplace.id for marketplace in _ALL}
