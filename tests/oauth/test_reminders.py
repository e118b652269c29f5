"""What runs out: who is told of it, how often, and what the metrics say."""

from datetime import UTC, datetime, timedelta

import httpx
import msgspec
import pytest
from prometheus_client import REGISTRY

from oauth import queries, reconcile
from oauth.domain import Status
from shared.events import ApplicationSecretExpiring, ConnectionExpiring
from tests.builders import new_id, operator_vault
from tests.oauth.conftest import Oauth
from tests.oauth.lives import NOBODY, Life


async def reminded(life: Life, days: float, column: str = "reauthorize_by") -> list[int]:
    """The days left that are told when so many are left."""
    await life.oauth.pool.execute(
        f"UPDATE {'applications' if column == 'rotate_by' else 'marketplace_connections'}"  # noqa: S608 - our names
        f" SET {column} = clock_timestamp() + $1::float * interval '1 day'",
        days,
    )
    async with life.oauth.pool.acquire() as conn, conn.transaction():
        found: list[ConnectionExpiring | ApplicationSecretExpiring] = [
            *await queries.remind_of_renewals(conn),
            *await queries.remind_of_secret(conn, "external_test"),
        ]
    return [each.days_left for each in found]


TELLS = [
    (40, []), (30.5, []), (29.5, [30]), (29.4, []), (8, []), (6.5, [7]), (6, []), (1.5, []), (0.9, [1]), (0.1, []),
    (-1, []),
]  # fmt: skip


async def test_a_renewal_is_told_thirty_seven_and_one_days_ahead_once_each(life: Life) -> None:
    await life.connect()
    assert [(days, await reminded(life, days)) for days, _ in TELLS] == TELLS


@pytest.mark.parametrize(("days", "told"), [(6.5, 7), (0.5, 1), (-0.5, 0), (-40, 0)])
async def test_a_renewal_that_is_overdue_already_is_told_once(life: Life, days: float, told: int) -> None:
    await life.connect()
    assert [await reminded(life, days), await reminded(life, days)] == [[told], []]


async def test_a_renewal_is_told_anew_in_the_year_after_it(life: Life) -> None:
    await life.connect()
    assert await reminded(life, 6.5) == [7]
    await life.connect()
    assert await reminded(life, 40) == []
    assert await reminded(life, 29.5) == [30]


async def test_no_renewal_is_told_of_an_account_that_is_not_connected(life: Life) -> None:
    await life.connect()
    await life.disconnect()
    assert await reminded(life, 6.5) == []


async def test_reminders_become_events(life: Life) -> None:
    connection = await life.connect()
    await life.oauth.pool.execute(
        "UPDATE marketplace_connections SET reauthorize_by = clock_timestamp() + interval '6.5 days'"
    )
    for _ in range(2):
        await reconcile.remind(life.parts)
    _, (subject, body) = await life.told()
    assert (subject, body["daysLeft"], body["connectionId"]) == ("connection.expiring", 7, str(connection.id))
    assert datetime.fromisoformat(body["reauthorizeBy"]) == (await life.known()).reauthorize_by


@pytest.fixture
async def application(oauth: Oauth) -> dict[str, str]:
    """An application of this test alone: its secret, and where that is."""
    path = f"keybuzz/ai/{oauth.tenant_id}"
    secret = {"client_id": "c", "client_secret": "s", "redirect_uri": "https://app.test/back", "application_id": "a"}
    await operator_vault(oauth.stack).write(path, secret)
    return {"AMAZON_SPAPI_APP_PATH_EXTERNAL_TEST": path}


async def test_the_client_secret_is_told_as_its_own_date_says(oauth: Oauth, application: dict[str, str]) -> None:
    path = application["AMAZON_SPAPI_APP_PATH_EXTERNAL_TEST"]
    vault = operator_vault(oauth.stack)
    secret = await vault.read(path)
    assert secret is not None
    created_at = datetime.now(UTC) - timedelta(days=173, hours=12)
    await vault.write(path, secret | {"client_secret_created_at": created_at.isoformat()})
    for _ in range(2):
        await reconcile.remind(oauth.parts(**application))
    [row] = await oauth.pool.fetch("SELECT subject, key, payload FROM outbox")
    assert (row["subject"], row["key"]) == ("application.secret_expiring", "application external_test")
    body = msgspec.json.decode(row["payload"])
    assert body.pop("daysLeft") == 7
    assert datetime.fromisoformat(body.pop("rotateBy")) == created_at + timedelta(days=180)
    assert body == {"appSource": "external_test"}
    await vault.write(path, secret | {"client_secret_created_at": datetime.now(UTC).isoformat()})
    await reconcile.remind(oauth.parts(**application))
    assert await oauth.pool.fetchval("SELECT count(*) FROM outbox") == 1
    await vault.write(path, secret | {"client_secret_created_at": created_at.isoformat()})
    await reconcile.remind(oauth.parts(**application))
    assert await oauth.pool.fetchval("SELECT count(*) FROM outbox") == 2


async def test_the_client_secret_is_as_old_as_its_version_in_vault(oauth: Oauth, application: dict[str, str]) -> None:
    found = await oauth.parts().vault.look(application["AMAZON_SPAPI_APP_PATH_EXTERNAL_TEST"])
    assert found.created_at is not None
    await reconcile.remind(oauth.parts(**application))
    rotate_by = await queries.get_rotate_by(oauth.pool, "external_test")
    assert rotate_by is not None
    assert abs(rotate_by - found.created_at - timedelta(days=180)) < timedelta(milliseconds=1)
    assert await oauth.pool.fetchval("SELECT count(*) FROM outbox") == 0


async def test_the_client_secret_is_told_thirty_seven_and_one_days_ahead_once_each(life: Life) -> None:
    await reconcile.remind(life.parts)
    assert [(days, await reminded(life, days, "rotate_by")) for days, _ in TELLS] == TELLS


async def test_renewals_are_told_also_while_the_applications_secret_cannot_be_read(life: Life) -> None:
    await life.connect()
    await life.oauth.pool.execute("UPDATE marketplace_connections SET reauthorize_by = clock_timestamp()")
    await reconcile.remind(life.oauth.parts(VAULT_ADDR=NOBODY))
    assert [subject for subject, _ in await life.told()] == ["connection.connected", "connection.expiring"]


def gauge(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


async def test_the_metrics_count_connections_renewals_and_the_age_of_the_secret(
    life: Life, http: httpx.AsyncClient
) -> None:
    await life.connect()
    await Life(life.oauth, life.parts, life.seller_id, new_id()).begin()
    await reconcile.remind(life.parts)
    await reminded(life, 5)
    await reminded(life, 170, "rotate_by")
    await reconcile.measure(life.parts)
    counted = set(Status) - {Status.NOT_CONNECTED}
    assert {status: gauge("connections", status=status) for status in counted} == dict.fromkeys(counted, 0) | {
        Status.CONNECTED: 1,
        Status.PENDING: 1,
    }
    assert [gauge("connections_to_renew", days=days) for days in ("30", "7", "1")] == [1, 1, 0]
    age = gauge("application_secret_age_days", app_source="external_test")
    assert age is not None
    assert round(age, 2) == 10
    assert 'connections{status="CONNECTED"} 1.0' in (await http.get("/metrics")).text
