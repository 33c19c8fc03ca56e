"""Signatures are those of Standard Webhooks; its reference library and OpenAI's are the judges."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI
from standardwebhooks import Webhook, WebhookVerificationError

from shared.signing import TOLERANCE_S, make_secret, sign, verify
from tests.conftest import WEBHOOK_SECRET

ID, AT_S, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def headers(event_id: str, at_s: int, signature: str) -> dict[str, str]:
    return {"webhook-id": event_id, "webhook-timestamp": str(at_s), "webhook-signature": signature}


def is_genuine(
    *, signatures: str = SIGNATURE, timestamp: str = str(AT_S), body: bytes = BODY, event_id: str = ID, now_s: float = AT_S
) -> bool:
    return verify(WEBHOOK_SECRET, event_id=event_id, timestamp=timestamp, signatures=signatures, body=body, now_s=now_s)


def test_the_vector_of_the_specification() -> None:
    assert sign(WEBHOOK_SECRET, event_id=ID, at_s=AT_S, body=BODY) == SIGNATURE
    assert is_genuine()


def test_the_prefix_of_a_secret_is_optional() -> None:
    assert sign(WEBHOOK_SECRET.removeprefix("whsec_"), event_id=ID, at_s=AT_S, body=BODY) == SIGNATURE


@given(body=st.text(max_size=200), event=st.from_regex(r"evt_[0-9a-f]{1,32}", fullmatch=True))
def test_the_reference_library_accepts_what_we_sign(body: str, event: str) -> None:
    secret, now_s = make_secret(), int(time.time())
    text = body.encode(errors="replace").decode()

    signature = sign(secret, event_id=event, at_s=now_s, body=text.encode())

    Webhook(secret).verify(text, headers(event, now_s, signature), json_parse=False)


def test_openais_client_accepts_what_we_sign() -> None:
    secret, now_s, body = (
        make_secret(),
        int(time.time()),
        '{"id": "evt_1", "type": "job.succeeded", "data": {"text": "红色的圆"}}',
    )
    signature = sign(secret, event_id="evt_1", at_s=now_s, body=body.encode())

    with OpenAI(api_key="EMPTY", webhook_secret=secret) as client:
        client.webhooks.verify_signature(body, headers("evt_1", now_s, signature))
        event = client.webhooks.unwrap(body, headers("evt_1", now_s, signature))

    assert event.type == "job.succeeded"


def test_we_accept_what_the_reference_library_signs() -> None:
    reference = Webhook(WEBHOOK_SECRET)
    from datetime import UTC, datetime

    assert reference.sign(ID, datetime.fromtimestamp(AT_S, UTC), BODY.decode()) == SIGNATURE


def test_a_tampered_body_is_refused_here_and_there() -> None:
    secret, now_s = make_secret(), int(time.time())
    signature = sign(secret, event_id="evt_1", at_s=now_s, body=b"{}")

    assert not is_genuine(body=BODY + b" ")
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify("{} ", headers("evt_1", now_s, signature))


@pytest.mark.parametrize(
    "changed",
    [
        {"event_id": "msg_other"},
        {"event_id": ""},
        {"timestamp": str(AT_S + 1)},
        {"timestamp": f"{AT_S}.0"},
        {"timestamp": f"-{AT_S}"},
        {"timestamp": ""},
        {"timestamp": "9" * 5000},
        {"timestamp": "²"},
        {"signatures": ""},
        {"signatures": SIGNATURE.removeprefix("v1,")},
        {"signatures": SIGNATURE.replace("v1,", "v2,")},
        {"signatures": SIGNATURE[:-1]},
        {"signatures": SIGNATURE.lower()},
        {"signatures": "v1,é"},
        {"signatures": "v1,\x00"},
    ],
)
def test_anything_else_that_changed_is_refused(changed: dict[str, str]) -> None:
    assert not is_genuine(**changed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("late_s", "fresh"),
    [(0, True), (TOLERANCE_S, True), (-TOLERANCE_S, True), (TOLERANCE_S + 1, False), (-TOLERANCE_S - 1, False)],
)
def test_a_delivery_is_fresh_for_five_minutes(late_s: int, fresh: bool) -> None:  # noqa: FBT001
    assert is_genuine(now_s=AT_S + late_s) is fresh


def test_one_good_signature_among_several_is_enough() -> None:
    other = sign(make_secret(), event_id=ID, at_s=AT_S, body=BODY)

    assert is_genuine(signatures=f"{other} v1a,whatever {SIGNATURE}")
    assert not is_genuine(signatures=f"{other} v1a,whatever")


def test_secrets_differ_and_sign() -> None:
    assert make_secret() != make_secret()
    assert sign(make_secret(), event_id=ID, at_s=AT_S, body=BODY) != SIGNATURE


@pytest.mark.parametrize("secret", ["whsec_not base64", "whsec_abc", "whsec_é"])
def test_a_secret_that_is_not_base64_says_how_to_make_one(secret: str) -> None:
    with pytest.raises(ValueError, match="sightline secret"):
        sign(secret, event_id=ID, at_s=AT_S, body=BODY)
