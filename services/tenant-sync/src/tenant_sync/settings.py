"""What tenant-sync reads from the environment."""

from shared.settings import Secret, Settings


class TenantSyncSettings(Settings, frozen=True, kw_only=True):
    """Beside the common ones: the product's database, read only, and where inbound mail goes."""

    product_database_url: Secret
    inbound_domain: str = "inbound.keybuzz.io"
    default_country: str = "FR"
