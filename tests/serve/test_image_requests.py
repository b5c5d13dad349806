"""Images in a chat that is served: taken as data, and refused with a reason and a status."""

from __future__ import annotations

import pytest
from openai import BadRequestError

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGA"
    "WjR9awAAAABJRU5ErkJggg=="
)
WORDS = {"type": "text", "text": "How do I boil eggs?"}


def asked(served, model: str, url: str, kind: str = "image_url"):
    part = {"type": kind, kind: {"url": url}}
    return served.client().chat.completions.create(
        model=model, messages=[{"role": "user", "content": [part, WORDS]}], max_tokens=6,
        temperature=0,
    )  # fmt: skip


def test_a_formula_that_leaves_images_out_reads_the_text(served, offline) -> None:
    found = asked(served, "base@noimage", PIXEL)
    [expected] = offline("base", [{"role": "user", "content": WORDS["text"]}], max_new_tokens=6)
    assert found.choices[0].message.content == expected.text


@pytest.mark.parametrize(
    ("url", "kind", "problem"),
    [
        (PIXEL, "image_url", "base has no eyes"),
        ("http://127.0.0.1/a.png", "image_url", "nothing is fetched from there"),
        ("https://example.org/a.png", "image_url", "nothing is fetched from there"),
        ("file:///etc/hostname", "image_url", "url"),
        (PIXEL, "video_url", "video_url"),
    ],
)
def test_what_cannot_be_seen_is_refused(served, url, kind, problem) -> None:
    with pytest.raises(BadRequestError, match=problem):
        asked(served, "base", url, kind)
