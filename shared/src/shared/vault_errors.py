"""What can go wrong with Vault, told apart by what somebody has to do about it."""

import ssl

import requests
from hvac.exceptions import Forbidden, InvalidRequest, Unauthorized, VaultDown, VaultError

from .errors import RetryLaterError, UnavailableError


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


_SENTENCES: dict[type[RetryLaterError], tuple[str, float | None]] = {
    VaultDeniedError: (
        "Vault refused this service: check VAULT_ROLE_ID, VAULT_SECRET_ID (or VAULT_TOKEN) and the role's policy.",
        None,
    ),
    VaultInvalidError: ("What answers at VAULT_ADDR is not Vault with KV v2 at secret/: check both.", 60),
    VaultConflictError: ("Somebody else has written this secret to Vault meanwhile: read it again.", 1),
    VaultSealedError: ("Vault is sealed: an operator has to unseal it.", 30),
    VaultDownError: ("Vault cannot be reached or fails: check VAULT_ADDR and that it runs.", 10),
    VaultSlowError: ("Vault did not answer in time: check its load and the network to it.", 10),
    VaultUntrustedError: ("Vault's certificate is not trusted, or VAULT_CACERT is no file of certificates.", 60),
}


def kind_of(error: Exception) -> type[RetryLaterError]:
    """Which of ours an error of hvac, requests or the file system is."""
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


def told(kind: type[RetryLaterError]) -> RetryLaterError:
    """With nothing in it of what the server said, which may quote a secret."""
    sentence, delay_seconds = _SENTENCES[kind]
    return kind(sentence, delay_seconds=delay_seconds)
