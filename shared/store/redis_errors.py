"""What is the matter with Redis, in words: what it, or the way to it, answered, and what to do about it. Pure."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from redis import exceptions as redis
from redis.asyncio.sentinel import MasterNotFoundError as AsyncMasterNotFoundError
from redis.sentinel import MasterNotFoundError

from shared.store.key_names import PREFIX, acl_line


@dataclass(frozen=True)
class Trouble:
    """Why Redis does not do what it is asked for.

    Attributes:
        reason: what is wrong.
        remedy: what to do about it.
        answer: what was answered, word for word, without what was asked.
    """

    reason: str
    remedy: str
    answer: str = ""

    def __str__(self) -> str:
        """Say it in a sentence."""
        said = f" (it answers: {self.answer})" if self.answer else ""
        return f"{self.reason}{said}; {self.remedy}"


class _Kind(NamedTuple):
    pattern: str  #: of the error's class and text
    reason: str
    remedy: str


_ADDRESS = "SIGHTLINE_REDIS_URL"
_RIGHTS = "<rights>"  #: stands for them: they name the prefix
#: The first that fits counts. Codes stand in front of a text where redis-py has no class for them.
_KINDS = (
    _Kind(
        "^OutOfMemoryError|^OOM ",
        "Redis is full: it has used up its maxmemory, and takes no new jobs",
        "raise maxmemory, or wait until results are past RESULT_TTL_S; what runs goes on",
    ),
    _Kind(
        "^NoPermissionError|ACL failure|NOPERM",
        "Redis does not give its user a right that is needed",
        f"give its user these rights: {_RIGHTS}",
    ),
    _Kind(
        "^Authentication|^AuthorizationError|WRONGPASS|NOAUTH",
        "Redis refuses the user or the password",
        f"put the right ones into {_ADDRESS}",
    ),
    _Kind(
        "MISCONF",
        "Redis cannot write to its disk, and takes no writes",
        "look at its log and its disk; most often that is full",
    ),
    _Kind(
        "^ReadOnlyError|READONLY|^MasterDownError|MASTERDOWN",
        "this Redis is a read-only replica",
        f"point {_ADDRESS} at the primary",
    ),
    _Kind("^BusyLoadingError", "Redis is reading its data", "wait; it goes on by itself"),
    _Kind("max number of clients", "Redis has as many connections as its maxclients lets it have", "raise maxclients"),
    _Kind("^ResponseError BUSY ", "Redis is busy with somebody's script", "redis-cli SCRIPT KILL ends it"),
    _Kind(
        "protected mode",
        "Redis is in its protected mode: it takes connections of its own machine only",
        "give it a password, or bind it to an address",
    ),
    _Kind(
        "^(Moved|Ask|ClusterDown|TryAgain|ClusterCrossSlot|CrossSlotTransaction|SlotNotCovered)Error|CROSSSLOT",
        "this Redis is a node of a cluster, which has the keys elsewhere",
        f"point {_ADDRESS} at a Redis of its own",
    ),
    _Kind(
        "^NotReplicated",
        "too few replicas of Redis have what was written, as SIGHTLINE_REDIS_DURABILITY=replica asks for",
        "look at its replicas; with two, one may be away",
    ),
    _Kind("NOREPLICAS", "Redis has fewer replicas than its min-replicas-to-write asks for", "start its replicas"),
    _Kind("unknown command", "this server does not know a command that is needed", "use Redis 7.2 or newer, or Valkey"),
    _Kind("^InvalidResponse|Protocol Error", "what answers there is no Redis", f"look at host and port of {_ADDRESS}"),
)
_TLS_ALERTS = (
    _Kind(
        "WRONG_VERSION_NUMBER|RECORD_LAYER|UNKNOWN_PROTOCOL|UNEXPECTED_MESSAGE",
        "what answers there speaks no TLS",
        f"look at the port of {_ADDRESS}, or write redis:// where the way there is safe",
    ),
    _Kind(
        "ALERT_CERTIFICATE_REQUIRED|HANDSHAKE_FAILURE|BAD_CERTIFICATE|UNKNOWN_CA|CERTIFICATE_EXPIRED|CERTIFICATE_UNKNOWN",
        "Redis does not accept our certificate, or asks for one",
        "name one that it accepts with SIGHTLINE_REDIS_TLS_CERT and SIGHTLINE_REDIS_TLS_KEY",
    ),
    _Kind(
        "EOF",
        "Redis ends the TLS connection at once",
        "look at the port, and name a certificate with SIGHTLINE_REDIS_TLS_CERT if it asks its clients for one",
    ),
)
#: Of what redis-py says where no sentinel gave an answer that can be used; the last one fits all.
_SENTINELS = (
    _Kind(
        "Authentication",
        "a sentinel refuses the user or the password",
        f"put sentinel_username and sentinel_password behind the ? of {_ADDRESS}",
    ),
    _Kind(
        "Error",
        "no sentinel answers",
        f"start them, or look at their hosts in {_ADDRESS}; with rediss+sentinel:// also at their certificates",
    ),
    _Kind(
        "",
        "no sentinel names a primary that lives",
        f"look at the sentinels, and at their name for it in {_ADDRESS}; a failover takes seconds",
    ),
)
_START = (
    "start one: docker run -p 127.0.0.1:6379:6379 redis:8 redis-server --appendonly yes --maxmemory-policy noeviction; "
    f"or point {_ADDRESS} at yours"
)
_LOOK = (
    f"look at host and port of {_ADDRESS}, whether a firewall is in between, and whether it wants TLS (rediss://) or a "
    "client's certificate (SIGHTLINE_REDIS_TLS_CERT)"
)
_CHAIN = "name its authority's certificate with SIGHTLINE_REDIS_TLS_CA; do not go on if you do not know who this is"
#: By OpenSSL's X509_V_ERR numbers.
_CERTIFICATES = {
    9: ("is not valid yet", "set the clock of this host, or have Redis use a valid one"),
    10: ("has expired", "renew it"),
    62: ("is of another name", f"write the name that it has into {_ADDRESS}, or have one made for this name"),
    64: ("is of another address", f"write the name that it has into {_ADDRESS}, or have one made for this address"),
}


def explain(error: BaseException, prefix: str = PREFIX) -> Trouble:
    """Say what is wrong and what to do, of an error of redis-py's or of what lies under it.

    Args:
        error: as it was caught; what it came from counts, too.
        prefix: of our keys; rights that are missing are those to it.
    """
    chain = list(_chain(error))
    for cause in chain:
        if isinstance(cause, MasterNotFoundError | AsyncMasterNotFoundError):
            return _of_sentinels(cause)
    for cause in chain:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _of_certificate(cause)
    for cause in chain:
        if isinstance(cause, ssl.SSLError) or "SSL:" in str(cause):
            said = f"{type(cause).__name__} {cause}"
            found = next((kind for kind in _TLS_ALERTS if re.search(kind.pattern, said)), None)
            return Trouble(*(found[1:] if found else ("TLS with Redis fails", _CHAIN)), _words(cause))
    for cause in chain:
        said = f"{type(cause).__name__} {cause}"
        if found := next((kind for kind in _KINDS if re.search(kind.pattern, said)), None):
            return Trouble(found.reason, found.remedy.replace(_RIGHTS, acl_line(prefix)), _words(cause))
    return _of_connection(chain)


def _of_certificate(error: ssl.SSLCertVerificationError) -> Trouble:
    what, remedy = _CERTIFICATES.get(error.verify_code, ("comes from nobody whom this host trusts", _CHAIN))
    return Trouble(f"the certificate that Redis shows {what}", remedy, error.verify_message)


def _of_sentinels(error: Exception) -> Trouble:
    said = "; ".join(re.findall(r"> - (.+?)(?:, <redis|$)", str(error)))  # behind each, redis-py shows its whole client
    found = next(kind for kind in _SENTINELS if re.search(kind.pattern, said))
    return Trouble(found.reason, found.remedy, " ".join(said.split())[:300])


def _of_connection(chain: list[BaseException]) -> Trouble:
    for cause in chain:
        if isinstance(cause, socket.gaierror):
            return Trouble("the name of Redis's host is not known", f"look at {_ADDRESS}, and at this host's DNS")
        if isinstance(cause, ConnectionRefusedError | FileNotFoundError):
            return Trouble("no Redis listens there", _START)
        if isinstance(cause, PermissionError):
            return Trouble("this user may not open the socket of Redis", "give it the rights to the file")
    for cause in chain:  # kombu's errors have redis-py's under them
        if isinstance(cause, redis.TimeoutError | TimeoutError):
            return Trouble("Redis does not answer in time", _LOOK)
        if isinstance(cause, redis.ConnectionError | OSError):
            return Trouble("the connection to Redis is lost or cannot be made", _LOOK, _words(cause))
    return Trouble("Redis refuses a command", "look at its log", _words(chain[0]))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _words(error: BaseException) -> str:
    """Give an error's text without the command that it came from, which may hold what a client sent."""
    text = re.sub(r"^Command # \d+ \(.*\) of pipeline caused error: ", "", str(error), flags=re.DOTALL)
    return " ".join(text.split())[:300]
