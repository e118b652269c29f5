"""One way to trust a server: the machine's CAs, or those of one file. There is no switch to trust any."""

import ssl


def context(cacert: str | None) -> ssl.SSLContext | None:
    """A verifying context for a CA file; None leaves the choice to the client (its verifying default)."""
    return ssl.create_default_context(cafile=cacert) if cacert else None
