"""Steering vectors of files: those of others as they are, ours both ways, bad ones named."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from descant import ModelError
from descant.extras import pip_install
from descant.models.adapters import vector_files
from descant.models.adapters.vector_files import read_vector, vector_file, write_vector

Make = Callable[[Path, Mapping[str, Any]], Path]
NAMES = ["v.safetensors", "v.gguf"]


def directions(width: int = 32, dtype: torch.dtype = torch.float32) -> dict[int, torch.Tensor]:
    torch.manual_seed(0)
    return {layer: torch.randn(width).to(dtype) for layer in (11, 0, 3)}


def by_safetensors(folder: Path, tensors: Mapping[str, Any]) -> Path:
    file = folder / "v.safetensors"
    save_file({key: torch.as_tensor(value).clone() for key, value in tensors.items()}, file)
    return file


def by_gguf(folder: Path, tensors: Mapping[str, Any], kind: str = "F32") -> Path:
    """As llama.cpp's cvector-generator writes it, and repeng's export_gguf."""
    gguf = pytest.importorskip("gguf", reason="pip install descant[gguf]")
    stored = gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(folder / "v.gguf", "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_int32("controlvector.layer_count", len(tensors))
    for key, value in tensors.items():
        array = np.asarray(value, np.float32)
        packed = array if kind == "F32" else gguf.quants.quantize(array, stored)
        writer.add_tensor(key, packed, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "v.gguf"


def equal(found: Mapping[int, torch.Tensor], expected: Mapping[int, torch.Tensor]) -> bool:
    assert list(found) == sorted(expected)
    assert {(value.dtype, value.device.type, value.dim()) for value in found.values()} == {
        (torch.float32, "cpu", 1)
    }
    return all(torch.equal(found[layer], expected[layer].float()) for layer in found)


@pytest.mark.parametrize("make", [by_safetensors, by_gguf])
@pytest.mark.parametrize("shape", [(-1,), (1, -1)])
def test_files_of_others_are_read_as_they_are(tmp_path: Path, make: Make, shape: Any) -> None:
    written = directions()
    tensors = {f"direction.{layer}": value.view(shape) for layer, value in written.items()}
    assert equal(read_vector("calm", make(tmp_path, tensors)), written)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0"])
def test_packed_numbers_are_what_the_gguf_package_unpacks(tmp_path: Path, kind: str) -> None:
    gguf = pytest.importorskip("gguf", reason="pip install descant[gguf]")
    written = directions(width=64)
    tensors = {f"direction.{layer}": value for layer, value in written.items()}
    found = read_vector("calm", by_gguf(tmp_path, tensors, kind))
    stored = gguf.GGMLQuantizationType[kind]
    for layer, value in written.items():
        packed = gguf.quants.quantize(value.numpy(), stored)
        expected = torch.from_numpy(gguf.quants.dequantize(packed, stored))
        assert torch.equal(found[layer], expected)
        assert 0 < (found[layer] - value).abs().max() < 0.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_numbers_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    written = directions(dtype=dtype)
    tensors = {f"direction.{layer}": value for layer, value in written.items()}
    assert equal(read_vector("calm", str(by_safetensors(tmp_path, tensors))), written)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    if name.endswith("gguf"):
        pytest.importorskip("gguf", reason="pip install descant[gguf]")
    file = tmp_path / "new" / name
    for written in (directions(5), directions(7)):  # the second in the first one's place
        write_vector(file, written, {"model_hint": "llama", "method": "mean"})
        assert equal(read_vector("calm", file), written)
        assert equal(read_vector("calm", file.parent), written)
    assert [entry.name for entry in file.parent.iterdir()] == [name]


def test_a_written_gguf_file_is_one_that_llama_cpp_reads(tmp_path: Path) -> None:
    """The keys and kinds that its loader and repeng's import_gguf look at."""
    gguf = pytest.importorskip("gguf", reason="pip install descant[gguf]")
    write_vector(tmp_path / "v.gguf", directions(), {"model_hint": "llama", "method": "mean"})
    header = gguf.GGUFReader(tmp_path / "v.gguf")
    fields = {key: field.contents() for key, field in header.fields.items()}
    assert fields["general.architecture"] == "controlvector"
    assert fields["controlvector.model_hint"] == "llama"
    assert fields["controlvector.layer_count"] == 3
    assert fields["descant.method"] == "mean"
    assert [item.name for item in header.tensors] == ["direction.0", "direction.3", "direction.11"]
    assert {item.tensor_type.name for item in header.tensors} == {"F32"}
    assert {tuple(item.shape) for item in header.tensors} == {(32,)}


@pytest.mark.parametrize(
    "convert", [torch.Tensor.clone, torch.Tensor.numpy, torch.Tensor.tolist], ids=str
)
def test_a_mapping_in_memory(convert: Any) -> None:
    written = directions()
    given = {np.int64(layer): convert(value) for layer, value in written.items()}
    found = read_vector("calm", given)
    assert equal(found, written)
    before = found[3].clone()
    written[3] += 1
    assert torch.equal(found[3], before)


ONE = torch.ones(3)
BAD: list[tuple[dict[str, Any], str]] = [
    ({"weight": ONE, "bias": ONE}, "has no tensor direction.N; it has bias, weight"),
    ({"direction.1": ONE, "scale": ONE}, "holds scale beside its directions"),
    ({"direction.x": ONE}, "has a direction of 'x', which numbers no layer"),
    ({"direction.-1": ONE}, "has a direction of '-1', which"),
    ({"direction.\u0661": ONE}, "which numbers no layer"),
    ({"direction.1000": ONE}, "layer 1000, and models have at most 1000"),
    ({"direction.1": ONE, "direction.01": ONE}, "has two directions of layer 1"),
    ({"direction.1": ONE, "direction.2": torch.ones(4)}, "widths: 3 at layer 1, 4 at layer 2"),
    ({"direction.1": torch.ones(2, 3)}, "layer 1 with the shape (2, 3)"),
    ({"direction.1": torch.tensor([1.0, float("nan")])}, "layer 1 with numbers that are not finit"),
    ({"direction.7": torch.tensor([1.0, float("inf")])}, "layer 7 with numbers that are not finit"),
]  # fmt: skip
ONLY_SAFETENSORS: list[tuple[dict[str, Any], str]] = [
    ({"direction.1": torch.ones(3, 1)}, "layer 1 with the shape (3, 1)"),
    ({"direction.1": torch.tensor(1.0)}, "layer 1 with the shape ()"),
    ({"direction.1": torch.ones(0)}, "layer 1 with the shape (0,)"),
    ({"direction.1": torch.tensor([1, 2])}, "layer 1 in int64"),
    ({"direction.1": torch.tensor([1e300], dtype=torch.float64)}, "are not finite"),
    ({"direction." + "9" * 9000: ONE}, "which numbers no layer"),
]
CASES = [(make, *case) for make in (by_safetensors, by_gguf) for case in BAD]
CASES += [(by_safetensors, *case) for case in ONLY_SAFETENSORS]


@pytest.mark.parametrize(("make", "tensors", "says"), CASES)
def test_what_is_no_steering_vector_is_named(
    tmp_path: Path, make: Make, tensors: dict[str, Any], says: str
) -> None:
    file = make(tmp_path, tensors)
    with pytest.raises(ModelError, match=re.escape(says)) as caught:
        read_vector("calm", file)
    assert f"the steering vector calm in {file} " in str(caught.value)
    assert caught.value.model == "calm" and len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, "has no tensor direction.N; it has nothing"),
        ({"1": [1.0]}, "of the layer '1'"),
        ({True: [1.0]}, "of the layer True"),
        ({1: "x"}, "direction 1 of the steering vector calm is no tensor"),
        ({1: [1, 2]}, "layer 1 in int64"),
        ({1: [1.0], 2: [1.0, 2.0]}, "widths: 1 at layer 1, 2 at layer 2"),
    ],
)
def test_a_mapping_that_is_none(tmp_path: Path, content: Any, says: str) -> None:
    with pytest.raises(ModelError, match=re.escape(says)):
        read_vector("calm", content)
    with pytest.raises(ModelError):
        write_vector(tmp_path / "v.safetensors", content)
    assert not list(tmp_path.iterdir())


def test_it_is_found_where_a_folder_has_one(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"a file of {tmp_path}, which has none"):
        vector_file("calm", str(tmp_path))
    write_vector(tmp_path / "calm.safetensors", directions())
    assert vector_file("calm", str(tmp_path)) == str(tmp_path / "calm.safetensors")
    write_vector(tmp_path / "angry.safetensors", directions())
    with pytest.raises(ModelError, match=r"which has 2, such as angry.safetensors"):
        vector_file("calm", str(tmp_path))
    write_vector(tmp_path / "vector.safetensors", directions())
    assert vector_file("calm", str(tmp_path)) == str(tmp_path / "vector.safetensors")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("./none.gguf", "in ./none.gguf is not there"),
        ("/none", "in /none is not there"),
        ("/dev/null", "in /dev/null is no file"),
        ("a" * 5000, "cannot be found"),
        ("org/none-such", "org/none-such cannot be found: it is not in the cache"),
        ("org/none-such/a.gguf", "org/none-such cannot be found: it is not in the cache"),
    ],
)
def test_what_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, source: str, says: str):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=re.escape(says)):
        read_vector("calm", source)


@pytest.mark.parametrize("name", [*vector_files.FILES, "layers/seven.safetensors"])
def test_a_hub_id_is_read_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A cache as huggingface_hub lays it out, and no network."""
    if name.endswith("gguf"):
        pytest.importorskip("gguf", reason="pip install descant[gguf]")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))
    commit = "0" * 40
    repository = tmp_path / "models--org--calm"
    write_vector(repository / "snapshots" / commit / name, directions())
    for ref in ("main", "v2"):
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / ref).write_text(commit)
    source = "org/calm" if name in vector_files.FILES else f"org/calm/{name}"
    assert equal(read_vector("calm", source), directions())
    assert equal(read_vector("calm", source, revision="v2"), directions())


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_not_read(tmp_path: Path, zipped: bool) -> None:
    torch.save({3: ONE}, tmp_path / "v.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match="which can run code when it is read"):
        read_vector("calm", tmp_path / "v.pt")


def test_more_numbers_than_a_vector_has_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = by_safetensors(tmp_path, {"direction.0": torch.ones(50), "direction.1": torch.ones(50)})
    assert len(read_vector("calm", file)) == 2
    monkeypatch.setattr(vector_files, "NUMBERS", 99)
    with pytest.raises(ModelError, match="has 100 numbers, and may have 99"):
        read_vector("calm", file)


def _header(*parts: Any) -> bytes:
    """A GGUF header: no tensor, one key ``k``, and what follows it."""
    start = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k"
    return start + b"".join(parts)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (_header(struct.pack("<IIQ", 9, 0, 1 << 60)), "its arrays have more than 4,194,304 elem"),
        (_header(struct.pack("<IIQ", 9, 0, 1 << 20)), "its header goes beyond its end"),
        (_header(struct.pack("<IIQ", 9, 9, 3)), "it holds a value of the unknown kind 9"),
        (_header(struct.pack("<IQ", 8, 1 << 62)), "its header goes beyond its end"),
        (_header(struct.pack("<I", 77)), "it holds a value of the unknown kind 77"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "its header goes beyond its end"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "its version is 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 1 << 40), "its header goes beyond its end"),
        (b"GGUF" + struct.pack("<IQQQI", 3, 1, 0, 0, 9), "a tensor has 9 dimensions"),
    ],
)  # fmt: skip
def test_a_hostile_header_ends_at_once(tmp_path: Path, content: bytes, says: str) -> None:
    """The gguf package reads the first of them for ever."""
    pytest.importorskip("gguf", reason="pip install descant[gguf]")
    (tmp_path / "v.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=re.escape(f"v.gguf cannot be read: {says}"[:60])):
        read_vector("calm", tmp_path / "v.gguf")


def test_without_the_gguf_package_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = by_gguf(tmp_path, {"direction.1": ONE})
    monkeypatch.setattr(vector_files, "find_spec", lambda name: None)
    for act in (lambda: read_vector("calm", file), lambda: write_vector(file, {1: ONE})):
        with pytest.raises(ModelError, match="the package for such files is not inst") as caught:
            act()
        assert caught.value.cure == pip_install("gguf")
