"""One HTML file with its styles, scripts and data, and a policy against all others.

Users' text is in the data, which cannot end a script, and becomes text nodes; or in the template,
which escapes it. The page's content security policy allows this script alone, and loads nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent / "templates"
SCRIPTS = ("dom.js", "chart.js", "report.js", "effects.js", "why.js", "open.js")
_ESCAPES = str.maketrans({char: f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"})


def page(
    title: str,
    eyebrow: str,
    formulas: Sequence[Mapping[str, str]],
    facts: str,
    data: Mapping[str, Any],
) -> str:
    """The page: an eyebrow, the title, formulas by ``name`` and ``text``, and a line of facts.

    The scripts' data is a ``report``, an ``inspection`` or both.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    from .. import __version__

    style, script = _read("page.css"), "\n".join(map(_read, SCRIPTS))
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string(_read("page.html")).render(
        title=title, eyebrow=eyebrow, formulas=formulas, facts=facts, version=__version__,
        style=Markup(style), style_hash=_hash(style), script=Markup(script),
        script_hash=_hash(script), data=Markup(embedded(data)),
    )  # fmt: skip


def static_page(
    title: str,
    eyebrow: str,
    formula: str,
    facts: str,
    tables: Sequence[Mapping[str, Any]],
    pictures: Sequence[str],
    notes: Sequence[str] = (),
) -> str:
    """A page without scripts: tables with a ``title``, a ``head`` and ``rows``, and PNG pictures.

    Pictures are in base64.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    from .. import __version__

    style = _read("page.css")
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string(_read("static.html")).render(
        title=title, eyebrow=eyebrow, formula=formula, facts=facts, tables=tables, notes=notes,
        pictures=pictures, version=__version__, style=Markup(style), style_hash=_hash(style),
    )  # fmt: skip


def embedded(data: Any) -> str:
    """JSON that is safe inside a script element, whatever text it holds; no NaN.

    >>> embedded({"text": "</script><b>&", "score": float("nan")})
    '{"text":"\\\\u003c/script\\\\u003e\\\\u003cb\\\\u003e\\\\u0026","score":null}'
    """
    text = json.dumps(_finite(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(_ESCAPES)


def _finite(value: Any) -> Any:
    match value:
        case Mapping():
            return {str(key): _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case float() if not math.isfinite(value):
            return None
    return value


@cache
def _read(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
