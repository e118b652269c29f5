"""oauth, wired."""

import httpx

from shared.amazon import spapi
from shared.service import Service, run
from shared.settings import load
from shared.vault import Vault

from .routes import ROUTES
from .settings import OauthSettings


async def main() -> None:
    settings = load(OauthSettings)
    vault = Vault(settings)
    async with Service("oauth", settings) as service, httpx.AsyncClient(timeout=spapi.TIMEOUT) as http:
        api = spapi.SpApi(settings, vault, http)
        service.checks["vault"] = vault.not_ready
        await service.serve(ROUTES, dependencies={"api": api, "vault": vault, "settings": settings})


if __name__ == "__main__":
    run(main)
