"""The job that brings a service's schema up to date with dbmate: the tables that every service has (outbox,
inbox) first, then its own; and, as `amazon`, that of the gate before Amazon. Run before a deploy with the schema's
owner: DATABASE_URL=… python -m shared.migrate orders
"""

import asyncio
import importlib.util
import os
import shutil
import sys
import sysconfig
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

SHARED_MIGRATIONS = Path(__file__).parent / "migrations"
GATE = "amazon"
"""The schema of shared/amazon/gate.py, which is no service's: it has neither outbox nor inbox."""


class MigrationError(Exception):
    """dbmate refused; the message is what it said."""


def package_of(service: str) -> str:
    """The Python package and the schema of a service: tenant-sync is tenant_sync."""
    return service.replace("-", "_")


async def migrate(service: str, database_url: str) -> None:
    """Apply what is not applied yet; safe to run again, also at the same time (dbmate takes a lock).
    MigrationError with dbmate's words when a statement fails; what came before it stays applied.
    """
    folders = _folders(service)
    process = await asyncio.create_subprocess_exec(
        _dbmate(),
        "--no-dump-schema",
        *(argument for folder in folders for argument in ("--migrations-dir", str(folder))),
        "migrate",
        env={"DATABASE_URL": _with_search_path(database_url, package_of(service))},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise MigrationError(f"The migrations of {service} failed: {output.decode(errors='replace').strip()}")


def _folders(service: str) -> list[Path]:
    if service == GATE:
        return [Path(__file__).parent / "amazon" / "migrations"]
    spec = importlib.util.find_spec(package_of(service))
    if spec is None or spec.origin is None:
        raise MigrationError(f"There is no service {service!r} here: the package {package_of(service)} is missing.")
    return [SHARED_MIGRATIONS, Path(spec.origin).parent / "migrations"]


def _dbmate() -> str:
    """Dbmate from its wheel, beside this Python even where no PATH names it."""
    return shutil.which("dbmate", path=sysconfig.get_path("scripts")) or "dbmate"


def _with_search_path(url: str, schema: str) -> str:
    """Everything, dbmate's own table too, goes into the service's schema. dbmate wants TLS said either way."""
    try:
        parts = urlsplit(url)
    except ValueError:  # it quotes the URL, password and all
        raise MigrationError("DATABASE_URL is not the address of a database.") from None
    query = dict(parse_qsl(parts.query)) | {"search_path": schema}
    query.setdefault("sslmode", "prefer")
    return urlunsplit(parts._replace(scheme="postgres", query=urlencode(query)))


if __name__ == "__main__":
    if len(sys.argv) != 2 or not os.environ.get("DATABASE_URL"):  # noqa: PLR2004
        sys.exit(
            "Usage: DATABASE_URL=postgresql://OWNER:PASSWORD@HOST/keybuzz_backend python -m shared.migrate SERVICE"
        )
    try:
        asyncio.run(migrate(sys.argv[1], os.environ["DATABASE_URL"]))
    except MigrationError as error:
        sys.exit(str(error))
