"""Vault's KV v2 engine at `secret`, by AppRole. hvac blocks: each call runs in a thread with a short timeout."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import hvac
import hvac.exceptions
import requests

from .errors import RetryLaterError, UnavailableError
from .settings import AmazonSettings
from .telemetry import log

MOUNT = "secret"
TIMEOUT_SECONDS = 3
T = TypeVar("T")


class VaultDeniedError(RetryLaterError):
    """Vault refuses us: the role, its secret id or its policy is wrong. An operator has to act."""

    code = "vault_denied"
    patient = True


class Vault:
    """Reads and writes secrets; logs in when needed and again before the token ends."""

    def __init__(self, settings: AmazonSettings) -> None:
        self._client = hvac.Client(
            url=settings.vault_addr, verify=settings.vault_cacert or True, timeout=TIMEOUT_SECONDS
        )
        self._role_id = settings.vault_role_id
        self._secret_id = settings.vault_secret_id
        self._login = asyncio.Lock()
        self._token_until = 0.0
        if settings.vault_token is not None:
            self._client.token = settings.vault_token.reveal()
            self._token_until = float("inf")

    async def read(self, path: str) -> dict[str, Any] | None:
        """The newest version of a secret; None when there is none.
        UnavailableError when Vault is down, sealed or slow; VaultDeniedError when it refuses.
        """
        read = partial(
            self._client.secrets.kv.v2.read_secret_version,
            path=path,
            mount_point=MOUNT,
            raise_on_deleted_version=True,
        )
        try:
            answer: dict[str, Any] = await self._call(read)
        except hvac.exceptions.InvalidPath:
            return None
        data: dict[str, Any] = answer["data"]["data"]
        return data

    async def write(self, path: str, secret: dict[str, Any]) -> None:
        """Store a new version of a secret; errors as read()."""
        await self._call(
            partial(
                self._client.secrets.kv.v2.create_or_update_secret,
                path=path,
                secret=secret,
                mount_point=MOUNT,
            )
        )

    async def not_ready(self) -> str | None:
        """What keeps us from using Vault, for readiness; None when nothing does."""
        try:
            await self._authenticate()
            await self._call(self._client.lookup_token)
        except (UnavailableError, VaultDeniedError) as error:
            return str(error)
        return None

    async def _call(self, call: Callable[[], T]) -> T:
        await self._authenticate()
        try:
            return await _in_thread(call)
        except VaultDeniedError:
            # The token may have been revoked before its time; a second refusal is the policy's word.
            if self._role_id is None:
                raise
            self._token_until = 0.0
            await self._authenticate()
            return await _in_thread(call)

    async def _authenticate(self) -> None:
        async with self._login:
            if time.monotonic() < self._token_until or self._role_id is None or self._secret_id is None:
                return
            answer = await _in_thread(
                partial(self._client.auth.approle.login, role_id=self._role_id, secret_id=self._secret_id.reveal())
            )
            lease_seconds = answer["auth"]["lease_duration"]
            self._token_until = time.monotonic() + lease_seconds * 2 / 3
            log.info("vault_login", lease_seconds=lease_seconds)


async def _in_thread(call: Callable[[], T]) -> T:
    """Hvac raises its own errors and those of requests; here they become ours."""
    try:
        return await asyncio.to_thread(call)
    except hvac.exceptions.InvalidPath:
        raise
    except (hvac.exceptions.Forbidden, hvac.exceptions.Unauthorized, hvac.exceptions.InvalidRequest) as error:
        raise VaultDeniedError(
            "Vault refused this service: check VAULT_ROLE_ID, VAULT_SECRET_ID and the role's policy."
        ) from error
    except hvac.exceptions.VaultDown as error:
        raise UnavailableError("Vault is sealed: an operator has to unseal it.") from error
    except requests.exceptions.SSLError as error:
        raise UnavailableError("Vault's certificate is not trusted: check VAULT_CACERT.") from error
    except (requests.exceptions.RequestException, hvac.exceptions.VaultError) as error:
        raise UnavailableError(
            f"Vault did not answer ({type(error).__name__}): check VAULT_ADDR and that it runs."
        ) from error
    except OSError as error:  # not of requests: it did not get as far as asking
        raise UnavailableError("The file of VAULT_CACERT cannot be read.") from error
