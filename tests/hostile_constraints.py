"""Constraints that mean no good: each is refused, or compiled within the limits."""

from __future__ import annotations

from typing import Any


def _nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def _chain(length: int, **more: Any) -> dict[str, Any]:
    links = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}", **more} for i in range(length)}
    return {"$ref": "#/$defs/d0", "$defs": {**links, f"d{length}": {"type": "string"}}}


def _twice(keyword: str, depth: int) -> dict[str, Any]:
    links = {
        f"d{i}": {keyword: [{"$ref": f"#/$defs/d{i + 1}"}, {"$ref": f"#/$defs/d{i + 1}"}]}
        for i in range(depth)
    }
    return {"$ref": "#/$defs/d0", "$defs": {**links, f"d{depth}": {"type": "object"}}}


def _rules(count: int) -> str:
    return "\n".join([f'r{i}: "a" r{i + 1} | "b"' for i in range(count)] + [f'r{count}: "c"'])


REFUSED: dict[str, dict[str, Any]] = {
    "long expression": {"regex": "a" * 20_000},
    "long schema": {"json": {"enum": ["x" * 70_000]}},
    "many choices": {"choice": [f"c{i}" for i in range(5_000)]},
    "many values": {"json": {"enum": list(range(20_000))}},
    "deep schema": {"json": _nested(200)},
    "deep text": {"json": "[" * 50_000},
    "deep expression": {"regex": "(" * 80 + "a" + ")" * 80},
    "deep grammar": {"grammar": "start: " + "(" * 80 + '"a"' + ")" * 80},
    "million": {"regex": "a{1000000}"},
    "million in a pattern": {"json": {"type": "string", "pattern": "a{,99999999999}"}},
    "multiple": {"json": {"properties": {"multipleOf": {"multipleOf": 9_999_991}}}},
    "multiple in a grammar": {
        "grammar": 'start: %json {"type": "integer", "multipleOf": 9999991}'
    },
    "chain of references": {"json": _chain(3_000)},
    "chain of rules": {"grammar": "start: r0\n" + _rules(3_000)},
    "chain of terminals": {
        "grammar": "start: R0\n" + "\n".join(f'R{i}: "a" R{i + 1}' for i in range(5_000))
    },
    "remote": {"json": {"$ref": "http://127.0.0.1:9/schema.json"}},
    "file": {"json": {"properties": {"a": {"$ref": "file:///etc/passwd"}}}},
    "import of a file": {"grammar": '%import "/etc/passwd"\nstart: "a"'},
    "itself": {"json": {"$ref": "#"}},
    "a ring": {"json": {**_chain(3), "$defs": {f"d{i}": {"$ref": f"#/$defs/d{(i + 1) % 3}"}
                                               for i in range(3)}}},
    "a ring of allOf": {
        "json": {"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}, {}]}}}
    },
    "rules without an end": {"grammar": "start: a\na: b\nb: a"},
    "product of alternatives": {
        "json": {"allOf": [{"anyOf": [{"properties": {f"k{i}": {"const": c}}, "required": [f"k{i}"]}
                                      for c in range(2)]} for i in range(14)]}
    },
    "options": {"grammar": "start: " + '"a"? ' * 3000},
    "slow": {"json": {"anyOf": [{"type": "integer", "multipleOf": 9_973 - i} for i in range(200)]}},
}  # fmt: skip
COMPILED: dict[str, dict[str, Any]] = {
    "repetitions of repetitions": {"regex": "((a{1,1000}){1,1000}){1,1000}"},
    "states by the power": {"regex": "(a|b)*a(a|b){30}"},
    "states of a repetition": {"regex": ".*a.{300}"},
    "intersection": {"grammar": "start: /(.*a.{20})&(.*b.{20})&~(.*c.{20})/"},
    "large enum": {"json": {"enum": [f"value number {i}" for i in range(2_500)]}},
    "long array of arrays": {
        "json": {"type": "array", "minItems": 1000,
                 "items": {"type": "array", "items": {"type": "integer"}, "minItems": 1000}}
    },
    "long string": {"json": {"type": "string", "maxLength": 1_000_000}},
    "many properties": {"json": {"properties": {f"p{i}": {"type": "string"} for i in range(1000)}}},
    "doubling by allOf": {"json": _twice("allOf", 22)},
    "doubling by anyOf": {"json": _twice("anyOf", 22)},
    "long chain": {"json": _chain(400)},
    "ambiguous": {"grammar": 'start: e\ne: e e | "a" | e e e | ""'},
    "nothing many times": {"grammar": "start: " + "x " * 1000 + '\nx: "a" | '},
    "rules": {"grammar": "start: r0\n" + _rules(400)},
}  # fmt: skip
