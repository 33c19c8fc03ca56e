"""The openai package: describe a picture. ``python openai_chat.py [PICTURE]``."""

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
answer = client.chat.completions.create(
    model="qwen-vl",
    messages=[
        {"role": "system", "content": "You are a helpful assistant."},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": data_url}},
                {"type": "text", "text": "请用中文描述一下这张图片"},
            ],
        },
    ],
    max_tokens=512,
)
print(answer.choices[0].message.content)
