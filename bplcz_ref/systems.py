"""The rows of Tables II and III by name: how each is built, and with which settings it is trained."""

import difflib
import hashlib
from collections.abc import Callable, Iterable
from functools import partial
from types import NoneType
from typing import Annotated, Any, NamedTuple, get_args, get_type_hints

import numpy as np

from bplcz_ref import bands, layers, model, paper, program, prompts, schema
from bplcz_ref.encoders import convnext, densenet, ebcnn, exvit, resnet, text
from bplcz_ref.tokenizer import Tokenizer
from bplcz_ref.variants import VARIANTS

# --------------------------------------------------------------------------------------------------- the settings
#
# What each may be holds for settings from a user and from a run's config.json alike. Upper bounds are far above
# anything that is trained: beyond them are slips of the keyboard, and sizes that no array can have.

SIZE, COUNT = schema.whole(1, 2**16), schema.whole(1, 10**9)
SEED = schema.whole(0, 2**63 - 1)  # an HDF5 file notes its seed as a signed number of 64 bits
POSITIVE, NOT_NEGATIVE = schema.number(above=0), schema.number(0)
LATER = schema.whole(0, 10**9)
MANY, PATH = schema.optional(COUNT), schema.optional(schema.PATH)


def losses() -> list[str]:
    """The names that `contrastive` may have by now: those of variants.py, and those that a user registered."""
    return [*VARIANTS, "none"]


class Row(NamedTuple):
    """A setting: its value in each preset, what it may be, what it means, and other names that people type."""

    paper: Any
    small: Any  # ...: as in the paper
    rule: Any  # a schema.Rule; or words, one of which it is, or a function that gives them
    meaning: str
    also: str = ""


class Settings(NamedTuple):
    """Everything that a run depends on beside its data and its system.

    The column `paper` is as the paper states it; where it is silent (network sizes), our reading: CLIP ViT-B text,
    d = 512, ExViT on 4 x 4 pixels per token with one encoder per group (reading A). The column `small` learns
    within about a minute per row on 2 cores: a small network and data set, and a larger learning rate, since it
    takes 128 steps and not 138,800.
    """

    # fmt: off
    preset: Annotated[str, Row("paper", "small", ("paper", "small"), "the preset that the others start from")]
    width: Annotated[int, Row(32, 16, SIZE, "EB-CNN: channels of the first stage, w")]
    features: Annotated[int, Row(512, 64, SIZE, "size d of a group's feature I_i and of the text's T_i", "d")]
    grid: Annotated[int, Row(4, ..., SIZE, "ExViT: pixels per token in each direction")]
    reading: Annotated[str, Row("A", ..., "AB", "ExViT (BP-LCZ): the reading exvit-groups of docs/readings.md")]
    published: Annotated[bool, Row(True, False, schema.BOOLEAN, "other networks at published sizes, or reduced")]
    text_width: Annotated[int, Row(512, 64, SIZE, "text tower: width")]
    text_layers: Annotated[int, Row(12, 2, SIZE, "text tower: layers")]
    text_heads: Annotated[int, Row(8, 1, SIZE, "text tower: attention heads")]
    vocabulary: Annotated[str | None, Row(None, ..., PATH, "a merges file, such as CLIP's; none: the bundled one")]
    alpha: Annotated[float, Row(paper.ALPHA, ..., POSITIVE, "weight of a group's similarity, Eqs. (3) and (4)")]
    beta: Annotated[float, Row(paper.BETA, ..., NOT_NEGATIVE, "weight of L_con in L, Eq. (10)", "lambda lam")]
    contrastive: Annotated[str, Row("paper", ..., losses, "in the place of Eqs. (5) to (8); none: L_cls alone,"
                                    " without a text tower", "loss")]
    epochs: Annotated[int, Row(paper.EPOCHS, 4, COUNT, "passes over the training part", "n_epochs")]
    learning_rate: Annotated[float, Row(paper.LEARNING_RATE, 0.02, POSITIVE, "SGD: the rate, or the highest of a"
                                        " schedule", "lr eta")]
    schedule: Annotated[str, Row("constant", ..., ("constant", "cosine"), "the rate by step; cosine falls to 0")]
    warmup: Annotated[int, Row(0, ..., LATER, "epochs in which the rate first rises by equal steps")]
    momentum: Annotated[float, Row(paper.MOMENTUM, ..., schema.number(0, below=1), "SGD: momentum", "mu")]
    weight_decay: Annotated[float, Row(paper.WEIGHT_DECAY, ..., NOT_NEGATIVE, "SGD: weight decay, added to the"
                                       " gradient", "wd l2")]
    batch: Annotated[int, Row(paper.BATCH, ..., COUNT, "samples of a step", "bs")]
    augmentation: Annotated[str, Row("none", ..., ("none", "turns"), "turns: each training patch is flipped and"
                                     " turned by quarters at random", "aug")]
    per_class: Annotated[int | None, Row(paper.TRAIN_PER_CLASS, 60, MANY, "training rows of each class; none, with"
                                         " --test-data: all rows")]
    test: Annotated[int | None, Row(paper.TEST, 1000, MANY, "test rows; none, with --test-data: all rows")]
    split: Annotated[str, Row("file", ..., ("file", "random", "city"), "file: a subset's own parts, or a random"
                              " draw; random: a new draw; city: whole cities are the test")]
    clip_sen1: Annotated[float | None, Row(None, 1.0, schema.optional(POSITIVE), "sen1 is clipped to +- this"
                                           " before it is standardised; none: it is not", "clip")]
    seed: Annotated[int, Row(paper.SEED, ..., SEED, "of the start, the split, the order and all other draws",
                             "seeds random_seed rng")]
    # fmt: on


HINTS = get_type_hints(Settings, include_extras=True)
TABLE: dict[str, Row] = {name: get_args(kind)[1] for name, kind in HINTS.items()}
KINDS = {name: get_args(kind) or (kind,) for name, kind in get_type_hints(Settings).items()}
PAPER = Settings(*(row.paper for row in TABLE.values()))
SMALL = Settings(*(row.paper if row.small is ... else row.small for row in TABLE.values()))
PRESETS = {"paper": PAPER, "small": SMALL}
ALSO = {other: name for name, row in TABLE.items() for other in row.also.split()}
# What people look for, and what there is.
ABSENT = dict.fromkeys(("gpu", "cuda", "device"), "everything runs on the CPU. ")
ABSENT |= dict.fromkeys(("optimizer", "optim"), "it is SGD, with learning_rate, momentum and weight_decay. ")


def words(name: str) -> list[str]:
    """The values that a setting has by name, as a user may have added to them; none for a number or a path."""
    found = TABLE[name].rule
    return [] if isinstance(found, schema.Rule) else list(found() if callable(found) else found)


def rule(name: str) -> schema.Rule:
    """What a setting may be."""
    if known := words(name):
        return schema.Rule(f"one of {', '.join(known)}", lambda x: x in words(name))
    return TABLE[name].rule


SETTINGS = {name: rule(name) for name in TABLE}


def check(settings: Settings, *names: str) -> None:
    """Raises ValueError for the first invalid setting, and for one that a system of these names cannot have.

    >>> check(PAPER)
    >>> check(PAPER._replace(epochs=0))
    Traceback (most recent call last):
      ...
    ValueError: epochs is 0; expected a whole number, 1 to 1000000000
    """
    for name, found in settings._asdict().items():
        check_value(name, found)
    if settings.warmup and settings.warmup >= settings.epochs:
        raise ValueError(f"warmup is {settings.warmup}; expected fewer than the {settings.epochs} epochs")
    for name in names:
        if not find(name).msm and settings.contrastive not in ("paper", "none"):
            raise ValueError(
                f"contrastive is {settings.contrastive!r}, but {name} ({SYSTEMS[name].label}) has W = I in the"
                " paper's loss: choose another system for another loss"
            )


def check_value(name: str, found: Any) -> None:
    """Raises ValueError unless a setting may have this value."""
    try:
        schema.check(found, rule(name), name)
    except ValueError as error:
        hint = meant(str(found), words(name))
        own = "; a loss of your own is registered first, by --import FILE.py" * (name == "contrastive")
        raise ValueError(f"{error}{f'; {hint.rstrip()}' if hint else own}") from None


def meant(typed: str, names: Iterable[str], also: dict[str, str] | None = None) -> str:
    """A question for the name that was probably meant, or nothing where none is near.

    >>> meant("Alpha", ["alpha", "beta"]), meant("wd", ["alpha"], {"wd": "weight_decay"}), meant("x", ["alpha"])
    ('did you mean alpha? ', 'did you mean weight_decay? ', '')
    """
    plain = {name.lower().replace("-", "_"): name for name in names} | (also or {})
    near = difflib.get_close_matches(typed.lower().replace("-", "_"), plain, 1)
    return f"did you mean {plain[near[0]]}? " if near else ""


def chosen(given: Iterable[str]) -> dict[str, Any]:
    """{name: value} of settings in the words of the command line, "name=value", each checked.

    >>> chosen(["alpha=0.5", "clip_sen1=none", "contrastive=unicl"])
    {'alpha': 0.5, 'clip_sen1': None, 'contrastive': 'unicl'}
    >>> chosen(["lr=0.1"])
    Traceback (most recent call last):
      ...
    ValueError: there is no setting 'lr'; did you mean learning_rate? All: python -m bplcz_ref train --settings
    """
    found: dict[str, Any] = {}
    for word in given:
        name, equals, text_ = word.partition("=")
        if name == "preset":
            raise ValueError("preset is an option of its own: --preset paper or --preset small")
        if name not in TABLE:
            hint = ABSENT.get(name.lower()) or meant(name, TABLE, ALSO)
            raise ValueError(f"there is no setting {name!r}; {hint}All: {program()} train --settings")
        if not equals:
            raise ValueError(f"{name} has no value; expected {name}=VALUE, such as {name}={said(name, PAPER)}")
        found[name] = value(name, text_)
    return found


def varied(given: str) -> tuple[str, list]:
    """(setting, values) of "NAME=V1,V2,...".

    >>> varied("beta=0.5,2")
    ('beta', [0.5, 2.0])
    """
    name, equals, values = given.partition("=")
    found = [chosen([name + equals + each])[name] for each in values.split(",")]
    if len(set(found)) < max(2, len(found)):
        raise ValueError(f"{given}: expected two values or more, each once, such as contrastive=paper,none")
    return name, found


def value(name: str, given: str) -> Any:
    """The value of a setting from text, checked; "none" is None where a setting may be None.

    >>> value("epochs", "1.5")
    Traceback (most recent call last):
      ...
    ValueError: epochs is '1.5'; expected a whole number, 1 to 1000000000
    """
    kind: Any = KINDS[name][0]
    found: Any = given
    if given.lower() == "none" and NoneType in KINDS[name]:
        found = None
    elif kind is bool:
        found = {"true": True, "false": False}.get(given.lower(), given)
    elif kind is not str:
        try:
            found = kind(given)
        except ValueError:
            found = given
    check_value(name, found)
    return found


def said(name: str, settings: Settings) -> str:
    """The value of a setting as the command line takes it, such as none or true."""
    found = getattr(settings, name)
    return str(found).lower() if found is None or isinstance(found, bool) else str(found)


def changed(settings: Settings) -> dict:
    """{name: value} of what differs from the preset whose name the settings have, except for the seed.

    >>> changed(PAPER._replace(epochs=1, seed=48))
    {'epochs': 1}
    """
    preset = PRESETS[settings.preset]._asdict()
    return {name: v for name, v in settings._asdict().items() if v != preset[name] and name != "seed"}


# ---------------------------------------------------------------------------------------------------- the systems


class System(NamedTuple):
    """A row of the tables: its label there, the paper's (OA, kappa) in percent, and what it is made of.

    `images` names encoders of ENCODERS, a network of NETWORKS, or "exvit". `prompting` is BGP (II-B), L_con beside
    L_cls; `msm` is the multivariate supervised matrix (II-C), without which W = I.
    """

    label: str
    figures: tuple[float, float] | None  # None: not in the paper
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
    ValueError: there is no system 'vgg'; expected one of resnet50, resnext50, convnext, densenet121, exvit, ...
    """
    check(settings, name)
    return parts(SYSTEMS[name], settings)._replace(about=about(name, settings))


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
        loss += f" + {settings.beta:g} L_con ({settings.contrastive if system.msm else 'identity'})"
    return f"{name}: {', '.join([f'{system.label} of preset {settings.preset}', *own, loss])}"


def prompted(system: System, settings: Settings) -> bool:
    """Whether a system is trained with prompts under these settings."""
    return system.prompting and settings.contrastive != "none"


def fuses(name: str) -> bool:
    """Whether a system has the fused feature I of Eq. (9); that depends on no setting."""
    return find(name).prompting or SYSTEMS[name].images in ENCODERS


def parts(system: System, settings: Settings) -> model.Model:
    """The parts of a row, put together."""
    options = prompting(system, settings) if prompted(system, settings) else {}
    if system.images in ENCODERS:
        make, d = ENCODERS[system.images], settings.features
        encoders = {group: make(len(index), settings) for group, index in bands.INDEX.items()}
        return model.bplcz(encoders, layers.linear(len(encoders) * d, len(paper.CLASSES)), **options)
    if system.prompting:
        reading, size = settings.reading, exvit_size(settings)
        return exvit_bplcz(reading, settings.features, grid=settings.grid, size=size, **options)
    if system.images in NETWORKS:
        return model.classification(NETWORKS[system.images](settings))
    return model.classification((PUBLISHED if settings.published else REDUCED)[system.images]())


def exvit_bplcz(
    reading="A", features=512, patch=paper.PATCH, grid=4, classes=exvit.CLASSES, size=exvit.SIZE, **options
) -> model.Model:
    """Two readings of "BP-LCZ is adopted in ExViT" (III-B1), which says no more; options as of model.bplcz.

    In both, each band group has an ExViT branch up to its tokens, and all share one position table, as in ExViT.

    A  Eq. (9) to the letter: a branch ends in a vector I_i, D = Linear(LN(I)). No attention crosses groups.
    B  D is ExViT's attention over the tokens of all groups, Z = [Z_1, ..., Z_7] (B, 7 N, w), which the trace has
       in the place of I. The I_i that are compared with the prompts come from a head of their own in each group.

    >>> from bplcz_ref import weights
    >>> weights.count(exvit_bplcz().init(np.random.default_rng(0), np.float32)[0])
    945724
    """
    make: Callable
    if reading == "A":
        make, D, vector = partial(exvit.encoder, features=features), exvit.head(7 * features, classes), None
    else:
        make, D, vector = exvit.tokens, exvit.joint(classes, size), exvit.vector(features, size)
    branches = {group: make(len(index), patch=patch, grid=grid, size=size) for group, index in bands.INDEX.items()}
    return model.sharing(model.bplcz(branches, D, vector=vector, **options), "pos_embedding")


def prompting(system: System, settings: Settings) -> dict:
    """What model.bplcz needs for band group prompting: the text tower, the prompts' tokens, and the loss."""
    words_ = tokenizer(settings.vocabulary)
    heads, d = settings.text_heads, settings.features
    return {
        "text": text.encoder(words_.vocab_size, settings.text_width, settings.text_layers, heads, d),
        "tokens": prompt_tokens(words_),
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


def prompt_tokens(tokens: Tokenizer) -> np.ndarray:  # -> (17, 7, L)
    """Token ids of the 119 prompts, cut after the longest one's EOT."""
    found = tokens.batch(prompts.prompts(), context_length=None)
    return found.reshape(len(paper.CLASSES), len(paper.GROUPS), -1)
