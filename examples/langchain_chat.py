"""LangChain: describe a picture in Chinese. ``python langchain_chat.py [PICTURE]``."""

import base64
import os
import sys
from pathlib import Path

from langchain_openai import ChatOpenAI

picture = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("shapes.png")
chat = ChatOpenAI(
    model="qwen-vl",
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "EMPTY"),
)

data_url = f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
content = [
    {"type": "text", "text": "请用中文描述一下这张图片"},
    {"type": "image_url", "image_url": {"url": data_url}},
]
print(chat.invoke([("user", content)]).text)
