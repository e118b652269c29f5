"""One way to trust a server: the machine's CAs, or those of one file. There is no switch to trust any."""

import ssl

from .errors import PermanentError


def context(cacert: str | None, variable: str = "NATS_CACERT") -> ssl.SSLContext | None:
    """A verifying context for a CA file; None leaves the choice to the client (its verifying default).
    PermanentError when the file holds no certificate.
    """
    try:
        return ssl.create_default_context(cafile=cacert) if cacert else None
    except OSError as error:
        raise PermanentError(f"The CA file {cacert} cannot be used ({error}): check {variable}.") from error
