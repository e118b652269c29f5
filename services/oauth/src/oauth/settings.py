"""What oauth reads from the environment."""

from typing import Annotated

from msgspec import Meta

from shared.settings import AmazonSettings

ORIGIN = r"(https://[a-z0-9.-]+|http://(localhost|127\.0\.0\.1))(:[0-9]+)?"


class OauthSettings(AmazonSettings, frozen=True, kw_only=True):
    """Beside the common ones: the consent page, the way back to the product, and how often what is looked at."""

    amazon_seller_central_url: str | None = None
    """One address for every marketplace, for a stand-in; None asks Amazon's own hosts."""
    amazon_app_draft: bool = False
    """True while the application is a draft: its consent page wants version=beta."""
    default_country: str = "FR"
    """The marketplace whose consent page is shown when the product names none."""
    product_login_url: Annotated[str, Meta(pattern=rf"^{ORIGIN}(/\S*)?\Z")] | None = None
    """Where a seller who comes from Amazon signs in to the product."""
    return_origins: Annotated[str, Meta(pattern=rf"^{ORIGIN}(,{ORIGIN})*\Z")] | None = None
    """Where the product may ask a seller to be led back to: origins, by commas."""
    requests_per_minute: Annotated[int, Meta(ge=1)] = 60
    """From one address, for start, login and callback together."""
    check_seconds: Annotated[int, Meta(ge=1)] = 900
    """How often each connection is compared with what Vault holds."""
    verify_seconds: Annotated[int, Meta(ge=1)] = 86_400
    """How often Amazon is asked whether an authorization still stands."""
