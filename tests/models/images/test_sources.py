"""Where images come from, what is refused of them, and where the server's go."""

from __future__ import annotations

import base64
import json
import socket
import struct
import zlib
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from threading import Thread
from typing import Any

import pytest
from pydantic import ValidationError
from tiny_vlms import chat, picture, vlm

from descant.inputs.prompts import read_items
from descant.inputs.runfile import Data
from descant.models import ModelError, make_spec
from descant.models.images import fetch
from descant.models.images.parts import images_in, with_images, without_images
from descant.models.images.sources import NO_FILES, Sources
from descant.runtime import Service
from descant.serve.protocol.schema import ChatRequest


def encoded(image: Any = None, kind: str = "PNG", **options: Any) -> bytes:
    out = BytesIO()
    (image or picture(1)).save(out, kind, **options)
    return out.getvalue()


def url_of(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that says it has so many pixels on a side."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 99)), (b"IEND", b""))
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def of_part(**part: Any) -> list[dict[str, Any]]:
    return [
        {"role": "system", "content": "Look."},
        {"role": "user", "content": [{"type": "text", "text": "what?"}, part]},
    ]


def test_every_way_of_writing_an_image_is_the_same_image(tmp_path) -> None:
    data = encoded()
    (tmp_path / "a.png").write_bytes(data)
    plain = base64.b64encode(data).decode()
    ways = [
        {"type": "image", "image": picture(1)},
        {"type": "image", "image": str(tmp_path / "a.png")},
        {"type": "image", "image": tmp_path / "a.png"},
        {"type": "image", "image": data},
        {"type": "image", "image": plain},
        {"type": "image", "path": str(tmp_path / "a.png")},
        {"type": "image", "base64": plain},
        {"type": "image", "url": url_of(data)},
        {"type": "image_url", "image_url": {"url": url_of(data), "detail": "low"}},
    ]
    for part in ways:
        [image] = images_in(with_images(of_part(**part)))
        assert image.tobytes() == picture(1).tobytes(), part
    left = without_images(of_part(**ways[0]))
    assert left[1]["content"] == [{"type": "text", "text": "what?"}]
    turned = picture(1).getexif()
    turned[0x0112] = 3  # upside down
    [image] = images_in(with_images(of_part(type="image", image=encoded(exif=turned))))
    assert image.tobytes() == picture(1).rotate(180).tobytes()


ANIMATED = encoded(kind="GIF", save_all=True, append_images=[picture(2)])
WRONG = [
    ({"image": encoded()[:300]}, "broken image"),
    ({"image": bomb(60_000)}, "pixels"),
    ({"image": bomb(9_000)}, "9000 by 9000 pixels"),
    ({"image": ANIMATED}, "animated"),
    ({"image": b"%PDF-1.7 and more"}, "no image that can be read"),
    ({"image": b"%!PS-Adobe-3.0 EPSF-3.0"}, "no image that can be read"),
    ({"image": "nowhere.png"}, "there is no such file"),
    ({"path": "nowhere.png"}, "which cannot be read"),
    ({"base64": "!!"}, "no base64 data"),
    ({"url": "data:image/png,abc"}, "without base64 data"),
    ({"url": "ftp://example.org/a.png"}, "has the address"),
    ({"url": "https://example.org/a.png"}, "nothing is fetched from the network"),
    ({"image": 3}, "is a int, not an image"),
    ({"path": "a", "url": "b"}, "path and url"),
    ({}, "has nothing"),
]


@pytest.mark.parametrize(("part", "problem"), WRONG, ids=[problem for _, problem in WRONG])
def test_what_is_no_image_is_named(part, problem) -> None:
    with pytest.raises(ModelError, match=problem) as caught:
        with_images(of_part(type="image", **part))
    assert "part 1 of message 1" in str(caught.value)


def test_what_is_neither_text_nor_an_image() -> None:
    for kind in ("input_audio", "video", "tool_use", None):
        with pytest.raises(ModelError, match="part 1 of message 1"):
            with_images(of_part(type=kind))
    with pytest.raises(ModelError, match="a file, and none is read"):
        with_images(of_part(type="image", path="/etc/hostname"), NO_FILES)


@pytest.fixture
def host(monkeypatch):
    """A host by its paths, whose address counts as public."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/far":
                self.send_response(302)
                self.send_header("Location", "http://127.0.0.1:1/a.png")
                return self.end_headers()
            if self.path == "/again":
                self.send_response(302)
                self.send_header("Location", "/again")
                return self.end_headers()
            found = {"/a.png": encoded(), "/long": bytes(fetch.BYTES + 1)}.get(self.path)
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(found or b"")

        def log_message(self, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answers)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(fetch, "_is_public", lambda address: address == "127.0.0.1")
    yield f"http://localhost:{server.server_port}"
    server.shutdown()


def test_an_address_is_fetched_where_its_host_is_allowed(host, monkeypatch) -> None:
    sources = Sources(fetch=fetch.Fetcher(["localhost"]))
    asked: list[tuple[Any, ...]] = []
    resolve = socket.getaddrinfo

    def local(*args: Any, **more: Any) -> Any:
        asked.append(args)
        return list(resolve("127.0.0.1", *args[1:], **more))

    monkeypatch.setattr(socket, "getaddrinfo", local)
    [image] = images_in(with_images(of_part(type="image", url=f"{host}/a.png"), sources))
    assert image.tobytes() == picture(1).tobytes()
    for path, problem in (
        ("far", "is at 127.0.0.1"), ("again", "redirected more"), ("none", "answers 404"),
        ("long", "more than 32 MB"),
    ):  # fmt: skip
        with pytest.raises(ModelError, match=problem):
            with_images(of_part(type="image", url=f"{host}/{path}"), sources)
    monkeypatch.undo()
    with pytest.raises(ModelError, match="private address"):
        with_images(of_part(type="image", url=f"{host}/a.png"), sources)
    private = ("10.1.2.3", "::1", "169.254.169.254", "::ffff:192.168.0.1", "fe80::1%2", "224.0.0.1")
    assert not any(map(fetch._is_public, private)) and fetch._is_public("93.184.216.34")


def test_a_run_file_finds_images_beside_its_prompts(tmp_path) -> None:
    (tmp_path / "a.png").write_bytes(encoded())
    parts = [{"type": "image", "path": "a.png"}, {"type": "text", "text": "what?"}]
    line = json.dumps({"prompt": [{"role": "user", "content": parts}]})
    (tmp_path / "prompts.jsonl").write_text(line)
    [item] = read_items(Data(path=str(tmp_path / "prompts.jsonl"), field="prompt"))
    [image] = images_in(with_images(item.prompt))
    assert image.tobytes() == picture(1).tobytes()


def test_a_served_chat_answers_as_generate_does() -> None:
    """OpenAI's parts, as the decode process gets them."""
    prompt = chat(picture(2, 24, 16), " what is it?")
    parts = [
        {"type": "image_url", "image_url": {"url": url_of(encoded(picture(2, 24, 16)))}},
        {"type": "text", "text": " what is it?"},
    ]
    body = {"model": "vlm", "messages": [{"role": "user", "content": parts}]}
    service = Service({"vlm": make_spec("vlm", vlm("qwen2_5_vl").spec)}, slots=2, max_model_len=96)
    decoder = service.decoder("vlm")
    [asked] = ChatRequest.model_validate(body).prompts
    service.submit(decoder, asked, max_new_tokens=8)
    answers = []
    while service.busy:
        answers += [list(each.tokens) for each in service.step() if each.finish_reason]
    assert answers == [vlm("qwen2_5_vl").answer(prompt, 8)]
    parts[0]["image_url"]["url"] = "file:///etc/hostname"
    with pytest.raises(ValidationError):
        ChatRequest.model_validate(body)
