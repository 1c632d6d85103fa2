"""What the configuration files say is what a task is given."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import pytest

from attention_chains import methods
from attention_chains.config import MethodConfig
from attention_chains.config.checks import values
from attention_chains.config.signatures import FUNCTIONS, keys_of
from attention_chains.methods import incoming

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
OPTIONS = [
    f"{path.parent.name}={path.stem}" for path in sorted(CONFIGS.glob("*/*.yaml")) if not path.name.startswith("_")
]
TABLE_ROWS = {
    "row-select": ("row_select", None, "lambda2", "dual"),
    "row-select-uniform": ("row_select", None, "uniform", "dual"),
    "column-select": ("column_select", None, "lambda2", "dual"),
    "column-select-uniform": ("column_select", None, "uniform", "dual"),
    "single-stream": ("outgoing", 2, "lambda2", "single"),
    "incoming-n2": ("incoming", 2, "lambda2", "dual"),
    "incoming-n2-uniform": ("incoming", 2, "uniform", "dual"),
    "incoming-n3": ("incoming", 3, "lambda2", "dual"),
    "outgoing-n2": ("outgoing", 2, "lambda2", "dual"),
    "outgoing-n2-uniform": ("outgoing", 2, "uniform", "dual"),
    "outgoing-n3": ("outgoing", 3, "lambda2", "dual"),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_of_every_group_can_be_chosen(option, configured):
    elsewhere = [] if option.startswith("scale=") else ["scale=paper"]  # the one scale that every model has
    assert configured(option, *elsewhere).methods


def test_without_arguments_flux_segments_digit_scenes_by_the_outgoing_chain(configured):
    run = configured()
    assert (run.task.name, run.model.name, run.data.name, run.scale) == ("segmentation", "flux", "digit_scenes", "mini")
    assert run.methods == {"outgoing": MethodConfig(name="outgoing", n=2, alpha=0.99, heads="lambda2", stream="dual")}
    assert (run.model.image_size, run.data.eval_size, run.data.prompt) == (64, 64, "{caption}")


def test_scale_paper_is_the_papers_checkpoint_data_and_protocol(configured):
    run = configured("scale=paper")
    assert run.model.source == "black-forest-labs/FLUX.1-schnell" and run.model.dtype == "bfloat16"
    assert run.model.dual_layers == list(range(9, 19)) and run.model.single_layers == list(range(28, 38))
    assert (run.model.image_size, run.model.text_length, run.model.steps, run.task.noise) == (512, 256, 4, 0.5)
    assert (run.data.name, run.data.n) == ("imagenet_segmentation", None)
    assert (run.data.eval_size, run.data.prompt) == (224, "a {word}")


def test_flux_dev_runs_at_scale_paper_with_its_own_weights_through_the_same_adapter(configured):
    run = configured("model=flux_dev", "scale=paper")
    assert (run.model.name, run.model.family, run.model.source) == ("flux_dev", "flux", "black-forest-labs/FLUX.1-dev")


def test_diffseg_alone_has_its_own_model_at_either_scale(configured):
    assert configured("task=diffseg").model.name == "sd15"
    assert configured("task=diffseg", "scale=paper").model.name == "sd14"  # protocol 3.1
    assert configured("task=diffseg", "scale=paper", "model=sd15").model.name == "sd15"


@pytest.mark.parametrize(("task", "key"), [("probing", "learning_rates"), ("diffseg", "tau"), ("segments", "tau")])
def test_what_suits_a_miniature_is_the_tasks_own_and_gives_way_to_the_command_line(task, key, configured):
    rate = {"learning_rates": [0.5], "tau": 0.5}[key]
    mini, paper = (getattr(configured(f"task={task}", f"scale={scale}").task, key) for scale in ("mini", "paper"))
    assert mini != paper
    assert getattr(configured(f"task={task}", f"task.{key}={rate}").task, key) == rate


def test_data_given_on_the_command_line_wins_over_the_data_of_the_scale(configured):
    assert configured("scale=paper", "data=digit_scenes").data.name == "digit_scenes"


def test_a_flat_override_wins_over_the_checkpoint_of_the_scale(configured):
    run = configured("scale=paper", "model.image_size=1024")
    assert run.model.image_size == 1024 and run.model.text_length == 256


def test_a_changed_checkpoint_of_another_scale_changes_nothing(configured):
    assert configured("model.at.paper.image_size=1024") == configured()


@pytest.mark.parametrize("table", ["table1", "table7", "table8"])
def test_the_tables_of_flux_name_the_same_methods(table, configured):
    methods = configured(f"experiment={table}").methods
    assert {label: (m.name, m.n, m.heads, m.stream) for label, m in methods.items()} == TABLE_ROWS


def test_a_key_that_is_left_out_has_the_methods_own_default(configured):
    method = configured("method.n=null", "method=incoming").methods["incoming"]
    taken = inspect.signature(incoming.scores).parameters
    assert all(getattr(method, key) == taken[key].default for key in ("n", "alpha", "heads", "stream"))
    assert method.power is method.blocks is method.budget is None


def test_the_defaults_read_off_a_file_are_those_of_the_function():
    for name in methods.names():
        module = importlib.import_module(f"attention_chains.methods.{name}")
        function = next(getattr(module, kind) for kind in FUNCTIONS if hasattr(module, kind))
        parameters = inspect.signature(function).parameters.values()
        assert keys_of(name) == {each.name: each.default for each in parameters if each.default is not each.empty}
    assert keys_of("no_such_method") is None


@pytest.mark.parametrize(
    ("task", "model", "method"),
    [
        ("segmentation", "flux", "outgoing"),
        ("masking", "vit", "tokenrank"),
        ("probing", "vit", "tokenrank"),
        ("generation", "sd15", "sag_tokenrank"),
        ("diffseg", "sd15", "tokenrank_grid"),
    ],
)
def test_a_task_alone_has_a_model_and_a_method_that_suit_it(task, model, method, configured):
    run = configured(f"task={task}")
    assert (run.task.name, run.model.name, run.data.name, list(run.methods)) == (
        task,
        model,
        {"segmentation": "digit_scenes", "generation": "prompts", "diffseg": "digit_labels"}.get(task, "digit_classes"),
        [method],
    )


def test_a_task_with_a_model_and_a_method_is_what_was_asked_for(configured):
    run = configured("task=masking", "model=dinov2", "method=tokenrank", "method.blocks=2")
    assert (run.task.name, run.model.name, list(run.methods)) == ("masking", "dinov2", ["tokenrank"])
    assert (run.methods["tokenrank"].power, run.methods["tokenrank"].blocks, run.task.fractions) == (20, 2, 21)


@pytest.mark.parametrize(
    ("overrides", "reading"),
    [
        ("task=segmentation", "segmentation-1 t=0.5 word=t5 pooled=real threshold=ca"),
        (
            "task=segmentation task.noise=0.25 task.threshold=te",
            "segmentation-1 t=0.25 word=t5 pooled=real threshold=te",
        ),
        ("task=masking", "masking-2 fractions=21"),
        (
            "task=probing task.learning_rates=[1e-5,0.001]",
            "probing-2 probe=maps lr=1e-05,0.001 epochs=20 batch=128 scaling=raw",
        ),
        ("task=generation", "generation-1 layer=up_blocks.2.attentions.2 width=25 cfg=1 sag=0.75 mask=1 cap=0.4"),
        (
            "task=generation task.mask_cap=null task.layer=mid_block.attentions.0",
            "generation-1 layer=mid_block.attentions.0 width=25 cfg=1 sag=0.75 mask=1",
        ),
        ("task=diffseg", "diffseg-1 timestep=300 grid=16 tau=0.3 iterations=3 precision=float32 refine=no"),
        ("task=diffseg scale=paper", "diffseg-1 timestep=300 grid=16 tau=1.1 iterations=3 precision=float32 refine=no"),
        (
            "experiment=_table1_diffseg",
            "segmentation-1 timestep=300 grid=16 tau=0.3 iterations=3 precision=float32 refine=no",
        ),
    ],
)
def test_the_reading_names_the_protocol_and_every_choice_that_the_task_has_a_use_for(overrides, reading, configured):
    assert configured(*overrides.split()).task.reading == reading


def test_generation_has_the_papers_numbers_at_scale_paper_and_enough_images_at_scale_mini(configured):
    paper, mini = configured("task=generation", "scale=paper"), configured("experiment=table2")
    assert (paper.data.n, paper.data.reference_n, paper.data.reference_crop, paper.data.kid_subset) == (
        50_000, 50_000, 512, 1000
    )  # fmt: skip
    assert (paper.data.min_score, paper.data.min_width, paper.data.min_height) == (6.65, 512, 512)
    assert (paper.data.extractor, paper.data.prompt, paper.model.steps) == ("inception-v3-compat", "", 50)
    assert (mini.data.extractor, mini.data.n, mini.data.kid_subset) == ("mini-vit", 1000, 500)


def test_table8_is_five_seeds(configured):
    assert configured("experiment=table8").repeats == 5


def test_one_method_of_an_experiment_can_be_changed_by_its_label(configured):
    methods = configured("experiment=table7", "methods.outgoing-n2.alpha=0.9").methods
    assert methods["outgoing-n2"].alpha == 0.9 and methods["outgoing-n3"].alpha == 0.99


def test_every_key_but_a_name_says_what_it_means(configured):
    silent = [path for path, _, each in values(configured()) if not each.metadata["meaning"]]
    assert {path.rpartition(".")[2] for path in silent} == {"name"}


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_file_opens_with_what_it_is_and_a_choice_with_its_command(path):
    opening = [line for line in path.read_text().splitlines() if not line.startswith("# @package")][:2]
    assert opening[0].startswith("# ")
    if path.parent.parent == CONFIGS and not path.name.startswith("_"):
        assert opening[1].startswith("# python run.py ")
