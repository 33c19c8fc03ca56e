"""What a program writes against Sightline's client; type checkers look at it, see tests/unit/test_client_types.py."""

from collections.abc import Iterator
from pathlib import Path
from typing import assert_type

from sightline.client import AsyncClient, Client, Described, Event, File, ServiceError


def blocking(client: Client) -> None:
    upload = assert_type(client.upload(Path("cat.jpg")), File)
    job = client.submit({"prompt": "What?", "images": [upload.id]}, idempotency_key="cat")
    assert_type(job.wait(timeout_s=30).text, str)
    assert_type(client.describe_many(Path("holiday").glob("*.jpg"), "What?"), Iterator[Described[Path]])
    for event in job.events():
        assert_type(event, Event)
    try:
        print([one.retry().id for one in client.jobs(status="failed") if one.error and one.error.code == "worker_lost"])
    except ServiceError as error:
        assert_type(error.status, int | None)


async def asynchronous(client: AsyncClient) -> None:
    async for done in client.describe_many(["cat.jpg", "dog.jpg"], "What?", sampling={"max_tokens": 64}):
        assert_type(done, Described[str])
        print(done.item, done.text or done.error)
    job = await client.describe([b"...", Path("dog.jpg")], "What is different?", system="Be short.", timeout_s=60)
    assert_type(job.usage, dict[str, int])
    async for one in client.jobs(group="holiday"):
        await one.cancel()
