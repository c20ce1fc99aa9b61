"""encoders/text.py beside the CLIP classes of transformers, with the weights they start from; no download."""

import numpy as np
import pytest
from networks import errors, everything, hashed, relative, worst

from bplcz_ref.encoders import text
from bplcz_ref.storage import weights

torch = pytest.importorskip("torch")

import hugging_face_names as example  # noqa: E402
import twins  # noqa: E402

SMALL = (30, 24, 3, 3, 10, 13)


@pytest.fixture
def clip(monkeypatch):
    """The library transformers, which must not look for anything on a network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return pytest.importorskip("transformers")


def configuration(clip, eos=29):
    vocabulary, width, layers, heads, features, context = SMALL
    return clip.CLIPTextConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=heads, projection_dim=features, max_position_embeddings=context,
        bos_token_id=28, eos_token_id=eos,
        attn_implementation="sdpa",  # its "eager" takes the softmax in float32, whatever the dtype
    )  # fmt: skip


def shaken(module):
    """Its starting weights, biases and norms moved off 0 and 1."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            if p.ndim == 1:
                p += 0.2 * torch.randn_like(p)
    return module.eval()


def huggingface(module, ids):
    """networks.everything by transformers: the gradients, too, pass from name to name."""
    T = module(input_ids=torch.as_tensor(ids)).text_embeds
    (T * torch.tensor(hashed(1001, T.shape))).sum().backward()
    named = example.openai_names({n: p.grad.numpy() for n, p in module.named_parameters()})
    y = T.detach().numpy()
    return {"eval": y, "train": y} | {f"gradient {n}": g for n, g in weights.named(weights.load(named)[0]).items()}


def arrays(module):
    return example.openai_names({name: leaf.numpy() for name, leaf in module.state_dict().items()})


@pytest.mark.slow
@pytest.mark.parametrize("eos", [29, 2], ids=["pooled at eos_token_id", "pooled at the largest id"])
def test_transformers_small(clip, eos):
    """transformers takes the first EOT, or, for the old eos_token_id 2, the largest id, as openai/CLIP does."""
    module = shaken(clip.CLIPTextModelWithProjection(configuration(clip, eos)).double())
    ids = np.array([
        [28, 5, 2, 7, 2, 29, 0, 0, 2], [28, 2, 29, 3, 3, 3, 3, 3, 3],
        [28, 0, 1, 2, 3, 4, 5, 6, 29], [28, 29, 29, 2, 29, 1, 1, 1, 1],
    ])  # fmt: skip
    params, _ = weights.load(arrays(module), text.encoder(*SMALL), dtype="float64")
    found = everything(text.encoder(*SMALL), params, {}, ids)
    error = worst(errors(found, huggingface(module, ids)))
    assert error[0] < 1e-10, error


@pytest.mark.slow
def test_files_of_transformers_and_of_a_module_are_read(clip, tmp_path):
    """What save_pretrained writes: the text tower by itself, and out of a whole CLIP; and a state_dict of ours."""
    pytest.importorskip("safetensors")
    ids = np.array([[28, 5, 6, 29, 0]])
    written = configuration(clip)
    vision = {
        "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
        "image_size": 4, "patch_size": 2, "projection_dim": 10,
    }  # fmt: skip
    whole = clip.CLIPConfig(text_config=written.to_dict(), vision_config=vision, projection_dim=10)
    for module, ignore in (
        (clip.CLIPTextModelWithProjection(written), ()),
        (clip.CLIPModel(whole), ("vision_model.", "visual_projection.", "logit_scale")),
    ):
        shaken(module).save_pretrained(tmp_path)
        renamed = example.openai_names(weights.read_arrays(tmp_path / "model.safetensors"))
        params, _ = weights.load(renamed, text.encoder(*SMALL), ignore=ignore)
        T, _ = text.encoder(*SMALL).apply(params, {}, ids, train=False)
        with torch.no_grad():
            pooled = module.text_model(input_ids=torch.tensor(ids)).pooler_output
            expected = module.text_projection(pooled).numpy()
        assert T.dtype == np.float32
        assert relative(T, expected) < 1e-5
    state_dict = {name: a.numpy() for name, a in twins.Tower(*SMALL).state_dict().items()}
    loaded = weights.named(weights.load(state_dict, text.encoder(*SMALL))[0])
    assert all(np.array_equal(loaded[name], a) for name, a in state_dict.items())
