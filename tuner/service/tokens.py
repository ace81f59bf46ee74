"""Bearer tokens: how they are made, stored and checked."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from typing import Literal

from db.records import TokenRecord
from db.store import Store
from tuner.errors import UsageError

Scope = Literal["read", "run"]
SCOPES: tuple[Scope, ...] = ("read", "run")
"""``run`` starts, resumes and stops sweeps, and includes ``read``."""

_FORM = re.compile(r"tuner_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")


def create(store: Store, scope: str, *, name: str = "", expires_in_s: float | None = None) -> tuple[str, TokenRecord]:
    """A new token and its record. The text is shown once; the database holds only a hash.

    The secret has 256 random bits, so a plain SHA-256 is enough: it cannot be guessed.

    Raises:
        UsageError: There is no such scope, or the lifetime is not positive.
    """
    if scope not in SCOPES:
        raise UsageError(f"scope {scope!r} is unknown; known are {', '.join(SCOPES)}")
    if expires_in_s is not None and expires_in_s <= 0:
        raise UsageError(f"a token cannot expire after {expires_in_s:g} s; give a positive number of days")
    key, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    now = time.time()
    record = TokenRecord(
        key=key,
        secret_hash=hashed(secret),
        name=name,
        scopes=SCOPES[: SCOPES.index(scope) + 1],
        created_at=now,
        expires_at=None if expires_in_s is None else now + expires_in_s,
    )
    store.tokens.create(record)
    return f"tuner_{key}_{secret}", record


def hashed(secret: str) -> str:
    """The hash of a secret, as the database holds it."""
    return hashlib.sha256(secret.encode()).hexdigest()


def parts(token: str) -> tuple[str, str] | None:
    """Public key and secret of a token, None if the text is not a token."""
    match = _FORM.fullmatch(token)
    return None if match is None else (match[1], match[2])


def holds(record: TokenRecord | None, secret: str) -> bool:
    """Whether the secret matches the record and the token is still active. Takes constant time."""
    known = record.secret_hash if record else "0" * 64
    same = hmac.compare_digest(known, hashed(secret))
    return record is not None and same and state(record, time.time()) == "active"


def state(record: TokenRecord, now: float) -> str:
    """The state of a token in one word."""
    if record.revoked_at is not None:
        return "revoked"
    return "expired" if record.expires_at is not None and now >= record.expires_at else "active"
