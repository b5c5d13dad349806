"""What vLLM's tests assert of completions."""

from __future__ import annotations

from functools import cache
from typing import Any

import openai
import pytest
from facts import EGGS, IDS, MODEL, complete, fact, refused
from servers import Served
from transformers import AutoTokenizer

from descant.demo import PROMPTS

BAD_SCHEMAS = {"json": {"type": 5}, "regex": "[", "grammar": "start: ("}


_tokenizer = cache(AutoTokenizer.from_pretrained)


def tokenizer(served: Served) -> Any:
    return _tokenizer(served.server.run.models["base"].path)


@fact("vllm", "single_completion")
def _(served: Served) -> None:
    found = complete(served)
    [choice] = found.choices
    assert found.id and len(choice.text) >= 5 and choice.finish_reason == "length"
    assert (found.usage.completion_tokens, found.usage.prompt_tokens > 0) == (5, True)
    assert found.usage.total_tokens == found.usage.prompt_tokens + 5


@fact("vllm", "single_completion prompt_tokens = tokenizer (template'd)")
def _(served: Served) -> None:
    written = f"<|user|>\n{EGGS}\n<|assistant|>\n"
    assert complete(served).usage.prompt_tokens == len(tokenizer(served)(written)["input_ids"])


@fact("vllm", "single_completion prompt_tokens_details.cached_tokens==0")
def _(served: Served) -> None:
    ids = [700, 41, 310, 612, 7, 316]  # that nobody else sends
    assert complete(served, ids).usage.prompt_tokens_details.cached_tokens == 0


@fact("vllm", "completion token ids prompt")
def _(served: Served) -> None:
    [choice] = complete(served, [0, 0, 0, 0, 0]).choices
    assert len(choice.text) >= 1


@fact("vllm", "truncate_prompt_tokens right/left")
def _(served: Served) -> None:
    ids = tokenizer(served)(" ".join(PROMPTS[:4]))["input_ids"]
    for side, kept in (("left", ids[-4:]), ("right", ids[:4])):
        extra = {"truncate_prompt_tokens": 4, "truncation_side": side, "return_token_ids": True}
        found = complete(served, ids, extra=extra)
        assert found.usage.prompt_tokens == 4
        assert found.choices[0].prompt_token_ids == kept
        assert found.choices[0].text == complete(served, kept).choices[0].text
    assert complete(served, ids, extra={"truncate_prompt_tokens": -1}).usage.prompt_tokens == len(
        ids
    )
    refused(complete, served, ids, extra={"truncate_prompt_tokens": 100_000})


@fact("vllm", "zero_logprobs token_logprobs")
def _(served: Served) -> None:
    said = complete(served, IDS, logprobs=0).choices[0].logprobs
    assert len(said.token_logprobs) == len(said.text_offset) == len(said.tokens) == 5
    assert [len(best) for best in said.top_logprobs] == [1] * 5


@fact("vllm", "some_logprobs=5")
def _(served: Served) -> None:
    said = complete(served, IDS, logprobs=5).choices[0].logprobs
    assert len(said.token_logprobs) == len(said.tokens) == 5
    assert all(5 <= len(best) <= 6 for best in said.top_logprobs)


@fact("vllm", "prompt_logprobs=-1")
def _(served: Served) -> None:
    refused(complete, served, extra={"prompt_logprobs": -1})


@fact("vllm", "prompt_logprobs=1")
def _(served: Served) -> None:
    found = complete(served, list(PROMPTS[:2]), extra={"prompt_logprobs": 1})
    for choice in found.choices:
        assert choice.prompt_logprobs[0] is None and len(choice.prompt_logprobs) > 1
        for at in choice.prompt_logprobs[1:]:
            assert 1 <= len(at) <= 2 and 1 in {one["rank"] for one in at.values()}
    assert getattr(complete(served).choices[0], "prompt_logprobs", None) is None


@fact("vllm", "completion streaming = non streaming; one finish_reason; last chunk has text")
def _(served: Served) -> None:
    complete_text = complete(served).choices[0].text
    chunks = [chunk.choices[0] for chunk in complete(served, stream=True)]
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["length"]
    assert chunks[-1].finish_reason == "length" and chunks[-1].text
    assert "".join(chunk.text for chunk in chunks) == complete_text


@fact("vllm", "parallel no streaming n=3 seed=42: indices, unique, lengths")
def _(served: Served) -> None:
    found = complete(served, n=3, seed=42, temperature=1.0, max_tokens=60, logprobs=0)
    assert [choice.index for choice in found.choices] == [0, 1, 2]
    assert all(choice.finish_reason for choice in found.choices)
    assert len({choice.text for choice in found.choices}) == 3
    assert len({len(choice.logprobs.tokens) for choice in found.choices}) > 1


OPTIONS = {
    "{'include_usage': False}": {"include_usage": False},
    "{'include_usage': True}": {"include_usage": True},
    "{'include_usage': False, 'continuous_usage_stats': False}": {
        "include_usage": False, "continuous_usage_stats": False,
    },
    "{'include_usage': True, 'continuous_usage_stats': False}": {
        "include_usage": True, "continuous_usage_stats": False,
    },
}  # fmt: skip


def usage_is(chunks: list[Any], options: dict[str, bool]) -> None:
    """The counts come in a last chunk without choices, or not at all."""
    *others, last = chunks
    if options["include_usage"]:
        assert last.choices == [] and last.usage.completion_tokens == 5
        assert last.usage.total_tokens == last.usage.prompt_tokens + 5
    else:
        others.append(last)
    assert all(chunk.usage is None for chunk in others)


@fact("vllm", *(f"completion stream_options {options}" for options in OPTIONS))
def _(served: Served, what: str) -> None:
    options = OPTIONS[what.removeprefix("completion stream_options ")]
    usage_is([*complete(served, stream=True, stream_options=options)], options)


@fact("vllm", "completion stream=False stream_options={'include_usage': None} -> 400")
def _(served: Served) -> None:
    for options in ({"include_usage": None}, {"include_usage": True}):
        refused(complete, served, stream=False, stream_options=options)


@fact("vllm", "batch text")
def _(served: Served) -> None:
    found = complete(served, [EGGS, EGGS])
    first, second = (choice.text for choice in found.choices)
    assert first == second == complete(served).choices[0].text
    assert found.usage.prompt_tokens == 2 * complete(served).usage.prompt_tokens


@fact("vllm", "batch ids n=2")
def _(served: Served) -> None:
    found = complete(served, [IDS, IDS], n=2, temperature=1.0, seed=1)
    texts = [choice.text for choice in found.choices]
    assert len(texts) == 4 and texts[0] != texts[1] and texts[:2] == texts[2:]


@fact("vllm", "batch ids streaming")
def _(served: Served) -> None:
    texts = ["", ""]
    for chunk in complete(served, [IDS, IDS], stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts[0] == texts[1] == complete(served, IDS).choices[0].text


@fact("vllm", "echo + logprobs=1", "echo + logprobs=0, token ids")
def _(served: Served, what: str) -> None:
    ids, best = what.endswith("ids"), int(what[len("echo + logprobs=")])
    prompt: Any = [421, 310, 316, 481] if ids else EGGS
    [choice] = complete(served, prompt, echo=True, logprobs=best).choices
    said = choice.logprobs
    assert choice.text.startswith(tokenizer(served).decode(prompt) if ids else prompt)
    assert said.token_logprobs[0] is None and said.top_logprobs[0] is None
    assert len(said.tokens) == len(said.text_offset) == len(said.token_logprobs) > 5
    assert all(max(1, best) <= len(at) <= best + 1 for at in said.top_logprobs[1:])


@fact("vllm", *(f"invalid structured_outputs ['{kind}'] -> error" for kind in BAD_SCHEMAS))
def _(served: Served, what: str) -> None:
    kind = what.split("'")[1]
    with pytest.raises((openai.BadRequestError, openai.APIError)):
        complete(served, extra={"structured_outputs": {kind: BAD_SCHEMAS[kind]}})


@fact("vllm", "logit_bias -101", "logit_bias 50", "logit_bias invalid token id -> 400")
def _(served: Served, what: str) -> None:
    if what == "logit_bias 50":
        found = complete(served, logit_bias={"421": 50.0}, extra={"return_token_ids": True})
        assert found.choices[0].token_ids == [421] * 5
    else:
        refused(complete, served, logit_bias={"421": -101} if "101" in what else {"200000": 1})


@fact("vllm", "return_token_ids completion: token_ids decode to text")
def _(served: Served) -> None:
    [choice] = complete(served, max_tokens=10, extra={"return_token_ids": True}).choices
    assert tokenizer(served).decode(choice.token_ids) == choice.text


@fact("vllm", "return_token_ids completion: prompt_token_ids")
def _(served: Served) -> None:
    [choice] = complete(served, IDS, extra={"return_token_ids": True}).choices
    assert choice.prompt_token_ids == IDS
    [choice] = complete(served, extra={"return_token_ids": True}).choices
    assert EGGS in tokenizer(served).decode(choice.prompt_token_ids)
    first, *others = complete(served, stream=True, extra={"return_token_ids": True})
    assert first.choices[0].prompt_token_ids == choice.prompt_token_ids
    assert all(getattr(one.choices[0], "prompt_token_ids", None) is None for one in others)
    streamed = [id for one in others for id in one.choices[0].token_ids]
    assert streamed == choice.token_ids


@fact("vllm", "return_tokens_as_token_ids")
def _(served: Served) -> None:
    extra = {"return_tokens_as_token_ids": True, "return_token_ids": True}
    [choice] = complete(served, logprobs=1, extra=extra).choices
    assert choice.logprobs.tokens == [f"token_id:{id}" for id in choice.token_ids]
    names = {name for best in choice.logprobs.top_logprobs for name in best}
    assert all(name.startswith("token_id:") for name in names)


@fact("vllm", "text_offset [0,len..] stream == non stream, with stop")
def _(served: Served) -> None:
    text = complete(served, max_tokens=24).choices[0].text
    settings = {"max_tokens": 24, "logprobs": 0, "stop": [text[20:23]]}
    said = complete(served, **settings).choices[0].logprobs
    streamed = [
        offset
        for chunk in complete(served, stream=True, **settings)
        for offset in chunk.choices[0].logprobs.text_offset
    ]
    assert said.text_offset == streamed
    ends = [len("".join(said.tokens[:count])) for count in range(len(said.tokens))]
    assert said.text_offset == ends


@fact("vllm", "out of vocabulary ids -> 400")
def _(served: Served) -> None:
    for ids in ([10**6], [-1]):
        refused(complete, served, ids)


@fact("vllm", "empty prompt list / null -> 400")
def _(served: Served) -> None:
    for prompt in ([], [[]], None, ""):
        said = served.post("/v1/completions", {"model": MODEL, "prompt": prompt})
        assert said.status_code == 400, prompt


@fact("vllm", "stop str / list; include_stop_str_in_output absent; finish stop")
def _(served: Served) -> None:
    text = complete(served, max_tokens=24).choices[0].text
    stop = text[10:13]
    for stops in (stop, [stop], ["\0", stop]):
        [choice] = complete(served, max_tokens=24, stop=stops).choices
        assert choice.text == text[: text.index(stop)] and choice.finish_reason == "stop"


EXTRA = {
    "min_tokens=3": 3, "stop_token_ids=[5]": [5], "include_stop_str_in_output=True": True,
    "top_k=5": 5, "min_p=0.1": 0.1, "best_of=2": 2, "frequency_penalty=0.5": 0.5, "priority=1": 1,
}  # fmt: skip


@fact("vllm", *(f"extra {field} honoured or 400 naming it" for field in EXTRA))
def _(served: Served, what: str) -> None:
    field = what.split()[1]
    name, value = field.partition("=")[0], EXTRA[field]
    said = served.post("/v1/completions", {"model": MODEL, "prompt": EGGS, name: value})
    if said.status_code != 200:
        assert said.status_code == 400
        assert name in said.json()["error"]["message"]
