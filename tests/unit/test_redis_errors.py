"""What Redis answers becomes a reason and a remedy, and is told once."""

from __future__ import annotations

import socket
import ssl

import pytest
from kombu.exceptions import OperationalError
from redis import exceptions as redis
from redis.asyncio.sentinel import MasterNotFoundError as AsyncMasterNotFoundError
from redis.sentinel import MasterNotFoundError

from shared.store.key_names import acl_line
from shared.store.redis_errors import explain
from shared.store.trouble_log import AGAIN_S, QUIET_S, OncePerReason


def test_missing_rights_are_those_to_our_prefix() -> None:
    error = redis.NoPermissionError("No permissions to access a key")

    assert acl_line() in explain(error).remedy
    assert explain(error, "{other}:").remedy.count("{other}:") == acl_line().count("sightline:{sightline}:")
    assert "{sightline}" not in explain(error, "{other}:").remedy


@pytest.mark.parametrize(
    ("error", "reason", "remedy"),
    [
        (redis.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), "full", "raise maxmemory"),
        (redis.NoPermissionError("User a has no permissions to run the 'info' command"), "right", "ACL SETUSER"),
        (redis.ResponseError("ACL failure in script: No permissions to access a key script: x"), "right", "ACL SETUSER"),
        (redis.AuthenticationError("invalid username-password pair or user is disabled."), "password", "SIGHTLINE_REDIS_URL"),
        (redis.ResponseError("WRONGPASS invalid username-password pair"), "password", "SIGHTLINE_REDIS_URL"),
        (redis.ResponseError("MISCONF Errors writing to the AOF file: No space left on device"), "disk", "log"),
        (redis.ReadOnlyError("You can't write against a read only replica."), "replica", "primary"),
        (redis.BusyLoadingError("Redis is loading the dataset in memory"), "reading its data", "wait"),
        (redis.ConnectionError("max number of clients reached"), "maxclients", "raise"),
        (redis.ResponseError("BUSY Redis is busy running a script."), "script", "SCRIPT KILL"),
        (redis.ResponseError("CROSSSLOT Keys in request don't hash to the same slot"), "cluster", "SIGHTLINE_REDIS_URL"),
        (redis.MovedError("1 h:2"), "cluster", "SIGHTLINE_REDIS_URL"),
        (redis.InvalidResponse("Protocol Error: b'HTTP/1.1 400 Bad Request'"), "no Redis", "port"),
        (redis.TimeoutError("Timeout connecting to server"), "in time", "rediss://"),
        (redis.ConnectionError("Connection closed by server."), "connection", "rediss://"),
        (redis.ResponseError("ERR something new"), "refuses", "log"),
        (PermissionError(13, "Permission denied"), "may not open", "rights"),
    ],
)
def test_each_answer_has_a_reason_and_a_remedy(error: Exception, reason: str, remedy: str) -> None:
    trouble = explain(error)

    assert reason in trouble.reason
    assert remedy in trouble.remedy
    assert trouble.reason in str(trouble)


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (ConnectionRefusedError(111, "Connect call failed"), "no Redis listens"),
        (FileNotFoundError(2, "No such file"), "no Redis listens"),
        (socket.gaierror(-2, "Name or service not known"), "name of Redis's host"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), "speaks no TLS"),
        (
            ssl.SSLError(1, "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] alert"),
            "accept our certificate",
        ),
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol (_ssl.c:2427)"), "ends the TLS connection"),
        (ssl.SSLError(1, "[SSL: SOMETHING_ELSE] else"), "TLS with Redis fails"),
    ],
)
def test_what_lies_under_it_counts(cause: Exception, reason: str) -> None:
    error = redis.ConnectionError("Error connecting to h:1.")
    error.__cause__ = cause

    assert reason in explain(error).reason


@pytest.mark.parametrize(
    ("said", "reason", "remedy"),
    [
        ("", "no sentinel names a primary", "their name for it"),
        (" - auth:AuthenticationError", "refuses", "sentinel_password"),
        (" - network:ConnectionError", "no sentinel answers", "certificates"),
        (" - network:TimeoutError", "no sentinel answers", "start them"),
    ],
)
@pytest.mark.parametrize("kind", [MasterNotFoundError, AsyncMasterNotFoundError])
def test_what_sentinels_say_is_told(kind: type[Exception], said: str, reason: str, remedy: str) -> None:
    client = "<redis.client.Redis(<redis.connection.ConnectionPool(<redis.connection.Connection(db=0,password=<REDACTED>)>)>)>"
    told = explain(kind(f"No master found for 'x'{f' : {client}{said}, {client}{said}' if said else ''}"))

    assert reason in told.reason
    assert remedy in told.remedy
    assert "REDACTED" not in str(told)


def test_an_error_of_celery_is_that_of_what_lies_under_it() -> None:
    error = OperationalError("Connection reset by peer")
    error.__cause__ = redis.ConnectionError("Connection reset by peer")

    assert "connection to Redis is lost" in explain(error).reason


def test_an_answer_is_told_without_what_a_client_sent() -> None:
    sent = "Command # 1 (SET k (my\nsecret) of pipeline) of pipeline caused error: OOM command not allowed"
    told = explain(redis.ResponseError(sent))

    assert told.answer == "OOM command not allowed"
    assert "secret" not in str(told)


def test_a_reason_is_told_once_until_it_is_news_again() -> None:
    once = OncePerReason()

    assert once.is_news("full", 0)
    assert not once.is_news("full", 1)
    assert once.is_news("away", 2)
    assert not once.is_news("away", 2 + QUIET_S)
    assert once.is_news("away", 3 + 2 * QUIET_S)  # it was right again in between
    told = [second for second in range(100, 100 + int(2.5 * AGAIN_S)) if once.is_news("away", second)]
    assert len(told) == 3  # at once, and as long as it lasts now and then
