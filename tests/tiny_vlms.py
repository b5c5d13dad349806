"""Tiny image-text models with their processors, one per machinery, and small pictures."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import checkpoints
import torch
import transformers
from PIL import Image
from tiny_architectures import shaken
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

MARKS = ("<image>", "<begin>", "<end>", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>",
         "<|video_pad|>", "<|im_end|>", "<pad2>")  # fmt: skip
CHAT = (
    "{{ bos_token }}{% for message in messages %}[{{ message['role'] }}]"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}MARK{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '\\n' if not (loop.last and continue_final_message) }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
PAD, BOS, EOS = 0, 1, 2
TEXT = {
    "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 48,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": PAD,
    "bos_token_id": BOS, "eos_token_id": EOS,
}  # fmt: skip
TOWER = {
    "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 2,
}  # fmt: skip


class Vlm(NamedTuple):
    """A model and its processor."""

    model: Any
    processor: Any

    @property
    def spec(self) -> dict[str, Any]:
        """How it is declared."""
        return {"model": self.model, "processor": self.processor}

    def inputs(self, messages: Any) -> Any:
        """What transformers makes of messages."""
        last = messages[-1]["role"] == "assistant"
        return self.processor.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_tensors="pt",
            add_generation_prompt=not last, continue_final_message=last,
        )  # fmt: skip

    def answer(self, messages: Any, tokens: int) -> list[int]:
        """The tokens of the model's own generate, greedy."""
        inputs = self.inputs(messages)
        out = self.model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        return out[0, inputs["input_ids"].shape[1] :].tolist()


def tokenizer(mark: str) -> Any:
    """The tests' own tokenizer, with the marks of images, and a template that writes one."""
    made = checkpoints.tokenizer.__wrapped__()
    made.add_special_tokens({"additional_special_tokens": [*MARKS]})
    made.chat_template = CHAT.replace("MARK", mark)
    return made


def ids_of(made: Any, *tokens: str) -> list[int]:
    return made.convert_tokens_to_ids([*tokens])


def _llava() -> Vlm:
    made = tokenizer("<image>")
    [image] = ids_of(made, "<image>")
    config = transformers.LlavaConfig(
        text_config={"model_type": "llama", **TEXT, "vocab_size": len(made)},
        vision_config={"model_type": "clip_vision_model", **TOWER, "image_size": 16,
                       "patch_size": 4, "projection_dim": 16},
        image_token_index=image, vision_feature_layer=-1,
    )  # fmt: skip
    images = LlavaImageProcessorPil(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    )
    processor = transformers.LlavaProcessor(
        images, made, patch_size=4, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=made.chat_template,
    )  # fmt: skip
    return Vlm(transformers.LlavaForConditionalGeneration(config), processor)


class OfImages(transformers.Qwen2VLProcessor):
    """The family's processor, without the one of videos, which needs torchvision."""

    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor", "tokenizer"]


def _qwen_images() -> Any:
    return Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, temporal_patch_size=2,
        size={"shortest_edge": 64, "longest_edge": 1024},
    )  # fmt: skip


def _qwen_ids(made: Any) -> dict[str, int]:
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    marks = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    return dict(zip(names, ids_of(made, *marks), strict=True))


def _qwen2_5() -> Vlm:
    made = tokenizer("<|vision_start|><|image_pad|><|vision_end|>")
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    config = transformers.Qwen2_5_VLConfig(
        text_config={**TEXT, "vocab_size": len(made), "rope_parameters": rope},
        vision_config={"depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2,
                       "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2,
                       "out_hidden_size": 32, "window_size": 16, "fullatt_block_indexes": [1]},
        **_qwen_ids(made),
    )  # fmt: skip
    processor = OfImages(_qwen_images(), made, chat_template=made.chat_template)
    return Vlm(transformers.Qwen2_5_VLForConditionalGeneration(config), processor)


def _qwen3_5() -> Vlm:
    made = tokenizer("<|vision_start|><|image_pad|><|vision_end|>")
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0,
            "mrope_interleaved": True, "partial_rotary_factor": 1.0}  # fmt: skip
    text = {
        **TEXT, "vocab_size": len(made), "head_dim": 8, "rope_parameters": rope,
        "layer_types": ["linear_attention", "full_attention"], "linear_key_head_dim": 8,
        "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    }  # fmt: skip
    config = transformers.Qwen3_5Config(
        text_config=text,
        vision_config={"depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2,
                       "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2,
                       "out_hidden_size": 32, "num_position_embeddings": 16},
        **_qwen_ids(made),
    )  # fmt: skip
    processor = OfImages(_qwen_images(), made, chat_template=made.chat_template)
    return Vlm(transformers.Qwen3_5ForConditionalGeneration(config), processor)


def _gemma3() -> Vlm:
    made = tokenizer("<begin>")
    begin, image, end = ids_of(made, "<begin>", "<image>", "<end>")
    made.boi_token, made.eoi_token, made.image_token = "<begin>", "<end>", "<image>"
    made.boi_token_id, made.eoi_token_id, made.image_token_id = begin, end, image
    config = transformers.Gemma3Config(
        text_config={**TEXT, "vocab_size": len(made), "head_dim": 8, "sliding_window": 6,
                     "layer_types": ["sliding_attention", "full_attention"]},
        vision_config={**TOWER, "image_size": 16, "patch_size": 4},
        mm_tokens_per_image=4, boi_token_index=begin, eoi_token_index=end, image_token_index=image,
        tie_word_embeddings=False,
    )  # fmt: skip
    images = Gemma3ImageProcessorPil(size={"height": 16, "width": 16})
    processor = transformers.Gemma3Processor(
        images, made, image_seq_length=4, chat_template=made.chat_template
    )
    return Vlm(transformers.Gemma3ForConditionalGeneration(config), processor)


def _idefics3() -> Vlm:
    made = tokenizer("<image>")
    images = Idefics3ImageProcessorPil(
        size={"longest_edge": 32}, max_image_size={"longest_edge": 16}
    )
    processor = transformers.Idefics3Processor(
        images, made, image_seq_len=4, chat_template=made.chat_template
    )
    config = transformers.Idefics3Config(
        text_config={"model_type": "llama", **TEXT, "vocab_size": len(made)},
        vision_config={**TOWER, "image_size": 16, "patch_size": 4}, scale_factor=2,
        image_token_id=processor.image_token_id, pad_token_id=PAD,
    )  # fmt: skip
    return Vlm(transformers.Idefics3ForConditionalGeneration(config), processor)


FAMILIES = {
    "llava": _llava, "qwen2_5_vl": _qwen2_5, "gemma3": _gemma3, "idefics3": _idefics3,
    "qwen3_5": _qwen3_5,
}  # fmt: skip


SEEDS = {"gemma3": 1, "qwen3_5": 1}  # by which answers depend on the image


@cache
def vlm(family: str) -> Vlm:
    """A family's tiny member, whose every weight is random."""
    torch.manual_seed(0)
    model, processor = FAMILIES[family]()
    model = shaken(model, SEEDS.get(family, 3))
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = EOS, PAD
    return Vlm(model, processor)


@cache
def picture(seed: int, width: int = 16, height: int = 16) -> Image.Image:
    """Noise: pictures that a model tells apart."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (height, width, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def chat(*parts: Any) -> list[dict[str, Any]]:
    """One user message of text and pictures."""
    content = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image", "image": part}
        for part in parts
    ]
    return [{"role": "user", "content": content}]


class Plain:
    """What a model says after messages and an answer so far: the whole text in one forward."""

    def __init__(self, vlm: Vlm, messages: Any) -> None:
        self._model, self._inputs = vlm.model, dict(vlm.inputs(messages))

    @torch.no_grad()
    def logprobs(self, answer: Any) -> torch.Tensor:
        """``(V,)``, natural logarithms."""
        inputs = dict(self._inputs)
        more = torch.tensor([list(answer)], dtype=torch.long)
        inputs["input_ids"] = torch.cat((inputs["input_ids"], more), dim=1)
        for name in ("attention_mask", "token_type_ids", "mm_token_type_ids"):
            if name in inputs:
                filled = torch.full_like(more, int(name == "attention_mask"))
                inputs[name] = torch.cat((inputs[name], filled), dim=1)
        return torch.log_softmax(self._model(**inputs).logits[0, -1].float(), -1)
