"""API keys: who may call, and how much. A secret is shown once; Redis holds its hash."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack, cast

from shared.errors import KeyInvalid, LastAdminKey, NotFound, RateLimited
from shared.store.connection import reply
from shared.store.ids import new_id
from shared.store.records import Records

#: What a secret begins with, so that scanners of leaked secrets can be taught to find it.
SECRET_PREFIX = "sk-sightline-"  # noqa: S105  # the part that is no secret
NO_KEY = "there is no API key by that id"
MINUTE_S = 60


@dataclass(frozen=True)
class ApiKey:
    """What is known of a key; a limit of 0 is none. Its id owns what it creates."""

    id: str
    name: str
    created_at: int
    max_requests: int = 0  #: a minute
    max_queued: int = 0  #: jobs that wait
    max_running: int = 0  #: jobs at a time
    max_jobs_day: int = 0  #: jobs that are created in a day, which begins at midnight, UTC
    max_vision_tokens_day: int = 0  #: vision tokens of jobs that end in a day, from which on no others are taken
    weight: float = 1.0  #: its share of the workers beside other keys
    admin: bool = False  #: whether it may administer keys over HTTP

    @property
    def has_quota(self) -> bool:
        """Whether a day's end is waited for once enough was done."""
        return bool(self.max_jobs_day or self.max_vision_tokens_day)


class Limits(TypedDict, total=False):
    """What a key may do, as :class:`ApiKey` has it; what is left out stays as it is."""

    max_requests: int
    max_queued: int
    max_running: int
    max_jobs_day: int
    max_vision_tokens_day: int
    weight: float


@dataclass(frozen=True)
class Allowance:
    """What is left of a key's requests in this minute."""

    limit: int
    remaining: int
    reset_s: int


def _digest(secret: str) -> str:
    # Plain sha256: 256 random bits cannot be guessed, so there is nothing for a slow hash to slow down.
    return hashlib.sha256(secret.encode()).hexdigest()


class ApiKeys(Records):
    """Keys.

    In Redis: ``keys`` id → created · ``key:<id>`` (hash) · ``owner:<id>`` limits, for scripts · ``requests:<id>:<minute>`` ·
    ``revoked`` id → day.
    """

    async def create(self, name: str, *, admin: bool = False, **limits: Unpack[Limits]) -> tuple[ApiKey, str]:
        """Make a key.

        Returns:
            What is known of it, and its secret, which cannot be had again.
        """
        key_id = new_id("key")
        secret = f"{SECRET_PREFIX}{key_id.removeprefix('key_')}-{secrets.token_urlsafe(32)}"
        seconds, _ = await self.redis.time()
        key = ApiKey(key_id, name, seconds, admin=admin, **limits)
        record = key.__dict__ | {"admin": int(admin), "sha256": _digest(secret)}
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.hset(self._key(f"key:{key_id}"), mapping=cast("Any", record))
            pipe.zadd(self._key("keys"), {key_id: seconds})
            await pipe.execute()
        await self.limit(key_id, **limits)
        return key, secret

    async def limit(self, owner: str, **limits: Unpack[Limits]) -> bool:
        """Set what an owner may do from now on; says whether that is a key. Limits that are not named stay as they are."""
        return bool(await self._run("limit_owner", owner, *(part for pair in limits.items() for part in cast("Any", pair))))

    async def list_keys(self) -> list[ApiKey]:
        """Give every key, the oldest first."""
        ids = cast("list[str]", await self.redis.zrange(self._key("keys"), 0, -1))
        records = [await reply(self.redis.hgetall(self._key(f"key:{key_id}"))) for key_id in ids]
        return [_key(record) for record in records if record]

    async def list_page(self, *, limit: int, after: str | None) -> tuple[list[ApiKey], bool]:
        """List keys, the oldest first, and say whether there are more.

        Raises:
            InvalidRequest: nothing tells where ``after`` stood.
        """
        return await self._list("keys", self._find, limit=limit, after=after, newest_first=False, unit_ms=1000)

    async def get(self, key_id: str) -> ApiKey:
        """Read one.

        Raises:
            NotFound: there is none.
            RecordUnreadable: the record is damaged, or of another version.
        """
        if key := await self._find(key_id):
            return key
        raise NotFound(NO_KEY)

    async def _find(self, key_id: str) -> ApiKey | None:
        return await self._record(f"key:{key_id}", _key)

    async def revoke(self, key_id: str, *, keep_admin: bool = False) -> bool:
        """Make a key invalid at once; says whether there was one. Its jobs run on.

        Args:
            key_id: which.
            keep_admin: the last key that may administer others stays.

        Raises:
            LastAdminKey: it is that one.
        """
        done = await self._run("revoke_key", key_id, int(keep_admin))
        if done < 0:
            raise LastAdminKey
        return bool(done)

    async def revoked_of(self, key_ids: Sequence[str]) -> list[str]:
        """Tell which of some keys are valid no more."""
        found = await asyncio.gather(*(self.redis.ask("EXISTS", self._key(f"key:{key_id}")) for key_id in key_ids))
        return [key_id for key_id, exists in zip(key_ids, found, strict=True) if not exists]

    async def check(self, secret: str) -> ApiKey:
        """Find the key of a secret.

        Raises:
            KeyInvalid: there is none; the same answer whether the key never was or the secret is wrong.
        """
        key_id = "key_" + secret.removeprefix(SECRET_PREFIX).partition("-")[0][:64]
        record = await self.redis.ask("HGETALL", self._key(f"key:{key_id}"))
        if not hmac.compare_digest(record.get("sha256", "").encode(), _digest(secret).encode()):
            raise KeyInvalid("That API key is not valid here, or was revoked; `sightline keys list` shows those that are.")
        return _key(record)

    async def count_request(self, key: ApiKey) -> Allowance | None:
        """Count a request of a key; None where it has no limit.

        Raises:
            RateLimited: it has none left in this minute.
        """
        if not key.max_requests:
            return None
        seconds, _ = await self.redis.time()
        slot = self._key(f"requests:{key.id}:{seconds // MINUTE_S}")
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.incr(slot)
            pipe.expire(slot, 2 * MINUTE_S)
            used, _ = await pipe.execute()
        allowance = Allowance(key.max_requests, max(0, key.max_requests - used), MINUTE_S - seconds % MINUTE_S)
        if used > key.max_requests:
            msg = f"this API key may make {key.max_requests} requests a minute"
            raise RateLimited(msg, retry_after_s=allowance.reset_s)
        return allowance


_WHOLE = ("created_at", "max_requests", "max_queued", "max_running", "max_jobs_day", "max_vision_tokens_day")


def _key(record: dict[str, str]) -> ApiKey:
    """Read a key; one that an older version made lacks what came later."""
    numbers: dict[str, Any] = {name: int(record[name]) for name in _WHOLE if name in record}
    weight, admin = float(record.get("weight", 1)), record.get("admin") == "1"
    return ApiKey(id=record["id"], name=record["name"], weight=weight, admin=admin, **numbers)
