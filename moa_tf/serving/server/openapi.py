"""What the API's description says of paths, bodies and answers."""

from __future__ import annotations

from typing import Any


def _text(name: str, pattern: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "pattern": pattern}}


PARAMETERS = {
    "model": _text("model", "^[^/:]+$"),
    "version": _text("version", "^[0-9]{1,18}$"),
    "label": _text("label", "^[^/:]+$"),
}


def _body(properties: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties}
    return {"required": True, "content": {"application/json": {"schema": schema}}}


_EXAMPLES = _body({"examples": {"type": "array", "items": {"type": "object"}}, "context": {"type": "object"}})

BODIES = {
    "predict": _body(
        {"signature_name": {"type": "string"}, "instances": {"type": "array"}, "inputs": {}},
    ),
    "classify": _EXAMPLES,
    "regress": _EXAMPLES,
    "table": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    },
}

_ERROR = {
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["error"],
                "properties": {"error": {"type": "string"}},
            }
        }
    }
}

ANSWERS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, **_ERROR}
    for status, text in {
        400: "The request is at fault",
        401: "The token is missing or wrong",
        404: "No such model, version or label",
        408: "The body came too slowly",
        413: "The body is too long, or has too many rows",
        415: "The body's encoding is not known",
        421: "Host names another server",
        500: "An error of the server",
        503: "Too busy, or shutting down",
        504: "Not computed in time",
    }.items()
}
