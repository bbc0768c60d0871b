"""Accounts and the API key, as they are stored: records like Moonraker's own.

Source: specification, "Authorization".
"""

from __future__ import annotations

import os
import time
from typing import Any

from moonfast.access import tokens
from moonfast.errors import BadRequest
from moonfast.storage.database import Database

NAMESPACE = "authorized_users"
API_USER = "_API_KEY_USER_"
TRUSTED_USER = "_TRUSTED_USER_"
RESERVED = (API_USER, TRUSTED_USER)
MAX_USERS = 1000
MAX_NAME_BYTES = 255
KEY_BYTES = 32
SOURCE = "moonraker"

Record = dict[str, Any]


class Users:
    """All accounts, in memory and in the database. What changes them returns when it is on the disk."""

    def __init__(self, database: Database) -> None:
        self._stored = database.namespace(NAMESPACE)
        self._users: dict[str, Record] = {}
        self._keys: dict[str, bytes] = {}  # of tokens
        self.api_key = ""

    async def load(self) -> None:
        """Read all accounts. An API key is made if there is none."""
        for name, record in self._stored.items():
            if isinstance(record, dict) and name == API_USER:
                self.api_key = str(record.get("api_key") or "")
            elif isinstance(record, dict) and isinstance(record.get("password"), str):
                self._users[name] = record
        if not self.api_key:
            await self.new_api_key()

    def __len__(self) -> int:
        return len(self._users)

    def get(self, name: str) -> Record | None:
        return self._users.get(name)

    def all(self) -> list[Record]:
        return list(self._users.values())

    async def add(self, name: str, password: str, salt: str, source: str = SOURCE) -> None:
        """BadRequest: the name cannot be one, or is taken, or there are too many."""
        if not name or len(name.encode()) > MAX_NAME_BYTES or not name.isprintable():
            raise BadRequest(f"Argument 'username' must be a text of 1 to {MAX_NAME_BYTES} bytes")
        if name in self._users:
            raise BadRequest(f"User {name} already exists")
        if len(self._users) >= MAX_USERS:
            raise BadRequest(f"There are {MAX_USERS} users already: delete one first")
        record = {"username": name, "password": password, "salt": salt, "source": source, "created_on": time.time()}
        self._users[name] = record  # the name is taken from now on
        try:
            await self._stored.save(name, record)
        except BaseException:
            del self._users[name]
            raise

    async def remove(self, name: str) -> None:
        """The account and its tokens are gone when this returns; KeyError: there is none."""
        record = self._users.pop(name)
        key = self._keys.pop(name, None)
        try:
            await self._stored.remove(name)
        except BaseException:
            self._users[name] = record
            if key is not None:
                self._keys[name] = key
            raise

    async def set_password(self, name: str, password: str, salt: str, *, keeps_tokens: bool = False) -> None:
        """Unless `keeps_tokens`, all tokens of the user end."""
        changed = {**self._users[name], "password": password, "salt": salt}
        if not keeps_tokens:
            changed.pop("jwt_secret", None)
        await self._replace(name, changed)

    async def end_tokens(self, name: str) -> None:
        """From now on no token of this user is valid."""
        changed = {**self._users[name]}
        changed.pop("jwt_secret", None)
        await self._replace(name, changed)

    async def token_key(self, name: str) -> bytes:
        """What signs the tokens of a user; made when it is first needed."""
        found = self.key_of(name)
        if found is None:
            fresh = os.urandom(KEY_BYTES)
            await self._replace(name, {**self._users[name], "jwt_secret": fresh.hex()})
            found = self.key_of(name) or fresh
        return found

    def key_of(self, name: str) -> bytes | None:
        """The same if there is one already."""
        found = self._keys.get(name)
        if found is None:
            try:
                found = bytes.fromhex(self._users[name]["jwt_secret"])
            except (KeyError, TypeError, ValueError):
                return None
            if len(found) < KEY_BYTES:
                return None
            self._keys[name] = found
        return found

    def user_of(self, token: str, kind: str = tokens.ACCESS) -> str | None:
        """Whose valid token this is; None: nobody's."""
        claims = tokens.read(token)
        if claims is None or claims.kind != kind or claims.expires <= time.time():
            return None
        key = self.key_of(claims.username)
        return claims.username if key is not None and tokens.is_signed(claims, key) else None

    async def new_api_key(self) -> str:
        """From now on only the new one is valid."""
        fresh = os.urandom(16).hex()
        await self._stored.save(API_USER, {"username": API_USER, "api_key": fresh, "created_on": time.time()})
        self.api_key = fresh
        return fresh

    async def _replace(self, name: str, record: Record) -> None:
        before, self._users[name] = self._users[name], record
        key = self._keys.pop(name, None)
        try:
            await self._stored.save(name, record)
        except BaseException:
            if self._users.get(name) is record:
                self._users[name] = before
                if key is not None:
                    self._keys[name] = key
            raise
