"""What a training run is made of: routes to teachers, the student, and the numbers of the optimisation.

Every key is typed and ranged; an unknown key or a value out of range is a `ConfigError` of one sentence.
The classes are frozen dataclasses: ``dataclasses.replace(config, max_steps=10)`` gives a checked copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PlainSerializer, PlainValidator, TypeAdapter, model_validator

from danceopd.families import Family, StudentConfig, Teacher
from danceopd.flow import QUERY_LAWS, QueryLaw, Solver
from danceopd.methods import METHODS, DanceOPD, FlowOPD, Method, make_method
from danceopd.settings import ConfigError, Flag, Integer, Number, Shown, Text, nearest, settings
from danceopd.training.query import Query


def _folder(value: object) -> str | Path:
    if not isinstance(value, (str, Path)) or not str(value):
        raise ValueError(f"output_dir must be the path of a folder, got {value!r}.")
    return value


def _rows(value: object) -> Any:
    # Asked by its shape: the package `datasets` takes seconds to import and need not be there.
    if (isinstance(value, str) and value) or (
        hasattr(value, "column_names") and hasattr(value, "__getitem__")
    ):
        return value
    raise ValueError(f"data must be a text or a datasets.Dataset, got {type(value).__name__}.")


def _written(value: Any) -> str:
    return value if isinstance(value, str) else f"<dataset {getattr(value, '_fingerprint', 'in memory')}>"


Data = Annotated[Any, PlainValidator(_rows), PlainSerializer(_written, return_type=str), Shown("text")]
Folder = Annotated[str | Path, PlainValidator(_folder), Shown("path of a folder")]


@settings
class Route:
    """A capability: the teacher that has it, and the prompts (with sources, for edits) it is asked on."""

    teacher: Text = Field(
        kw_only=False,
        description="Name of one of the run's teachers; of the route alone with a method that has none.",
    )
    data: Data = Field(
        description="Rows of the route: a file or folder, a set the family knows by name, or, in Python, a "
        "datasets.Dataset."
    )
    columns: dict[Text, Text] | None = Field(
        default=None,
        description="Other names of the data's columns: {prompt: caption} reads the prompts from 'caption'.",
    )
    weight: Number = Field(
        default=1.0,
        gt=0.0,
        description="How often this route is drawn, relative to the other routes' weights.",
    )


def _method(value: object) -> object:
    if not isinstance(value, (str, Mapping)):
        if type(value) in METHODS.values():
            return value
        raise ValueError(f"method must be a name, or a mapping with a name and options, got {value!r}.")
    options = {"name": value} if isinstance(value, str) else dict(value)
    name = options.pop("name", None)
    if name not in METHODS:
        raise ValueError(f"method '{name}' is unknown: {nearest(str(name), METHODS)}")
    try:
        return make_method(name, **options)
    except ConfigError as error:
        raise ValueError(f"method {name}: {error}") from None


def _described(method: Any) -> str | dict[str, Any]:
    """Its name where all options are as usual."""
    options = TypeAdapter(type(method)).dump_python(method, mode="json", exclude_defaults=True)
    return {"name": method.name, **options} if options else str(method.name)


def _width(value: object) -> Any:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value is None or value == "auto" or (whole and value >= 1):  # type: ignore[operator]
        return value
    raise ValueError(f"rollout_batch_size must be an integer from 1 up, or 'auto', got {value!r}.")


Width = Annotated[
    int | Literal["auto"] | None, PlainValidator(_width), Shown("integer >= 1, or auto, or null")
]

MethodSettings = Annotated[
    Any, PlainValidator(_method), PlainSerializer(_described), Shown("name or mapping (see below)")
]


@settings
class ValidationSettings:
    """Pictures of the same rows, drawn by every teacher and by the student, while a run trains."""

    every: Integer = Field(default=500, ge=1, description="Updates between two pictures.")
    prompts: list[Text] | None = Field(
        default=None, min_length=1, description="Prompts to draw; the first rows of each route if not given."
    )
    data: Data | None = Field(
        default=None, description="Rows to draw, with sources, as for a route; in place of prompts."
    )
    rows: Integer = Field(
        default=4, ge=1, le=64, description="Rows of each route, or of data, that are drawn; all prompts are."
    )
    num_steps: Integer = Field(default=16, ge=1, le=1000, description="Euler steps from noise to image.")
    guidance_scale: Number = Field(
        default=1.0,
        ge=0.0,
        le=100.0,
        description="Classifier-free guidance on top of every teacher and the student; 1 is none.",
    )
    seed: Integer = Field(
        default=0, ge=0, lt=2**63, description="Seed of the noise, the same in every column and picture."
    )

    @model_validator(mode="after")
    def _one_choice_of_rows(self) -> ValidationSettings:
        if self.prompts is not None and self.data is not None:
            raise ValueError("validation has both prompts and data: drop one of them.")
        return self


@settings
class TrainConfig:
    """The numbers of a training run. Defaults follow the recipe of arXiv 2606.27377 where it gives one."""

    output_dir: Folder = Field(
        description="Folder of the run: checkpoints, metrics, and at the end the student."
    )
    method: MethodSettings = Field(
        default_factory=DanceOPD,
        description="How the student learns: danceopd, diffusionopd, flowopd, offpolicy, soft or sft; or "
        "{name: danceopd, ...} with the method's own options.",
    )
    student: StudentConfig = Field(default_factory=StudentConfig, description="What is trained.")
    max_steps: Integer = Field(default=3000, ge=1, description="Optimizer updates of the whole run.")
    batch_size: Integer = Field(
        default=4, ge=1, description="Samples of one forward and backward pass, in each process."
    )
    gradient_accumulation_steps: Integer = Field(
        default=4, ge=1, description="Passes summed into one update; an update sees batch_size times this."
    )
    rollout_batch_size: Width = Field(
        default=None,
        description="Samples rolled out together; all samples of an update when not given, and with auto as "
        "many as the free memory holds, measured once at the start.",
    )
    compile: Literal["none", "blocks", "graphs"] = Field(
        default="none",
        description="Compile the blocks that the models repeat (torch.compile); graphs also replays the "
        "student's forwards without gradient as CUDA graphs. Both are equal to rounding.",
    )
    num_rollout_steps: Integer = Field(default=16, ge=1, le=1000, description="Steps from noise to clean.")
    rollout_solver: Solver = Field(
        default="euler", description="Of the rollout: euler, or ab2, of second order at the same cost."
    )
    query: Query | None = Field(
        default=None,
        description="Law of the queried state: low (the paper's), middle, high or uniform, or its numbers, "
        "or {law: middle, ...}; the method's own when not given.",
    )
    route_per: Literal["sample", "update"] = Field(
        default="sample",
        description="Draw a route for each sample; or for each update, whose samples then share one teacher, "
        "as other trainers do.",
    )
    student_guidance_scale: Number = Field(
        default=1.0,
        ge=0.0,
        le=100.0,
        description="Classifier-free guidance of the student, rolled out and matched; 1 is none.",
    )
    drop_condition: Number = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="Probability that a sample loses its prompt (keeps its source).",
    )
    optimizer: Literal["adamw", "adamw8bit"] = Field(
        default="adamw",
        description="AdamW with moments in float32, or in 8 bits (by torchao): 6 bytes less a weight.",
    )
    sharding: Literal["none", "fsdp"] = Field(
        default="none",
        description="Spread frozen weights over the processes of a run (fsdp), for a base too large for one "
        "GPU; trained ones stay whole on each.",
    )
    unedited_weight: Number | None = Field(
        default=None,
        ge=0.0,
        description="Weight in the loss of what lies outside a row's mask, against 1 inside; masks are not "
        "read when not given.",
    )
    learning_rate: Number = Field(default=2e-4, gt=0.0, description="Peak learning rate of AdamW.")
    lr_schedule: Literal["constant", "linear", "cosine"] = Field(
        default="constant", description="After the warmup: hold, or fall to zero at max_steps."
    )
    warmup_steps: Integer = Field(
        default=0, ge=0, description="Updates over which the learning rate rises linearly."
    )
    weight_decay: Number = Field(default=0.0, ge=0.0, description="Decoupled weight decay of AdamW.")
    adam_beta1: Number = Field(default=0.9, ge=0.0, lt=1.0, description="Decay of the gradient's mean.")
    adam_beta2: Number = Field(
        default=0.999, ge=0.0, lt=1.0, description="Decay of the gradient's mean square."
    )
    adam_epsilon: Number = Field(default=1e-8, gt=0.0, description="Floor of AdamW's denominator.")
    max_grad_norm: Number | None = Field(
        default=1.0, gt=0.0, description="Gradients are scaled down to this norm; null turns clipping off."
    )
    ema_decay: Number | None = Field(
        default=None,
        gt=0.0,
        lt=1.0,
        description="Keep and export a running mean of the weights; null for none.",
    )
    cache_dir: Text | None = Field(
        default=None,
        description="Folder of encoded prompts and source images; several runs may share one. "
        "A folder in output_dir when not given.",
    )
    seed: Integer = Field(default=0, ge=0, lt=2**63, description="Seed of everything drawn in the run.")
    save_every: Integer = Field(default=500, ge=1, description="Updates between two checkpoints.")
    keep_checkpoints: Integer = Field(
        default=2, ge=1, description="Newest checkpoints kept; older ones are deleted."
    )
    log_every: Integer = Field(default=1, ge=1, description="Updates between two lines of metrics.jsonl.")
    validation: ValidationSettings | None = Field(
        default=None, description="Draw pictures while training; {} draws rows of the routes, null nothing."
    )
    report_to: list[Literal["tensorboard", "wandb", "trackio"]] = Field(
        default_factory=list,
        description="Trackers that get metrics and pictures; each is a package to install. The project is "
        "'danceopd', or what the environment variable WANDB_PROJECT or TRACKIO_PROJECT says.",
    )
    progress: Flag = Field(default=True, description="Show progress on stderr.")

    @property
    def samples_per_update(self) -> int:
        """Samples one optimizer update sees."""
        return self.batch_size * self.gradient_accumulation_steps

    @model_validator(mode="after")
    def _warmup_fits(self) -> TrainConfig:
        if self.warmup_steps > self.max_steps:
            raise ValueError(
                f"warmup_steps={self.warmup_steps} is longer than the run of max_steps={self.max_steps}: "
                "lower it."
            )
        return self

    @property
    def query_law(self) -> QueryLaw:
        """The law of `query`, or else the method's own; that of a method without any does not count."""
        if self.query is not None:
            return self.query.law
        return QUERY_LAWS[self.method.default_query or "uniform"]

    @model_validator(mode="after")
    def _method_fits(self) -> TrainConfig:
        if isinstance(self.method, FlowOPD):  # settled here, so that it is stored with the run
            object.__setattr__(self, "method", self.method.grouped(self.samples_per_update))
        method, name = self.method, self.method.name
        states = method.num_states(self.num_rollout_steps)
        if self.query is not None and (method.default_query is None or 1 < states == self.num_rollout_steps):
            raise ValueError(f"query is given, but method {name} asks at all states: drop it.")
        if self.rollout_batch_size is not None and not method.rolls_out:
            raise ValueError(f"rollout_batch_size is of no use to method {name}: drop it.")
        if self.compile != "none" and self.sharding != "none":
            raise ValueError(
                f"compile={self.compile!r} and sharding={self.sharding!r} do not go together, since what the "
                "processes agree upon between blocks cannot be compiled: drop one."
            )
        if self.compile == "graphs" and not method.rolls_out:
            raise ValueError(f"compile='graphs' is of no use to method {name}: set it to 'blocks'.")
        if self.compile == "graphs" and self.rollout_batch_size == "auto":
            raise ValueError(
                "rollout_batch_size='auto' counts on forwards that free their memory, which with "
                "compile='graphs' they do not: give a number."
            )
        if states > self.num_rollout_steps:
            raise ValueError(
                f"method.states={states} is more than num_rollout_steps={self.num_rollout_steps}: lower it."
            )
        if states > 1 and self.query is not None and (self.query.stratified or self.query.index is not None):
            key = "stratified" if self.query.stratified else "index"
            raise ValueError(
                f"query.{key} needs one state per rollout, but method.states={states}: drop one."
            )
        if self.samples_per_update % method.group_size:
            raise ValueError(
                f"method {name} needs whole groups of group_size={method.group_size}, but an update has "
                f"{self.samples_per_update} samples: make batch_size * gradient_accumulation_steps such."
            )
        if self.rollout_solver != "euler" and (not method.rolls_out or name == "flowopd"):
            raise ValueError(
                f"rollout_solver={self.rollout_solver!r} is of no use to method {name}: drop it."
            )
        if self.unedited_weight is not None and name == "flowopd":
            raise ValueError(
                "unedited_weight is of no use to method flowopd, whose reward is whole: drop it."
            )
        return self

    @model_validator(mode="after")
    def _query_is_on_the_way(self) -> TrainConfig:
        if self.query is None:
            return self
        if self.query.index is not None and self.query.index >= self.num_rollout_steps:
            raise ValueError(
                f"query.index={self.query.index} is no state of a rollout of "
                f"num_rollout_steps={self.num_rollout_steps}, which counts from 0: lower it."
            )
        return self


@settings
class RunConfig(TrainConfig):
    """A whole run, as a YAML file describes it: TrainConfig plus the family, the teachers and the routes."""

    family: Text = Field(description="Model family to load: a known name, a folder, or a hub id.")
    teachers: list[Teacher] = Field(default_factory=list, description="The frozen fields to learn from.")
    routes: list[Route] = Field(description="Which teacher is asked on which data.")
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="Precision of the forward passes; what trains is always kept in float32.",
    )
    resolution: Integer | None = Field(
        default=None,
        ge=16,
        description="Side of a square image in pixels; other shapes keep its area; 1024 when not given.",
    )
    device: Text = Field(default="cpu", description="Device of the run: cpu, cuda or cuda:N.")

    @model_validator(mode="after")
    def _routes_have_teachers(self) -> RunConfig:
        check_routes(self.teachers, self.routes, self.method)
        return self


def check_routes(teachers: Sequence[Teacher], routes: Sequence[Route], method: Method) -> None:
    """Raise ConfigError unless there are routes, and the teachers that are asked, named once each."""
    if not routes:
        raise ConfigError("routes is empty: name at least one route, a teacher and its data.")
    if not method.needs_teachers:
        return
    if not teachers:
        raise ConfigError("teachers is empty: name at least one teacher.")
    name, count = Counter(teacher.name for teacher in teachers).most_common(1)[0]
    if count > 1:
        raise ConfigError(f"{count} teachers are named '{name}': give each its own name.")
    known = {teacher.name for teacher in teachers}
    asked = {f"routes.{index}": route.teacher for index, route in enumerate(routes)}
    for key, name in [*asked.items(), *((f"method {method.name}", name) for name in method.other_teachers)]:
        if name not in known:
            raise ConfigError(f"{key} asks for an unknown teacher '{name}': {nearest(name, known)}")


def describe_run(
    config: TrainConfig,
    family: Family,
    teachers: Sequence[Teacher],
    routes: Sequence[Route],
    dtype: torch.dtype,
    device: str,
) -> RunConfig:
    """The run as a config file describes it, also when it was put together in Python.

    Raises:
        ConfigError: the student's `dtype` is none that can be trained.
    """
    precision: Any = str(dtype).removeprefix("torch.")
    return RunConfig(
        **{name: getattr(config, name) for name in TrainConfig.__dataclass_fields__},
        family=family.name,
        teachers=list(teachers),
        routes=list(routes),
        resolution=getattr(family, "resolution", None),  # of families with a choice of sizes
        dtype=config.dtype if isinstance(config, RunConfig) else precision,
        device=device,
    )


def as_mapping(config: TrainConfig) -> dict[str, Any]:
    """The config as plain mappings, lists, texts and numbers, ready for YAML or JSON."""
    mapping: dict[str, Any] = TypeAdapter(type(config)).dump_python(config, mode="json")
    return mapping
