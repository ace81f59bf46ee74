"""Tokens of the HTTP service. Only the hash of a secret gets here, never the secret."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

from sqlalchemy import bindparam, select, update

from db import schema
from db.database import Database
from db.records import TokenRecord

_token = schema.api_token


class Tokens:
    """Stores and reads tokens."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def create(self, token: TokenRecord) -> int:
        """Store a token, whose ``key`` must be new, and return its ID."""
        values = {
            "key": token.key,
            "secret_hash": token.secret_hash,
            "name": token.name,
            "scopes": " ".join(token.scopes),
            "created_at": token.created_at or time.time(),
            "expires_at": token.expires_at,
        }
        statement = self._db.insert(_token).values(values).returning(_token.c.id)
        return self._db.write(lambda c: int(c.execute(statement).scalar_one()), repeat=False)

    def find(self, keys: Collection[str]) -> dict[str, TokenRecord]:
        """The tokens with these public keys, active or not; unknown keys are left out.

        The server asks at each request, so that a revocation takes effect at once.
        """
        query = self._db.once(
            "find tokens", lambda: select(_token).where(_token.c.key.in_(bindparam("keys", expanding=True)))
        )
        return {row.key: _record(row) for row in self._db.glance(query, {"keys": sorted(keys)})}

    def get(self, key: str) -> TokenRecord | None:
        """The token with this public key, active or not; None if there never was one."""
        return self.find([key]).get(key)

    def all(self) -> list[TokenRecord]:
        """All tokens ever made, oldest first."""
        return [_record(row) for row in self._db.rows(select(_token).order_by(_token.c.id))]

    def any(self) -> bool:
        """Whether any token was ever made, revoked ones included."""
        query = self._db.once("any token", lambda: select(_token.c.id).limit(1))
        return bool(self._db.glance(query, {}))

    def revoke(self, key: str) -> bool:
        """Revoke a token for good; False if it does not exist. Revoking twice keeps the first time."""
        now = time.time()
        revoked = update(_token).where(_token.c.key == key, _token.c.revoked_at.is_(None)).values(revoked_at=now)
        self._db.write(lambda c: c.execute(revoked).rowcount)
        return self.get(key) is not None


def _record(row: Any) -> TokenRecord:
    values = dict(row._mapping)
    return TokenRecord(**{**values, "scopes": tuple(values["scopes"].split())})
