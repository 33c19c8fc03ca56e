#!/usr/bin/env bash
# With curl and jq: upload a picture, submit a job, wait for it; then the same as a chat. bash curl.sh [PICTURE]
set -euo pipefail
picture=${1:-$(dirname "$0")/shapes.png}
base=${OPENAI_BASE_URL:-http://127.0.0.1:8000/v1}
ask() { curl -sS --fail-with-body -H "authorization: Bearer ${OPENAI_API_KEY:-EMPTY}" "$@"; }

file=$(ask "$base/files" -F "file=@$picture" | jq -r .id)
job=$(ask "$base/jobs" --json "{\"prompt\": \"请用中文描述一下这张图片\", \"images\": [\"$file\"]}" | jq -r .id)
while answer=$(ask "$base/jobs/$job?wait=30"); jq -e '.status == "queued" or .status == "running"' <<<"$answer" >/dev/null; do :; done
jq -r '.output.text // .error.message' <<<"$answer"

base64 <"$picture" | tr -d '\n' |
  jq -R '{model: "qwen-vl", messages: [{role: "user", content: [
    {type: "text", text: "请用中文描述一下这张图片"},
    {type: "image_url", image_url: {url: ("data:image/png;base64," + .)}}]}]}' |
  ask "$base/chat/completions" --json @- | jq -r '.choices[0].message.content'
