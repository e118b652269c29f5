"""What tenant-sync reads from the environment."""

from typing import Annotated

from msgspec import Meta

from shared.settings import Secret, Settings


class TenantSyncSettings(Settings, frozen=True, kw_only=True):
    """Beside the common ones: the product's database, read only, and where inbound mail goes."""

    product_database_url: Secret
    inbound_domain: str = "inbound.keybuzz.io"
    active_countries: Annotated[str, Meta(pattern=r"^[A-Z]{2}(,[A-Z]{2})*\Z")] = "FR"
    """Every tenant gets an inbound address for each of them, and for those of its connection."""
    reconcile_seconds: Annotated[int, Meta(ge=1)] = 300
    """How often drift that no event told of is looked for."""

    @property
    def countries(self) -> list[str]:
        return self.active_countries.split(",")
