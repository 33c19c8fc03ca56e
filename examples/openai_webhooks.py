"""Hear of a job's end by a signed webhook. ``python openai_webhooks.py [PICTURE]``.

The service sends to private addresses, as this machine's, only where it was started with
``SIGHTLINE_ALLOW_NETWORKS=127.0.0.0/8``.
"""

import base64
import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from openai import InvalidWebhookSignatureError, OpenAI

picture = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("shapes.png")
client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "EMPTY"),
)
ended = {}  # job id -> its end, once however often it is delivered


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        try:
            event = client.webhooks.unwrap(body, dict(self.headers), secret=endpoint.signing_secret)
        except InvalidWebhookSignatureError:
            self.send_response(401)
        else:
            ended[event.data.id] = event
            self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


server = HTTPServer(("127.0.0.1", 0), Receiver)
endpoint = client.webhooks.create(
    name="example",
    url=f"http://127.0.0.1:{server.server_port}/",
    event_types=["job.succeeded", "job.failed", "job.cancelled"],
)
try:
    data_url = f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
    request = {"prompt": "请用中文描述一下这张图片", "images": [data_url]}
    job = client.post("/jobs", body=request, cast_to=object)
    while job["id"] not in ended:
        server.handle_request()
    event = ended[job["id"]]
    print(event.type, file=sys.stderr)
    print(event.data.output["text"])
finally:
    client.webhooks.delete(endpoint.id)
