"""python -m devstack.sandbox: serve until SIGTERM or Ctrl-C."""

import logging
import os
import sys

import uvicorn

from .app import create_app
from .http import Connection
from .settings import SettingsError, from_environment
from .state import log


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    log.setLevel(logging.INFO)
    try:
        settings = from_environment(os.environ)
    except SettingsError as error:
        sys.exit(f"The sandbox cannot start. {error}")
    app = create_app(settings)
    log.info("serving on http://%s:%s", settings.host, settings.port)
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        http=Connection,
        access_log=False,
        log_config=None,
        timeout_keep_alive=75,  # longer than clients keep theirs, so that none meets a closed connection
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()
