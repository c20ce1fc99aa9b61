"""The rows of Tables II and III by name: how each is built, and with which settings it is trained."""

from functools import cache, partial
from math import inf
from typing import NamedTuple

from bplcz_ref import bands, model, nn, paper, prompts
from bplcz_ref.encoders import convnext, densenet, ebcnn, exvit, resnet, text
from bplcz_ref.tokenizer import Tokenizer


class System(NamedTuple):
    """A row of the tables: its label there, the paper's (OA, kappa) in percent, and what it is made of.

    `images` names a network of PUBLISHED and REDUCED, or "ebcnn" or "exvit": those by band groups. `prompting` is
    BGP (II-B), L_con beside L_cls; `contrastive` "paper" has the supervised matrix (MSM, II-C), "identity" not.
    """

    label: str
    figures: tuple
    images: str
    prompting: bool = False
    contrastive: str = "paper"


SYSTEMS = {
    "resnet50": System("ResNet50", paper.TABLE_II["ResNet50"], "resnet50"),
    "resnext50": System("ResNeXt", paper.TABLE_II["ResNeXt"], "resnext50"),
    "convnext": System("ConvNeXt", paper.TABLE_II["ConvNeXt"], "convnext"),
    "densenet121": System("DenseNet121", paper.TABLE_II["DenseNet121"], "densenet121"),
    "exvit": System("ExViT", paper.TABLE_II["ExViT"], "exvit"),
    "exvit-bplcz": System("ExViT (BP-LCZ)", paper.TABLE_II["ExViT (BP-LCZ)"], "exvit", prompting=True),
    "ebcnn": System("EB-CNN", paper.TABLE_II["EB-CNN"], "ebcnn"),
    "ebcnn-bgp": System("EB-CNN + BGP, no MSM", paper.TABLE_III[True, False], "ebcnn", True, "identity"),
    "ebcnn-bplcz": System("EB-CNN (BP-LCZ)", paper.TABLE_II["EB-CNN (BP-LCZ)"], "ebcnn", prompting=True),
}
TABLE_II = ("resnet50", "resnext50", "convnext", "densenet121", "exvit", "exvit-bplcz", "ebcnn", "ebcnn-bplcz")
TABLE_III = ("ebcnn", "ebcnn-bgp", "ebcnn-bplcz")

# Batch norm on 1x1 maps: in training these need 2 samples or more in a batch.
NEED_TWO = ("resnet50", "resnext50", "densenet121")

# The networks that take all 18 channels at once; the paper names ResNeXt and ConvNeXt without their size.
PUBLISHED = {
    "resnet50": resnet.resnet50,
    "resnext50": resnet.resnext50_32x4d,
    "convnext": convnext.convnext_tiny,
    "densenet121": densenet.densenet121,
}
# The same definitions at sizes that train in a minute or two; a block of each kind in every stage.
REDUCED = {
    "resnet50": partial(resnet.resnet, depths=(1, 1, 1, 1), widths=(16, 32, 64, 128)),
    "resnext50": partial(
        resnet.resnet, depths=(1, 1, 1, 1), widths=(16, 32, 64, 128), groups=8, width_per_group=16
    ),
    "convnext": partial(convnext.convnext, depths=(1, 1, 2, 1), widths=(24, 48, 96, 192)),
    "densenet121": partial(densenet.densenet, depths=(2, 4, 8, 4), growth=12, width=24),
}
SMALL_EXVIT = exvit.Size(stem=8, width=32, layers=2, joint=1, heads=4, head=8, hidden=32)


class Settings(NamedTuple):
    """Everything that a run depends on beside its data and its system."""

    preset: str
    # image side: EB-CNN's width w, the feature size d, ExViT's pixels a token (grid x grid) and reading, and
    # whether the other networks have their published sizes
    width: int
    features: int
    grid: int
    reading: str
    published: bool
    # text side: CLIP's text tower, and its merges file (None: the bundled one)
    text_width: int
    text_layers: int
    text_heads: int
    vocabulary: str | None
    # loss
    alpha: float
    beta: float
    # optimiser
    epochs: int
    learning_rate: float
    momentum: float
    weight_decay: float
    batch: int
    # data: samples per class for training, and test samples drawn from the rest; clip sen1 to +-clip_sen1 first
    per_class: int
    test: int
    clip_sen1: float | None
    seed: int


# As the paper states it; where it is silent (network sizes), our reading: CLIP ViT-B text, d = 512, ExViT on
# 4 x 4 pixels a token with an encoder a group (reading A).
PAPER = Settings(
    preset="paper",
    width=32,
    features=512,
    grid=4,
    reading="A",
    published=True,
    text_width=512,
    text_layers=12,
    text_heads=8,
    vocabulary=None,
    alpha=paper.ALPHA,
    beta=paper.BETA,
    epochs=paper.EPOCHS,
    learning_rate=paper.LEARNING_RATE,
    momentum=paper.MOMENTUM,
    weight_decay=paper.WEIGHT_DECAY,
    batch=paper.BATCH,
    per_class=paper.TRAIN_PER_CLASS,
    test=paper.TEST,
    clip_sen1=None,
    seed=paper.SEED,
)
# What learns within about a minute a row on 2 cores. It differs from the paper in the values named here only: a
# small network and data set, and a larger learning rate, since it takes 128 steps and not 138,800.
SMALL = PAPER._replace(
    preset="small",
    width=16,
    features=64,
    published=False,
    text_width=64,
    text_layers=2,
    text_heads=1,
    epochs=4,
    learning_rate=0.02,
    per_class=60,
    test=1000,
    clip_sen1=1.0,
)
PRESETS = {"paper": PAPER, "small": SMALL}


def check(settings):
    """ValueError that names the first setting which cannot be meant.

    >>> check(PAPER)
    >>> check(PAPER._replace(epochs=0))
    Traceback (most recent call last):
      ...
    ValueError: epochs is 0; expected a whole number, 1 or more
    """
    whole = ("width", "features", "grid", "text_width", "text_layers", "text_heads", "epochs", "batch")
    for name in (*whole, "per_class", "test"):
        value = getattr(settings, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}; expected a whole number, 1 or more")
    limits = {"alpha": (0, inf), "learning_rate": (0, inf), "beta": (-1e-300, inf), "weight_decay": (-1e-300, inf)}
    limits |= {"momentum": (-1e-300, 1)}
    for name, (low, high) in limits.items():
        value = getattr(settings, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low < value < high:
            least = "above 0" if low == 0 else "0 or more"
            raise ValueError(f"{name} is {value!r}; expected a finite number {least}{', below 1' * (high == 1)}")


def changed(settings):
    """{name: value} of what differs from the preset that the settings bear the name of; the seed aside.

    >>> changed(PAPER._replace(epochs=1, seed=48))
    {'epochs': 1}
    """
    preset = PRESETS[settings.preset]._asdict()
    return {name: v for name, v in settings._asdict().items() if v != preset[name] and name != "seed"}


def build(name, settings):
    """The model of one row.

    >>> from bplcz_ref import weights
    >>> from bplcz_ref.streams import stream
    >>> for name in ("resnet50", "ebcnn"):
    ...     params, state = build(name, PAPER).init(stream(47, "init"), "float32")
    ...     print(name, weights.count(params))
    resnet50 23589905
    ebcnn 2534609
    >>> build("vgg", PAPER)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
      ...
    ValueError: there is no system 'vgg'; the systems are resnet50, resnext50, convnext, densenet121, exvit, ...
    """
    if name not in SYSTEMS:
        raise ValueError(f"there is no system {name!r}; the systems are {', '.join(SYSTEMS)}")
    system = SYSTEMS[name]
    size = exvit.SIZE if settings.published else SMALL_EXVIT
    if system.images in PUBLISHED:
        return model.classification((PUBLISHED if settings.published else REDUCED)[system.images]())
    if system.images == "exvit" and not system.prompting:
        return model.classification(exvit.exvit(grid=settings.grid, size=size))
    options = groups_of_ebcnn(settings) if system.images == "ebcnn" else groups_of_exvit(settings, size)
    if not system.prompting:
        return model.bplcz(**options)
    words = tokenizer(settings.vocabulary)
    tower = text.encoder(
        words.vocab_size, settings.text_width, settings.text_layers, settings.text_heads, settings.features
    )
    return model.bplcz(
        **options,
        text=tower,
        tokens=prompt_tokens(words),
        alpha=settings.alpha,
        beta=settings.beta,
        contrastive=system.contrastive,
    )


def groups_of_ebcnn(settings):
    """What model.bplcz needs for EB-CNN: seven encoders and a linear classifier."""
    d = settings.features
    encoders = {group: ebcnn.encoder(len(index), settings.width, d) for group, index in bands.INDEX.items()}
    return {"encoders": encoders, "classifier": nn.dense(len(encoders) * d, len(paper.CLASSES))}


def groups_of_exvit(settings, size):
    """What model.bplcz needs for ExViT, by reading "A" or "B" (encoders/exvit.py says what they are)."""
    d, K = settings.features, len(paper.CLASSES)
    if settings.reading not in ("A", "B"):
        raise ValueError(f"reading is {settings.reading!r}; expected 'A' or 'B'")
    if settings.reading == "B":
        encoders = {
            group: exvit.tokens(len(index), grid=settings.grid, size=size) for group, index in bands.INDEX.items()
        }
        whole = {"classifier": exvit.joint(K, size), "vector": exvit.vector(d, size)}
        return {"encoders": encoders, "shared": ("pos_embedding",), **whole}
    encoders = {
        group: exvit.encoder(len(index), grid=settings.grid, features=d, size=size)
        for group, index in bands.INDEX.items()
    }
    classifier = exvit.head(len(encoders) * d, K)
    return {"encoders": encoders, "classifier": classifier, "shared": ("pos_embedding",)}


@cache
def tokenizer(merges):
    """The tokenizer of a merges file; the bundled one for None."""
    return Tokenizer.bundled() if merges is None else Tokenizer.from_merges(merges)


def prompt_tokens(words):  # -> (17, 7, L)
    """Token ids of the 119 prompts, cut after the longest one's EOT."""
    return words.batch(prompts.prompts(), context_length=None).reshape(len(paper.CLASSES), len(paper.GROUPS), -1)
