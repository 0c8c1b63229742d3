"""Loads what dha writes with transformers (trust_remote_code) and compares it with golden logits:
  hf.py GOLDEN_FOLDER SAVED_FOLDER FORMAT     FORMAT: dha | llama
SAVED_FOLDER was written by `parity_save`; the Python files lie beside the weights for "dha".
Also: greedy generation with the cache equals generation without it, and the cache holds the kept heads only.
Exit 77 where transformers or torch cannot be imported."""

import json
import sys

try:
    import torch
    import transformers
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM
except ImportError as why:
    print("skipped:", why)
    sys.exit(77)


def check(golden, saved, kind):
    with open(saved + "/config.json") as f:
        config = json.load(f)
    assert config["model_type"] == kind, config["model_type"]
    model = AutoModelForCausalLM.from_pretrained(saved, trust_remote_code=kind == "dha", dtype=torch.float32).eval()
    assert type(model).__name__ == {"dha": "DhaForCausalLM", "llama": "LlamaForCausalLM"}[kind], type(model)
    want = load_file(golden + "/golden.safetensors")
    ids = want["input_ids"].long()
    for attention in ("sdpa", "eager"):
        model.set_attn_implementation(attention)
        with torch.no_grad():
            have = model(ids).logits
        error = ((have - want["logits"]).norm() / want["logits"].norm()).item()
        print(f"transformers {transformers.__version__}, {attention}: logits differ by {error:.2e}")
        assert error < 1e-4, error

    prompt = ids[:2, :7]
    greedy = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with torch.no_grad():
        cached = model.generate(prompt, **greedy)
        plain = model.generate(prompt, use_cache=False, **greedy)
        cache = model(prompt, use_cache=True).past_key_values
    assert torch.equal(cached, plain), (cached, plain)
    if kind == "dha":
        for layer in range(config["num_hidden_layers"]):
            keys, values = cache.layers[layer].keys, cache.layers[layer].values
            assert keys.shape[1] == max(config["key_of"][layer]) + 1, keys.shape
            assert values.shape[1] == max(config["value_of"][layer]) + 1, values.shape


if __name__ == "__main__":
    check(*sys.argv[1:])
    print("ok")
