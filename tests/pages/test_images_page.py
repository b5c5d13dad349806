"""The page about images runs on a tiny model, and says what it prints is what generate gives."""

from __future__ import annotations

import re

from doc_pages import Page
from tiny_vlms import picture, vlm

from descant.lang import model, noimage

PAGE = Page("docs/images.md")


def test_the_page_runs(tmp_path) -> None:
    seeing = vlm("llava")
    picture(1, 24, 16).save(tmp_path / "photo.png")
    names = {"model": seeing.model, "processor": seeing.processor}
    printed = PAGE.run(names=names, replaced={"photo.png": str(tmp_path / "photo.png")})
    [(_, first), (_, second)] = printed
    image = {"type": "image", "image": picture(1, 24, 16)}
    content = [image, {"type": "text", "text": "What is this?"}]
    expected = seeing.answer([{"role": "user", "content": content}], 8)
    assert first.strip() == str(expected)
    answers = re.findall(r"\[.*\]", second)
    assert answers[0] == str(expected) and answers[1] != answers[0]


def test_python_writes_it_too() -> None:
    seeing = model("vlm")
    assert str(seeing - seeing @ noimage) == "vlm - vlm@noimage"
    assert str(seeing @ "Be brief." @ noimage) == 'vlm@"Be brief."@noimage'
    assert seeing @ "Be brief." @ noimage == 'vlm@"Be brief."@noimage'
