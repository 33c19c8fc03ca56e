"""Examples in the API's description, by the names of its schemas. Pure. Requests among them are sound as they stand."""

from __future__ import annotations

from typing import Any

_PICTURE = "https://example.com/cat.jpg"
_PROMPT = "请用中文描述一下这张图片"
_AT_S = 1_790_000_000
_JOB_ID = "job_01998d3f2f2b7c13b0d9a6c1f4e7a852"
_FILE_ID = "file-01998d3f2f2b7c13b0d9a6c1f4e7a853"
_FUNCTION = {
    "name": "file_under",
    "description": "Files the picture.",
    "parameters": {"type": "object", "properties": {"album": {"type": "string"}}, "required": ["album"]},
}
_USAGE = {"prompt_tokens": 1054, "vision_tokens": 1036, "output_tokens": 21}
_ENGINE = {
    "name": "vllm",
    "version": "0.32.0",
    "model": "Qwen/Qwen2.5-VL-3B-Instruct",
    "revision": None,
    "quantization": None,
    "kv_cache_dtype": None,
}
_SHOWN = {"kind": "image", "source_px": [1024, 768], "shown_px": [1036, 784], "vision_tokens": 1036}
_OUTPUT = {
    "text": "一只橘猫趴在窗台上，望着窗外的雨。",
    "finish_reason": "stop",
    "logprobs": [],
    "usage": _USAGE,
    "engine": _ENGINE,
    "timings_ms": {"fetching": 41, "decoding": 12, "generating": 830},
    "media": [_SHOWN | {"turned_deg": 0, "mirrored": False, "frames": None, "times_s": None, "fps": None}],
    "warnings": [],
    "boxes": [],
    "others": [],
    "partial": False,
}
_JOB = {
    "id": _JOB_ID,
    "object": "job",
    "status": "succeeded",
    "model": "qwen-vl",
    "stage": None,
    "attempt": 1,
    "created_at": _AT_S + 0.25,
    "started_at": _AT_S + 0.26,
    "finished_at": _AT_S + 1.15,
    "output": _OUTPUT,
    "error": None,
    "metadata": {"album": "42"},
    "group": "summer",
    "retry_of": None,
    "retried_as": None,
    "urls": {name: f"/v1/jobs/{_JOB_ID}{end}" for name, end in (("self", ""), ("cancel", "/cancel"), ("events", "/events"))},
}
_COUNTS = {"queued": 3, "running": 2, "succeeded": 408, "failed": 1, "cancelled": 0}
_CHAT_USAGE = {
    "prompt_tokens": 1054,
    "completion_tokens": 21,
    "total_tokens": 1075,
    "prompt_tokens_details": {"cached_tokens": 0},
}

EXAMPLES: dict[str, list[Any]] = {
    "JobBody": [
        {"prompt": _PROMPT, "images": [_PICTURE], "metadata": {"album": "42"}, "group": "summer"},
        {
            "messages": [
                {"role": "system", "content": "You are a helpful assistant."},
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": _PICTURE, "min_pixels": 200_704, "max_pixels": 1_003_520},
                        {"type": "text", "text": _PROMPT},
                    ],
                },
            ],
            "sampling": {"temperature": 0.1, "top_p": 0.001, "repetition_penalty": 1.05, "max_tokens": 512},
            "webhook": {"url": "https://example.com/hook", "events": ["job.succeeded", "job.failed"]},
        },
    ],
    "Job": [_JOB],
    "Many": [{"filter": {"group": "summer", "status": ["failed"]}, "dry_run": True}],
    "ManyDone": [{"object": "jobs.retry", "matched": 412, "done": 0, "dry_run": True}],
    "GroupChange": [{"webhook": {"url": "https://example.com/hook"}}],
    "Group": [{"object": "group", "id": "summer", "counts": _COUNTS, "per_s": 4.25, "left_s": 1.2, "webhook": None}],
    "File": [
        {
            "object": "file",
            "status": "processed",
            "id": _FILE_ID,
            "bytes": 124_310,
            "created_at": _AT_S,
            "expires_at": _AT_S + 172_800,
            "filename": "cat.jpg",
            "media_type": "image/jpeg",
            "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "purpose": "vision",
        }
    ],
    "NewEndpoint": [{"url": "https://example.com/hook", "event_types": ["job.succeeded", "job.failed"], "name": "albums"}],
    "EndpointChange": [{"event_types": ["job.failed"], "enabled": True}],
    "Rotation": [{"keep_old_secret_active_for_24_hours": True}],
    "Trial": [{"event_type": "job.succeeded"}],
    "Recovery": [{"since": _AT_S}],
    "NewKey": [{"name": "albums", "max_requests": 600, "max_queued": 10_000}],
    "KeyLimits": [{"max_running": 64, "weight": 2}],
    "ChatRequest": [
        {
            "model": "qwen-vl",
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": _PICTURE}}, {"type": "text", "text": _PROMPT}],
                }
            ],
            "tools": [{"type": "function", "function": _FUNCTION}],
        }
    ],
    "ChatCompletion": [
        {
            "id": _JOB_ID.replace("job_", "chatcmpl-"),
            "object": "chat.completion",
            "created": _AT_S,
            "model": "qwen-vl",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": _OUTPUT["text"], "refusal": None},
                    "finish_reason": "stop",
                    "logprobs": None,
                }
            ],
            "usage": _CHAT_USAGE,
            "sightline": {"media": [_SHOWN | {"turned_deg": 0, "mirrored": False}], "warnings": [], "boxes": []},
        }
    ],
    "ResponseRequest": [
        {
            "model": "qwen-vl",
            "input": [
                {
                    "role": "user",
                    "content": [{"type": "input_image", "image_url": _PICTURE}, {"type": "input_text", "text": _PROMPT}],
                }
            ],
            "background": True,
        }
    ],
    "BatchRequest": [{"input_file_id": _FILE_ID, "endpoint": "/v1/chat/completions", "completion_window": "24h"}],
    "Queue": [
        {
            **_COUNTS,
            "load": 5,
            "oldest_age_s": 0.4,
            "workers_ready": 1,
            "workers_starting": 0,
            "slots": 160,
            "backlog_s": 0.7,
            "desired_workers": 1,
        }
    ],
    "Problem": [
        {
            "type": "urn:sightline:error:media_missing",
            "title": "There is no picture or video in the request; add at least one.",
            "status": 400,
            "detail": "There is no picture or video in the request; add at least one.",
            "error": {
                "message": "There is no picture or video in the request; add at least one.",
                "type": "invalid_request_error",
                "param": "images",
                "code": "media_missing",
            },
            "instance": "urn:sightline:request:req_01998d3f2f2b7c13b0d9a6c1f4e7a854",
        }
    ],
}
