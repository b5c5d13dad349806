"""Combines a model with others while it decodes: ``base`` in the formula is the model itself."""

import descant


def generate(model, formula="base", models=None, params=None, tokenizer=None, **others):
    """As ``model.generate``, whose arguments the others are."""
    kept = vars(model).setdefault("_descant", [])  # so that other models are read once
    decoder = next((known for call, known in kept if call == (formula, models)), None)
    if decoder is None:
        declared = {"base": {"model": model, "tokenizer": tokenizer}, **(models or {})}
        decoder = descant.compile(formula, declared, params=params)
        kept.append(((formula, models), decoder))
    return model.generate(custom_generate=decoder, tokenizer=tokenizer, params=params, **others)
