"""Whatever happens to an authorization in whatever order, a last check leaves it CONNECTED exactly where Vault holds
credentials that stand, and the others know of it.
"""

import asyncio
import random
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oauth import handlers, lifecycle
from oauth.domain import Connection, Status
from oauth.lifecycle import Parts
from shared.amazon.credentials import TenantCredentials
from shared.amazon.errors import AuthorizationRevokedError
from shared.errors import PermanentError
from shared.events import ConnectionRejected
from tests.builders import new_id
from tests.oauth.conftest import Oauth
from tests.oauth.lives import KilledError, Life, killed_at, watched

POINTS = ["before look", "after look", "before write", "after write", "before destroy"]

which = st.integers(0, 3)
steps = st.one_of(
    st.tuples(st.just("consent"), st.integers(0, 1)),
    st.tuples(st.just("come_back"), which),
    st.tuples(st.just("consented"), st.integers(0, 1)),
    st.tuples(st.just("consented_and_killed"), st.integers(0, 1), st.sampled_from(POINTS)),
    st.tuples(st.just("cancelled"), which),
    st.tuples(st.just("disconnect")),
    st.tuples(st.just("disconnect_killed"), st.sampled_from(POINTS)),
    st.tuples(st.just("archive")),
    st.tuples(st.just("activate")),
    st.tuples(st.just("revoke"), st.integers(0, 1)),
    st.tuples(st.just("destroy")),
    st.tuples(st.just("restore"), which),
    st.tuples(st.just("check"), st.booleans()),
    st.tuples(st.just("check_killed"), st.sampled_from(POINTS)),
    st.tuples(st.just("check_as_other_application")),
    st.tuples(st.just("rejected")),
    st.tuples(st.just("time_passes"), st.sampled_from(["61 seconds", "15 minutes"])),
)
together = st.tuples(st.just("together"), st.lists(steps, min_size=2, max_size=3), st.integers(0, 1_000))
histories = st.lists(st.one_of(steps, steps, steps, together), min_size=3, max_size=14)


class World:
    """A tenant, its two sellers, the consents that are open in some browser, and the secrets that somebody kept."""

    def __init__(self, life: Life, sellers: list[str]) -> None:
        self.life, self.sellers = life, sellers
        self.open: list[dict[str, str]] = []
        self.kept: list[dict[str, Any]] = []
        self.over: set[str] = set()
        """The refresh tokens that were there when the tenant was disconnected."""
        self.archived = False
        self.parts = life.parts

    async def step(self, name: str, *values: Any) -> None:
        with suppress(PermanentError, KilledError):
            await getattr(self, name)(*values)
        secret = await self.life.secret()
        if secret is not None and secret not in self.kept:
            self.kept.append(secret)

    async def together(self, doing: list[tuple[Any, ...]], seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 - no secret hangs on it

        async def slow(_: str) -> None:
            await asyncio.sleep(chance.uniform(0, 0.01))

        before = {secret["refresh_token"] for secret in self.kept}
        ended = any(name in {"disconnect", "archive"} for name, *_ in doing)
        restored = any(name == "restore" for name, *_ in doing)
        self.parts = watched(self.life.parts, slow)
        await asyncio.gather(*(self.step(*each) for each in doing))
        self.parts = self.life.parts
        if ended and not restored:
            self.over |= before

    def end(self) -> None:
        self.over |= {secret["refresh_token"] for secret in self.kept} if self.parts is self.life.parts else set()

    async def consent(self, seller: int) -> None:
        self.open.append(await self.life.consented(self.sellers[seller]))

    async def come_back(self, number: int, parts: Parts | None = None) -> Connection | None:
        if not self.open:
            return None
        back = self.open[number % len(self.open)]  # also one that came back before
        return await self.life.come_back(back, parts or self.parts)

    async def consented(self, seller: int) -> None:
        await self.consent(seller)
        connection = await self.come_back(-1)
        assert connection is not None
        if self.parts is self.life.parts:
            assert await self.life.status() is Status.CONNECTED
            assert connection.seller_id == self.sellers[seller]

    async def consented_and_killed(self, seller: int, point: str) -> None:
        await self.consent(seller)
        await self.come_back(-1, killed_at(self.life.parts, point))

    async def cancelled(self, number: int) -> None:
        if self.open:
            await self.life.come_back(self.open[number % len(self.open)] | {"code": ""}, self.parts)

    async def disconnect(self) -> None:
        await self.life.on(self.parts).disconnect()
        self.end()

    async def disconnect_killed(self, point: str) -> None:
        await self.life.on(killed_at(self.life.parts, point)).disconnect()

    async def archive(self) -> None:
        self.archived = True
        await self.life.on(self.parts).follow("ARCHIVED")
        self.end()

    async def activate(self) -> None:
        self.archived = False
        await self.life.on(self.parts).follow("ACTIVE")

    async def revoke(self, seller: int) -> None:
        await self.life.oauth.amazon.control("POST", f"sellers/{self.sellers[seller]}/revoke")

    async def destroy(self) -> None:
        await self.life.destroy()

    async def restore(self, number: int) -> None:
        if self.kept:
            await self.life.write(self.kept[number % len(self.kept)])

    async def check(self, verify: bool) -> None:
        await self.life.check(self.parts, verify=verify)

    async def check_killed(self, point: str) -> None:
        await self.life.check(killed_at(self.life.parts, point))

    async def check_as_other_application(self) -> None:
        await lifecycle.settle(self.life.other, self.life.tenant_id)

    async def rejected(self) -> None:
        connection = await self.life.connection()
        if connection is not None:
            event = ConnectionRejected(
                tenant_id=self.life.tenant_id, connection_id=connection.id, error="x", at=datetime.now(UTC)
            )
            await handlers.check_connection(event, new_id("event"), parts=self.parts)

    async def time_passes(self, interval: str) -> None:
        await self.life.age_states(interval)

    async def stands(self, held: TenantCredentials | None) -> bool:
        """Should the tenant be connected by what Vault holds?"""
        connection = await self.life.connection()
        if held is None or self.archived or (connection is not None and connection.voids(held.created_at)):
            return False
        try:
            await self.life.parts.api.verify(held)
        except AuthorizationRevokedError:
            return False
        return True

    async def ends_right(self) -> None:
        life = self.life
        held = await life.held()
        stands = await self.stands(held)
        await life.age_states("15 minutes")
        await life.check()
        assert (await life.status() is Status.CONNECTED) is stands
        await life.agrees()
        if stands:
            assert held is not None
            assert held.refresh_token not in self.over
        assert await life.status() is not Status.PENDING
        assert None not in await life.outcomes()
        told, changes = await life.told(), await life.changes()
        await life.check()
        assert (await life.told(), await life.changes()) == (told, changes)
        await self.activate()
        await self.consented(1)
        await life.agrees()


@pytest.fixture
async def sellers(oauth: Oauth) -> list[str]:
    return [await oauth.amazon.seller() for _ in range(2)]


@settings(
    max_examples=30,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(history=histories)
async def test_whatever_happened_one_last_check_ends_it_right(
    oauth: Oauth, parts: Parts, sellers: list[str], history: list[tuple[Any, ...]]
) -> None:
    world = World(Life(oauth, parts, sellers[0], new_id()), sellers)
    for step in history:
        await world.step(*step)
        await world.life.is_told_in_order()
    await world.ends_right()
