"""Every key that can be configured: its type, its meaning, the values it may take. The values are chosen in configs/.

A field carries metadata: `meaning` (shown by --help; empty where the group says it), `choices`, `low`, `above`, `high`
(limits, `above` excluded), `pattern` (a regular expression), and `identity=False` for a key that does not decide the
numbers of a run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


def key(meaning: str, default: Any = MISSING, **rules: Any) -> Any:
    """A dataclass field with a meaning and the rules its value must keep."""
    return field(default=default, metadata={"meaning": meaning, **rules})


def section(kind: type, meaning: str = "", **rules: Any) -> Any:
    """A dataclass field that holds further keys (a dataclass), or named entries (dict)."""
    return field(default_factory=kind, metadata={"meaning": meaning, **rules})


@dataclass
class TaskConfig:
    """What is run and measured. Where the paper and its code disagree, the reading is chosen here (protocol 1.3)."""

    name: str = key("")
    protocol: str = key("id of the evaluation protocol, printed in every table")
    noise: float = key("flow-matching time t of the noised image; 0 is the image, 1 is noise", 0.5, above=0, high=1)
    word_index: str = key(
        "tokenizer that places the word; clip is the official code's rule", "t5", choices=("t5", "clip")
    )
    pooled: str = key("pooled CLIP vector of the prompt: its own, or zeros", "real", choices=("real", "zero"))
    threshold: str = key(
        "mask = map > mean: ca at the map's own resolution, te after upsampling", "ca", choices=("ca", "te")
    )

    @property
    def reading(self) -> str:
        """The protocol and the readings chosen in it: what stands in a table beside its numbers."""
        return (
            f"{self.protocol} t={self.noise:g} word={self.word_index} pooled={self.pooled} threshold={self.threshold}"
        )


@dataclass
class Checkpoint:
    """One set of weights and the numbers that belong to it. A key without a value is one the model has no use for."""

    source: str | None = key("folder or Hugging Face repository of the weights", None, identity=False)
    revision: str | None = key("commit of the repository", None, identity=False)
    image_size: int | None = key("side of the square input image, pixels", None, low=8)
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
    """How one map is read off the attention."""

    name: str = key("")
    n: int = key("bounces", 2, low=0)
    alpha: float = key("teleport: share of the chain kept, the rest is uniform", 0.99, above=0, high=1)
    heads: str = key("weights of the heads' mean", "lambda2", choices=("lambda2", "uniform"))
    stream: str = key("blocks whose attention is read", "dual", choices=("dual", "single"))


@dataclass
class DataConfig:
    """The samples."""

    name: str = key("")
    path: str | None = key("file or folder of the data set; none for a generated one", None, identity=False)
    words: str | None = key("file that gives the word of each class", None, identity=False)
    lemmas: str | None = key(
        "file that gives the first lemma of each WordNet id, if words needs it", None, identity=False
    )
    split: str | None = key("part of the data set", None, choices=("train", "test"))
    n: int | None = key("number of samples; null is all of them", None, low=1)
    seed: int = key("seed of a generated data set", 0, low=0)
    word: str | None = key("which word of the caption the chain starts from", None, choices=("colour", "digit"))
    prompt: str = key("the text fed to the model; {word} and {caption} stand for the sample's own")
    eval_size: int = key("side at which masks are compared, pixels", low=1)
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
    methods: dict[str, MethodConfig] = section(dict, "several methods, by label, computed from one capture")
    data: DataConfig = section(DataConfig)
    scale: str = key("which checkpoint and which data", choices=("mini", "paper"))
    experiment: str | None = key("the table or figure whose runs these are", None, identity=False)
    seed: int = key("seed of the noise", 0, low=0)
    repeats: int = key("runs with seeds seed, seed + 1, ...", 1, low=1, identity=False)
    device: str = key("auto, cpu, cuda, cuda:1, mps", "auto", pattern=r"auto|cpu|mps|cuda(:\d+)?", identity=False)
    batch_size: int = key("samples per forward pass", 1, low=1, identity=False)
    out: str = key("folder of the results", "results", identity=False)
    shard: ShardConfig = section(ShardConfig, identity=False)
    logger: LoggerConfig = section(LoggerConfig, identity=False)
    launcher: LauncherConfig = section(LauncherConfig, identity=False)
