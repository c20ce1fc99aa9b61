"""The networks in PyTorch, written from their publications, which take our weights by the same names.

The comparisons of this folder judge our values and gradients by them, and benchmarks/ times them. EB-CNN's is that
of examples/pytorch_round_trip.py. Images are (B, C, H, W).
"""

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from pytorch_round_trip import BandEncoder
from torch import nn

from bplcz_ref import bands, paper, systems
from bplcz_ref.encoders import exvit
from bplcz_ref.storage import weights


def tensors(*trees):
    """{name: tensor} of nested dicts; copies, as PyTorch writes into its buffers."""
    return {name: torch.tensor(np.asarray(a)) for tree in trees for name, a in weights.named(tree).items()}


def loaded(module, params, state):
    """The module with our weights and in their precision; every name must fit."""
    flat = tensors(params, state)
    module.to(next(a.dtype for a in flat.values() if a.is_floating_point())).load_state_dict(flat, strict=True)
    return module


# ---------------------------------------------------------------------------------------------- ResNet, ResNeXt


def conv_bn(i, o, k, stride=1, groups=1):
    return nn.Conv2d(i, o, k, stride, k // 2, groups=groups, bias=False), nn.BatchNorm2d(o)


class Residual(nn.Module):
    def __init__(self, i, planes, stride, groups, width):
        super().__init__()
        m, self.o = planes * width // 64 * groups, 4 * planes
        self.conv1, self.bn1 = conv_bn(i, m, 1)
        self.conv2, self.bn2 = conv_bn(m, m, 3, stride, groups)
        self.conv3, self.bn3 = conv_bn(m, self.o, 1)
        changes = stride != 1 or i != self.o
        self.downsample = nn.Sequential(*conv_bn(i, self.o, 1, stride)) if changes else nn.Identity()

    def forward(self, x):
        y = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class ResNet(nn.Module):
    def __init__(self, channels, classes, depths, widths=(64, 128, 256, 512), groups=1, width_per_group=64):
        super().__init__()
        i = widths[0]
        self.conv1, self.bn1 = conv_bn(channels, i, 7, 2)
        for s, (depth, planes) in enumerate(zip(depths, widths, strict=True), 1):
            blocks = []
            for k in range(depth):
                stride = 2 if s > 1 and k == 0 else 1
                blocks.append(Residual(i, planes, stride, groups, width_per_group))
                i = blocks[-1].o
            self.add_module(f"layer{s}", nn.Sequential(*blocks))
        self.fc = nn.Linear(i, classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for name, part in self.named_children():
            x = part(x) if name.startswith("layer") else x
        return self.fc(x.mean((2, 3)))


# ------------------------------------------------------------------------------------------- ConvNeXt, DenseNet

EPS = 1e-6  # of ConvNeXt's layer norms


class ChannelNorm(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class ConvNeXtBlock(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.layer_scale = nn.Parameter(torch.full((d, 1, 1), 1e-6))
        dw, up, down = nn.Conv2d(d, d, 7, padding=3, groups=d), nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        same = nn.Identity()  # so that the numbers in the names are the published ones
        self.block = nn.Sequential(dw, same, nn.LayerNorm(d, EPS), up, nn.GELU(), down)

    def forward(self, x):
        y = self.block[0](x).movedim(1, -1)
        for layer in self.block[2:]:
            y = layer(y)
        return x + self.layer_scale * y.movedim(-1, 1)


class ConvNeXt(nn.Module):
    def __init__(self, channels, classes, depths, widths):
        super().__init__()
        layers = [nn.Sequential(nn.Conv2d(channels, widths[0], 4, 4), ChannelNorm(widths[0], EPS))]
        for s, (depth, d) in enumerate(zip(depths, widths, strict=True), 1):
            layers.append(nn.Sequential(*[ConvNeXtBlock(d) for _ in range(depth)]))
            if s < len(depths):
                layers.append(nn.Sequential(ChannelNorm(d, EPS), nn.Conv2d(d, widths[s], 2, 2)))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.LayerNorm(d, EPS), nn.Identity(), nn.Linear(d, classes))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class DenseLayer(nn.Module):
    def __init__(self, c, growth, bottleneck):
        super().__init__()
        m = bottleneck * growth
        self.norm1, self.conv1 = nn.BatchNorm2d(c), nn.Conv2d(c, m, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(m), nn.Conv2d(m, growth, 3, padding=1, bias=False)

    def forward(self, x):
        return torch.cat([x, self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))], 1)


class Transition(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(c), nn.Conv2d(c, c // 2, 1, bias=False)

    def forward(self, x):
        return F.avg_pool2d(self.conv(F.relu(self.norm(x))), 2)


class DenseNet(nn.Module):
    def __init__(self, channels, classes, depths, growth=32, width=64, bottleneck=4):
        super().__init__()
        self.features, c = nn.Sequential(), width
        self.features.conv0, self.features.norm0 = conv_bn(channels, c, 7, 2)
        self.features.relu0, self.features.pool0 = nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        for b, depth in enumerate(depths, 1):
            block = nn.Sequential()
            for k in range(depth):
                block.add_module(f"denselayer{k + 1}", DenseLayer(c, growth, bottleneck))
                c += growth
            self.features.add_module(f"denseblock{b}", block)
            if b < len(depths):
                self.features.add_module(f"transition{b}", Transition(c))
                c //= 2
        self.features.norm5 = nn.BatchNorm2d(c)
        self.classifier = nn.Linear(c, classes)

    def forward(self, x):
        return self.classifier(F.relu(self.features(x)).mean((2, 3)))


# ------------------------------------------------------------------------------------------------------ ExViT


def stem(c, outputs):
    blocks = []
    for _ in range(3):
        blocks += [nn.Conv2d(c, c, 3, padding=1, groups=c), nn.Conv2d(c, outputs, 1)]
        blocks += [nn.BatchNorm2d(outputs), nn.GELU()]
        c, outputs = outputs, 2 * outputs
    return nn.Sequential(*blocks)


def transformer(depth, size):
    """ExViT's modules by the names of its public code; `transformed` runs them."""
    w, inner = size.width, size.heads * size.head

    def normed(fn):
        return nn.ModuleDict({"fn": nn.ModuleDict({"norm": nn.LayerNorm(w), "fn": nn.ModuleDict(fn)})})

    def layer():
        out, same = nn.Sequential(nn.Linear(inner, w)), nn.Identity()
        net = nn.Sequential(nn.Linear(w, size.hidden), nn.GELU(), same, nn.Linear(size.hidden, w))
        attention = {"to_qkv": nn.Linear(w, 3 * inner, bias=False), "to_out": out}
        return nn.ModuleList([normed(attention), normed({"net": net})])

    return nn.ModuleDict({"layers": nn.ModuleList(layer() for _ in range(depth))})


def transformed(transformer, x, drop, heads):
    for one, two in transformer["layers"]:
        norm, fn = one["fn"]["norm"], one["fn"]["fn"]
        q, k, v = (t.unflatten(2, (heads, -1)).transpose(1, 2) for t in fn["to_qkv"](norm(x)).chunk(3, dim=2))
        x = x + drop(fn["to_out"](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)))
        norm, net = two["fn"]["norm"], two["fn"]["fn"]["net"]
        x = x + drop(net[3](drop(F.gelu(net[0](norm(x))))))
    return x


class ExViT(nn.Module):
    """ExViT of one image per number in `channels`: two modalities, or one: reading A of a band group.

    A branch is given its table of positions. `drops`: dropout of each modality and of the joint transformer.
    """

    names = (("separable1", "to_patch_embedding2", "transformer1"),
             ("separable2", "to_patch_embedding2c", "transformer2"))  # fmt: skip

    def __init__(self, channels, patch, grid, outputs, size):
        super().__init__()
        self.grid, self.size, w = grid, size, size.width
        for c, names in zip(channels, self.names, strict=False):
            parts = stem(c, size.stem), nn.Linear(4 * size.stem, w), transformer(size.layers, size)
            for name, part in zip(names, parts, strict=True):
                self.add_module(name, part)
        if len(channels) == 2:
            self.pos_embedding = nn.Parameter(torch.zeros(1, (patch // grid) ** 2, w))
            self.transformer = transformer(size.joint, size)
        self.mlp_head0 = nn.Sequential(nn.LayerNorm(w), nn.Linear(w, 1))
        self.mlp_head1 = nn.Sequential(nn.LayerNorm(w), nn.Linear(w, outputs))

    def forward(self, images, positions=None, drops=None):
        drops = drops or [lambda t: F.dropout(t, self.size.dropout, self.training)] * 3
        positions, Z = self.pos_embedding if positions is None else positions, []
        for x, names, drop in zip(images, self.names, drops, strict=False):
            stem, embedding, layers = (self.get_submodule(name) for name in names)
            x = F.avg_pool2d(stem(x), self.grid).flatten(2).transpose(1, 2)
            Z.append(transformed(layers, drop(embedding(x) + positions), drop, self.size.heads))
        x = torch.cat(Z, 1)
        if len(Z) == 2:
            x = transformed(self.transformer, x, drops[2], self.size.heads)
        a = F.softmax(self.mlp_head0(x).squeeze(2), dim=1)
        return self.mlp_head1(torch.einsum("bn,bnd->bd", a, x))


class So2SatExViT(ExViT):
    def forward(self, x, drops=None):  # sen2's channels before sen1's
        return super().forward((x[:, 8:], x[:, :8]), drops=drops)


# ---------------------------------------------------------------------------------------------------- the texts


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.c_fc, self.mlp.gelu = nn.Linear(width, 4 * width), QuickGELU()
        self.mlp.c_proj = nn.Linear(4 * width, width)

    def attend(self, x, **seen):
        return self.attn(x, x, x, need_weights=False, **seen)[0]

    def forward(self, x, **seen):
        x = x + self.attend(self.ln_1(x), **seen)
        return x + self.mlp(self.ln_2(x))


class FastBlock(Block):
    def attend(self, x, **seen):
        """The same, without the copy of queries, keys and values that nn.MultiheadAttention makes."""
        qkv = F.linear(x, self.attn.in_proj_weight, self.attn.in_proj_bias)
        qkv = qkv.unflatten(2, (3, self.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.attn.out_proj(F.scaled_dot_product_attention(*qkv, **seen).transpose(1, 2).flatten(2))


class Tower(nn.Module):
    """CLIP's text tower."""

    block = Block

    def __init__(self, vocabulary, width, layers, heads, features, context=77):
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.zeros(context, width))
        blocks = (self.block(width, heads) for _ in range(layers))
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList(blocks)})
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.zeros(width, features))
        self.context = context

    def forward(self, ids):  # (N, L) -> (N, d); padded to the whole context, as CLIP has it
        ids = F.pad(ids, (0, self.context - ids.shape[1]))
        hidden = torch.full((self.context, self.context), -torch.inf, dtype=self.text_projection.dtype).triu(1)
        x = self.token_embedding(ids) + self.positional_embedding
        for block in self.transformer["resblocks"]:
            x = block(x, attn_mask=hidden)
        return self.ln_final(x)[torch.arange(len(ids)), ids.argmax(dim=-1)] @ self.text_projection


class FastTower(Tower):
    """The 7 prompts of some classes, each once, and the context as long as the longest prompt."""

    block = FastBlock

    def __init__(self, *sizes, ids):  # (17, 7, L)
        super().__init__(*sizes)
        self.ids = torch.from_numpy(ids)

    def forward(self, classes):  # (k,) -> (k, 7, d)
        ids = self.ids[classes].flatten(0, 1)
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        for block in self.transformer["resblocks"]:
            x = block(x, is_causal=True)
        x = self.ln_final(x[torch.arange(len(ids)), ids.argmax(1)])
        return (x @ self.text_projection).unflatten(0, (-1, 7))


# -------------------------------------------------------------------------------------------------- the systems


class Fusion(nn.Module):
    """Fig. 1: seven encoders, D on their concatenation, and the prompts of the classes in the batch."""

    def __init__(self, name, settings, size, tower):
        super().__init__()
        row, d, K = systems.find(name), settings.features, len(paper.CLASSES)
        self.alpha, self.beta, self.msm, self.exvit = settings.alpha, settings.beta, row.msm, row.images == "exvit"
        if self.exvit:
            make = lambda channels: ExViT([channels], paper.PATCH, settings.grid, d, size)
            tokens = (paper.PATCH // settings.grid) ** 2  # one table of positions for all
            self.shared = nn.ParameterDict({"pos_embedding": torch.zeros(1, tokens, size.width)})
            self.classifier = nn.Sequential(nn.LayerNorm(7 * d), nn.Linear(7 * d, K))
        else:
            make = lambda channels: BandEncoder(channels, settings.width, d)
            self.classifier = nn.Linear(7 * d, K)
        self.branches = nn.ModuleDict({group: make(len(index)) for group, index in bands.INDEX.items()})
        if row.prompting:
            words = systems.tokenizer(settings.vocabulary)
            sizes = words.vocab_size, settings.text_width, settings.text_layers, settings.text_heads, d
            self.text = tower(*sizes, ids=systems.prompt_tokens(words))

    def features(self, x):  # (B, 18, H, W) -> (B, 7, d)
        sensors, found = {"sen1": x[:, :8], "sen2": x[:, 8:]}, []
        for group, index in bands.INDEX.items():
            own = sensors[bands.GROUPS[group]["sensor"]][:, index]
            found.append(self.branches[group](*([(own,), self.shared["pos_embedding"]] if self.exvit else [own])))
        return torch.stack(found, 1)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))

    def loss(self, x, y):
        I = self.features(x)
        L_cls = F.cross_entropy(self.classifier(I.flatten(1)), y)
        if not hasattr(self, "text"):
            return L_cls
        classes, place = torch.unique(y, return_inverse=True)
        T = self.text(classes)[place]
        S = self.alpha * F.normalize(I, dim=2).flatten(1) @ F.normalize(T, dim=2).flatten(1).T
        W = (y[:, None] == y if self.msm else torch.eye(len(y), dtype=torch.bool)).to(S.dtype)
        return L_cls + self.beta * F.binary_cross_entropy_with_logits(S, W)


PUBLISHED = {
    "resnet50": partial(ResNet, depths=(3, 4, 6, 3)),
    "resnext50": partial(ResNet, depths=(3, 4, 6, 3), groups=32, width_per_group=4),
    "convnext": partial(ConvNeXt, depths=(3, 3, 9, 3), widths=(96, 192, 384, 768)),
    "densenet121": partial(DenseNet, depths=(6, 12, 24, 16)),
}
SHORT = {"depths": (1, 1, 1, 1), "widths": (16, 32, 64, 128)}
REDUCED = {
    "resnet50": partial(ResNet, **SHORT),
    "resnext50": partial(ResNet, **SHORT, groups=8, width_per_group=16),
    "convnext": partial(ConvNeXt, depths=(1, 1, 2, 1), widths=(24, 48, 96, 192)),
    "densenet121": partial(DenseNet, depths=(2, 4, 8, 4), growth=12, width=24),
}


def system(name, settings, tower=FastTower):
    """The twin of systems.build(name, settings), as a user would write it for speed; `loss_of` is its loss."""
    row = systems.find(name)
    size = exvit.SIZE if settings.published else systems.SMALL_EXVIT
    if row.images in PUBLISHED:
        return (PUBLISHED if settings.published else REDUCED)[row.images](18, 17)
    if row.images == "exvit" and not row.prompting:
        return So2SatExViT([10, 8], paper.PATCH, settings.grid, len(paper.CLASSES), size)
    return Fusion(name, settings, size, tower)


def loss_of(module, x, y):
    return module.loss(x, y) if isinstance(module, Fusion) else F.cross_entropy(module(x), y)
