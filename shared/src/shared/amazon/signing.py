"""AWS Signature Version 4 of calls, for a gateway that still asks for it. Amazon itself has needed neither IAM nor
signatures since 2 October 2023 (its announcement "SP-API will no longer require AWS IAM or AWS Signature Version 4").
Needs the extra `sigv4` of this package.
"""

from collections.abc import Generator

import httpx
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from .credentials import AppCredentials
from .errors import AppCredentialsError
from .marketplaces import AWS_REGIONS, Region

SERVICE = "execute-api"
SIGNED = ("x-amz-access-token", "content-type")
"""Of our headers; the host and the time are signed in any case."""


class Signature(httpx.Auth):
    """Signs what is sent, as it is sent."""

    requires_request_body = True

    def __init__(self, app: AppCredentials, region: Region) -> None:
        """AppCredentialsError where the application's credentials have no keys to sign with."""
        if not (app.aws_access_key_id and app.aws_secret_access_key):
            raise AppCredentialsError(
                "AMAZON_SIGV4 is on, and the application's credentials in Vault have no aws_access_key_id and"
                " aws_secret_access_key: put them there, or turn it off, as Amazon needs no signatures."
            )
        self._signer = SigV4Auth(
            Credentials(app.aws_access_key_id, app.aws_secret_access_key), SERVICE, AWS_REGIONS[region]
        )

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        signed = AWSRequest(
            request.method,
            str(request.url.copy_with(query=None)),
            headers={name: request.headers[name] for name in SIGNED if name in request.headers},
            data=request.content,
            params=request.url.params.multi_items(),
        )
        self._signer.add_auth(signed)
        for name in ("Authorization", "X-Amz-Date"):
            request.headers[name] = signed.headers[name]
        yield request
