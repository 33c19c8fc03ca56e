"""Many pictures at once; the service keeps its engine's batch full. ``python openai_async.py [PICTURE ...]``."""

import asyncio
import base64
import os
import sys
from pathlib import Path

from openai import AsyncOpenAI

AT_ONCE = 64  # pictures that are in memory here


async def describe(client: AsyncOpenAI, slots: asyncio.Semaphore, picture: Path) -> str:
    async with slots:
        data_url = f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
        answer = await client.chat.completions.create(
            model="qwen-vl",
            messages=[
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": data_url}},
                        {"type": "text", "text": "请用中文描述一下这张图片"},
                    ],
                }
            ],
        )
    return answer.choices[0].message.content or ""


async def main() -> None:
    pictures = [Path(name) for name in sys.argv[1:]] or [Path(__file__).with_name("shapes.png")]
    slots = asyncio.Semaphore(AT_ONCE)
    async with AsyncOpenAI(
        base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
        api_key=os.environ.get("OPENAI_API_KEY", "EMPTY"),
    ) as client:
        texts = await asyncio.gather(*(describe(client, slots, picture) for picture in pictures), return_exceptions=True)
    for picture, text in zip(pictures, texts, strict=True):
        if isinstance(text, BaseException):  # one bad file costs the others nothing
            print(f"{picture.name}: {text}", file=sys.stderr)
        else:
            print(f"{picture.name}\t{text}")
    if any(isinstance(text, BaseException) for text in texts):
        sys.exit(1)


asyncio.run(main())
