"""Every key that can be configured: its type, its meaning, the values it may take. The values are chosen in configs/.

A field carries metadata: `meaning` (shown by --help; empty where the group says it), `choices`, `low`, `above`, `high`
(limits, `above` excluded), `pattern` (a regular expression) and `form` (the same in words), `printed` (its name in a
table, where that is shorter), `flat` for a mapping whose entries hold no keys, and `identity=False` for a key that does
not decide the numbers of a run.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from omegaconf import MISSING

SCALES = ("mini", "paper")


def key(meaning: str, default: Any = MISSING, **rules: Any) -> Any:
    """A dataclass field with a meaning and the rules its value must keep."""
    return field(default=default, metadata={"meaning": meaning, **rules})


def section(kind: type, meaning: str = "", **rules: Any) -> Any:
    """A dataclass field that holds further keys (a dataclass), or named entries (dict)."""
    return field(default_factory=kind, metadata={"meaning": meaning, **rules})


def _readable(value: Any) -> str:
    """A value as a table prints it: 0.5, not 0.50; a list without brackets."""
    if isinstance(value, list):
        return ",".join(map(_readable, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass
class TaskConfig:
    """What is run and measured. Where the paper and its code disagree, the reading is chosen here (protocol 1.3).

    A key is null where the task has no use for it.
    """

    name: str = key("")
    protocol: str = key("id of the evaluation protocol, printed in every table")
    batch_size: int = key("samples per forward pass that suit the task", 1, low=1, identity=False)
    noise: float | None = key(
        "flow-matching time t of the noised image; 0 is the image, 1 is noise", None, above=0, high=1, printed="t"
    )
    word_index: str | None = key(
        "tokenizer that places the word; clip is the official code's rule", None, choices=("t5", "clip"), printed="word"
    )
    pooled: str | None = key("pooled CLIP vector of the prompt: its own, or zeros", None, choices=("real", "zero"))
    threshold: str | None = key(
        "mask = map > mean: ca at the map's own resolution, te after upsampling", None, choices=("ca", "te")
    )
    fractions: int | None = key("masking: how many fractions of the patches are masked, from 0 to 1", None, low=2)
    probe: str | None = key(
        "probing: all maps of the image at once, or one map of each layer", None, choices=("maps", "layers")
    )
    learning_rates: list[float] | None = key(
        "learning rates of a probe, trained side by side; the best is reported", None, above=0, printed="lr"
    )
    epochs: int | None = key("passes over the training images of a probe", None, low=1)
    train_batch: int | None = key("training images in a step of a probe", None, low=1, printed="batch")
    scaling: str | None = key("maps fed to a probe: as they are, or each by its maximum", None, choices=("raw", "max"))
    layer: str | None = key("generation: self-attention that guides, by the name of its module", None)
    width: int | None = key("generation: samples computed side by side, whatever batch_size is", None, low=1)
    cfg: float | None = key("generation: classifier-free guidance; 1 is none", None, low=1)
    sag_scale: float | None = key(
        "generation: how far a sample is driven from its blurred one", None, low=0, printed="sag"
    )
    mask_threshold: float | None = key(
        "generation: tokens above it are blurred, where their mean is 1", None, low=0, printed="mask"
    )
    mask_cap: float | None = key(
        "generation: at most this share of the tokens is blurred; null is no limit",
        None,
        above=0,
        high=1,
        printed="cap",
    )
    timestep: int | None = key("diffseg: time step at which the attention is read", None, low=0)
    grid: int | None = key("diffseg: anchors along a side, grid x grid of them", None, low=1)
    tau: float | None = key("diffseg: maps nearer than this symmetric KL are merged", None, above=0)
    iterations: int | None = key("diffseg: rounds of merging", None, low=1)
    precision: str | None = key(
        "diffseg: of the distances; float16 is the official code's", None, choices=("float32", "float16")
    )
    refine: bool | None = key("diffseg: whether k-means refines the segments", None)

    @property
    def reading(self) -> str:
        """The protocol and the readings chosen in it: what stands in a table beside its numbers."""
        named = {
            each.metadata.get("printed", each.name): getattr(self, each.name)
            for each in fields(self)
            if each.name not in ("name", "protocol") and each.metadata.get("identity", True)
        }
        chosen = [f"{name}={_readable(value)}" for name, value in named.items() if value is not None]
        return " ".join([self.protocol, *chosen])


@dataclass
class Checkpoint:
    """One set of weights and the numbers that belong to it. A key without a value is one the model has no use for."""

    source: str | None = key("folder or Hugging Face repository of the weights", None, identity=False)
    revision: str | None = key("commit of the repository", None, identity=False)
    image_size: int | None = key("side of the square input image, pixels", None, low=8)
    resize: str | None = key(
        "how an image becomes a square: squash its sides, or crop its centre; null is the model's own way",
        None,
        choices=("squash", "crop"),
    )
    head: str | None = key("file or URL of a linear classifier beside the weights", None, identity=False)
    head_sha256: str | None = key(
        "SHA-256 of that file, which a URL needs",
        None,
        pattern=r"[0-9a-f]{64}",
        form="64 lower-case hexadecimal digits",
        identity=False,
    )
    classes: str | None = key(
        "names of the classes: imagenet, digits, or a file with one a line; null is the model's own",
        None,
        identity=False,
    )
    text_length: int | None = key("length of the text sequence, tokens, padding included", None, low=1)
    dtype: str | None = key("precision of the forward pass", None, choices=("float32", "bfloat16", "float16"))
    steps: int | None = key("steps of the sampling schedule; the passes are those at or below the noise", None, low=1)
    guidance: float | None = key("guidance fed to a guidance-distilled model", None, low=0)
    dual_layers: list[int] | None = key("multi-stream blocks whose attention is averaged", None, low=0)
    single_layers: list[int] | None = key("single-stream blocks whose attention is averaged", None, low=0)
    memory_gb: float | None = key("free memory that a run needs on its device, GB", None, low=0, identity=False)
    disk_gb: float | None = key("disk that the files of the weights take, GB", None, low=0, identity=False)


@dataclass
class ModelConfig(Checkpoint):
    """A model family: one checkpoint per scale, and flat keys that win over the chosen checkpoint's."""

    name: str = key("")
    family: str = key("the adapter that loads and runs it")
    at: dict[str, Checkpoint] = section(dict, "the checkpoint of each scale", identity=False)


@dataclass
class MethodConfig:
    """How a map, a ranking or a mask is read off the attention. A key that is null has the method's own default."""

    name: str = key("")
    n: int | None = key("bounces", None, low=0)
    alpha: float | None = key("teleport: share of the chain kept, the rest is uniform", None, above=0, high=1)
    power: int | None = key("steps of TokenRank, without teleport; null is converged, with alpha", None, low=1)
    heads: str | None = key("weights of the heads' mean", None, choices=("lambda2", "uniform", "random"))
    stream: str | None = key("blocks whose attention is read", None, choices=("dual", "single"))
    blocks: int | None = key("masked blocks, from the input side; null is the first half", None, low=0)
    distance: float | None = key("least distance of two anchors, in cells of the map, Euclidean", None, low=0)
    budget: str | None = key(
        "how heads share the masked tokens; null: each masks as many", None, choices=("uniform", "random", "lambda2")
    )


@dataclass
class DataConfig:
    """The samples."""

    name: str = key("")
    path: str | None = key("file or folder of the data set; none for a generated one", None, identity=False)
    words: str | None = key("file that gives the word of each class", None, identity=False)
    lemmas: str | None = key(
        "file that gives the first lemma of each WordNet id, if words needs it", None, identity=False
    )
    split: str | None = key("part of the data set", None, choices=("train", "test", "val"))
    n: int | None = key("number of samples; null is all of them", None, low=1)
    train: int | None = key("number of training images of a probe; null is all of them", None, low=1)
    seed: int | None = key("seed of a generated data set, or of the draw of `n` samples", None, low=0)
    word: str | None = key("which word of the caption the chain starts from", None, choices=("colour", "digit"))
    prompt: str | None = key("the text fed to the model; {word} and {caption} stand for the sample's own", None)
    eval_size: int | None = key("side at which masks are compared, pixels", None, low=1)
    labels: str | None = key("folder or archive of the label maps, or file of annotations", None, identity=False)
    list: str | None = key("file or URL of the ids that are taken, one a line", None, identity=False)
    list_sha256: str | None = key(
        "SHA-256 of that file, which a URL needs",
        None,
        pattern=r"[0-9a-f]{64}",
        form="64 lower-case hexadecimal digits",
        identity=False,
    )
    extractor: str | None = key(
        "network whose features IS, FID and KID compare", None, choices=("mini-vit", "inception-v3-compat")
    )
    reference: str | None = key(
        "images that generated ones are compared with: generated scenes, a folder, or img2dataset's tars",
        None,
        choices=("digit_scenes", "folder", "webdataset"),
    )
    reference_path: str | None = key("folder of those images or tars", None, identity=False)
    reference_n: int | None = key("number of those images, from the first; null is all of them", None, low=2)
    reference_crop: int | None = key(
        "side of the square that those images are cropped and resized to, pixels; null takes them as they are",
        None,
        low=8,
    )
    min_score: float | None = key("webdataset: images above this aesthetic score", None)
    min_width: int | None = key("webdataset: images wider than this, pixels", None, low=0)
    min_height: int | None = key("webdataset: images higher than this, pixels", None, low=0)
    kid_subset: int | None = key("images in each of the subsets that KID averages over", None, low=2)
    skip_bad: bool = key("go on without the samples that cannot be read, and say how many", False, identity=False)


@dataclass
class LoggerConfig:
    """Where the progress of a run is logged besides its records."""

    name: str = key("", choices=("wandb", "none"))
    project: str | None = key("Weights & Biases project", None)
    entity: str | None = key("Weights & Biases entity; null is the account's own", None)
    mode: str = key("auto is online when logged in, else offline", "auto", choices=("auto", "online", "offline"))


@dataclass
class LauncherConfig:
    """Where the jobs of a sweep run, and the resources of one job. The only place where these numbers are set."""

    name: str = key("", choices=("inline", "local", "slurm"))
    gpus: int = key("GPUs of a job", 1, low=0)
    cpus: int = key("CPU cores of a job", 8, low=1)
    mem_gb: int = key("memory of a job, GB", 64, low=1)
    timeout_min: int = key("time limit of a job, minutes", 24 * 60, low=1)
    requeues: int = key("how often a job that ran out of time is queued again; it resumes", 20, low=0)
    parallel: int = key("jobs of one sweep that run at the same time", 32, low=1)
    partition: str | None = key("Slurm partition", None)
    account: str | None = key("Slurm account", None)
    qos: str | None = key("Slurm quality of service", None)


@dataclass
class ShardConfig:
    """The part of the samples that this process takes: those whose index % count equals index."""

    index: int = key("number of this shard, from 0", 0, low=0)
    count: int = key("number of shards", 1, low=1)


@dataclass
class RunConfig:
    """Everything that a run is told."""

    task: TaskConfig = section(TaskConfig)
    model: ModelConfig = section(ModelConfig)
    method: MethodConfig = section(MethodConfig, identity=False)
    methods: dict[str, MethodConfig] = section(dict, "several methods, by label, measured on the same samples")
    models: dict[str, list[str]] = section(
        dict, "the models that an experiment runs, by scale", identity=False, flat=True
    )
    parts: list[str] = section(list, "the experiments whose runs fill this one's table", identity=False)
    beside: list[str] = section(
        list, "further experiments whose runs fill rows of this one's table, beside its own", identity=False
    )
    data: DataConfig = section(DataConfig)
    scale: str = key("which checkpoint and which data", choices=SCALES)
    experiment: str | None = key("the table or figure whose runs these are", None, identity=False)
    seed: int = key("seed of the noise, and of every other random choice", 0, low=0)
    repeats: int = key("runs with seeds seed, seed + 1, ...", 1, low=1, identity=False)
    device: str = key("auto, cpu, cuda, cuda:1, mps", "auto", pattern=r"auto|cpu|mps|cuda(:\d+)?", identity=False)
    batch_size: int = key("samples per forward pass", 1, low=1, identity=False)
    out: str = key("folder of the results", "results", identity=False)
    shard: ShardConfig = section(ShardConfig, identity=False)
    logger: LoggerConfig = section(LoggerConfig, identity=False)
    launcher: LauncherConfig = section(LauncherConfig, identity=False)
