"""Dovecot, where it is installed: a mailbox on a real mail server, for tests and benchmarks."""

import asyncio
import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

import trustme

from .errors import StackError
from .ports import free_port

USER, PASSWORD = "inbound", 'secret "and" \\ quoted'
DOVECOT = shutil.which("dovecot") or "/usr/sbin/dovecot"
CONFIG = """\
protocols = imap
listen = 127.0.0.1
base_dir = {folder}/run
log_path = {folder}/log
mail_location = maildir:{folder}/mail
mailbox_idle_check_interval = 1 s
ssl = required
ssl_cert = <{folder}/cert.pem
ssl_key = <{folder}/key.pem
passdb {{
  driver = passwd-file
  args = {folder}/users
}}
userdb {{
  driver = static
  args = uid=65534 gid=65534 home={folder}/home
}}
first_valid_uid = 1
service anvil {{
  chroot =
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = 0
  }}
  inet_listener imaps {{
    port = {port}
    ssl = yes
  }}
}}
"""


class Dovecot:
    def __init__(self, folder: Path, port: int, pid: int) -> None:
        self.folder = folder
        self.port = port
        self._children = Path(f"/proc/{pid}/task/{pid}/children")
        self._count = 0

    def deliver(self, raw: bytes, received_at: datetime | None = None) -> None:
        self._count += 1
        name = f"{1_700_000_000 + self._count}.{self._count}.test"
        path = self.folder / "mail" / "tmp" / name
        path.write_bytes(raw)
        os.chown(path, 65534, 65534)
        if received_at:
            os.utime(path, (received_at.timestamp(), received_at.timestamp()))
        path.rename(self.folder / "mail" / "new" / name)

    def _mails(self) -> list[Path]:
        return [path for sub in ("new", "cur") for path in (self.folder / "mail" / sub).iterdir()]

    def empty(self) -> None:
        for path in self._mails():
            path.unlink()

    async def renumber(self) -> None:
        async with asyncio.timeout(60):
            while self._is_read():  # noqa: ASYNC110 - who leaves may write the old number yet
                await asyncio.sleep(0.02)
        for path in (self.folder / "mail").glob("dovecot.index*"):
            path.unlink()
        listed = self.folder / "mail" / "dovecot-uidlist"
        listed.write_text(re.sub(r"\bV(\d+)", lambda found: f"V{int(found[1]) + 1}", listed.read_text(), count=1))

    def _is_read(self) -> bool:
        """There is a process for each reader, until some time after he has left."""
        for pid in self._children.read_text().split():
            with contextlib.suppress(OSError):  # it ends at this moment
                if Path(f"/proc/{pid}/comm").read_text() == "imap\n":
                    return True
        return False

    def seen(self) -> bool:
        return any("S" in path.name.partition(":2,")[2] for path in self._mails())

    def kept(self) -> int:
        return len(self._mails())


@asynccontextmanager
async def serving(authority: trustme.CA) -> AsyncIterator[Dovecot]:
    """With a certificate of this authority, for 127.0.0.1."""
    folder = Path(tempfile.mkdtemp(prefix="dovecot-"))  # short, for its sockets, and for its user to enter
    folder.chmod(0o755)  # noqa: ASYNC240 - a test may wait for its disk
    port = free_port()
    for sub in ("mail/new", "mail/cur", "mail/tmp", "home"):
        (folder / sub).mkdir(parents=True)
    for path in (folder / "mail", folder / "mail/new", folder / "mail/cur", folder / "mail/tmp", folder / "home"):
        os.chown(path, 65534, 65534)
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    (folder / "users").write_text(f"{USER}:{{PLAIN}}{PASSWORD}\n")
    (folder / "dovecot.conf").write_text(CONFIG.format(folder=folder, port=port))
    process = await asyncio.create_subprocess_exec(DOVECOT, "-F", "-c", folder / "dovecot.conf")
    try:
        async with asyncio.timeout(10):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    if process.returncode is not None:
                        raise StackError(f"Dovecot does not start: {(folder / 'log').read_text()}") from None
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    break
        yield Dovecot(folder, port, process.pid)
    finally:
        process.terminate()
        await process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def why_not() -> str | None:
    """What keeps it from running here; None when nothing does."""
    if not Path(DOVECOT).exists() or not Path("/usr/lib/dovecot/imap").exists():
        return "Dovecot is not installed (apt-get install dovecot-imapd)"
    return None if os.geteuid() == 0 else "Dovecot needs root, to serve as another user"
