"""Every marketplace: the consent page that its sellers know, and the region that their connection gets."""

from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from devstack.sandbox.client import ConsentError
from shared.amazon.credentials import read_app
from shared.amazon.marketplaces import MARKETPLACES
from tests.builders import APP_PATH, oauth_vault
from tests.oauth.conftest import Oauth

KEYBUZZ_PATH = "keybuzz/amazon_spapi/app_keybuzz"
# Amazon's pages "Marketplace IDs" and "Seller Central URLs", written down once more.
AMAZON = [
    ("CA", "na", "A2EUQ1WTGCTBG2", "sellercentral.amazon.ca"),
    ("US", "na", "ATVPDKIKX0DER", "sellercentral.amazon.com"),
    ("MX", "na", "A1AM78C64UM0Y8", "sellercentral.amazon.com.mx"),
    ("BR", "na", "A2Q3Y263D00KWC", "sellercentral.amazon.com.br"),
    ("IE", "eu", "A28R8C7NBKEWEA", "sellercentral.amazon.ie"),
    ("ES", "eu", "A1RKKUPIHCS9HS", "sellercentral-europe.amazon.com"),
    ("UK", "eu", "A1F83G8C2ARO7P", "sellercentral-europe.amazon.com"),
    ("FR", "eu", "A13V1IB3VIYZZH", "sellercentral-europe.amazon.com"),
    ("DE", "eu", "A1PA6795UKMFR9", "sellercentral-europe.amazon.com"),
    ("IT", "eu", "APJ6JRA9NG5V4", "sellercentral-europe.amazon.com"),
    ("BE", "eu", "AMEN7PMS3EDWL", "sellercentral.amazon.com.be"),
    ("NL", "eu", "A1805IZSGTT6HS", "sellercentral.amazon.nl"),
    ("SE", "eu", "A2NODRKZP88ZB9", "sellercentral.amazon.se"),
    ("ZA", "eu", "AE08WJ6YKNBMC", "sellercentral.amazon.co.za"),
    ("PL", "eu", "A1C3SOZRARQ6R3", "sellercentral.amazon.pl"),
    ("EG", "eu", "ARBP9OOSHTCHU", "sellercentral.amazon.eg"),
    ("TR", "eu", "A33AVAJ2PDY3EV", "sellercentral.amazon.com.tr"),
    ("SA", "eu", "A17E79C6D8DWNP", "sellercentral.amazon.sa"),
    ("AE", "eu", "A2VIGQ35RCS4UG", "sellercentral.amazon.ae"),
    ("IN", "eu", "A21TJRUUN4KGV", "sellercentral.amazon.in"),
    ("SG", "fe", "A19VAU5U5O7RUS", "sellercentral.amazon.sg"),
    ("AU", "fe", "A39IBJ37TRP1C6", "sellercentral.amazon.com.au"),
    ("JP", "fe", "A1VC38T7YXB528", "sellercentral.amazon.co.jp"),
]


def test_there_is_no_other_marketplace() -> None:
    assert {each.country for each in MARKETPLACES} == {country for country, *_ in AMAZON}


async def test_each_marketplaces_own_page_is_asked_and_told_who_asks(oauth: Oauth) -> None:
    app = await read_app(oauth_vault(oauth.stack), APP_PATH)
    states = set()
    async with oauth.serving(AMAZON_SELLER_CENTRAL_URL="") as http:
        for country, _, _, host in AMAZON:
            address, _, query = (await oauth.start(http, country=country)).partition("?")
            assert address == f"https://{host}/apps/authorize/consent"
            sent = parse_qs(query, strict_parsing=True)
            states.add(sent.pop("state")[0])
            assert sent == {"application_id": [app.application_id], "redirect_uri": [app.redirect_uri]}
            assert await oauth.pool.fetchval("SELECT country FROM oauth_states ORDER BY created_at DESC") == country
    assert len(states) == len(AMAZON)


@pytest.mark.parametrize(("country", "region", "marketplace_id", "_host"), AMAZON)
async def test_a_seller_of_each_marketplace_is_connected_in_its_region(
    oauth: Oauth, http: httpx.AsyncClient, country: str, region: str, marketplace_id: str, _host: str
) -> None:
    seller_id = await oauth.amazon.seller(region=region.upper(), marketplaceIds=[marketplace_id])
    assert (await oauth.status(http))["status"] == "NOT_CONNECTED"
    location = await oauth.consented(http, seller_id, country=country)
    assert (await oauth.status(http))["region"] == region
    assert (await oauth.come_back(http, location)).status_code == 200
    status = await oauth.status(http)
    assert (status["status"], status["region"], status["marketplaceIds"]) == ("CONNECTED", region, [marketplace_id])
    kept = await oauth.in_vault()
    assert kept is not None
    assert (kept["region"], kept["marketplace_id"]) == (region, marketplace_id)


async def test_a_drafts_consent_page_wants_version_beta_and_gets_it_when_told(oauth: Oauth) -> None:
    app = await read_app(oauth_vault(oauth.stack), KEYBUZZ_PATH)
    seller_id = await oauth.amazon.seller()
    await oauth.amazon.set_draft(True, "keybuzz")
    try:
        async with oauth.serving(AMAZON_SPAPI_APP_SOURCE="keybuzz") as http:
            published = await oauth.start(http)
            with pytest.raises(ConsentError, match=r"version=beta is missing.*MD1000"):
                await oauth.amazon.approve(published, seller_id)
        async with oauth.serving(AMAZON_SPAPI_APP_SOURCE="keybuzz", AMAZON_APP_DRAFT="true") as http:
            draft = await oauth.start(http)
            assert (await oauth.connect(http, seller_id)).status_code == 200
    finally:
        await oauth.amazon.set_draft(False, "keybuzz")
    sent = [parse_qs(urlsplit(each).query) for each in (published, draft)]
    assert [each.get("version") for each in sent] == [None, ["beta"]]
    assert all(each["application_id"] == [app.application_id] for each in sent)
