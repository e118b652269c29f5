"""Vault's KV v2 engine at `secret`, by AppRole. hvac blocks: each call runs in a thread of the client's own, so that a
slow Vault holds up nobody else. What it answers: openbao.org/api-docs/secret/kv/kv-v2, …/auth/approle, …/auth/token.
"""

import asyncio
import random
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import hvac
import msgspec
import requests
from hvac.exceptions import Forbidden, InvalidPath, InvalidRequest, Unauthorized, VaultDown, VaultError
from msgspec import Struct

from .errors import RetryLaterError, UnavailableError
from .settings import AmazonSettings
from .telemetry import log

MOUNT = "secret"
TIMEOUT_SECONDS = 3
"""Of one attempt, with logging in."""
PAUSES_SECONDS = (0.1, 0.4)
"""Before the second and the third attempt, give or take a half; there is no fourth."""
THREADS = 16


class VaultDeniedError(RetryLaterError):
    """Vault refuses us: the role, its secret id or its policy is wrong. An operator has to act."""

    code = "vault_denied"
    patient = True


class VaultInvalidError(RetryLaterError):
    """What answers is no Vault, or has no KV v2 as we use it. An operator has to act."""

    code = "vault_invalid"
    patient = True


class VaultConflictError(RetryLaterError):
    """Somebody else has written meanwhile: read again, then decide."""

    code = "vault_conflict"


class VaultSealedError(UnavailableError):
    """Vault runs and cannot decrypt what it holds."""

    code = "vault_sealed"


class VaultDownError(UnavailableError):
    """Nobody answers, or with a server error."""

    code = "vault_down"


class VaultSlowError(UnavailableError):
    """No answer in time; what was asked for may be done."""

    code = "vault_slow"


class VaultUntrustedError(UnavailableError):
    """Who answers has not proven to be Vault. There is no switch to trust it all the same."""

    code = "vault_untrusted"


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
        # All threads share hvac's session, whose cookies have no lock: it keeps none. A session of our own would make
        # hvac forget `verify`.
        self._client.session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
        for scheme in ("https://", "http://"):
            self._client.session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=THREADS))
        self._kv = self._client.secrets.kv.v2
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="vault")
        self._role_id = None if token else settings.vault_role_id
        self._secret_id = settings.vault_secret_id
        self._entry: asyncio.Task[None] | None = None
        self._token_until = float("inf") if token else 0.0
        """When to renew it; it is good for half as long again."""
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
            created_at = msgspec.convert(version["created_time"], datetime)
            return Found(answer["data"]["data"], version["version"], created_at)

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
            await self._once(self._client.auth.token.lookup_self)
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
                        self._token_until = self._lease_seconds = 0.0
                    await self._authenticate()
                    return await self._in_thread(call)
        except TimeoutError as error:
            raise _told(VaultSlowError) from error

    async def _authenticate(self) -> None:
        """One renews or logs in for all who wait, and whoever gives up does not end it."""
        if time.monotonic() < self._token_until:
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
        self._token_until = time.monotonic() + seconds * 2 / 3
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
            raise _told(VaultInvalidError) from error
        except (VaultError, OSError) as error:  # those of requests are OSErrors
            raise _told(_kind(error)) from error


@contextmanager
def _as_documented() -> Iterator[None]:
    """What does not answer as Vault's documentation says is not Vault."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _told(VaultInvalidError) from error


def _kind(error: Exception) -> type[RetryLaterError]:
    kind: type[RetryLaterError] = VaultDownError
    match error:
        case InvalidRequest() if "check-and-set parameter did not match" in str(error):
            kind = VaultConflictError
        case InvalidRequest() if error.errors and "/v1/auth/approle/login" in str(error.url):
            kind = VaultDeniedError
        case Forbidden() | Unauthorized() if error.errors:  # without, a proxy refuses
            kind = VaultDeniedError
        case InvalidRequest() | Forbidden() | Unauthorized():
            kind = VaultInvalidError
        case VaultDown() if "sealed" in str(error):  # else a proxy or a standby has no server
            kind = VaultSealedError
        case requests.Timeout():
            kind = VaultSlowError
        case requests.exceptions.SSLError():
            kind = VaultUntrustedError if _is_of_trust(error) else VaultDownError
        case requests.RequestException() | VaultError():
            kind = VaultDownError
        case _:  # of the file system: there is no such file
            kind = VaultUntrustedError
    return kind


def _is_of_trust(error: BaseException) -> bool:
    """A handshake that breaks off, as when the server is killed, is an SSLError too."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return isinstance(error, ssl.SSLCertVerificationError) or getattr(error, "library", "SSL") != "SSL"


def _told(kind: type[RetryLaterError]) -> RetryLaterError:
    """With nothing of what the server said, which may quote a secret."""
    sentence, delay_seconds = _SENTENCES[kind]
    return kind(sentence, delay_seconds=delay_seconds)


_SENTENCES: dict[type[RetryLaterError], tuple[str, float | None]] = {
    VaultDeniedError: (
        "Vault refused this service: check VAULT_ROLE_ID, VAULT_SECRET_ID (or VAULT_TOKEN) and the role's policy.",
        None,
    ),
    VaultInvalidError: ("What answers at VAULT_ADDR is not Vault with KV v2 at secret/: check both.", 60),
    VaultConflictError: ("Somebody else has written this secret to Vault meanwhile: read it again.", 1),
    VaultSealedError: ("Vault is sealed: an operator has to unseal it.", 30),
    VaultDownError: ("Vault cannot be reached or fails: check VAULT_ADDR and that it runs.", 10),
    VaultSlowError: (f"Vault did not answer within {TIMEOUT_SECONDS} s: check its load and the network to it.", 10),
    VaultUntrustedError: ("Vault's certificate is not trusted, or VAULT_CACERT is no file of certificates.", 60),
}
