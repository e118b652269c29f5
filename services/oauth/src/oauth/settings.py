"""What oauth reads from the environment."""

from shared.settings import AmazonSettings


class OauthSettings(AmazonSettings, frozen=True, kw_only=True):
    """Beside the common ones: where the consent page is."""

    amazon_seller_central_url: str | None = None
    """One address for every marketplace, for a stand-in; None asks Amazon's own hosts."""
    amazon_app_draft: bool = False
    """True while the application is a draft: its consent page wants version=beta."""
    default_country: str = "FR"
    """The marketplace whose consent page is shown when the product names none."""
