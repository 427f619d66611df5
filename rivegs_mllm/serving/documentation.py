"""What OpenAPI says beside the code: descriptions and examples."""

from __future__ import annotations

from typing import Any

from rivegs_mllm.serving.records import GroundRequest

DESCRIPTION = """\
Grounded multimodal named entity recognition: the entities of posts, their types, and where the picture shows them.
Boxes are xyxy in pixels of the upright picture, right and lower edge exclusive. Pictures are JPEG, PNG, WebP,
GIF or BMP. Every error is `{"error": {"message": ..., "code": ...}}`."""

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
"""A picture of one red pixel, in base64."""

_TEXT = "Zarvik Molen scores!"

GROUND_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": GroundRequest.model_json_schema(),
                "examples": {
                    "text and picture": {"value": {"text": _TEXT, "image": PIXEL}},
                    "only the names": {"value": {"text": _TEXT, "segments": ["entities"]}},
                    "tokens, surer of what is visible": {
                        "value": {"text": ["Zarvik", "Molen", "scores", "!"], "image": PIXEL, "threshold": 0.8}
                    },
                },
            },
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["text"],
                    "properties": {
                        "text": {"type": "string"},
                        "image": {"type": "string", "format": "binary", "description": "The picture's file."},
                        "segments": {"type": "string", "description": "Names with commas between them."},
                        "threshold": {"type": "number", "minimum": 0, "maximum": 1},
                        "masks": {"type": "boolean"},
                    },
                },
            },
        },
    }
}

BATCH_POSTS: dict[str, Any] = {
    "requestBody": {
        "content": {
            "application/json": {
                "examples": {
                    "two posts": {
                        "value": {"posts": [{"text": _TEXT, "image": PIXEL}, {"text": "Good morning, Dunmere"}]}
                    }
                }
            }
        }
    }
}

CHAT_MESSAGES: dict[str, Any] = {
    "requestBody": {
        "content": {
            "application/json": {
                "examples": {
                    "a post": {
                        "value": {
                            "model": "any",
                            "messages": [
                                {
                                    "role": "user",
                                    "content": [
                                        {"type": "text", "text": _TEXT},
                                        {
                                            "type": "image_url",
                                            "image_url": {"url": f"data:image/png;base64,{PIXEL}"},
                                        },
                                    ],
                                }
                            ],
                        }
                    }
                }
            }
        }
    }
}
