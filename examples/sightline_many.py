"""Sightline's own client: describe many pictures, each as it ends. ``python sightline_many.py [PICTURE ...]``."""

import asyncio
import os
import sys
from pathlib import Path

from sightline.client import AsyncClient


async def main() -> None:
    pictures = list(map(Path, sys.argv[1:])) or [Path(__file__).with_name("shapes.png")]
    async with AsyncClient(os.environ.get("OPENAI_BASE_URL", "http://localhost:8000/v1")) as client:
        async for done in client.describe_many(pictures, "请用中文描述一下这张图片"):
            print(f"{done.item.name}\t{done.text or done.error}")


asyncio.run(main())
