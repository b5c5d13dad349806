"""A model's own norm and head on its last layer: its own logits, in every family, or a refusal."""

from __future__ import annotations

import pytest
import tiny_architectures as tiny
import torch

import descant
from descant import FormulaError, ModelError
from descant.models.adapters.decoder_layers import decoder_layers
from descant.models.heads.own import own_head

IDS = [5, 42, 7, 61, 3, 88, 9, 14]
NONE = dict.fromkeys(("gemma3n_text", "hy_v4"), "has layers with more than hidden states")


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_early_exit_at_the_last_layer_is_the_model(family) -> None:
    """Through caches, in steps and in chunks, against the model itself."""
    model = tiny.model(family)
    last = len(decoder_layers("base", model)) - 1
    models = {"base": model, "own": {"head": "own", "on": "base", "layer": last}}
    if family in NONE:
        with pytest.raises(FormulaError, match=NONE[family]):
            descant.compile("head(base, own)", models)
        return
    decoder = descant.compile("head(base, own)", models)
    [done] = decoder.generate(IDS[:3], max_new_tokens=6, eos_token_id=[])
    found = decoder.scores(IDS[:3], done.token_ids[:-1])
    with torch.no_grad():
        ids = torch.tensor([IDS[:3] + done.token_ids[:-1]])
        expected = model(input_ids=ids, use_cache=False).logits[0, 2:].float().log_softmax(-1)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max().clamp(min=1)
    assert done.token_ids == expected.argmax(-1).tolist()


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("granite", {"logits_scaling": 3.0}),
        ("cohere", {"logit_scale": 0.3}),
        ("gemma2", {"final_logit_softcapping": 1.5}),
    ],
)
def test_factors_of_the_logits_are_the_configuration_s(family, options) -> None:
    config = tiny.config(family)
    for key, value in options.items():
        setattr(config, key, value)
    model = tiny.shaken(type(tiny.model(family))(config), 0)
    own, states = own_head("own", model), dict[int, torch.Tensor]()
    decoder_layers("x", model)[-1].register_forward_hook(
        lambda module, given, output: states.update({0: output})
    )
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([IDS]), use_cache=False).logits
        torch.testing.assert_close(own(states[0]), expected)


def test_a_head_that_does_more_is_refused() -> None:
    """What is between the last layer and the logits, and is neither norm, head nor a known factor,
    is not left out in silence."""

    class Shifted(type(tiny.model("llama"))):  # type: ignore[misc]
        def forward(self, *arguments, **options):
            out = super().forward(*arguments, **options)
            out.logits = out.logits + 0.1 * out.logits.square()
            return out

    model = Shifted(tiny.config("llama"))
    with pytest.raises(ModelError, match="does more between its last layer and its logits"):
        own_head("own", model)
