"""How rows end and how text comes: EOS, stop strings, length, and pieces that add up."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import vocabularies
from checkpoints import EOS, fresh, tokenizer

import descant
from descant.runtime.requests.stop_strings import StopStrings

PROMPT = "the river"


def speaker(text: str, prompt: str, end: bool = True, made=tokenizer()):  # noqa: B008
    """A table model that answers ``prompt`` with ``text``: each token has one successor."""
    ids = made(prompt + text)["input_ids"] + [made.eos_token_id] * end
    assert ids[: len(made(prompt)["input_ids"])] == made(prompt)["input_ids"]
    assert len(set(ids)) == len(ids), "a table remembers one token"
    table = torch.zeros(len(made), len(made))
    for one, two in itertools.pairwise(ids):
        table[one, two] = 20.0
    return {"model": descant.TableModel(table, eos=made.eos_token_id), "tokenizer": made}


def test_eos_is_in_the_ids_and_not_in_the_text() -> None:
    decoder = descant.compile("m", models={"m": speaker("Bcd", "z")})
    [found] = decoder.generate("z")
    assert found.text == "Bcd"
    assert found.token_ids[-1] == EOS
    assert found.finish_reason == "eos"


def test_length() -> None:
    decoder = descant.compile("m", models={"m": speaker("Bcd", "z")})
    [found] = decoder.generate("z", max_new_tokens=2)
    assert (found.text, found.finish_reason, len(found.token_ids)) == ("Bc", "length", 2)


@pytest.mark.parametrize(
    ("stops", "text", "reason"),
    [
        ("D", "BC", "stop"),
        ("CD", "B", "stop"),
        (["FG", "EF"], "BCD", "stop"),
        (["E", "DE"], "BC", "stop"),
        ("XY", "BCDEFG", "eos"),
        ("GH", "BCDEFG", "eos"),
        ("BCDEFG", "", "stop"),
    ],
)
def test_stop_strings(stops, text, reason) -> None:
    decoder = descant.compile("m", models={"m": speaker("BCDEFG", "z")})
    [found] = decoder.generate("z", stop_strings=stops)
    assert (found.text, found.finish_reason) == (text, reason)
    assert "".join(decoder.stream("z", stop_strings=stops)) == text


SENTENCES = [vocabularies.llama_like(), vocabularies.llama_like(legacy=False)]


@pytest.mark.parametrize("made", SENTENCES)
@pytest.mark.parametrize("options", [{}, {"stop_strings": ["dog"]}, {"stop_strings": [" 😀"]}])
def test_prompt_and_answer_read_as_one_text(made, options) -> None:
    """Where the tokenizer writes a space before the first word of a text."""
    decoder = descant.compile("m", models={"m": speaker(" stone 😀é", "the", made=made)})
    expected = " stone" if options == {"stop_strings": [" 😀"]} else " stone 😀é"
    for prompt in ("the", made("the")["input_ids"]):
        [found] = decoder.generate(prompt, **options)
        assert found.text == expected
        assert "".join(decoder.stream(prompt, **options)) == expected
    assert decoder.generate("the", stop_strings=" stone")[0].text == ""


@pytest.mark.parametrize("made", SENTENCES)
@pytest.mark.parametrize("formula", ["m", "a*m@none + m", "a*align(other) + m", "m + a*ended"])
def test_the_prompt_is_that_of_the_first_term_that_reads_it_in_the_formulas_tokens(
    made, formula
) -> None:
    models = {"m": speaker(" stone", "the", made=made)}
    models["ended"] = {**models["m"], "template": "the</s>{prompt}</s>"}
    other = vocabularies.llama_like(370)
    models["other"] = {"model": descant.TableModel.random(len(other), seed=0), "tokenizer": other}
    models["other"]["template"] = "{prompt}</s>"
    used = {name: spec for name, spec in models.items() if name in formula}
    decoder = descant.compile(formula, models=used, params={"a": 0.01} if "a*" in formula else {})
    assert decoder.generate("the", max_new_tokens=3)[0].text.startswith(" ")


@pytest.mark.parametrize("made", SENTENCES)
def test_an_answer_after_a_special_token_begins_without_a_space(made) -> None:
    spec = speaker("the stone", "", made=made)
    spec["template"] = "{prompt}<s>"
    decoder = descant.compile("m", models={"m": spec})
    [found] = decoder.generate("river", max_new_tokens=9)
    assert found.text == "".join(decoder.stream("river", max_new_tokens=9)) == "the stone"


def test_a_special_token_as_a_stop_string() -> None:
    decoder = descant.compile("m", models={"m": speaker("BC", "z")})
    [found] = decoder.generate("z", stop_strings="C</s>", eos_token_id=[])
    assert (found.text, found.finish_reason, found.token_ids[-1]) == ("B", "stop", EOS)
    assert "".join(decoder.stream("z", stop_strings="C</s>", eos_token_id=[])) == "B"
    [found] = decoder.generate("z", stop_strings="C</s>")
    assert (found.text, found.finish_reason) == ("B", "eos")


@pytest.mark.parametrize("length", [50, 400])
def test_a_stop_string_looks_at_the_end_of_the_text(monkeypatch, length) -> None:
    """However long the text is: characters are counted, and no token is decoded again."""
    spec = {"model": descant.TableModel.random(300, seed=0), "tokenizer": tokenizer()}
    decoder, looked = descant.compile("m", models={"m": spec}), []
    add, decode = StopStrings.add, decoder.tokenizer.decode

    def counting(self, piece, hidden=False):
        looked.append(len(self._end) + len(piece))
        return add(self, piece, hidden)

    monkeypatch.setattr(StopStrings, "add", counting)
    monkeypatch.setattr(decoder.tokenizer, "decode", lambda *_, **__: 1 / 0)
    settings = {"max_new_tokens": length, "eos_token_id": [], "stop_strings": "\0" * 5}
    settings |= {"temperature": 1.0, "seed": 0}
    [found] = decoder.generate("z", **settings)
    monkeypatch.setattr(decoder.tokenizer, "decode", decode)
    assert len(found.token_ids) == length
    assert sum(looked) <= len(found.text) + 4 * length
    assert found.text == decode(found.token_ids, skip_special_tokens=True)


def test_a_stop_string_of_half_characters_and_another_eos() -> None:
    decoder = descant.compile("m", models={"m": speaker("é→B", "z")})
    [found] = decoder.generate("z", stop_strings="→")
    assert (found.text, found.finish_reason) == ("é", "stop")
    [found] = decoder.generate(
        "z", eos_token_id=tokenizer()("B", add_special_tokens=False).input_ids
    )
    assert (found.text, found.finish_reason) == ("é→B", "eos")


@pytest.mark.parametrize("text", ["é→😀", "BCD", "日ñ", "Bé"])
def test_pieces_are_whole_characters(text) -> None:
    decoder = descant.compile("m", models={"m": speaker(text, "z")})
    pieces = list(decoder.stream("z"))
    assert "".join(pieces) == decoder.generate("z")[0].text == text
    assert all("\N{REPLACEMENT CHARACTER}" not in piece and piece for piece in pieces)
    assert len(pieces) > 1 or len(text) == 1


@pytest.mark.parametrize("formula", ["base + 0.5*arm", "gpt2", "base | rerank(rm, k=5, w=1.5)"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_pieces_add_up(compiled, formula, temperature) -> None:
    """Random weights say a good many broken characters; they add up all the same."""
    decoder = compiled(formula)
    for seed in range(4):
        settings = {"max_new_tokens": 20, "temperature": temperature, "seed": seed}
        [found] = decoder.generate(PROMPT, **settings)
        assert "".join(decoder.stream(PROMPT, **settings)) == found.text


def test_without_a_tokenizer_pieces_are_ids() -> None:
    decoder = descant.compile("m", models={"m": descant.TableModel.random(9, seed=1)})
    [found] = decoder.generate([1, 2], max_new_tokens=6)
    assert list(decoder.stream([1, 2], max_new_tokens=6)) == found.token_ids
    assert found.text is None


@pytest.mark.parametrize("other", ["stream", "generate", "scores"])
def test_two_runs_at_once_are_refused(compiled, other) -> None:
    decoder = compiled("base | rerank(rm, k=3, w=1)")
    pieces = decoder.stream([1, 50, 60], max_new_tokens=8, eos_token_id=[])
    next(pieces)
    if other == "stream":
        next(decoder.stream([1, 70], max_new_tokens=8))
    elif other == "generate":
        decoder.generate([1, 70], max_new_tokens=3)
    else:
        decoder.scores([1, 70], [5])
    with pytest.raises(RuntimeError, match="another run has begun"):
        list(pieces)


def test_threads_that_share_a_decoder_are_told_so(compiled) -> None:
    """The last to begin goes on; nobody reads what another thread is writing."""
    decoder = compiled("base | rerank(rm, k=3, w=1)")
    prompts = [[1, 50 + i, 60] for i in range(6)]
    settings = {"max_new_tokens": 12, "eos_token_id": []}
    expected = [decoder.generate(prompt, **settings)[0].token_ids for prompt in prompts]

    def asked(number: int) -> list[int] | str:
        try:
            if number % 3 == 2:
                decoder.loglikelihood([prompts[number % 6]], [expected[number % 6]])
                return expected[number % 6]
            return decoder.generate(prompts[number % 6], **settings)[0].token_ids
        except RuntimeError as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(asked, range(48)))
    said = [one for number, one in enumerate(found) if one != expected[number % 6]]
    assert 0 < len(said) < 48
    assert all("another run has begun" in str(one) and "threads" in one for one in said)


def test_a_run_after_a_finished_stream(compiled) -> None:
    decoder = compiled("base")
    before = decoder.generate(PROMPT, max_new_tokens=6)[0].token_ids
    list(decoder.stream(PROMPT, max_new_tokens=6))
    next(decoder.stream(PROMPT, max_new_tokens=6))  # left unfinished
    assert decoder.generate(PROMPT, max_new_tokens=6)[0].token_ids == before


def test_no_prompts_no_completions(compiled) -> None:
    assert compiled("base").generate([]) == []


def test_one_prompt_for_every_value(compiled) -> None:
    decoder = compiled("base + a*arm", params={"a": 0.5})
    values = [0.0, 0.5, 1.0]
    found = decoder.generate(PROMPT, params={"a": values}, max_new_tokens=6)
    assert [one.params for one in found] == [{"a": value} for value in values]
    for value, one in zip(values, found, strict=True):
        [alone] = decoder.generate(PROMPT, params={"a": value}, max_new_tokens=6)
        assert alone.token_ids == one.token_ids


def test_token_ids_are_read_as_they_are(zoo, compiled) -> None:
    ids = tokenizer()(PROMPT)["input_ids"]
    decoder = compiled("base + 0.5*arm | rerank(rm, k=3, w=1)")
    text, numbers = decoder.generate([PROMPT, ids], max_new_tokens=8)
    assert text.token_ids == numbers.token_ids
    bare = decoder.generate(ids[1:], max_new_tokens=8)[0]
    other = decoder.scores(ids[1:], [])
    assert not torch.allclose(decoder.scores(ids, []), other)
    assert bare.token_ids[0] == int(other[0].argmax())


def test_messages_through_the_chat_template(zoo, compiled) -> None:
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}]
    written = "<s>[system]be kind\n[user]hello\n[assistant]"
    ids = tokenizer()(written, add_special_tokens=False)["input_ids"]
    assert ids[0] == 1 and ids[1] != 1
    decoder = compiled("base + 0.5*gpt2")
    one, two = decoder.generate([messages, ids], max_new_tokens=8)
    assert one.token_ids == two.token_ids
    assert one.prompt == messages


def test_completions_say_how_long_they_took(compiled) -> None:
    [found] = compiled("base").generate(PROMPT, max_new_tokens=3)
    assert 0 < found.seconds < 60


def test_a_model_in_memory_without_a_tokenizer(zoo) -> None:
    models = {"base": fresh(zoo.path("base")), "arm": descant.TableModel.random(300, seed=1)}
    decoder = descant.compile("base + arm", models=models)
    [found] = decoder.generate([1, 50], max_new_tokens=3)
    assert found.text is None and len(found.token_ids) == 3
