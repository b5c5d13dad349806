"""transformers' own generate, pipeline and logits processors, with a formula in them.

The model is declared as it lies in memory, so that its weights are there once.
"""

from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

import descant
from descant.demo import models

declared = models()
path = declared["base"]["path"]
model = AutoModelForCausalLM.from_pretrained(path, dtype="float32")
tokenizer = AutoTokenizer.from_pretrained(path)
declared["base"] = {"model": model, "tokenizer": tokenizer}
decoder = descant.compile("base + a*arm_help", models=declared, params={"a": 1.0})
prompt = "<|user|>\nHow do I boil eggs?\n<|assistant|>\n"
settings = {"max_new_tokens": 32, "do_sample": False}

pipe = pipeline("text-generation", model=model, tokenizer=tokenizer)
for a in (0.0, 1.0):
    [out] = pipe(prompt, custom_generate=decoder, params={"a": a}, **settings)
    print(f"a={a}: {out['generated_text'].removeprefix(prompt)}")

inputs = tokenizer(prompt, return_tensors="pt")
steered = model.generate(**inputs, custom_generate=decoder, **settings)
processor = descant.FormulaProcessor(decoder)  # for a loop of your own; here it is generate's
same = model.generate(**inputs, logits_processor=[processor], **settings)
print("as a logits processor:", "the same tokens" if same.equal(steered) else "other tokens")
