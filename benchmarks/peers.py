"""The nine systems in PyTorch, as their users would write them for speed, with our weights by the same names.

The networks are those of tests/peers, which compares their values and gradients with ours. What is added here is
what makes them fast: fused SGD, each distinct prompt encoded once and its context cut, PyTorch's fused attention,
dropout of ExViT's rates. `Tree` also has the saving that is ours, the trees of common beginnings.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from bplcz_ref import bands, paper, systems, weights
from bplcz_ref.encoders import exvit
from bplcz_ref.encoders.prefixes import pack

sys.path += [str(Path(__file__).parents[1] / "tests"), str(Path(__file__).parents[1] / "tests" / "peers")]
from test_bplcz import BandEncoder  # noqa: E402
from test_exvit_torch import Twin  # noqa: E402
from test_single_stream import ConvNeXt, DenseNet, ResNet  # noqa: E402


def network(name: str, settings: systems.Settings, tree: bool = False) -> nn.Module:
    """The peer of systems.build(name, settings); `tree`: its text tower walks our trees of prompts."""
    row, published = systems.find(name), settings.published
    sizes = exvit.SIZE if published else systems.SMALL_EXVIT
    if row.images in SINGLE:
        return SINGLE[row.images](published)
    if row.images == "exvit" and not row.prompting:
        return Modalities([10, 8], paper.PATCH, settings.grid, len(paper.CLASSES), sizes)
    return Fusion(row, settings, sizes, tree)


def residual(published, **groups):
    depths, widths = ((3, 4, 6, 3), (64, 128, 256, 512)) if published else ((1, 1, 1, 1), (16, 32, 64, 128))
    return ResNet(18, 17, depths, widths, **groups)


SINGLE = {
    "resnet50": residual,
    "resnext50": lambda published: residual(
        published, groups=32 if published else 8, width_per_group=4 if published else 16
    ),
    "convnext": lambda published: (
        ConvNeXt(18, 17, (3, 3, 9, 3), (96, 192, 384, 768))
        if published
        else ConvNeXt(18, 17, (1, 1, 2, 1), (24, 48, 96, 192))
    ),
    "densenet121": lambda published: (
        DenseNet(18, 17, (6, 12, 24, 16)) if published else DenseNet(18, 17, (2, 4, 8, 4), growth=12, width=24)
    ),
}


class Modalities(Twin):
    """ExViT of all 18 channels, with dropout in training."""

    def forward(self, x):
        drop = lambda _, shape: F.dropout(torch.ones(shape, dtype=x.dtype), self.size.dropout, True)
        return super().forward(x[:, 8:], x[:, :8], drop if self.training else None)


class Group(Twin):
    """ExViT's branch of one band group, reading A: tokens, then the vector I_i."""

    def __init__(self, channels, grid, features, size):
        super().__init__([channels, channels], paper.PATCH, grid, features, size)
        for unused in ("pos_embedding", "separable2", "to_patch_embedding2c", "transformer2", "transformer"):
            delattr(self, unused)

    def forward(self, x, positions):
        drop = (lambda t: F.dropout(t, self.size.dropout, True)) if self.training else (lambda t: t)
        x = F.avg_pool2d(self.separable1(x), self.grid)
        x = drop(self.to_patch_embedding2(x.flatten(2).transpose(1, 2)) + positions)
        x = self.layers(self.transformer1, x, drop)
        a = F.softmax(self.mlp_head0(x).squeeze(2), dim=1)
        return self.mlp_head1(torch.einsum("bn,bnd->bd", a, x))


class Fusion(nn.Module):
    """Fig. 1: seven encoders, D on their concatenation, and the prompts of the classes in the batch."""

    def __init__(self, row, settings, size, tree):
        super().__init__()
        d, self.alpha, self.beta, self.msm = settings.features, settings.alpha, settings.beta, row.msm
        if row.images == "ebcnn":
            make = lambda channels: BandEncoder(channels, settings.width, d)
            self.classifier = nn.Linear(7 * d, len(paper.CLASSES))
        else:
            make = lambda channels: Group(channels, settings.grid, d, size)
            self.classifier = nn.Sequential(nn.LayerNorm(7 * d), nn.Linear(7 * d, len(paper.CLASSES)))
        self.branches = nn.ModuleDict({group: make(len(index)) for group, index in bands.INDEX.items()})
        if row.images == "exvit":  # one table of positions for all
            tokens = (paper.PATCH // settings.grid) ** 2
            self.shared = nn.ParameterDict({"pos_embedding": torch.zeros(1, tokens, size.width)})
        self.text = None
        if row.prompting:
            words = systems.tokenizer(settings.vocabulary)
            ids = systems.prompt_tokens(words)
            tower = settings.text_width, settings.text_layers, settings.text_heads
            self.text = (Tree if tree else Tower)(words.vocab_size, *tower, d, ids)

    def features(self, x):  # (B, 18, H, W) -> (B, 7, d)
        sensors = {"sen1": x[:, :8], "sen2": x[:, 8:]}
        table = [self.shared["pos_embedding"]] if hasattr(self, "shared") else []
        return torch.stack(
            [
                self.branches[group](sensors[bands.GROUPS[group]["sensor"]][:, index], *table)
                for group, index in bands.INDEX.items()
            ],
            1,
        )

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))

    def loss(self, x, y):
        I = self.features(x)
        L_cls = F.cross_entropy(self.classifier(I.flatten(1)), y)
        if self.text is None:
            return L_cls
        classes, place = torch.unique(y, return_inverse=True)
        T = self.text(classes)[place]
        S = self.alpha * F.normalize(I, dim=2).flatten(1) @ F.normalize(T, dim=2).flatten(1).T
        W = (y[:, None] == y if self.msm else torch.eye(len(y), dtype=torch.bool)).to(S.dtype)
        return L_cls + self.beta * F.binary_cross_entropy_with_logits(S, W)


class Tower(nn.Module):
    """CLIP's text tower on the distinct prompts of some classes, each a row of its own."""

    def __init__(self, vocabulary, width, layers, heads, features, ids):
        super().__init__()
        self.heads, self.ids = heads, torch.from_numpy(ids)
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.zeros(77, width))
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.zeros(width, features))

    def forward(self, classes):  # (k,) -> (k, 7, d)
        ids = self.ids[classes].flatten(0, 1)
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        for block in self.transformer.resblocks:
            x = block(x, self.heads, is_causal=True)
        x = self.ln_final(x[torch.arange(len(ids)), ids.argmax(1)])
        return (x @ self.text_projection).unflatten(0, (-1, 7))


class Tree(Tower):
    """The same on one tree of slots per class, where prompts that begin alike share their beginning."""

    def __init__(self, *sizes_and_ids):
        super().__init__(*sizes_and_ids)
        self.trees = pack(sizes_and_ids[-1])

    def forward(self, classes):
        ids, position, seen, eot = (torch.from_numpy(part) for part in self.trees.of(classes.numpy()))
        x = self.token_embedding(ids) + self.positional_embedding[position]
        for block in self.transformer.resblocks:
            x = block(x, self.heads, attn_mask=seen[:, None])
        x = torch.gather(x, 1, eot[:, :, None].expand(-1, -1, x.shape[2]))
        return self.ln_final(x) @ self.text_projection


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, 1)  # its parameters; the heads are in `forward`
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, x, heads, **seen):
        N, L, width = x.shape
        qkv = F.linear(self.ln_1(x), self.attn.in_proj_weight, self.attn.in_proj_bias)
        qkv = qkv.view(N, L, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(*qkv, **seen).transpose(1, 2).reshape(N, L, width)
        x = x + self.attn.out_proj(h)
        h = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](h * torch.sigmoid(1.702 * h))


class Peer:
    """A network with our weights, a batch and an optimiser: one step, or logits in evaluation."""

    def __init__(self, name, settings, params, state, x, y, *, channels_last=False, tree=False):
        self.module = network(name, settings, tree)
        self.module.to(torch.from_numpy(x).dtype)
        self.load(params, state)
        layout = {"memory_format": torch.channels_last} if channels_last else {}
        self.module.to(**layout)
        self.x = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(**layout)
        self.y = torch.from_numpy(y)
        self.optimiser = torch.optim.SGD(
            self.module.parameters(), lr=1e-4, momentum=paper.MOMENTUM, weight_decay=paper.WEIGHT_DECAY, fused=True
        )

    def load(self, params, state):
        flat = weights.named(params) | weights.named(state)
        self.module.load_state_dict({name: torch.tensor(np.array(a)) for name, a in flat.items()})

    def loss(self):
        return self.loss_of(self.x, self.y)

    def loss_of(self, x, y):
        if isinstance(self.module, Fusion):
            return self.module.loss(x, y)
        return F.cross_entropy(self.module(x), y)

    def compile(self):
        """From now on `loss` runs as torch.compile makes it, and so does its backward pass."""
        self.loss_of = torch.compile(self.loss_of)

    def step(self):
        self.module.train()
        self.optimiser.zero_grad(set_to_none=True)
        self.loss().backward()
        self.optimiser.step()

    def logits(self):
        self.module.eval()
        with torch.inference_mode():
            return self.module(self.x)
