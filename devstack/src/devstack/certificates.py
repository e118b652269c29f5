"""The certificates that OpenBao and the mail server serve, each of an authority for one state folder only."""

from collections.abc import Sequence
from pathlib import Path

from .state import write_private


def ensure(authority: Path, certificate: Path, key: Path, names: Sequence[str] = ("127.0.0.1", "localhost")) -> None:
    """Write what is missing, for a server that has these names; the authority's own key is never kept."""
    if authority.exists() and certificate.exists() and key.exists():
        return
    import trustme  # noqa: PLC0415 - a quarter of a second that only the first start pays

    ca = trustme.CA(organization_name="KeyBuzz local stack")
    issued = ca.issue_cert(*names)
    for path in (authority, certificate, key):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_private(key, issued.private_key_pem.bytes())
    write_private(certificate, b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    write_private(authority, ca.cert_pem.bytes())
