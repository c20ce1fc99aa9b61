"""The rows of Tables II and III by name: how each is built, and with which settings it is trained."""

import difflib
import hashlib
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from bplcz_ref import bands, exvit_bplcz, layers, model, paper, prompts, schema
from bplcz_ref.encoders import convnext, densenet, ebcnn, exvit, resnet, text
from bplcz_ref.tokenizer import Tokenizer
from bplcz_ref.variants import VARIANTS


class System(NamedTuple):
    """A row of the tables: its label there, the paper's (OA, kappa) in percent, and what it is made of.

    `images` names a network of PUBLISHED and REDUCED, or "ebcnn" or "exvit". `prompting` is BGP (II-B), L_con
    beside L_cls; `msm` is the multivariate supervised matrix (II-C), without which W = I.
    """

    label: str
    figures: tuple[float, float]
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
    """Everything that a run depends on beside its data and its system; MEANINGS says what each setting is."""

    preset: str
    width: int
    features: int
    grid: int
    reading: str
    published: bool
    text_width: int
    text_layers: int
    text_heads: int
    vocabulary: str | None
    alpha: float
    beta: float
    contrastive: str
    epochs: int
    learning_rate: float
    schedule: str
    warmup: int
    momentum: float
    weight_decay: float
    batch: int
    augmentation: str
    per_class: int | None
    test: int | None
    split: str
    clip_sen1: float | None
    seed: int


MEANINGS = {
    "preset": "the preset that the other settings start from",
    "width": "EB-CNN: channels of the first stage, w",
    "features": "size d of a group's feature I_i and of the text feature T_i",
    "grid": "ExViT: pixels per token in each direction",
    "reading": "ExViT (BP-LCZ): the reading exvit-groups of docs/readings.md",
    "published": "the other networks at their published sizes, or reduced",
    "text_width": "text tower: width",
    "text_layers": "text tower: layers",
    "text_heads": "text tower: attention heads",
    "vocabulary": "a merges file, such as CLIP's; none: the bundled one",
    "alpha": "weight of a group's similarity, Eqs. (3) and (4)",
    "beta": "weight of L_con in L, Eq. (10)",
    "contrastive": "what takes the place of Eqs. (5) to (8); none: L_cls alone, without a text tower",
    "epochs": "passes over the training part",
    "learning_rate": "SGD: the rate, or the highest one of a schedule",
    "schedule": "the rate by step: constant, or cosine down to 0",
    "warmup": "epochs in which the rate first rises in equal steps",
    "momentum": "SGD: momentum",
    "weight_decay": "SGD: weight decay, added to the gradient",
    "batch": "samples of a step",
    "augmentation": "turns: each training patch is flipped and turned by quarters at random; or none",
    "per_class": "training rows of each class; none, with --test-data: all rows",
    "test": "test rows; none, with --test-data: all rows",
    "split": "file: a subset's own parts, or a random draw; random: a new draw; city: whole cities are the test",
    "clip_sen1": "sen1 is clipped to +- this before it is standardised; none: it is not",
    "seed": "of the start, the draw of the split, the order and all other draws",
}

# As the paper states it; where it is silent (network sizes), our reading: CLIP ViT-B text, d = 512, ExViT on
# 4 x 4 pixels per token with one encoder per group (reading A).
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
    contrastive="paper",
    epochs=paper.EPOCHS,
    learning_rate=paper.LEARNING_RATE,
    schedule="constant",
    warmup=0,
    momentum=paper.MOMENTUM,
    weight_decay=paper.WEIGHT_DECAY,
    batch=paper.BATCH,
    augmentation="none",
    per_class=paper.TRAIN_PER_CLASS,
    test=paper.TEST,
    split="file",
    clip_sen1=None,
    seed=paper.SEED,
)
# What learns within about a minute per row on 2 cores. It differs from the paper in the values named here only: a
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

# What each setting may be, for settings from a user and from a run's config.json alike. Upper bounds are far
# above anything that is trained: beyond them are slips of the keyboard, and sizes that no array can have.
SIZE, COUNT = schema.whole(1, 2**16), schema.whole(1, 10**9)
SETTINGS = {
    "preset": schema.one_of(PRESETS),
    "width": SIZE,
    "features": SIZE,
    "grid": SIZE,
    "reading": schema.one_of("AB"),
    "published": schema.BOOLEAN,
    "text_width": SIZE,
    "text_layers": SIZE,
    "text_heads": SIZE,
    "vocabulary": schema.optional(schema.PATH),
    "alpha": schema.number(above=0),
    "beta": schema.number(0),
    "contrastive": schema.one_of([*VARIANTS, "none"]),
    "epochs": COUNT,
    "learning_rate": schema.number(above=0),
    "schedule": schema.one_of(("constant", "cosine")),
    "warmup": schema.whole(0, 10**9),
    "momentum": schema.number(0, below=1),
    "weight_decay": schema.number(0),
    "batch": COUNT,
    "augmentation": schema.one_of(("none", "turns")),
    "per_class": schema.optional(COUNT),
    "test": schema.optional(COUNT),
    "split": schema.one_of(("file", "random", "city")),
    "clip_sen1": schema.optional(schema.number(above=0)),
    "seed": schema.whole(0, 2**63 - 1),  # an HDF5 file notes its seed as a signed number of 64 bits
}


def check(settings: Settings) -> None:
    """Raises ValueError for the first invalid setting.

    >>> check(PAPER)
    >>> check(PAPER._replace(epochs=0))
    Traceback (most recent call last):
      ...
    ValueError: epochs is 0; expected a whole number, 1 to 1000000000
    """
    schema.check(settings._asdict(), SETTINGS, "")
    if settings.warmup and settings.warmup >= settings.epochs:
        raise ValueError(f"warmup is {settings.warmup}; expected fewer than the {settings.epochs} epochs")


def chosen(words: Iterable[str]) -> dict[str, Any]:
    """{name: value} of settings in the words of the command line, "name=value", each checked.

    >>> chosen(["alpha=0.5", "clip_sen1=none", "contrastive=unicl"])
    {'alpha': 0.5, 'clip_sen1': None, 'contrastive': 'unicl'}
    >>> chosen(["epoch=3"])
    Traceback (most recent call last):
      ...
    ValueError: there is no setting 'epoch'; did you mean epochs? All are listed by: bplcz_ref train --settings
    """
    found: dict[str, Any] = {}
    for word in words:
        name, equals, text_ = word.partition("=")
        if not equals:
            raise ValueError(f"{word!r} is no setting; expected name=value, such as alpha=0.5")
        if name not in SETTINGS or name == "preset":
            near = difflib.get_close_matches(name, SETTINGS, 1, 0.4)
            meant = f"did you mean {near[0]}? " * bool(near)
            raise ValueError(f"there is no setting {name!r}; {meant}All are listed by: bplcz_ref train --settings")
        found[name] = value(name, text_)
    return found


def varied(words: str) -> tuple[str, list]:
    """(setting, values) of "NAME=V1,V2,...".

    >>> varied("beta=0.5,2")
    ('beta', [0.5, 2.0])
    """
    name, _, values = words.partition("=")
    found = [chosen([f"{name}={each}"])[name] for each in values.split(",")]
    if len(set(found)) < max(2, len(found)):
        raise ValueError(f"{words}: expected two values or more, each once, such as contrastive=paper,none")
    return name, found


def value(name: str, words: str) -> Any:
    """The value of a setting from text, checked; "none" is None where a setting may be None.

    >>> value("epochs", "1.5")
    Traceback (most recent call last):
      ...
    ValueError: epochs is '1.5'; expected a whole number, 1 to 1000000000
    """
    kinds = str(Settings.__annotations__[name])
    found: Any = words
    if words.lower() == "none" and "None" in kinds:
        found = None
    elif "bool" in kinds:
        found = {"true": True, "false": False}.get(words.lower(), words)
    elif "str" not in kinds:
        try:
            found = int(words) if "int" in kinds else float(words)
        except ValueError:
            found = words
    schema.check(found, SETTINGS[name], name)
    return found


def changed(settings: Settings) -> dict:
    """{name: value} of what differs from the preset whose name the settings have, except for the seed.

    >>> changed(PAPER._replace(epochs=1, seed=48))
    {'epochs': 1}
    """
    preset = PRESETS[settings.preset]._asdict()
    return {name: v for name, v in settings._asdict().items() if v != preset[name] and name != "seed"}


def find(name: str) -> System:
    """The system of a name; ValueError for another name."""
    if name not in SYSTEMS:
        raise ValueError(f"there is no system {name!r}; the systems are {', '.join(SYSTEMS)}")
    return SYSTEMS[name]


def build(name: str, settings: Settings) -> model.Model:
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
    system = find(name)
    check(settings)
    return parts(system, settings)._replace(about=about(name, settings))


def about(name: str, settings: Settings) -> str:
    """What a model is, in a line.

    >>> about("ebcnn-bplcz", SMALL)
    'ebcnn-bplcz: EB-CNN (BP-LCZ) of preset small, L_cls + 2 L_con (paper)'
    >>> build("exvit", SMALL._replace(grid=8))
    <exvit: ExViT of preset small, grid 8, L_cls>
    """
    system = SYSTEMS[name]
    sizes = ("width", "features", "grid", "reading", "published", "text_width", "text_layers", "text_heads")
    own = [f"{key} {found}" for key, found in changed(settings).items() if key in sizes]
    loss = "L_cls"
    if prompted(system, settings):
        variant = settings.contrastive if system.msm else "identity"
        loss += f" + {settings.beta:g} L_con ({variant})"
    return f"{name}: {', '.join([f'{system.label} of preset {settings.preset}', *own, loss])}"


def prompted(system: System, settings: Settings) -> bool:
    """Whether a system is trained with prompts under these settings."""
    return system.prompting and settings.contrastive != "none"


def parts(system: System, settings: Settings) -> model.Model:
    """The parts of a row, put together."""
    size = exvit.SIZE if settings.published else SMALL_EXVIT
    if system.images in PUBLISHED:
        return model.classification((PUBLISHED if settings.published else REDUCED)[system.images]())
    if system.images == "exvit" and not system.prompting:
        return model.classification(exvit.exvit(grid=settings.grid, size=size))
    options = prompting(system, settings) if prompted(system, settings) else {}
    if system.images == "ebcnn":
        d = settings.features
        encoders = {group: ebcnn.encoder(len(index), settings.width, d) for group, index in bands.INDEX.items()}
        return model.bplcz(encoders, layers.linear(len(encoders) * d, len(paper.CLASSES)), **options)
    reading = {"A": exvit_bplcz.reading_a, "B": exvit_bplcz.reading_b}[settings.reading]
    return reading(settings.features, grid=settings.grid, size=size, **options)


def prompting(system: System, settings: Settings) -> dict:
    """What model.bplcz needs for band group prompting: the text tower, the prompts' tokens, and the loss."""
    if not system.msm and settings.contrastive != "paper":
        raise ValueError(
            f"contrastive is {settings.contrastive!r}, but {system.label} has W = I in the paper's loss; "
            "choose another system for another loss"
        )
    words = tokenizer(settings.vocabulary)
    tower = text.encoder(
        words.vocab_size, settings.text_width, settings.text_layers, settings.text_heads, settings.features
    )
    return {
        "text": tower,
        "tokens": prompt_tokens(words),
        "alpha": settings.alpha,
        "beta": settings.beta,
        "contrastive": settings.contrastive if system.msm else "identity",
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


def prompt_tokens(words: Tokenizer) -> np.ndarray:  # -> (17, 7, L)
    """Token ids of the 119 prompts, cut after the longest one's EOT."""
    return words.batch(prompts.prompts(), context_length=None).reshape(len(paper.CLASSES), len(paper.GROUPS), -1)
