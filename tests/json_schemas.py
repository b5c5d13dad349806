"""200 JSON schemas in the style of llguidance's public tests: families made by rule, and by hand.

``SCHEMAS`` is the same list every time: a family's name with a number, and the schema.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]
STRING: Schema = {"type": "string", "maxLength": 12}
COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": 99}


def record(properties: dict[str, Any], required: list[str] | None = None, **more: Any) -> Schema:
    """A closed object; all of its properties are required unless some are named."""
    needed = list(properties) if required is None else required
    closed = {"type": "object", "properties": properties, "required": needed}
    return {**closed, "additionalProperties": False, **more}


def array(items: Any, low: int = 0, high: int = 3) -> Schema:
    return {"type": "array", "items": items, "minItems": low, "maxItems": high}


LEAVES: list[Schema] = [
    STRING,
    COUNT,
    {"type": "boolean"},
    {"type": "null"},
    {"enum": ["red", "green", "blue"]},
    {"type": "number", "minimum": -1, "maximum": 1},
    {"type": "string", "pattern": "^[a-z]{2,5}$"},
    {"const": "fixed"},
]


def _nested() -> Iterator[Schema]:
    """Objects in objects, with optional properties, of a few leaves each."""
    draw = random.Random(7)
    for width, depth in itertools.product((1, 2, 3, 4), (1, 2, 3, 4)):
        schema: Schema = draw.choice(LEAVES)
        for level in range(depth):
            leaves = {f"{'abcd'[i]}{level}": draw.choice(LEAVES) for i in range(width)}
            required = [name for name in leaves if draw.random() < 0.6]
            schema = record({**leaves, "next": schema}, [*required, "next"])
        yield schema
    for names in (["a"], ["b", "a"], ["c", "a", "b"], []):
        yield record({name: draw.choice(LEAVES) for name in "abc"}, names)


def _enums() -> Iterator[Schema]:
    values: list[list[Any]] = [
        ["a"], ["yes", "no"], ["north", "northeast", "northwest", "south"], [1, 2, 3], [0, -1, 10],
        [1.5, 2.25, -0.5], [True, False], [None, "none"], ["", " ", "  "], ["1", 1, True, None],
        ['"quoted"', "back\\slash", "tab\t", "line\n"], [[1, 2], [3]], [{"a": 1}, {"b": []}],
        ["a" * n for n in range(1, 12)], [f"option {i:03}" for i in range(120)],
    ]  # fmt: skip
    for value in values:
        yield {"enum": value}
    yield {"type": "string", "enum": ["x", "y"]}
    yield record({"size": {"enum": ["S", "M", "L"]}, "fit": {"enum": [None, "slim"]}})
    yield array({"enum": [0, 1]}, 8, 8)


def _integers() -> Iterator[Schema]:
    for low, high in (
        (0, 0), (0, 9), (1, 12), (-5, 5), (-99, -90), (95, 105), (0, 255), (1900, 2100),
        (-1000, 1000), (999_999, 1_000_001), (-(2**31), 2**31 - 1),
    ):  # fmt: skip
        yield {"type": "integer", "minimum": low, "maximum": high}
    yield {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 6}
    for step in (2, 5, 7, 12, 25):
        yield {"type": "integer", "minimum": 0, "maximum": 200, "multipleOf": step}
    yield array({"type": "integer", "minimum": 1, "maximum": 6}, 5, 5)


def _numbers() -> Iterator[Schema]:
    for low, high in ((0, 1), (-1, 1), (0.5, 0.75), (-273.15, 100), (1.25, 20.5)):
        yield {"type": "number", "minimum": low, "maximum": high}
    yield {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
    for step in (0.25, 0.5, 10):
        yield {"type": "number", "minimum": 0, "maximum": 100, "multipleOf": step}
    for low, high in ((-180, 180), (-90, 90)):
        yield array({"type": "number", "minimum": low, "maximum": high}, 2, 2)


def _strings() -> Iterator[Schema]:
    for pattern in (
        "^[A-Z]{3}$", "^[A-Z]{3}-[0-9]{4}$", r"^\d{3}-\d{2}-\d{4}$", "^(a|b|c){2,6}$",
        "^#[0-9a-f]{6}$", "^v[0-9]+\\.[0-9]{1,2}\\.[0-9]{1,2}$", "^[^aeiou ]{3}$", "ab?c{2}",
        "^(?:[a-z]+, ){0,2}[a-z]+$",
        "^[\\w.]{1,8}@[a-z]{2,6}\\.(com|org)$", "^$", "^.{4}$", "^(yes|no)( (yes|no)){0,3}$",
        "^[äöüß]{2}$", "^[\\u0391-\\u03c9]{3}$",
    ):  # fmt: skip
        yield {"type": "string", "pattern": pattern, "maxLength": 24}
    for low, high in ((0, 0), (1, 1), (3, 5), (8, 8), (0, 30), (20, 25)):
        yield {"type": "string", "minLength": low, "maxLength": high}
    for form in ("date", "time", "date-time", "ipv4", "ipv6", "uuid", "duration", "hostname"):
        yield {"type": "string", "format": form, "maxLength": 40}


def _arrays() -> Iterator[Schema]:
    for low, high in ((0, 0), (1, 1), (0, 2), (2, 3), (4, 4), (10, 12)):
        yield array(COUNT, low, high)
    for leaf in LEAVES[:6]:
        yield array(leaf, 1, 4)
    yield array(array(array(COUNT, 1, 2), 1, 2), 1, 2)
    yield array(record({"id": COUNT, "tags": array({"enum": ["new", "old"]})}), 1, 2)
    for items in ([STRING, COUNT], [COUNT, {"type": "boolean"}, {"const": None}], [array(COUNT)]):
        yield {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
    yield {"type": "array", "prefixItems": [COUNT], "items": {"enum": ["x"]}, "minItems": 1,
           "maxItems": 4}  # fmt: skip


def _recursive() -> Iterator[Schema]:
    def rooted(name: str, **definitions: Schema) -> Schema:
        return {"$ref": f"#/$defs/{name}", "$defs": definitions}

    def at(name: str) -> Schema:
        return {"$ref": f"#/$defs/{name}"}

    yield rooted("tree", tree=record({"value": COUNT, "children": array(at("tree"), 0, 2)}))
    yield rooted("list", list={"anyOf": [{"type": "null"},
                                         record({"head": COUNT, "tail": at("list")})]})  # fmt: skip
    yield rooted(
        "expr",
        expr={"anyOf": [COUNT, record({"op": {"enum": ["+", "-", "*"]}, "left": at("expr"),
                                       "right": at("expr")})]},
    )  # fmt: skip
    yield rooted("thread", thread=record({"by": STRING, "replies": array(at("thread"), 0, 1)}))
    yield rooted("a", a=record({"b": at("b")}, []), b=record({"a": at("a")}, []))
    yield rooted(
        "menu", menu=record({"label": STRING, "items": array(at("menu"), 0, 2)}, ["label"])
    )
    yield rooted("value", value={"anyOf": [{"type": "boolean"}, array(at("value"), 0, 2)]})
    yield record({"left": {"$ref": "#"}, "leaf": COUNT}, ["leaf"])
    yield record(
        {"folder": at("folder")},
        **{
            "$defs": {
                "folder": record(
                    {"name": {"type": "string", "pattern": "^[a-z]{1,6}$"}, "in": at("folder")},
                    ["name"],
                )
            }
        },
    )
    yield rooted("even", even={"anyOf": [{"const": []}, {"type": "array", "prefixItems":
                 [COUNT, at("even")], "items": False, "minItems": 2}]})  # fmt: skip


def _combined() -> Iterator[Schema]:
    yield {"anyOf": [{"type": "string", "maxLength": 5}, COUNT]}
    yield {"anyOf": [record({"kind": {"const": kind}, "n": COUNT}) for kind in "abc"]}
    yield {"anyOf": [array(COUNT, 1, 2), {"type": "null"}, {"const": "none"}]}
    yield {"anyOf": [{"anyOf": [{"const": 1}, {"const": 2}]}, {"anyOf": [{"const": "one"}]}]}
    yield {"oneOf": [{"type": "boolean"}, COUNT]}
    yield {"oneOf": [{"const": name} for name in ("hen", "cock", "chick")]}
    yield {"oneOf": [record({"circle": COUNT}), record({"square": STRING})]}
    yield {"oneOf": [{"type": "null"}, array({"type": "boolean"}, 1, 3)]}
    yield {"allOf": [COUNT, {"minimum": 10}, {"maximum": 20}]}
    yield {"allOf": [{"type": "string", "minLength": 2}, {"maxLength": 6}]}
    yield {"allOf": [record({"a": COUNT, "b": STRING}, [])], "required": ["b"]}
    yield {"allOf": [{"properties": {"a": COUNT}, "required": ["a"]},
                     {"properties": {"b": {"type": "null"}}, "required": ["b"]}],
           "type": "object", "properties": {"a": True, "b": True},
           "additionalProperties": False}  # fmt: skip
    for leaf in LEAVES:
        yield {"anyOf": [leaf, {"type": "null"}]}
    yield {"type": ["integer", "null"], "minimum": 0, "maximum": 5}
    yield {"type": ["boolean", "string"], "maxLength": 4}
    yield record({"when": {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]}})
    yield {"allOf": [{"$ref": "#/$defs/p"}], "$defs": {"p": record({"x": COUNT, "y": COUNT})}}


def _constants() -> Iterator[Schema]:
    for value in (0, -3, 2.5, "", "a text", True, None, [], [1, "a", None], {}, {"a": {"b": [1]}}):
        yield {"const": value}
    yield record({"version": {"const": 2}, "ok": {"const": True}})


def _maps() -> Iterator[Schema]:
    yield {"type": "object", "additionalProperties": COUNT, "maxProperties": 2}
    yield {"type": "object", "additionalProperties": STRING, "minProperties": 1, "maxProperties": 2}
    yield {"type": "object", "patternProperties": {"^x[0-9]$": COUNT},
           "additionalProperties": False, "maxProperties": 3}  # fmt: skip
    yield {"type": "object", "patternProperties": {"^a": COUNT, "^b": {"type": "null"}},
           "additionalProperties": False, "maxProperties": 2}  # fmt: skip
    yield {**record({"id": COUNT}), "additionalProperties": {"type": "boolean"}, "maxProperties": 3}
    yield record({})
    yield {"type": "object", "properties": {"a": COUNT}, "required": ["a"]}


def _unicode() -> Iterator[Schema]:
    yield record({"größe": COUNT, "naïve": {"type": "boolean"}})
    yield record({"名前": {"enum": ["太郎", "花子"]}, "年": {"type": "integer", "minimum": 1}})
    yield {"enum": ["☃", "🙂", "👩\u200d🚀", "e\u0301", "é"]}
    yield {"const": "Ω ≈ ∞ \u2028 end"}
    yield record({'a"b': COUNT, "c\\d": COUNT, "e/f": COUNT, "": COUNT, "tab\t": COUNT})
    yield {"type": "string", "pattern": "^[\\u0430-\\u044f]{2,6}$"}
    yield {"type": "string", "minLength": 2, "maxLength": 2}
    yield array({"enum": ["ja", "否", "да"]}, 2, 3)


def _by_hand() -> Iterator[Schema]:
    name = {"type": "string", "pattern": "^[A-Z][a-z]{1,9}$"}
    money = {"type": "number", "minimum": 0, "maximum": 10_000}
    point = {"type": "array", "prefixItems": [{"type": "number", "minimum": -180, "maximum": 180},
             {"type": "number", "minimum": -90, "maximum": 90}], "items": False,
             "minItems": 2}  # fmt: skip
    yield record({"name": name, "age": {"type": "integer", "minimum": 0, "maximum": 150}})
    yield record({"name": name, "email": {"type": "string", "format": "email", "maxLength": 24},
                  "admin": {"type": "boolean"}}, ["name", "email"])  # fmt: skip
    yield record({"city": name, "celsius": {"type": "number", "minimum": -60, "maximum": 60},
                  "sky": {"enum": ["clear", "cloudy", "rain", "snow"]}})  # fmt: skip
    yield record({"items": array(record({"sku": {"type": "string", "pattern": "^[A-Z]{2}[0-9]{3}$"},
                                         "amount": COUNT, "price": money}), 1, 3),
                  "total": money, "currency": {"enum": ["EUR", "USD", "JPY"]}})  # fmt: skip
    yield record({"name": {"const": "get_weather"}, "arguments": record(
        {"place": STRING, "unit": {"enum": ["c", "f"]}}, ["place"])})  # fmt: skip
    yield {
        "anyOf": [
            record({"tool": {"const": "search"}, "query": STRING}),
            record({"tool": {"const": "add"}, "numbers": array(COUNT, 2, 3)}),
        ]
    }
    yield record({"from": {"type": "string", "pattern": "^[a-h][1-8]$"},
                  "to": {"type": "string", "pattern": "^[a-h][1-8]$"},
                  "promotion": {"enum": ["q", "r", "b", "n"]}}, ["from", "to"])  # fmt: skip
    yield record({"type": {"const": "Point"}, "coordinates": point})
    yield record({"type": {"const": "LineString"}, "coordinates": array(point, 2, 3)})
    yield record({"title": STRING, "steps": array(STRING, 1, 3), "minutes": COUNT})
    yield record({"start": {"type": "string", "format": "date-time"},
                  "end": {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]},
                  "guests": array(name)}, ["start"])  # fmt: skip
    yield record({"level": {"enum": ["debug", "info", "error"]}, "message": STRING,
                  "code": {"type": "integer", "minimum": 100, "maximum": 599}})  # fmt: skip
    yield record({"host": {"type": "string", "format": "ipv4"},
                  "port": {"type": "integer", "minimum": 1, "maximum": 65_535},
                  "tls": {"type": "boolean"}}, ["host", "port"])  # fmt: skip
    yield record({"sentiment": {"enum": ["positive", "neutral", "negative"]},
                  "confidence": {"type": "number", "minimum": 0, "maximum": 1}})  # fmt: skip
    yield record({"entities": array(record({"text": STRING, "label": {"enum": ["PER", "LOC"]}}))})
    yield record({"question": STRING, "options": {"type": "array", "prefixItems": [STRING] * 3,
                  "items": False, "minItems": 3}, "answer": {"enum": ["A", "B", "C"]}})  # fmt: skip
    yield record({"grid": array(array({"enum": [0, 1]}, 3, 3), 3, 3)})
    yield record({"r": (byte := {"type": "integer", "minimum": 0, "maximum": 255}), "g": byte,
                  "b": byte, "alpha": {"type": "number", "minimum": 0, "maximum": 1}},
                 ["r", "g", "b"])  # fmt: skip
    yield record({"iban": {"type": "string", "pattern": "^DE[0-9]{20}$"}, "owner": name})
    yield record({"id": {"type": "string", "format": "uuid"}, "parent": {"type": "null"}})
    yield record({"feathers": record({"colour": STRING, "count": COUNT}), "lays": array(
        {"type": "string", "format": "date"}, 0, 2)})  # fmt: skip
    yield record({"thought": {"type": "string", "maxLength": 40}, "answer": {"type": "boolean"}})
    yield record({"query": record({"match": record({"field": STRING, "value": STRING}),
                                   "size": COUNT})})  # fmt: skip
    yield array(record({"lemma": STRING, "pos": {"enum": ["NOUN", "VERB", "ADJ"]}}), 1, 3)
    yield record(
        {"score": {"type": "integer", "minimum": 1, "maximum": 5}, "why": STRING},
        title="Review",
        description="A review.",
        **{"$comment": "by hand"},
    )


FAMILIES = {
    "nested": _nested, "enum": _enums, "integer": _integers, "number": _numbers,
    "string": _strings, "array": _arrays, "recursive": _recursive, "combined": _combined,
    "constant": _constants, "map": _maps, "unicode": _unicode, "hand": _by_hand,
}  # fmt: skip
SCHEMAS: dict[str, Schema] = {
    f"{family}-{number}": schema
    for family, made in FAMILIES.items()
    for number, schema in enumerate(made())
}
