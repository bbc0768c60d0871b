"""`/server/redirect`: sends a browser on, to pages that may use this server anyway."""

from __future__ import annotations

from urllib.parse import urlsplit

from moonfast.access.cors import OriginRule
from moonfast.api.call import Call, HttpAnswer
from moonfast.api.endpoint import endpoint
from moonfast.errors import BadRequest, Forbidden
from moonfast.vocab import GET, Access, Transport


class RedirectApi:
    """`origins` decides: anything else would be an open redirect."""

    def __init__(self, origins: OriginRule) -> None:
        self._origins = origins

    @endpoint(GET, "/server/redirect", transports=Transport.HTTP, access=Access.OPEN)
    def redirect(self, call: Call, url: str) -> HttpAnswer:
        """Send the browser to `url`. Error 403: it is not on a site that `cors_domains` allows, nor on this machine."""
        try:
            parts = urlsplit(url)
            is_web = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
        except ValueError:
            is_web = False
        if not is_web or any(character in url for character in "\r\n\t\\ ") or not url.isprintable():
            raise BadRequest("Invalid value for argument 'url': must be an absolute http or https address")
        if not self._origins.allows(f"{parts.scheme}://{parts.netloc}", call.host):
            raise Forbidden(f"Redirects to {parts.netloc} are not allowed: add it to cors_domains in [authorization]")
        try:
            location = url.encode("ascii").decode("ascii")
        except UnicodeEncodeError:
            raise BadRequest("Invalid value for argument 'url': encode it as %XX") from None
        return HttpAnswer(status=302, headers=(("Location", location),))
