"""Vault's KV v2 engine at `secret`, by AppRole. hvac blocks: each call runs in a thread of the client's own, so that a
slow Vault holds up nobody else. What it answers: openbao.org/api-docs/secret/kv/kv-v2, …/auth/approle, …/auth/token.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import hvac
from hvac.exceptions import InvalidPath, VaultError
from msgspec import Struct
from requests.adapters import HTTPAdapter

from .errors import RetryLaterError
from .settings import AmazonSettings
from .telemetry import log
from .vault_errors import (
    VaultConflictError,
    VaultDeniedError,
    VaultDownError,
    VaultInvalidError,
    VaultSealedError,
    VaultSlowError,
    VaultUntrustedError,
    kind_of,
    told,
)

__all__ = [
    "Found",
    "Vault",
    "VaultConflictError",
    "VaultDeniedError",
    "VaultDownError",
    "VaultInvalidError",
    "VaultSealedError",
    "VaultSlowError",
    "VaultUntrustedError",
]
MOUNT = "secret"
TIMEOUT_SECONDS = 3
"""Of one attempt, with logging in."""
PAUSES_SECONDS = (0.1, 0.4)
"""Before the second and the third attempt, give or take a half; there is no fourth."""
THREADS = 16
"""Calls at once; the time of an attempt that waits for a thread runs."""


class Found(Struct, frozen=True):
    """The newest version of a secret: without data it was deleted or destroyed, as version 0 it was never there."""

    secret: dict[str, Any] | None
    version: int
    created_at: datetime | None

    def __repr__(self) -> str:
        return f"Found(version={self.version}, created_at={self.created_at})"


class Vault:
    """Reads and writes secrets; logs in when needed, and before the token ends renews it or logs in again.

    Any method raises VaultDeniedError, VaultInvalidError or VaultUntrustedError at once, and VaultSealedError,
    VaultDownError or VaultSlowError after three attempts.
    """

    def __init__(self, settings: AmazonSettings) -> None:
        token = settings.vault_token.reveal() if settings.vault_token else ""
        self._client = hvac.Client(
            url=settings.vault_addr, verify=settings.vault_cacert or True, token=token, timeout=TIMEOUT_SECONDS
        )
        # All threads share hvac's session (one of our own would make it forget `verify`). Its cookies have no lock, so
        # it keeps none; and it knows one scheme, so that no redirect leads out of TLS.
        session = self._client.session
        session.trust_env = False  # no proxy, password file or other CA bundle that happens to be in the environment
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
        session.adapters.clear()
        session.mount(f"{settings.vault_addr.partition(':')[0]}://", HTTPAdapter(pool_maxsize=THREADS))
        self._kv = self._client.secrets.kv.v2
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="vault")
        self._role_id = None if token else settings.vault_role_id
        self._secret_id = settings.vault_secret_id
        self._entry: asyncio.Task[None] | None = None
        self._renew_at = float("inf") if token else 0.0
        self._lease_seconds = 0.0
        """As the login gave it; 0 when there is no token to renew."""

    async def read(self, path: str) -> dict[str, Any] | None:
        """The newest version of a secret; None when there is none."""
        return (await self.look(path)).secret

    async def look(self, path: str) -> Found:
        """The newest version of a secret, with its number."""
        answer = await self._ask(
            partial(self._kv.read_secret_version, path, mount_point=MOUNT, raise_on_deleted_version=True)
        )
        if answer is None:
            return Found(None, 0, None)
        with _as_documented():
            version = answer["data"]["metadata"]
            return Found(
                answer["data"]["data"], int(version["version"]), datetime.fromisoformat(version["created_time"])
            )

    async def write(self, path: str, secret: dict[str, Any], *, replacing: int | None = None) -> int:
        """Store a new version of a secret and return its number. VaultConflictError when the current one is not
        `replacing` (0: none was ever written). After VaultDownError and VaultSlowError it may be stored all the same,
        and without `replacing` more than once, or after a write that came later.
        """
        sent = 0

        def put() -> Any:
            nonlocal sent
            sent += 1
            return self._kv.create_or_update_secret(path, secret, cas=replacing, mount_point=MOUNT)

        try:
            answer = await self._ask(put)
        except VaultConflictError:
            if replacing is None or sent == 1:
                raise
            found = await self.look(path)  # an attempt whose answer was lost may have stored it
            if (found.version, found.secret) != (replacing + 1, secret):
                raise
            return found.version
        with _as_documented():
            return int(answer["data"]["version"])

    async def destroy(self, path: str, *, up_to: int) -> None:
        """Destroy the data of every version up to this one, for good. The numbers go on after them."""
        answer = await self._ask(partial(self._kv.read_secret_metadata, path, mount_point=MOUNT))
        if answer is None:
            return
        with _as_documented():
            left = [int(number) for number, each in answer["data"]["versions"].items() if not each["destroyed"]]
        if versions := [version for version in left if version <= up_to]:
            await self._ask(partial(self._kv.destroy_secret_versions, path, versions, mount_point=MOUNT))

    async def list_keys(self, path: str) -> list[str]:
        """The names under a path, also of what is deleted or destroyed; a folder's without its slash."""
        answer = await self._ask(partial(self._kv.list_secrets, path, mount_point=MOUNT))
        with _as_documented():
            names = answer["data"]["keys"] if answer else []
            return list(dict.fromkeys(name.removesuffix("/") for name in names))

    async def not_ready(self) -> str | None:
        """What keeps us from using Vault, for readiness, by one attempt; None when nothing does."""
        try:
            answer = await self._once(self._client.auth.token.lookup_self)
            with _as_documented():
                answer["data"]["accessor"]
        except RetryLaterError as error:
            return str(error)
        return None

    async def _ask(self, call: Callable[[], Any]) -> Any:
        for pause_seconds in PAUSES_SECONDS:
            try:
                return await self._once(call)
            except (VaultSealedError, VaultDownError, VaultSlowError) as error:
                log.warning("vault_attempt_failed", code=error.code)
            await asyncio.sleep(pause_seconds * random.uniform(0.5, 1.5))  # noqa: S311 - no secret hangs on it
        return await self._once(call)

    async def _once(self, call: Callable[[], Any]) -> Any:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await self._authenticate()
                token = self._client.token
                try:
                    return await self._in_thread(call)
                except VaultDeniedError:
                    # The token may have been revoked before its time; a second refusal is the policy's word.
                    if self._role_id is None:
                        raise
                    if token == self._client.token:
                        self._renew_at = self._lease_seconds = 0.0
                    await self._authenticate()
                    return await self._in_thread(call)
        except TimeoutError as error:
            raise told(VaultSlowError) from error

    async def _authenticate(self) -> None:
        """One renews or logs in for all who wait, and whoever gives up does not end it."""
        if time.monotonic() < self._renew_at:
            return
        if self._entry is None or self._entry.done():
            self._entry = asyncio.create_task(self._enter())
            self._entry.add_done_callback(lambda entry: entry.cancelled() or entry.exception())  # may be nobody's
        await asyncio.shield(self._entry)

    async def _enter(self) -> None:
        full_seconds, self._lease_seconds = self._lease_seconds, 0.0  # should renewing fail, the next one logs in
        if full_seconds:
            try:
                renewed = await self._in_thread(self._client.auth.token.renew_self)
            except (VaultDeniedError, VaultInvalidError):
                renewed = None  # the token is gone, or cannot be renewed
            if renewed and self._keep(renewed, full_seconds):
                return
        if self._role_id is not None and self._secret_id is not None:
            login = partial(self._client.auth.approle.login, self._role_id, self._secret_id.reveal(), use_token=False)
            self._keep(await self._in_thread(login))

    def _keep(self, answer: Any, full_seconds: float = 0.0) -> bool:
        """False for a renewal that token_max_ttl cuts short."""
        with _as_documented():
            token, seconds = answer["auth"]["client_token"], float(answer["auth"]["lease_duration"])
        if seconds < full_seconds * 0.9:
            return False
        self._client.token = token
        self._lease_seconds = full_seconds or seconds
        self._renew_at = time.monotonic() + seconds * 2 / 3
        log.info("vault_renewal" if full_seconds else "vault_login", lease_seconds=seconds)
        return True

    async def _in_thread(self, call: Callable[[], Any]) -> Any:
        """Vault's answer, also for a version without data; None where nothing is."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except InvalidPath as error:
            if error.json == {"errors": []}:
                return None
            if error.json and error.json.get("data"):
                return error.json
            raise told(VaultInvalidError) from error
        except (VaultError, OSError) as error:  # those of requests are OSErrors
            raise told(kind_of(error)) from error


@contextmanager
def _as_documented() -> Iterator[None]:
    """What does not answer as Vault's documentation says is not Vault."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise told(VaultInvalidError) from error
