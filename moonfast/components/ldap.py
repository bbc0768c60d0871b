"""Logins against a directory: the name is looked up there, and the password tried by binding with it.

    bind as the configured account (or nobody) -> search the user -> bind as the user -> look whether it is in the group

Needs the package ldap3, which is imported with the first login. Source: RFC 4511; RFC 4515 for what a filter may hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from typing import Annotated, Any

from moonfast.component import Component
from moonfast.config.options import Option, Section
from moonfast.errors import BadRequest, StartError, Unavailable

log = logging.getLogger(__name__)

TIMEOUT_S = 10
"""Whole seconds: the library takes no others."""
DEFAULT_FILTER = "(&(objectClass=Person)(cn=USERNAME))"
ACTIVE_DIRECTORY_FILTER = "(&(objectClass=user)(sAMAccountName=USERNAME))"
PLACE = "USERNAME"
"""What stands for the name in a filter."""


class LdapConfig(Section, name="ldap"):
    ldap_host: Annotated[str, Option(doc="Name or address of the directory server.")] = "localhost"
    ldap_port: Annotated[int | None, Option(minimum=1, maximum=65535, doc="Its port: 389, or 636 with TLS.")] = None
    ldap_secure: Annotated[bool, Option(doc="Use TLS.")] = False
    base_dn: Annotated[str, Option(doc="Where users are searched: `dc=example,dc=org`.")]
    bind_dn: Annotated[str | None, Option(doc="Account to search with. Without it the search is anonymous.")] = None
    bind_password: Annotated[str | None, Option(doc="Password of this account.")] = None
    group_dn: Annotated[str | None, Option(doc="Only members of this group may log in.")] = None
    is_active_directory: Annotated[bool, Option(doc="The server is an Active Directory.")] = False
    user_filter: Annotated[
        str | None, Option(doc="Filter that finds a user; `USERNAME` in it stands for the name.")
    ] = None
    membership_attribute: Annotated[str, Option(doc="Attribute of a user that names its groups.")] = "memberOf"
    check_dn_case: Annotated[bool, Option(doc="Upper and lower case of `group_dn` matter.")] = False


class Ldap(Component):
    def __init__(self, config: LdapConfig) -> None:
        self._config = config
        found = config.user_filter or (ACTIVE_DIRECTORY_FILTER if config.is_active_directory else DEFAULT_FILTER)
        if PLACE not in found:
            raise StartError(f"[ldap] user_filter must hold {PLACE}: it stands for the name of the user")
        self._filter = found

    async def check(self, username: str, password: str) -> None:
        """BadRequest: name or password are wrong, or the user is not in the group. Unavailable: nobody can tell now."""
        if not username or not password:  # a bind without a password succeeds, as nobody (RFC 4513 section 5.1.2)
            raise BadRequest("Invalid username or password")
        await asyncio.to_thread(self._check, username, password)

    def _check(self, username: str, password: str) -> None:
        """Blocking."""
        try:
            from ldap3.core.exceptions import LDAPException
        except ImportError:
            raise Unavailable("Logins with LDAP need the Python package ldap3: install it, then restart") from None
        try:
            self._ask(username, password)
        except LDAPException as exc:
            log.warning("The directory server cannot be asked: %s", type(exc).__name__)
            raise Unavailable("The directory server does not answer: try again later") from None

    def _ask(self, username: str, password: str) -> None:
        from ldap3 import SUBTREE
        from ldap3.utils.conv import escape_filter_chars

        config = self._config
        with self._bound(config.bind_dn, config.bind_password) as connection:
            if connection is None:
                log.warning("[ldap] the directory server refuses bind_dn and bind_password: correct them")
                raise Unavailable("The directory server refuses this server: see the log")
            wanted = self._filter.replace(PLACE, escape_filter_chars(username))
            attributes = [config.membership_attribute] if config.group_dn else []
            connection.search(config.base_dn, wanted, SUBTREE, attributes=attributes, size_limit=2)
            entries = [item for item in connection.response or () if item.get("type") == "searchResEntry"]
        if len(entries) != 1:  # nobody, or a name that two have
            raise BadRequest("Invalid username or password")
        with self._bound(entries[0]["dn"], password) as connection:
            if connection is None:
                raise BadRequest("Invalid username or password")
        if config.group_dn and not self._is_member(entries[0]["attributes"].get(config.membership_attribute)):
            raise BadRequest(f"User {username} is not in the group that may log in")

    @contextlib.contextmanager
    def _bound(self, user: str | None, password: str | None) -> Iterator[Any]:
        """A connection as this account; None: the server does not let it in."""
        from ldap3 import NONE, Connection, Server

        config = self._config
        port = config.ldap_port or (636 if config.ldap_secure else 389)
        server = Server(config.ldap_host, port, use_ssl=config.ldap_secure, get_info=NONE, connect_timeout=TIMEOUT_S)
        connection = Connection(server, user, password, read_only=True, receive_timeout=TIMEOUT_S, check_names=False)
        try:
            yield connection if connection.bind() else None
        finally:
            connection.unbind()

    def _is_member(self, groups: Any) -> bool:
        wanted = str(self._config.group_dn)
        names = [str(name) for name in (groups if isinstance(groups, list) else [groups] if groups else [])]
        if self._config.check_dn_case:
            return wanted in names
        return wanted.lower() in (name.lower() for name in names)
