"""Models with random weights and the work that is done with them: three teachers, one student, prompts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from danceopd.families.conditions import PromptRow, RowsCondition
from danceopd.families.flux2 import Flux2
from danceopd.families.lora import (
    Factors,
    Lora,
    add_to_weights,
    choose_layers,
    linear_layers,
    load_adapter,
    rest_on,
)
from danceopd.families.predict import Predict
from danceopd.families.sd3 import StableDiffusion3
from danceopd.flow import AdapterField, Condition, ModelField, QueryLaw, SigmaGrid, VelocityField, draw_noise
from danceopd.shapesworld import ShapesWorldFamily
from danceopd.training import Plan
from danceopd.training.compiling import compile_blocks

TEACHERS = ("base", "style", "guided")
"""The plain base, a LoRA on it, and the base under guidance: of one route each."""
GUIDANCE = (1.0, 1.0, 4.5)
ROWS = 32


class Fields(NamedTuple):
    """What is trained and what is asked, guidance not included.

    Attributes:
        student: the field that learns.
        module: the model that holds the student's trained parameters.
        teachers: one for each route.
        models: all different models in memory.
    """

    student: VelocityField
    module: nn.Module
    teachers: Sequence[VelocityField]
    models: Sequence[nn.Module]


class Work(NamedTuple):
    """The samples of one update, from the plan.

    Attributes:
        rows: position of each sample's prompt.
        routes: position of its teacher.
        states: the one state that is queried.
        noise: [S, ...].
    """

    rows: list[int]
    routes: list[int]
    states: list[int]
    noise: Tensor


@dataclass
class World:
    """One model with its teachers and student, both ways: one copy per teacher, and all on one base.

    Args:
        name: in tables.
        base: the model, frozen, in evaluation mode.
        predict: the family's way to call it.
        targets: endings of the layers that adapters are put on.
        rank: of the adapters.
        shape: of a latent.
        grid: noise levels.
        encode_one: ``encode_one(row, with_empty)``: the condition of one sample, through the encoder.
        checkpointing: whether the student recomputes its blocks in the backward pass.
    """

    name: str
    base: nn.Module
    predict: Callable[..., Tensor]
    targets: Sequence[str]
    rank: int
    shape: tuple[int, ...]
    grid: SigmaGrid
    encode_one: Callable[[int, bool], Condition]
    checkpointing: bool = False
    guidance: Sequence[float] = GUIDANCE
    copied: Fields = field(init=False)
    shared: Fields = field(init=False)
    cache: list[Condition] = field(init=False)

    def __post_init__(self) -> None:
        self.device = next(self.base.parameters()).device
        layers = choose_layers(self.base, self.targets)
        self._loras = style, student = [random_lora(self.base, layers, self.rank, seed) for seed in (1, 2)]
        self.copied = self._copied(style, student)
        self.shared = self._shared(style, student)
        self.cache = [self.encode(row, with_empty=True) for row in range(ROWS)]

    @cached_property
    def compiled(self) -> Fields:
        """Those of `shared`, on a model whose repeated blocks are compiled when they are first called."""
        fields = self._shared(*self._loras)
        compile_blocks([fields.student])
        return fields

    def encode(self, row: int, *, with_empty: bool) -> Condition:
        """The condition of one prompt, and of the empty one if asked for."""
        with torch.no_grad():
            return self.encode_one(row, with_empty)

    def level(self, sigma: float) -> Tensor:
        """fp32 [1]."""
        return torch.full((1,), sigma, device=self.device)

    def work(self, step: int, samples: int) -> Work:
        """What update `step` of a run does, by the package's own plan."""
        plan = Plan(
            seed=0,
            route_weights=(1.0,) * len(TEACHERS),
            route_sizes=(ROWS,) * len(TEACHERS),
            query=QueryLaw(),
            num_steps=self.grid.num_steps,
            drop_probability=0.0,
            slots_per_rank=samples,
        )
        slots = plan.step(step)
        noise = draw_noise([slot.noise_seed for slot in slots], self.shape).to(self.device)
        rows, routes = [slot.row for slot in slots], [slot.route for slot in slots]
        return Work(rows, routes, [slot.states[0] for slot in slots], noise)

    def _copied(self, style: Lora, student: Lora) -> Fields:
        """A model for each: the teacher's LoRA added to its own weights, the student's beside its own."""
        models = [copy.deepcopy(self.base) for _ in (*TEACHERS, "student")]
        models[1].load_state_dict(add_to_weights(models[1].state_dict(), [(style, 1.0)]))
        load_adapter(models[-1], "student", student, frozen=False)
        rest_on(models[-1], "student")
        self._prepare(models[-1])
        *teachers, own = (ModelField(model, self.predict) for model in models)
        return Fields(own, models[-1], teachers, models)

    def _shared(self, style: Lora, student: Lora) -> Fields:
        """Two adapters on one base."""
        model = copy.deepcopy(self.base)
        load_adapter(model, "style", style)
        load_adapter(model, "student", student, frozen=False)
        rest_on(model, "student")
        self._prepare(model)
        plain, styled, own = (AdapterField(model, name, self.predict) for name in (None, "style", "student"))
        return Fields(own, model, [plain, styled, plain], [model])

    def _prepare(self, model: Any) -> None:
        if self.checkpointing:
            model.enable_gradient_checkpointing()


@torch.no_grad()
def random_lora(model: nn.Module, layers: Sequence[str], rank: int, seed: int) -> Lora:
    """Factors whose product is about a tenth of each layer's weight."""
    lora, found = {}, linear_layers(model)
    for position, layer in enumerate(layers):
        weight = found[layer].weight
        draw = torch.Generator(weight.device).manual_seed(1000 * seed + position)
        a = torch.randn(rank, weight.shape[1], generator=draw, device=weight.device)
        b = torch.randn(weight.shape[0], rank, generator=draw, device=weight.device)
        size = 0.1 * weight.float().norm() / ((a @ a.T) * (b.T @ b)).sum().sqrt()
        lora[layer] = Factors(a.to(weight.dtype), (b * size).to(weight.dtype), 1.0)
    return lora


def shapesworld(device: torch.device, num_steps: int) -> World:
    """The miniature world's own base; prompts cost next to nothing to encode, a third of them are edits."""
    family = ShapesWorldFamily(device=device)
    base: Any = family.full_model("base").eval().requires_grad_(False)
    model_field: Any = family.field("base")
    data = [family.data(ground) for ground in ("t2i", "local")]

    def encode(row: int, with_empty: bool) -> Condition:
        return family.encode([data[row % 3 == 2][row]])

    return World(
        "ShapesWorld",
        base,
        model_field.predict,
        Flux2.targets,
        8,
        family.shape(),
        family.grid(num_steps),
        encode,
    )


class Sizes(NamedTuple):
    """Of a pretrained family's transformer and of its text encoder: keywords of their configs."""

    transformer: Mapping[str, Any]
    encoder: Mapping[str, Any]
    tokens: int
    latent: int
    rank: int


SD3_SMALL = Sizes(
    {
        "sample_size": 32,
        "num_layers": 4,
        "attention_head_dim": 32,
        "num_attention_heads": 4,
        "joint_attention_dim": 128,
        "caption_projection_dim": 128,
        "pooled_projection_dim": 64,
        "pos_embed_max_size": 24,
        "dual_attention_layers": (0,),
    },
    {"vocab_size": 100, "d_model": 128, "d_kv": 32, "d_ff": 256, "num_layers": 2, "num_heads": 4},
    tokens=16,
    latent=16,
    rank=16,
)
SD3_FULL = Sizes(  # Stable Diffusion 3.5 medium and T5-XXL
    {
        "sample_size": 128,
        "num_layers": 24,
        "attention_head_dim": 64,
        "num_attention_heads": 24,
        "joint_attention_dim": 4096,
        "caption_projection_dim": 1536,
        "pooled_projection_dim": 2048,
        "pos_embed_max_size": 384,
        "dual_attention_layers": tuple(range(13)),
    },
    {"vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64},
    tokens=333,
    latent=128,
    rank=128,
)
FLUX2_SMALL = Sizes(
    {
        "num_layers": 1,
        "num_single_layers": 4,
        "attention_head_dim": 32,
        "num_attention_heads": 4,
        "joint_attention_dim": 3 * 64,
        "timestep_guidance_channels": 64,
        "axes_dims_rope": (8, 8, 8, 8),
    },
    {
        "vocab_size": 100,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
    },
    tokens=16,
    latent=8,
    rank=16,
)
FLUX2_FULL = Sizes(  # FLUX.2 klein 4B and Qwen3-4B
    {
        "num_layers": 5,
        "num_single_layers": 20,
        "attention_head_dim": 128,
        "num_attention_heads": 24,
        "joint_attention_dim": 3 * 2560,
        "timestep_guidance_channels": 256,
        "axes_dims_rope": (32, 32, 32, 32),
    },
    {
        "vocab_size": 151936,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
    tokens=512,
    latent=64,
    rank=128,
)


def sd3(device: torch.device, num_steps: int, *, full_size: bool = False) -> World:
    """Stable Diffusion 3.5 with a T5 encoder; CLIP's pooled vector is the mean of T5's words."""
    from diffusers import SD3Transformer2DModel
    from transformers import T5Config, T5EncoderModel

    sizes = SD3_FULL if full_size else SD3_SMALL
    with _made_on(device, full_size):
        model = SD3Transformer2DModel(in_channels=16, patch_size=2, qk_norm="rms_norm", **sizes.transformer)
        encoder = T5EncoderModel(T5Config(**sizes.encoder, feed_forward_proj="gated-gelu", use_cache=False))
    pooled = sizes.transformer["pooled_projection_dim"]

    def prompt(tokens: Tensor) -> dict[str, Tensor]:
        words = encoder(input_ids=tokens).last_hidden_state[0]
        return {"embeds": words, "pooled": words.mean(0)[:pooled]}

    conventions = StableDiffusion3(_configs("StableDiffusion3Pipeline", model, {"shift": 3.0}))
    return _pretrained("SD3", model, encoder, conventions, prompt, sizes, num_steps, full_size=full_size)


def flux2(device: torch.device, num_steps: int, *, full_size: bool = False) -> World:
    """FLUX.2 klein with a Qwen3 encoder, of which three layers are read."""
    from diffusers import Flux2Transformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    sizes = FLUX2_FULL if full_size else FLUX2_SMALL
    with _made_on(device, full_size):
        model = Flux2Transformer2DModel(
            in_channels=128, mlp_ratio=3.0, guidance_embeds=False, **sizes.transformer
        )
        encoder = Qwen3Model(Qwen3Config(**sizes.encoder, use_cache=False))
    count = sizes.encoder["num_hidden_layers"]
    layers = (count // 4, count // 2, 3 * count // 4)

    def prompt(tokens: Tensor) -> dict[str, Tensor]:
        states = encoder(input_ids=tokens, output_hidden_states=True).hidden_states
        return {"embeds": torch.cat([states[layer][0] for layer in layers], dim=-1)}

    scheduler = {"use_dynamic_shifting": True, "shift": 3.0}
    conventions = Flux2(_configs("Flux2KleinPipeline", model, scheduler))
    return _pretrained("FLUX.2", model, encoder, conventions, prompt, sizes, num_steps, full_size=full_size)


def _pretrained(
    name: str,
    model: Any,
    encoder: nn.Module,
    conventions: Any,
    prompt: Callable[[Tensor], dict[str, Tensor]],
    sizes: Sizes,
    num_steps: int,
    *,
    full_size: bool,
) -> World:
    encoder.eval().requires_grad_(False)
    model.eval().requires_grad_(False)
    device = next(model.parameters()).device

    def encode(row: int, with_empty: bool) -> Condition:
        draw = torch.Generator().manual_seed(row)
        tokens = torch.randint(1, 100, (1, sizes.tokens), generator=draw).to(device)
        empty = prompt(torch.zeros_like(tokens)) if with_empty else {}
        return RowsCondition((PromptRow(prompt(tokens), empty),))

    shape = (model.config.in_channels, sizes.latent, sizes.latent)
    predict = Predict(conventions, model.dtype, None)
    grid = conventions.grid(num_steps, shape)
    return World(
        name, model, predict, conventions.targets, sizes.rank, shape, grid, encode, checkpointing=full_size
    )


def _configs(pipeline: str, model: Any, scheduler: Mapping[str, Any]) -> Any:
    """As much of a checkpoint as conventions read."""
    configs = {
        "transformer": dict(model.config),
        "vae": {"block_out_channels": (1, 1, 1, 1)},
        "scheduler": dict(scheduler),
    }
    return SimpleNamespace(pipeline_name=pipeline, config=configs.__getitem__)


@contextmanager
def _made_on(device: torch.device, full_size: bool) -> Iterator[None]:
    """Weights are drawn where they are used, in bfloat16 for models of real size."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if full_size else torch.float32)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)
