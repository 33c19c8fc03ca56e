"""A batch: one file of requests in, one file of answers out. ``python openai_batch.py [PICTURE ...]``."""

import base64
import json
import os
import sys
import time
from pathlib import Path

from openai import OpenAI

pictures = [Path(name) for name in sys.argv[1:]] or [Path(__file__).with_name("shapes.png")]
client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "EMPTY"),
)


def line(number: int, picture: Path) -> str:
    data_url = f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
    content = [
        {"type": "image_url", "image_url": {"url": data_url}},
        {"type": "text", "text": "请用中文描述一下这张图片"},
    ]
    body = {"model": "qwen-vl", "messages": [{"role": "user", "content": content}]}
    custom_id = f"{number}-{picture.name}"  # yours to choose, once each; answers come in any order
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body})


requests = "\n".join(line(number, picture) for number, picture in enumerate(pictures)).encode()
upload = client.files.create(file=("requests.jsonl", requests), purpose="batch")
batch = client.batches.create(input_file_id=upload.id, endpoint="/v1/chat/completions", completion_window="24h")

while batch.status in {"validating", "in_progress", "finalizing"}:
    time.sleep(0.5)
    batch = client.batches.retrieve(batch.id)
print(f"{batch.id} {batch.status}: {batch.request_counts}", file=sys.stderr)

if batch.output_file_id:
    for answer in map(json.loads, client.files.content(batch.output_file_id).text.splitlines()):
        print(f"{answer['custom_id']}\t{answer['response']['body']['choices'][0]['message']['content']}")
if batch.error_file_id:
    sys.exit(client.files.content(batch.error_file_id).text)
if batch.status != "completed":
    sys.exit(str(batch.errors))
