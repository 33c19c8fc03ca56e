"""The text while it is generated, and what it cost. ``python openai_stream.py [PICTURE]``."""

import base64
import os
import sys
from pathlib import Path

from openai import OpenAI

picture = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("shapes.png")
client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "EMPTY"),
)

data_url = f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
stream = client.chat.completions.create(
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
    stream=True,
    stream_options={"include_usage": True},
)
for chunk in stream:
    for choice in chunk.choices:
        print(choice.delta.content or "", end="", flush=True)
    if chunk.usage:  # the last chunk, which has no choices
        print()
        print(f"{chunk.usage.prompt_tokens} tokens in, {chunk.usage.completion_tokens} out", file=sys.stderr)
