"""The rows of Tables II and III by name: how each is built. settings.py has what each is trained with."""

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from bplcz_ref import bands, layers, model, paper, prompts
from bplcz_ref.encoders import convnext, densenet, ebcnn, exvit, resnet, text

# Beside the systems, since `settings` is what a variable is called nearly everywhere.
from bplcz_ref.settings import PAPER, PRESETS, SMALL, Settings, changed, chosen, losses, meant, varied  # noqa: F401
from bplcz_ref.settings import check as check_settings
from bplcz_ref.storage import schema
from bplcz_ref.tokenizer import Tokenizer


class System(NamedTuple):
    """A row of the tables: its label there, the paper's (OA, kappa) in percent as stated, and how it is built.

    `images` names encoders of ENCODERS, a network of NETWORKS, or "exvit". `prompting` is BGP (II-B), L_con beside
    L_cls; `msm` is the multivariate supervised matrix (II-C), without which W = I.
    """

    label: str
    stated: tuple[float, float] | None  # None: not in the paper
    images: str
    prompting: bool = False
    msm: bool = True


SYSTEMS = {
    "resnet50": System("ResNet50", paper.TABLE_II["ResNet50"], "resnet50"),
    "resnext50": System("ResNeXt", paper.TABLE_II["ResNeXt"], "resnext50"),
    "convnext": System("ConvNeXt", paper.TABLE_II["ConvNeXt"], "convnext"),
    "densenet121": System("DenseNet121", paper.TABLE_II["DenseNet121"], "densenet121"),
    "exvit": System("ExViT", paper.TABLE_II["ExViT"], "exvit"),
    "exvit-bplcz": System("ExViT (BP-LCZ)", paper.TABLE_II["ExViT (BP-LCZ)"], "exvit", prompting=True),
    "ebcnn": System("EB-CNN", paper.TABLE_II["EB-CNN"], "ebcnn"),
    "ebcnn-bgp": System("EB-CNN + BGP, no MSM", paper.TABLE_III[True, False], "ebcnn", prompting=True, msm=False),
    "ebcnn-bplcz": System("EB-CNN (BP-LCZ)", paper.TABLE_II["EB-CNN (BP-LCZ)"], "ebcnn", prompting=True),
}
TABLE_II = ("resnet50", "resnext50", "convnext", "densenet121", "exvit", "exvit-bplcz", "ebcnn", "ebcnn-bplcz")
TABLE_III = ("ebcnn", "ebcnn-bgp", "ebcnn-bplcz")

# Batch norm on 1x1 maps: in training these systems need 2 or more samples in a batch.
NEED_TWO = ("resnet50", "resnext50", "densenet121")

# The networks that take all 18 channels at once; the paper names ResNeXt and ConvNeXt without their size.
PUBLISHED = {
    "resnet50": resnet.resnet50,
    "resnext50": resnet.resnext50_32x4d,
    "convnext": convnext.convnext_tiny,
    "densenet121": densenet.densenet121,
}
# The same definitions at sizes that train in a minute or two; every stage keeps a block of each kind.
SHORT: dict[str, Any] = {"depths": (1, 1, 1, 1), "widths": (16, 32, 64, 128)}
REDUCED = {
    "resnet50": partial(resnet.resnet, **SHORT),
    "resnext50": partial(resnet.resnet, **SHORT, groups=8, width_per_group=16),
    "convnext": partial(convnext.convnext, depths=(1, 1, 2, 1), widths=(24, 48, 96, 192)),
    "densenet121": partial(densenet.densenet, depths=(2, 4, 8, 4), growth=12, width=24),
}
SMALL_EXVIT = exvit.Size(stem=8, width=32, layers=2, joint=1, heads=4, head=8, hidden=32)

# Encoders of one band group, (channels, settings) -> Network (B, 32, 32, channels) -> (B, features), and networks,
# settings -> Network (B, 32, 32, 18) -> (B, 17), by name; register.py adds those of a user.
ENCODERS: dict[str, Callable] = {"ebcnn": lambda channels, s: ebcnn.encoder(channels, s.width, s.features)}
NETWORKS: dict[str, Callable] = {"exvit": lambda s: exvit.exvit(grid=s.grid, size=exvit_size(s))}


def exvit_size(settings: Settings) -> exvit.Size:
    """ExViT's sizes under these settings."""
    return exvit.SIZE if settings.published else SMALL_EXVIT


def find(name: str) -> System:
    """The system of a name; ValueError for another name."""
    if name not in SYSTEMS:
        raise ValueError(
            f"there is no system {name!r}; {meant(name, SYSTEMS)}expected one of {', '.join(SYSTEMS)}, or one of"
            " your own, which --import FILE.py registers"
        )
    return SYSTEMS[name]


def check(settings: Settings, *names: str) -> None:
    """Raises ValueError for the first invalid setting, and for one that a system of these names cannot have."""
    check_settings(settings)
    for name in names:
        if not find(name).msm and settings.contrastive not in ("paper", "none"):
            raise ValueError(
                f"contrastive is {settings.contrastive!r}, but {name} ({SYSTEMS[name].label}) has W = I in the"
                " paper's loss: choose another system for another loss"
            )


def registered(system: Any, contrastive: Any, where: str) -> None:
    """ValueError if a run was trained with a part that a user's own file registers, before that is imported."""
    for kind, name, known in (("system", system, SYSTEMS), ("contrastive", contrastive, losses())):
        if isinstance(name, str) and name not in known:
            raise ValueError(
                f"{where}: {kind} is {schema.brief(name)}, which is not registered: import the file that registers"
                " it first (--import FILE.py)"
            )


def build(name: str, settings: Settings) -> model.Model:
    """The model of one row.

    >>> build("exvit", SMALL._replace(grid=8))
    <exvit: ExViT of preset small, reduced, grid 8, L_cls>
    >>> build("vgg", PAPER)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
      ...
    ValueError: there is no system 'vgg'; expected one of resnet50, resnext50, convnext, densenet121, exvit, ...
    """
    check(settings, name)
    system, d = SYSTEMS[name], settings.features
    options = prompting(system, settings) if prompted(system, settings) else {}
    if system.images in ENCODERS:
        make = ENCODERS[system.images]
        encoders = {group: make(len(index), settings) for group, index in bands.INDEX.items()}
        made = model.bplcz(encoders, layers.linear(len(encoders) * d, len(paper.CLASSES)), **options)
    elif system.prompting:
        made = exvit_bplcz(settings.reading, d, grid=settings.grid, size=exvit_size(settings), **options)
    elif system.images in NETWORKS:
        made = model.classification(NETWORKS[system.images](settings))
    else:
        made = model.classification((PUBLISHED if settings.published else REDUCED)[system.images]())
    return made._replace(about=about(name, settings))


def about(name: str, settings: Settings) -> str:
    """What a model is, in a line.

    >>> about("ebcnn-bplcz", SMALL)
    'ebcnn-bplcz: EB-CNN (BP-LCZ) of preset small, L_cls + 2 L_con (paper)'
    """
    system, found = SYSTEMS[name], {"system": name, "settings": settings._asdict()}
    sizes = ("width", "features", "grid", "reading", "published", "text_width", "text_layers", "text_heads")
    own = [f"{key} {value}" for key, value in changed(settings).items() if key in sizes]
    loss = "L_cls"
    if prompted(system, settings):
        loss += f" + {settings.beta:g} L_con ({settings.contrastive if system.msm else 'identity'})"
    return f"{name}: {', '.join([f'{system.label} of preset {settings.preset}{reduced(found)}', *own, loss])}"


def reduced(found: dict) -> str:
    """What follows a system's name wherever it is shown, if its network is smaller than the published one.

    found: a config or a result of a run, which have its system and settings. EB-CNN's size is not published.

    >>> [reduced({"system": name, "settings": SMALL._asdict()}) for name in ("resnet50", "ebcnn")]
    [', reduced', '']
    """
    sized = found["system"] in PUBLISHED or SYSTEMS[found["system"]].images == "exvit"
    return ", reduced" if sized and not found["settings"]["published"] else ""


def prompted(system: System, settings: Settings) -> bool:
    """Whether a system is trained with prompts under these settings."""
    return system.prompting and settings.contrastive != "none"


def fuses(name: str) -> bool:
    """Whether a system has the fused feature I of Eq. (9); that depends on no setting."""
    return find(name).prompting or SYSTEMS[name].images in ENCODERS


def exvit_bplcz(reading="A", features=512, patch=paper.PATCH, grid=4, size=exvit.SIZE, **options) -> model.Model:
    """Two readings of "BP-LCZ is adopted in ExViT" (III-B1), which says no more; options as of model.bplcz.

    In both, each band group has an ExViT branch up to its tokens, and all share one position table, as in ExViT.

    A  Eq. (9) to the letter: a branch ends in a vector I_i, D = Linear(LN(I)). No attention crosses groups.
    B  D is ExViT's attention over the tokens of all groups, Z = [Z_1, ..., Z_7] (B, 7 N, w), which the trace has
       in the place of I. The I_i that are compared with the prompts come from a head of their own in each group.
    """
    make: Callable
    if reading == "A":
        make, D, vector = partial(exvit.encoder, features=features), exvit.head(7 * features, exvit.CLASSES), None
    else:
        make, D, vector = exvit.tokens, exvit.joint(exvit.CLASSES, size), exvit.vector(features, size)
    branches = {group: make(len(index), patch=patch, grid=grid, size=size) for group, index in bands.INDEX.items()}
    return model.bplcz(branches, D, vector=vector, shared="pos_embedding", **options)


def prompting(system: System, settings: Settings) -> dict:
    """What model.bplcz needs for band group prompting: the text tower, the prompts' tokens, and the loss."""
    s, words_ = settings, tokenizer(settings.vocabulary)
    return {
        "text": text.encoder(words_.vocab_size, s.text_width, s.text_layers, s.text_heads, s.features),
        "tokens": prompt_tokens(words_),
        "alpha": s.alpha,
        "beta": s.beta,
        "contrastive": s.contrastive if system.msm else "identity",
    }


def tokenizer(merges: str | None) -> Tokenizer:
    """The tokenizer of a merges file; the bundled one for None."""
    return Tokenizer.bundled() if merges is None else Tokenizer.from_merges(merges)


def vocabulary_digest(name: str, settings: Settings) -> str | None:
    """The SHA-256 of the merges that a system's prompts are written in; None for a system without prompts.

    >>> vocabulary_digest("ebcnn", SMALL), vocabulary_digest("ebcnn-bplcz", SMALL)[:8]
    (None, '3964279b')
    """
    if not prompted(find(name), settings):
        return None
    merges = "\n".join(" ".join(pair) for pair in tokenizer(settings.vocabulary).merges)
    return hashlib.sha256(merges.encode()).hexdigest()


def prompt_tokens(tokens: Tokenizer) -> np.ndarray:  # -> (17, 7, L)
    """Token ids of the 119 prompts, cut after the longest one's EOT."""
    found = tokens.batch(prompts.prompts(), context_length=None)
    return found.reshape(len(paper.CLASSES), len(paper.GROUPS), -1)
