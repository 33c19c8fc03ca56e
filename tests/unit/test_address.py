"""One address, and one set of options of TLS, for our clients and for Celery's."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from kombu.transport.redis import Channel
from pydantic import ValidationError

from shared.doorbells import make_celery
from shared.settings import ROOT, Settings
from shared.store.address import Address, parse_address, sync_client
from shared.store.connection import connect
from shared.store.key_names import acl_line
from shared.variables import read_settings

ODD = "p@ss:w/ö?#%"
QUOTED = "p%40ss%3Aw%2F%C3%B6%3F%23%25"


@pytest.mark.parametrize(
    ("url", "address", "shown"),
    [
        ("redis://h", Address("h"), "h:6379"),
        ("redis://h:1/2", Address("h", 1, db=2), "h:1"),
        ("redis://h:1/?db=3", Address("h", 1, db=3), "h:1"),
        ("redis:///4", Address(db=4), "localhost:6379"),
        ("redis://:pw@h", Address("h", password="pw"), "h:6379"),
        (f"rediss://user:{QUOTED}@h:1/0", Address("h", 1, username="user", password=ODD, is_tls=True), "h:1"),
        ("rediss://h?ssl_cert_reqs=required", Address("h", is_tls=True), "h:6379"),
        ("rediss://h/1?ssl_cert_reqs=CERT_REQUIRED&ssl_check_hostname=True", Address("h", db=1, is_tls=True), "h:6379"),
        ("redis://[::1]:7", Address("::1", 7), "[::1]:7"),
        ("unix:///run/redis.sock", Address(path="/run/redis.sock"), "/run/redis.sock"),
        ("unix://u:p@/run/r.sock?db=2", Address(path="/run/r.sock", db=2, username="u", password="p"), "/run/r.sock"),
        (
            "redis+sentinel://u:pw@a:1,[::1],b/main/2?sentinel_password=pw2",
            Address(
                sentinels=(("a", 1), ("::1", 26379), ("b", 26379)),
                service="main",
                db=2,
                username="u",
                password="pw",
                sentinel_password="pw2",
            ),
            "main of the sentinels a:1, [::1]:26379, b:26379",
        ),
        ("rediss+sentinel://a/m", Address(sentinels=(("a", 26379),), service="m", is_tls=True), "m of the sentinels a:26379"),
    ],
)
def test_an_address_is_read(url: str, address: Address, shown: str) -> None:
    assert parse_address(url) == address
    assert str(parse_address(url)) == shown
    assert "pw" not in repr(parse_address(url))


@pytest.mark.parametrize(
    "url",
    [
        *("", "h:1", "http://h", "redis://", "redis://h:x", "redis://h/x", "redis://h/-1", "unix://"),
        *(
            "rediss://:hush@h?ssl_cert_reqs=none",
            "rediss://:hush@h?ssl_cert_reqs=CERT_NONE",
            "rediss://h?ssl_cert_reqs=optional",
        ),
        *(
            "redis+sentinel://:hush@a,b",
            "redis+sentinel:///m",
            "redis+sentinel://a,/m",
            "redis://:hush@h?sentinel_password=hush",
        ),
        *("redis://:hush/x@h", "redis://:hush?x@h", "redis://:hush#x@h"),
        *("rediss://:hush@h?ssl_check_hostname=false", "rediss://h?ssl_ca_certs=/ca.pem", "redis://h?socket_timeout=0"),
    ],
)
def test_what_is_no_address_is_refused_without_its_secret(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011  # there is no text to match
        parse_address(url)
    assert "hush" not in str(refused.value)

    monkeypatch.setenv("SIGHTLINE_REDIS_URL", url)
    (sentence,) = read_settings()[1]
    assert sentence.startswith("SIGHTLINE_REDIS_URL cannot be this: it takes an address such as")
    assert "_INSECURE" in sentence
    assert "%2F" in sentence
    assert "hush" not in sentence


def test_a_password_may_have_what_parts_an_address() -> None:
    assert parse_address("redis://:a%2Fb%3Fc%23d%40e@h").password == "a/b?c#d@e"


def options_of(settings: Settings) -> list[dict[str, object]]:
    """Give what each kind of client is told: ours, the one of commands, and Celery's, as kombu reads it."""
    app = make_celery(settings)
    with app.connection_for_read() as connection:
        channel = object.__new__(Channel)
        channel.connection = type("Transport", (), {"client": connection, "default_port": 6379})
        celery = channel._connparams()
    ours = connect(settings).connection_pool.connection_kwargs
    return [ours, sync_client(settings, timeout_s=1).connection_pool.connection_kwargs, celery]


@pytest.mark.parametrize("query", ["", "?ssl_cert_reqs=required"])
def test_tls_is_verified_by_every_client(query: str, tmp_path: Path) -> None:
    (pem := tmp_path / "a.pem").write_text("")
    files = {"redis_tls_ca": pem, "redis_tls_cert": pem, "redis_tls_key": pem}
    settings = Settings.model_validate({"redis_url": f"rediss://u:{QUOTED}@h:1/2{query}", **files})

    for options in options_of(settings):
        assert options["ssl_cert_reqs"] == ssl.CERT_REQUIRED
        assert options["ssl_check_hostname"] is True
        assert {options[f"ssl_{name}"] for name in ("ca_certs", "certfile", "keyfile")} == {str(pem)}
        assert [options[name] for name in ("username", "password", "host", "port", "db")] == ["u", ODD, "h", 1, 2]


def test_only_a_word_that_says_so_makes_it_insecure() -> None:
    settings = Settings(redis_url="rediss://h", redis_tls_insecure=True)

    assert [options["ssl_cert_reqs"] for options in options_of(settings)] == [ssl.CERT_NONE] * 3
    assert [options["ssl_check_hostname"] for options in options_of(settings)] == [False] * 3


def test_a_certificate_for_a_connection_without_tls_is_a_mistake(tmp_path: Path) -> None:
    (pem := tmp_path / "a.pem").write_text("")
    for given in ({"redis_tls_ca": pem}, {"redis_url": "rediss://h", "redis_tls_ca": tmp_path / "none.pem"}):
        with pytest.raises(ValidationError):
            Settings.model_validate(given)


def test_celery_knows_sockets_and_odd_hosts() -> None:
    for url, options in {
        f"unix://u:{QUOTED}@/run/r%20s.sock?db=2": {"path": "/run/r s.sock", "username": "u", "password": ODD, "db": 2},
        "redis://[::1]:7/1": {"host": "::1", "port": 7, "db": 1},
        "redis:///3": {"host": "localhost", "port": 6379, "db": 3},
    }.items():
        told = options_of(Settings(redis_url=url))[2]
        assert {name: told.get(name) for name in options} == options


def test_every_client_asks_the_sentinels() -> None:
    url = f"rediss+sentinel://u:{QUOTED}@a:1,b:2/main/3?sentinel_password=other"
    settings = Settings(redis_url=url)
    app = make_celery(settings)

    with app.connection_for_read() as connection:
        assert connection.transport_cls == "sentinel"
        assert [one.rpartition("@")[2] for one in connection.alt] == ["a:1/3", "b:2/3"]
        assert (connection.userid, connection.password, connection.virtual_host) == ("u", ODD, "3")
        assert connection.ssl["ssl_cert_reqs"] == ssl.CERT_REQUIRED
        told = connection.transport_options
    assert told["master_name"] == "main"
    assert (told["sentinel_kwargs"]["password"], told["sentinel_kwargs"]["ssl"]) == ("other", True)
    assert told["sentinel_kwargs"]["ssl_check_hostname"] is True
    for must in ("socket_timeout", "health_check_interval"):  # without them a connection that is merely lost is never missed
        assert told[must]
    pool = connect(settings).pool
    assert pool.connection_kwargs["ssl_cert_reqs"] == ssl.CERT_REQUIRED
    assert pool.connection_kwargs["socket_timeout"]
    assert pool.connection_kwargs["health_check_interval"]


def test_the_documents_give_the_rights_that_are_tried() -> None:
    for document in ("docs/redis.md", "README.zh-CN.md"):
        assert acl_line() in (ROOT / document).read_text()
