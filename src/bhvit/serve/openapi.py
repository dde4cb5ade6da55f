"""The description of the HTTP interface, as OpenAPI and as a page."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from .. import __version__
from .inference import SEGMENT_FORMATS
from .limits import Limits

_ERRORS = {
    "400": "the request is wrong; the answer says how",
    "404": "there is no such model",
    "408": "the body did not come in time",
    "413": "the body is too large",
    "503": "too many requests wait; Retry-After says when to try again",
    "504": "the answer took too long",
}


def document(models: Sequence[str], limits: Limits) -> dict[str, Any]:
    """OpenAPI 3.1 of the server."""
    name = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "enum": list(models)}}
    error = {"$ref": "#/components/schemas/Error"}

    def operation(summary: str, answer: dict[str, Any], failures: Sequence[str] = (), **more: Any) -> dict[str, Any]:
        responses: dict[str, Any] = {"200": {"description": "OK", **answer}}
        for status in failures:
            responses[status] = {"description": _ERRORS[status], "content": {"application/json": {"schema": error}}}
        return {"summary": summary, "responses": responses, **more}

    def returns(schema: Any, kind: str = "application/json") -> dict[str, Any]:
        return {"content": {kind: {"schema": schema}}}

    picture = {"schema": {"type": "string", "format": "binary"}}
    form = {
        "schema": {
            "type": "object",
            "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}}},
        }
    }
    anything = {"type": "object"}
    failures = list(_ERRORS)
    paths: dict[str, Any] = {
        "/classify": {
            "post": operation(
                f"Name what is in a picture (at most {limits.body} bytes, {limits.pixels} pixels)",
                returns({"$ref": "#/components/schemas/Classes"}),
                failures,
                parameters=[
                    {"name": "model", "in": "query", "schema": {"type": "string", "enum": list(models)}},
                    {"name": "top", "in": "query", "schema": {"type": "integer", "minimum": 1, "default": 5}},
                ],
                requestBody={"required": True, "content": {"image/*": picture, "multipart/form-data": form}},
            )
        },
        "/segment": {
            "post": operation(
                "Label the pixels of a picture: a PNG of classes, the picture under their colours, or their shares",
                {
                    "content": {
                        "image/png": picture,
                        "image/jpeg": picture,
                        "application/json": {"schema": {"$ref": "#/components/schemas/Shares"}},
                    }
                },
                failures,
                parameters=[
                    {"name": "model", "in": "query", "schema": {"type": "string", "enum": list(models)}},
                    {"name": "format", "in": "query", "schema": {"enum": list(SEGMENT_FORMATS), "default": "labels"}},
                    {"name": "windows", "in": "query", "schema": {"enum": ["0", "1"], "default": "0"}},
                ],
                requestBody={"required": True, "content": {"image/*": picture, "multipart/form-data": form}},
            )
        },
        "/v2/models/{model}/infer": {
            "post": operation(
                "Run a model (Open Inference Protocol, with binary tensors)",
                returns(anything),
                failures,
                parameters=[name],
                requestBody={
                    "required": True,
                    "content": {"application/json": {"schema": anything}, "application/octet-stream": picture},
                },
            )
        },
    }
    for path, summary in {
        "/v2": "The server's name, version and extensions",
        "/v2/health/live": "Whether the server runs",
        "/v2/health/ready": "Whether it takes requests",
        "/v2/models/{model}": "A model's inputs, outputs and class names",
        "/v2/models/{model}/ready": "Whether a model is ready",
        "/v2/models/{model}/config": "A model's configuration, as Triton describes it",
        "/v2/models/{model}/stats": "How often a model was asked",
    }.items():
        per_model = "{model}" in path
        parameters = {"parameters": [name]} if per_model else {}
        paths[path] = {"get": operation(summary, returns(anything), ["404"] if per_model else (), **parameters)}
    paths["/v2/repository/index"] = {"post": operation("The models", returns({"type": "array", "items": anything}))}
    paths["/metrics"] = {"get": operation("Metrics for Prometheus", returns({"type": "string"}, "text/plain"))}
    return {
        "openapi": "3.1.0",
        "info": {"title": "bhvit", "version": __version__, "description": "Packed models over HTTP."},
        "paths": paths,
        "components": {
            "schemas": {
                "Error": {
                    "type": "object",
                    "required": ["error"],
                    "properties": {"error": {"type": "string"}},
                },
                "Classes": {
                    "type": "object",
                    "required": ["model", "classes"],
                    "properties": {
                        "model": {"type": "string"},
                        "classes": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["name", "probability"],
                                "properties": {"name": {"type": "string"}, "probability": {"type": "number"}},
                            },
                        },
                    },
                },
                "Shares": {
                    "type": "object",
                    "required": ["model", "height", "width", "classes"],
                    "properties": {
                        "model": {"type": "string"},
                        "height": {"type": "integer"},
                        "width": {"type": "integer"},
                        "classes": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["name", "share"],
                                "properties": {"name": {"type": "string"}, "share": {"type": "number"}},
                            },
                        },
                    },
                },
            }
        },
    }


def page(described: dict[str, Any]) -> str:
    """An OpenAPI document as a page that needs nothing from other servers."""
    rows = []
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            statuses = "; ".join(
                f"{status} {answer['description']}" for status, answer in operation["responses"].items()
            )
            cells = (f"<code>{method.upper()} {html.escape(path)}</code>", operation["summary"], statuses)
            rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    models = described["paths"]["/classify"]["post"]["parameters"][0]["schema"]["enum"]
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>bhvit {html.escape(described["info"]["version"])}</title>
<style>
  body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem }}
  td {{ border-top: 1px solid #8884; padding: .4rem .8rem .4rem 0; vertical-align: top }}
  code, pre {{ font-family: ui-monospace, monospace }} :root {{ color-scheme: light dark }}
</style>
<h1>bhvit {html.escape(described["info"]["version"])}</h1>
<p>Models: {", ".join(f"<code>{html.escape(name)}</code>" for name in models)}.
The same as <a href="openapi.json">OpenAPI</a>; <a href="metrics">metrics</a>.</p>
<pre>curl --data-binary @cat.jpg -H 'Content-Type: image/jpeg' '…/classify?top=3'</pre>
<table>{"".join(rows)}</table>
"""
