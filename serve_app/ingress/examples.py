"""Working example requests of the OpenAPI document and the /docs page; a test sends every one."""

from __future__ import annotations

from typing import Any, Final

RED_SQUARE: Final = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAABwAAAAcCAIAAAD9b0jDAAAAKElEQVR42mM8ISfHQG3AxEADMGroqKGjho4a"
    "OmroqKGjho4aOvgMBQB+BAE8FfyCFgAAAABJRU5ErkJggg=="
)

_LABEL_SCHEMA: Final = {
    "type": "object",
    "properties": {"colour": {"type": "string"}, "square": {"type": "boolean"}},
    "required": ["colour", "square"],
    "additionalProperties": False,
}
_WEATHER: Final = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def _chat(*content: dict[str, Any] | str, **fields: Any) -> dict[str, Any]:
    parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
    return {"messages": [{"role": "user", "content": parts}], **fields}


_PICTURE: Final = {"type": "image_url", "image_url": {"url": RED_SQUARE}}
_TOOL: Final = {"type": "function", "function": _WEATHER}

CHAT: Final = {
    "picture": {
        "summary": "A question about a picture",
        "value": _chat(_PICTURE, "What colour is this?", max_tokens=64, temperature=0),
    },
    "stream": {
        "summary": "Streamed, with the tokens counted at the end",
        "value": _chat(
            {"type": "image_url", "image_url": {"url": RED_SQUARE, "detail": "low"}},
            "What colour is this?",
            stream=True,
            stream_options={"include_usage": True},
        ),
    },
    "schema": {
        "summary": "An answer that matches a JSON Schema",
        "value": _chat(
            _PICTURE,
            "Describe it.",
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "picture", "schema": _LABEL_SCHEMA, "strict": True},
            },
        ),
    },
    "tools": {
        "summary": "A function that the model may call",
        "value": _chat("How is the weather in Hangzhou?", tools=[_TOOL], tool_choice="auto"),
    },
    "tool result": {
        "summary": "The result of the function",
        "value": {
            "messages": [
                {"role": "user", "content": "How is the weather in Hangzhou?"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": "call_1",
                            "type": "function",
                            "function": {"name": "get_weather", "arguments": '{"city": "Hangzhou"}'},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": "call_1", "content": "18 °C, light rain"},
            ],
            "tools": [_TOOL],
        },
    },
    "thinking": {
        "summary": "Reasoning of 256 tokens at most before the answer, where the model reasons",
        "value": _chat("Is 91 a prime?", thinking={"type": "enabled", "budget_tokens": 256}),
    },
    "choices": {
        "summary": "Two answers, with the log probability of each token",
        "value": _chat("Name a colour.", n=2, logprobs=True, top_logprobs=2, seed=1, max_tokens=8),
    },
}

COMPLETION: Final = {
    "text": {"summary": "Continue a text", "value": {"prompt": "The capital of France is", "max_tokens": 8}},
    "stream": {
        "summary": "Streamed, with a stop string",
        "value": {"prompt": "1, 2, 3,", "max_tokens": 16, "stop": ["9"], "stream": True, "temperature": 0},
    },
}

RESPONSE: Final = {
    "text": {"summary": "A question", "value": {"input": "Name a colour.", "max_output_tokens": 16}},
    "picture": {
        "summary": "A question about a picture, streamed",
        "value": {
            "instructions": "Be brief.",
            "input": [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_image", "image_url": RED_SQUARE, "detail": "auto"},
                        {"type": "input_text", "text": "What colour is this?"},
                    ],
                }
            ],
            "stream": True,
        },
    },
    "schema": {
        "summary": "An answer that matches a JSON Schema",
        "value": {
            "input": "Describe a red square.",
            "text": {"format": {"type": "json_schema", "name": "picture", "schema": _LABEL_SCHEMA, "strict": True}},
        },
    },
    "tool result": {
        "summary": "A function, its call and its result",
        "value": {
            "input": [
                {"role": "user", "content": "How is the weather in Hangzhou?"},
                {
                    "type": "function_call",
                    "call_id": "call_1",
                    "name": "get_weather",
                    "arguments": '{"city": "Hangzhou"}',
                },
                {"type": "function_call_output", "call_id": "call_1", "output": "18 °C, light rain"},
            ],
            "tools": [{"type": "function", **_WEATHER}],
        },
    },
}

MESSAGES: Final = {
    "picture": {
        "summary": "A question about a picture",
        "value": {
            "max_tokens": 64,
            "system": "Be brief.",
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "image",
                            "source": {
                                "type": "base64",
                                "media_type": "image/png",
                                "data": RED_SQUARE.partition(",")[2],
                            },
                        },
                        {"type": "text", "text": "What colour is this?"},
                    ],
                }
            ],
        },
    },
    "tools": {
        "summary": "A function that the model may call, streamed",
        "value": {
            "max_tokens": 64,
            "messages": [{"role": "user", "content": "How is the weather in Hangzhou?"}],
            "tools": [
                {
                    "name": _WEATHER["name"],
                    "description": _WEATHER["description"],
                    "input_schema": _WEATHER["parameters"],
                }
            ],
            "stream": True,
        },
    },
}

TOKENS: Final = {
    "text": {"summary": "A text, without the chat template", "value": {"prompt": "Good morning"}},
    "conversation": {"summary": "A conversation", "value": _chat(_PICTURE, "What colour is this?")},
}

FEEDBACK: Final = {
    "wrong": {
        "summary": "An answer that is wrong",
        "value": {"id": "chatcmpl-5f2a", "rating": "down", "comment": "The number is 7716."},
    },
}

WIDGET_TOKEN: Final = {
    "token": {
        "summary": "A token for ten minutes",
        "value": {
            "origin": "https://shop.example",
            "expires_in_s": 600,
            "limits": {"requests_per_second": 0.5, "pictures_per_minute": 20},
        },
    },
}

FORM: Final = {
    "upload": {
        "summary": "A picture and a question",
        "value": {"image": "@picture.png", "question": "What colour is this?", "max_tokens": 64, "temperature": 0},
    },
}
