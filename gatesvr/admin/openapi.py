"""The OpenAPI document of the admin API, made from its table of routes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from .answers import ErrorAnswer
from .questions import NoBody, NoQuery

__all__ = ["ApiRoute", "document"]

PREFIX = "/api/v1/"
_PARAMETER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class ApiRoute:
    """One request that the API answers.

    Attributes:
        method: Of HTTP.
        path: Behind PREFIX, with ``{id}`` for a session's id.
        name: The method of Api that answers.
        text: What it does.
        answer: The type of the answer, None where it is no JSON.
        query: The parameters.
        body: What a POST carries.
        media: The type of an answer that is no JSON.
        by_address: Whether its method takes the client's address, where others take an id.
    """

    method: str
    path: str
    name: str
    text: str
    answer: Any
    query: type[msgspec.Struct] = NoQuery
    body: type[msgspec.Struct] = NoBody
    media: str = ""
    by_address: bool = False


def document(routes: list[ApiRoute], version: str) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of the routes.

    Args:
        routes: All of them.
        version: GateSvr's.
    """
    kinds: list[Any] = [ErrorAnswer]
    for route in routes:
        kinds += [kind for kind in (route.answer, route.body) if kind is not None]
    schemas, components = msgspec.json.schema_components(
        kinds, ref_template="#/components/schemas/{name}"
    )
    by_kind = dict(zip(map(repr, kinds), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operation: dict[str, Any] = {
            "operationId": route.name,
            "summary": route.text,
            "parameters": _parameters(route),
            "responses": {
                "200": _response("Done", route, by_kind),
                "default": {
                    "description": "Refused",
                    "content": {"application/json": {"schema": by_kind[repr(ErrorAnswer)]}},
                },
            },
        }
        if route.method == "POST":
            operation["requestBody"] = {
                "content": {"application/json": {"schema": by_kind[repr(route.body)]}}
            }
        paths.setdefault(PREFIX + route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "GateSvr admin API", "version": version},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _response(text: str, route: ApiRoute, by_kind: dict[str, Any]) -> dict[str, Any]:
    if route.answer is None:
        return {"description": text, "content": {route.media: {"schema": {"type": "string"}}}}
    schema = by_kind[repr(route.answer)]
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _parameters(route: ApiRoute) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(route.path)
    ]
    schema = msgspec.json.schema(route.query)["$defs"][route.query.__name__]
    for name, kind in schema["properties"].items():
        found.append({"name": name, "in": "query", "required": False, "schema": kind})
    if route.method == "POST":
        found.append(
            {
                "name": "X-GateSvr",
                "in": "header",
                "required": True,
                "schema": {"const": "1"},
                "description": "Shows that no page of another site sends the request",
            }
        )
    return found
