"""Connections to Redis: packed by hiredis, in a pool that waits, and that is dropped when its server is the primary no more."""

from __future__ import annotations

import asyncio
import time
import weakref
from typing import Any

from redis.asyncio import BlockingConnectionPool, Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelManagedConnection
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.connection import HiredisRespSerializer
from redis.driver_info import DriverInfo
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import MovedError, ReadOnlyError

from shared.settings import Settings
from shared.store.address import Address, parse_address, sentinel_options, tls_options

MAX_CONNECTIONS = 100  #: of one process; most calls share trips, so that a busy gateway uses few
POOL_WAIT_S = 2.0  #: a call that gets no connection in this time fails, so that its client hears of it within seconds


class _Packing:
    """Writes commands with hiredis, as redis-py's connections do outside asyncio: 4 us instead of 37 for that of a submit."""

    _packer = HiredisRespSerializer()

    @classmethod
    def pack(cls, *args: Any) -> list[bytes]:
        """Write a command as Redis reads it.

        Raises:
            ValueError: a text in it cannot be encoded.
            DataError: something in it is neither text nor number.
        """
        packed: list[bytes] = cls._packer.pack(*args)
        return packed

    def pack_command(self, *args: Any) -> list[bytes]:
        """Write a command as Redis reads it."""
        return self.pack(*args)


class _Packed(_Packing):
    """Tells its pool when the server turns out to be no primary: another one has taken over."""

    def __init__(self, *, pool: Pool, **options: Any) -> None:
        super().__init__(**options)
        self._pool = pool

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """Read an answer.

        Raises:
            Disconnected: also where it says that this is no primary; whatever was asked for can be asked again elsewhere.
        """
        try:
            return await super().read_response(*args, **options)  # type: ignore[misc]  # the connection that it is mixed into
        except (ReadOnlyError, MovedError) as error:
            self._pool.drop()
            await self.disconnect()  # type: ignore[attr-defined]
            raise Disconnected(f"this is no primary any more: {error}") from error
        except Disconnected as error:
            if isinstance(error.__context__, ReadOnlyError):  # redis-py's connections by sentinel say it so
                self._pool.drop()
            raise


class PackedConnection(_Packed, Connection):
    """A connection to a host and port."""


class PackedTlsConnection(_Packed, SSLConnection):
    """One with TLS."""


class PackedSocketConnection(_Packed, UnixDomainSocketConnection):
    """One to a socket file."""


class PackedSentinelConnection(_Packed, SentinelManagedConnection):
    """One to whichever server is the primary when it is made."""


class PackedSentinelTlsConnection(_Packed, SentinelManagedConnection, SSLConnection):
    """The same with TLS."""


class PoolEmpty(Disconnected):
    """All of this process's connections to Redis are in use."""


class Pool(BlockingConnectionPool):
    """Gives connections, and waits for one that comes back where all are in use; redis-py's plain pool would fail at once."""

    moved_at_s = 0.0  #: when a connection was last taken or given back, by the monotonic clock

    async def get_connection(self, *args: Any, **options: Any) -> AbstractConnection:
        """Give a connection.

        Raises:
            PoolEmpty: none came back in time.
        """
        try:
            connection: AbstractConnection = await super().get_connection(*args, **options)  # type: ignore[no-untyped-call]
        except Disconnected as error:
            if self.can_get_connection():
                raise
            msg = f"all {self.max_connections} connections to Redis are in use"
            raise PoolEmpty(msg) from error
        self.moved_at_s = time.monotonic()
        return connection

    async def release(self, connection: AbstractConnection) -> None:
        """Take a connection back, also from a caller who is cancelled meanwhile: it would be lost for good."""
        self.moved_at_s = time.monotonic()
        await asyncio.shield(super().release(connection))

    @property
    def stuck_s(self) -> float:
        """Seconds for which all connections are in use and none came back: longer than a call may take, they are lost."""
        return 0.0 if self.can_get_connection() else time.monotonic() - self.moved_at_s

    def drop(self) -> None:
        """Have every connection made anew before it is used again: the server behind them is not the one to talk to."""
        for connection in (*self._available_connections, *self._in_use_connections):
            connection.mark_for_reconnect()  # type: ignore[no-untyped-call]

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        """Connect; one that was dropped is closed before."""
        if connection.should_reconnect():  # type: ignore[no-untyped-call]
            await connection.disconnect()
        await super().ensure_connection(connection)


class SentinelPool(Pool):
    """Asks the sentinels who the primary is, for each connection that it makes."""

    is_master, check_connection = True, False  #: as its connections, which are redis-py's, want to know

    def __init__(self, service: str, sentinel: Sentinel, **options: Any) -> None:
        """Make no connection yet.

        Args:
            service: the sentinels' name of the primary.
            sentinel: their client.
            options: as for every pool.
        """
        super().__init__(**options)
        self.connection_kwargs["connection_pool"] = weakref.proxy(self)
        self._service, self._sentinel = service, sentinel
        self._primary: tuple[str, int] | None = None

    async def get_master_address(self) -> tuple[str, int]:
        """Name the primary's host and port.

        Raises:
            Disconnected: no sentinel knows one that lives.
        """
        primary: tuple[str, int] = await self._sentinel.discover_master(self._service)
        if self._primary not in {None, primary}:
            self.drop()
        self._primary = primary
        return primary

    async def disconnect(self, inuse_connections: bool = True) -> None:  # noqa: FBT001, FBT002  # its signature
        """Close, those to the sentinels too."""
        await super().disconnect(inuse_connections)
        await self._sentinel.aclose()


def make_pool(settings: Settings) -> Pool:
    """Make a pool: short time-outs, since a request waits behind each call.

    A command on a connection that swallows bytes is given up within a third of a lease: then there is time to beat on another.
    """
    address = parse_address(settings.redis_url)
    options: dict[str, Any] = {
        "max_connections": MAX_CONNECTIONS,
        "timeout": POOL_WAIT_S,
        "decode_responses": True,
        "encoding_errors": "replace",  # else one damaged record's bytes fail everybody whose answer comes in the same trip
        "socket_timeout": min(10.0, max(1.0, settings.lease_s / 3)),
        "socket_connect_timeout": 3,
        "health_check_interval": 15,
        "driver_info": DriverInfo(),  # made once: redis-py reads its version from disk for every connection otherwise, in 1 ms
        "retry": Retry(ExponentialBackoff(cap=1, base=0.05), 3),
        **address.login,
        **_keep_alive(address),
        **(tls_options(settings) if address.is_tls else {}),
    }
    pool = _sentinel_pool(address, settings, options) if address.sentinels else Pool(**options, **address.place)
    pool.connection_class = _kind(address)
    pool.connection_kwargs["pool"] = weakref.proxy(pool)
    return pool


def _keep_alive(address: Address) -> dict[str, Any]:
    """Have the kernel ask within half a minute, as redis-py sets it, and not after its default of two hours."""
    return {} if address.path else {"socket_keepalive": True}


def _kind(address: Address) -> type[AbstractConnection]:
    if address.path:
        return PackedSocketConnection
    if address.sentinels:
        return PackedSentinelTlsConnection if address.is_tls else PackedSentinelConnection
    return PackedTlsConnection if address.is_tls else PackedConnection


def _sentinel_pool(address: Address, settings: Settings, options: dict[str, Any]) -> SentinelPool:
    asking = sentinel_options(settings) | {"retry": Retry(NoBackoff(), 0)}
    sentinel = Sentinel(address.sentinels, sentinel_kwargs=asking)  # type: ignore[no-untyped-call]
    return SentinelPool(address.service, sentinel, **options)
