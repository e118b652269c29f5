from tests.sandbox.conftest import Amazon

PATH = "/sellers/v1/marketplaceParticipations"


async def test_the_default_seller_takes_part_in_four_marketplaces(amazon: Amazon) -> None:
    answer = await amazon.get(PATH, await amazon.connect("A12BCIS2R7HD4D"))
    participations = answer.json()["payload"]
    assert [one["marketplace"]["countryCode"] for one in participations] == ["FR", "DE", "ES", "IT"]
    assert participations[0] == {
        "marketplace": {
            "id": "A13V1IB3VIYZZH",
            "name": "Amazon.fr",
            "countryCode": "FR",
            "defaultCurrencyCode": "EUR",
            "defaultLanguageCode": "fr_FR",
            "domainName": "www.amazon.fr",
        },
        "storeName": "Store of A12BCIS2R7HD4D",
        "participation": {"isParticipating": True, "hasSuspendedListings": False},
    }


async def test_the_new_seller_is_in_the_united_states(amazon: Amazon) -> None:
    answer = await amazon.get(PATH, await amazon.connect("A2NEWSELLER0000"))
    assert [one["marketplace"]["id"] for one in answer.json()["payload"]] == ["ATVPDKIKX0DER"]
