"""Where Redis is, and how one connects to it: the one place for our own two clients, and for kombu's."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

if TYPE_CHECKING:
    import redis

    from shared.settings import Settings

_PORT, _SENTINEL_PORT = 6379, 26379
SENTINEL_TIMEOUT_S = 1.0  #: there are others to ask
#: What may stand behind the ? of an address. kombu asks for those of TLS, so they are often there; they say what holds anyway.
_OPTIONS = {"db"}
_SENTINEL_OPTIONS = {"sentinel_username", "sentinel_password"}
_TLS_OPTIONS = {("ssl_cert_reqs", "required"), ("ssl_cert_reqs", "cert_required"), ("ssl_check_hostname", "true")}


@dataclass(frozen=True)
class Address:
    """What an address of Redis says."""

    host: str = "localhost"
    port: int = _PORT
    path: str = ""  #: of a socket file, instead of host and port
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    is_tls: bool = False
    sentinels: tuple[tuple[str, int], ...] = ()  #: who know host and port
    service: str = ""  #: how they call it
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """Name the place without user and password."""
        if self.sentinels:
            return f"{self.service} of the sentinels {', '.join(_joined(*sentinel) for sentinel in self.sentinels)}"
        return self.path or _joined(self.host, self.port)

    @property
    def login(self) -> dict[str, Any]:
        """redis-py's options, sync and async: who we are, and which database."""
        return {"username": self.username, "password": self.password, "db": self.db}

    @property
    def place(self) -> dict[str, Any]:
        """Where redis-py finds it."""
        return {"path": self.path} if self.path else {"host": self.host, "port": self.port}


def parse_address(url: str) -> Address:
    """Read an address.

    Raises:
        ValueError: it is none, or has options that are settings of their own; its text holds no secret.
    """
    place = urlsplit(url)
    options = {name: value for name, value in parse_qsl(place.query) if (name, value.lower()) not in _TLS_OPTIONS}
    known = _OPTIONS | (_SENTINEL_OPTIONS if place.scheme in {"redis+sentinel", "rediss+sentinel"} else set())
    if place.scheme not in {"redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel"} or options.keys() - known:
        raise ValueError("not an address of Redis")
    login: dict[str, Any] = {
        "username": unquote(place.username) if place.username else None,
        "password": unquote(place.password) if place.password else None,
    }
    if place.scheme.endswith("+sentinel"):
        return _of_sentinels(place, options, login)
    if place.scheme == "unix":
        if not place.path:
            raise ValueError("no path of a socket")
        return Address(path=unquote(place.path), db=_number(options.get("db", "0")), **login)
    if not place.netloc and not place.path.strip("/"):
        raise ValueError("neither a host nor a database")
    return Address(
        host=unquote(place.hostname or "localhost"),
        port=_port(place) or _PORT,
        db=_number(options.get("db") or unquote(place.path).strip("/") or "0"),
        is_tls=place.scheme == "rediss",
        **login,
    )


def _of_sentinels(place: SplitResult, options: dict[str, str], login: dict[str, Any]) -> Address:
    service, _, db = unquote(place.path).strip("/").partition("/")
    hosts = [urlsplit(f"//{host}") for host in place.netloc.rpartition("@")[2].split(",")]
    sentinels = tuple((unquote(host.hostname or ""), _port(host) or _SENTINEL_PORT) for host in hosts)
    if not service or not all(host for host, _ in sentinels):
        raise ValueError("sentinels without hosts, or without the name that they give the primary")
    number, is_tls = _number(options.pop("db", "") or db or "0"), place.scheme.startswith("rediss")
    login |= options  # that of the sentinels
    return Address(sentinels=sentinels, service=service, db=number, is_tls=is_tls, **login)


def _port(place: SplitResult) -> int | None:
    with suppress(ValueError):  # whose text would tell a password that has a slash: what stands before it is taken for the port
        return place.port
    raise ValueError("a port is a number, and a password's / is written as %2F")


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError("a database of Redis is a number")
    return int(text)


def tls_options(settings: Settings) -> dict[str, Any]:
    """Give redis-py's and kombu's options of TLS: chain and name are verified unless the settings call for less.

    Args:
        settings: the ``redis_tls_`` ones.
    """
    insecure = settings.redis_tls_insecure
    files = {"ca_certs": settings.redis_tls_ca, "certfile": settings.redis_tls_cert, "keyfile": settings.redis_tls_key}
    return {
        "ssl_cert_reqs": ssl.CERT_NONE if insecure else ssl.CERT_REQUIRED,
        "ssl_check_hostname": not insecure,
        **{f"ssl_{name}": str(path) for name, path in files.items() if path},
    }


def sentinel_options(settings: Settings) -> dict[str, Any]:
    """Give redis-py's options of the connections to sentinels: their own login, and short time-outs."""
    address = parse_address(settings.redis_url)
    login = {"username": address.sentinel_username, "password": address.sentinel_password}
    waits = {"socket_timeout": SENTINEL_TIMEOUT_S, "socket_connect_timeout": SENTINEL_TIMEOUT_S}
    return login | waits | ({"ssl": True, **tls_options(settings)} if address.is_tls else {})


def sync_client(settings: Settings, *, timeout_s: float, **options: Any) -> redis.Redis:
    """Make a client for a look from a command: it does not try again.

    Args:
        settings: where Redis is.
        timeout_s: of each step.
        options: others of redis-py's.

    Raises:
        redis.RedisError: no sentinel names a primary.
    """
    # Here, since every command reads the settings, and with them this module: redis is a fifth of a command's start.
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry
    from redis.sentinel import Sentinel

    address = parse_address(settings.redis_url)
    options |= {"socket_connect_timeout": timeout_s, "socket_timeout": timeout_s, "retry": Retry(NoBackoff(), 0)}
    if address.path:
        return redis.Redis(unix_socket_path=address.path, **address.login, **options)
    tls = {"ssl": True, **tls_options(settings)} if address.is_tls else {}
    place = address.place
    if address.sentinels:
        asking = sentinel_options(settings) | {"retry": Retry(NoBackoff(), 0)}
        with closing(Sentinel(address.sentinels, sentinel_kwargs=asking)) as sentinel:  # type: ignore[no-untyped-call]
            host, port = sentinel.discover_master(address.service)  # type: ignore[no-untyped-call]
        place = {"host": host, "port": port}
    return redis.Redis(**place, **address.login, **tls, **options)


def broker_options(settings: Settings) -> Mapping[str, Any]:
    """Give the options of the doorbells' broker: its address, TLS and what goes with it."""
    address = parse_address(settings.redis_url)
    login = f"{quote(address.username or '', safe='')}:{quote(address.password, safe='')}@" if address.password else ""
    if address.path:
        return {"broker_url": f"redis+socket://{login}{quote(address.path)}?virtual_host={address.db}"}
    tls = {"broker_use_ssl": tls_options(settings)} if address.is_tls else {}
    if address.sentinels:
        places = (f"sentinel://{login}{_joined(*sentinel)}/{address.db}" for sentinel in address.sentinels)
        return {"broker_url": ";".join(places), **tls}
    scheme = "rediss" if address.is_tls else "redis"
    return {"broker_url": f"{scheme}://{login}{_joined(address.host, address.port)}/{address.db}", **tls}


def transport_options(settings: Settings) -> Mapping[str, Any]:
    """Give what kombu's transport takes beside: whom the sentinels are to name."""
    address = parse_address(settings.redis_url)
    return {"master_name": address.service, "sentinel_kwargs": sentinel_options(settings)} if address.sentinels else {}
