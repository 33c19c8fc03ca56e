"""A response in the background: ask now, read it later. ``python openai_background.py [PICTURE]``."""

import base64
import os
import sys
import time
from pathlib import Path

from openai import OpenAI

picture = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("shapes.png")
client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "EMPTY"),
)

data_url = f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
response = client.responses.create(
    model="qwen-vl",
    input=[
        {
            "role": "user",
            "content": [
                {"type": "input_image", "image_url": data_url, "detail": "auto"},
                {"type": "input_text", "text": "请用中文描述一下这张图片"},
            ],
        }
    ],
    background=True,
)
print(response.id, file=sys.stderr)  # any process may ask for it by this id

while response.status in {"queued", "in_progress"}:
    time.sleep(0.2)
    response = client.responses.retrieve(response.id)
if response.status != "completed":
    sys.exit(str(response.error or response.status))
print(response.output_text)
