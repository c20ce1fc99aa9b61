"""Hugging Face's CLIP text tower under openai/CLIP's names, which bplcz_ref and open implementations use.

    python examples/hugging_face_names.py model.safetensors clip_text.npz

q, k and v are packed into in_proj, and the projection is transposed; other names stay as they are.
"""

import re
import sys

import numpy as np

from bplcz_ref.storage import weights

RULES = {
    r"^text_model\.embeddings\.token_embedding": "token_embedding",
    r"^text_model\.embeddings\.position_embedding\.weight": "positional_embedding",
    r"^text_model\.final_layer_norm": "ln_final",
    r"^text_model\.encoder\.layers": "transformer.resblocks",
    r"\.layer_norm(\d)\.": r".ln_\1.",
    r"\.mlp\.fc1\.": ".mlp.c_fc.",
    r"\.mlp\.fc2\.": ".mlp.c_proj.",
    r"\.self_attn\.out_proj\.": ".attn.out_proj.",
    r"^text_projection\.weight": "text_projection",
}


def openai_names(arrays: dict) -> dict:
    """{name: array} under openai/CLIP's names."""
    renamed = {}
    for name, a in arrays.items():
        own = name
        for pattern, word in RULES.items():
            own = re.sub(pattern, word, own)
        if ".self_attn.q_proj." in own:  # of k and v, too
            thirds = [arrays[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            renamed[own.replace(".self_attn.q_proj.", ".attn.in_proj_")] = np.concatenate(thirds)
        elif own == "text_projection":
            renamed[own] = np.ascontiguousarray(a.T)
        elif not re.search(r"\.[kv]_proj\.|position_ids$", own):
            renamed[own] = a
    return renamed


if __name__ == "__main__":
    source, target = sys.argv[1:]
    weights.save(target, openai_names(weights.read_arrays(source)))
