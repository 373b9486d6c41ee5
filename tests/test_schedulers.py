"""The fused schedulers against the stock one, step by step and inside pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from danceopd import ops
from danceopd.schedulers import FusedFlowMatchAB2Scheduler, FusedFlowMatchEulerScheduler

Tensor = torch.Tensor
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        "shift": st.sampled_from([0.5, 3.0, 12.0]),
        "use_dynamic_shifting": st.booleans(),
        "time_shift_type": st.sampled_from(["exponential", "linear"]),
        "shift_terminal": st.sampled_from([0.02, 0.1]),
        "invert_sigmas": st.booleans(),
        "stochastic_sampling": st.booleans(),
        "num_train_timesteps": st.sampled_from([1000, 50]),
    },
).flatmap(
    lambda config: st.sampled_from([{}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}]).map(
        lambda spacing: config | spacing
    )
)


def velocity(sample: Tensor, timestep: Tensor, dtype: torch.dtype) -> Tensor:
    """Some model: it depends on the state and on the time."""
    return torch.sin(3.0 * sample.float() + timestep.float() / 250.0).to(dtype)


def pair(config: dict[str, Any], num_steps: int, device: str = "cpu", **grid: Any) -> tuple[Any, Any]:
    """The stock scheduler and ours with its config, ready to step."""
    stock = FlowMatchEulerDiscreteScheduler(**config)
    fused = FusedFlowMatchEulerScheduler.from_config(stock.config)
    for scheduler in (stock, fused):
        scheduler.set_timesteps(num_steps, device=device, **grid)
    return stock, fused


def assert_same_step(stock: Any, fused: Any, sample: Tensor, dtype: torch.dtype, **extra: Any) -> Tensor:
    """One step of both from the same state; the stock result is where the next step starts.

    Stock rounds the step width and the product to the model's dtype before it adds; both round the sum.
    """
    at = stock.step_index or stock.begin_index or 0
    t, width = stock.timesteps[at], (stock.sigmas[at + 1] - stock.sigmas[at]).double()
    v = velocity(sample, t, dtype)
    theirs, ours = (
        s.step(v, t, sample, generator=torch.Generator(sample.device).manual_seed(7), **extra).prev_sample
        for s in (stock, fused)
    )
    assert ours.dtype == theirs.dtype and ours.device == theirs.device
    assert fused.step_index == stock.step_index == at + 1
    eps, wide = torch.finfo(dtype).eps, torch.finfo(torch.float32).eps
    product, reached = (width * v.double()).abs(), theirs.double().abs() + ours.double().abs()
    allowed = (
        eps * (1.0 + eps) * product + (eps + wide) / 2 * reached + torch.finfo(dtype).smallest_normal * eps
    )
    error = (ours.double() - theirs.double()).abs()
    assert bool((error <= allowed).all()), float((error - allowed).max())
    return theirs


@settings(max_examples=150)
@given(
    config=CONFIGS,
    num_steps=st.integers(1, 12),
    mu=st.floats(0.1, 3.0),
    model=st.sampled_from(DTYPES),
    state=st.sampled_from(DTYPES),
    given_sigmas=st.booleans(),
)
def test_every_config_steps_as_in_diffusers(
    config: dict[str, Any],
    num_steps: int,
    mu: float,
    model: torch.dtype,
    state: torch.dtype,
    given_sigmas: bool,
) -> None:
    # diffusers stretches a one-step grid by 0 / 0, and by 1 / 0 where the last level is the first.
    assume(num_steps > 1 or "shift_terminal" not in config)
    grid: dict[str, Any] = {"mu": mu} if config.get("use_dynamic_shifting") else {}
    if given_sigmas:
        grid["sigmas"] = np.linspace(1.0, 1.0 / num_steps, num_steps).tolist()
    stock, fused = pair(config, num_steps, **grid)
    assert fused.config.keys() == stock.config.keys()
    assert torch.equal(fused.timesteps, stock.timesteps) and torch.equal(fused.sigmas, stock.sigmas)
    sample = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).to(state)
    for _ in range(num_steps):
        sample = assert_same_step(stock, fused, sample, model)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_on_the_device(device: str, dtype: torch.dtype) -> None:
    stock, fused = pair({"use_dynamic_shifting": True}, 6, device, mu=0.8)
    sample = torch.randn(2, 4, 33, 65, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    for _ in range(6):
        sample = assert_same_step(stock, fused, sample, dtype)


def test_the_kernel_serves_ordinary_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    kernel = ops.euler_step

    def spy(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(args)
        return kernel(*args, **kwargs)

    monkeypatch.setattr(ops, "euler_step", spy)
    x = torch.randn(1, 4, 3)

    def steps(config: dict[str, Any], **extra: Any) -> int:
        stock, fused = pair(config, 3)
        before = len(calls)
        assert_same_step(stock, fused, x, torch.float32, **extra)
        return len(calls) - before

    assert steps({}) == 1
    assert steps({"shift": 3.0}, s_noise=0.5) == 1
    assert steps({"invert_sigmas": True}) == 0
    assert steps({"stochastic_sampling": True}) == 0
    assert steps({}, s_churn=0.1) == 0
    assert steps({}, per_token_timesteps=torch.tensor([[900.0, 500.0, 100.0, 0.0]])) == 0


@pytest.mark.parametrize(
    ("v", "x"),
    [
        (torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3)),
        (torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)),
        (torch.randn(1, 3), torch.randn(2, 3)),
        (torch.randn(0, 3), torch.randn(0, 3)),
        (torch.randn(()), torch.randn(())),
        (torch.randn(4, 6)[:, ::2], torch.randn(3, 4).T),
    ],
    ids=["float64-velocity", "float64", "broadcast", "empty", "scalar", "strided"],
)
def test_operands_of_every_kind(v: Tensor, x: Tensor) -> None:
    stock, fused = pair({"shift": 3.0}, 3)
    theirs, ours = (s.step(v, s.timesteps[0], x, return_dict=False)[0] for s in (stock, fused))
    assert ours.dtype == theirs.dtype
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("timestep", [1, torch.tensor([1])])
def test_an_index_is_refused_as_in_diffusers(timestep: Any) -> None:
    _, fused = pair({}, 3)
    with pytest.raises(ValueError, match="integer indices"):
        fused.step(torch.zeros(1, 2), timestep, torch.zeros(1, 2))


def test_a_step_beyond_the_grid_is_refused_as_in_diffusers() -> None:
    _, fused = pair({}, 2)
    x = torch.zeros(1, 2)
    for t in fused.timesteps:
        fused.step(x, t, x)
    with pytest.raises(IndexError):
        fused.step(x, fused.timesteps[0], x)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_changed_grid_is_seen(mode: Any) -> None:
    with mode():
        stock, fused = pair({}, 4)
        sample = assert_same_step(stock, fused, torch.randn(1, 3), torch.float32)
        for s in (stock, fused):
            s.sigmas[2] = 0.3  # in place
        sample = assert_same_step(stock, fused, sample, torch.float32)
        for s in (stock, fused):
            s.sigmas = torch.tensor([1.0, 0.9, 0.3, 0.1, 0.0])
        sample = assert_same_step(stock, fused, sample, torch.float32)
        for s in (stock, fused):
            s.set_timesteps(2)
        assert_same_step(stock, fused, sample, torch.float32)


def test_starts_where_it_is_told_to() -> None:
    stock, fused = pair({"shift": 3.0}, 5)
    for s in (stock, fused):
        s.set_begin_index(2)
    x = torch.randn(1, 3)
    assert_same_step(stock, fused, x, torch.float32)
    assert fused.step_index == 3
    stock, fused = pair({"shift": 3.0}, 5)
    t = fused.timesteps[3]
    fused.step(x, t, x)
    assert fused.step_index == 4


def test_gradients_flow_through_a_step() -> None:
    stock, fused = pair({}, 3)
    v, x = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    theirs, ours = (
        torch.autograd.grad(s.step(v, s.timesteps[0], x).prev_sample.square().sum(), (v, x))
        for s in (stock, fused)
    )
    torch.testing.assert_close(ours, theirs)


# -- second order --------------------------------------------------------------------------------------------


class GaussianFlow:
    """The exact velocity field and trajectories where the data are normal, N(mean, spread^2).

    A state at sigma is N((1 - sigma) mean, variance(sigma)), and a trajectory keeps its standardised value.
    """

    def __init__(self, spread: float) -> None:
        self.mean, self.spread = 0.7, spread

    def variance(self, sigma: float) -> float:
        return (1.0 - sigma) ** 2 * self.spread**2 + sigma**2

    def velocity(self, x: Tensor, sigma: float) -> Tensor:
        slope = (sigma - (1.0 - sigma) * self.spread**2) / self.variance(sigma)
        return slope * (x - (1.0 - sigma) * self.mean) - self.mean

    def clean(self, noise: Tensor) -> Tensor:
        return self.mean + self.spread * noise


def error(kind: type[Any], num_steps: int, spread: float, device: str = "cpu", **config: Any) -> float:
    """Root mean square distance from the exact clean states after so many steps."""
    flow, scheduler = GaussianFlow(spread), kind(**config)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / num_steps, num_steps).tolist(), device=device)
    noise = torch.randn(4, 256, generator=torch.Generator().manual_seed(3)).to(device)
    x = noise
    for t in scheduler.timesteps:
        sigma = float(t) / 1000.0
        v = -flow.velocity(x, 1.0 - sigma) if config.get("invert_sigmas") else flow.velocity(x, sigma)
        x = scheduler.step(v, t, x).prev_sample
    return float((x - flow.clean(noise)).square().mean().sqrt())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("config", [{}, {"shift": 3.0}, {"invert_sigmas": True}], ids=str)
def test_the_error_falls_with_the_square_of_the_steps(config: dict[str, Any], device: str) -> None:
    steps = (16, 32, 64, 128)
    for kind, order in ((FusedFlowMatchEulerScheduler, 1.0), (FusedFlowMatchAB2Scheduler, 2.0)):
        errors = [error(kind, n, 0.3, device, **config) for n in steps]
        slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
        assert -slope == pytest.approx(order, abs=0.25), (kind.__name__, errors)


@pytest.mark.parametrize("config", [{}, {"shift": 3.0}], ids=str)
@pytest.mark.parametrize("num_steps", [12, 16, 28, 50])
def test_half_the_steps_reach_eulers_error(config: dict[str, Any], num_steps: int) -> None:
    euler = error(FlowMatchEulerDiscreteScheduler, num_steps, 0.5, **config)
    assert error(FusedFlowMatchAB2Scheduler, num_steps // 2, 0.5, **config) <= euler


def ab2(x: Tensor, v: Tensor, earlier: Tensor, sigmas: list[float]) -> Tensor:
    before, now, then = sigmas
    d = then - now
    return x + d * (v + d / (2.0 * (now - before)) * (v - earlier))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_second_order_step_is_the_formula(dtype: torch.dtype) -> None:
    scheduler = FusedFlowMatchAB2Scheduler(shift=3.0)
    scheduler.set_timesteps(5)
    sigmas, x, earlier = scheduler.sigmas.tolist(), torch.randn(2, 3, 7).to(dtype), None
    for i, t in enumerate(scheduler.timesteps):
        v = velocity(x, t, dtype)
        exact = x.double() + (sigmas[i + 1] - sigmas[i]) * v.double()
        if earlier is not None:
            exact = ab2(x.double(), v.double(), earlier.double(), sigmas[i - 1 : i + 2])
        following = scheduler.step(v, t, x).prev_sample
        assert following.dtype == dtype
        torch.testing.assert_close(following.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-6)
        # A model in a CUDA graph writes its next output over this one.
        x, earlier = following, v.clone()
        v.fill_(torch.nan)


def run(scheduler: Any, x: Tensor, steps: int | None = None) -> Tensor:
    for t in scheduler.timesteps[:steps]:
        x = scheduler.step(velocity(x, t, x.dtype), t, x).prev_sample
    return x


def test_a_new_grid_forgets_the_old_one() -> None:
    x, used = torch.randn(1, 5), FusedFlowMatchAB2Scheduler()
    for stopped in (None, 1, 3):
        used.set_timesteps(4)
        run(used, x, stopped)
        fresh = FusedFlowMatchAB2Scheduler()
        for scheduler in (used, fresh):
            scheduler.set_timesteps(4)
            scheduler.set_begin_index(stopped or 0)  # where the old history would fit
        t = fresh.timesteps[stopped or 0]
        v = velocity(x, t, x.dtype)
        assert torch.equal(used.step(v, t, x).prev_sample, fresh.step(v, t, x).prev_sample)


def int16(timestep: float) -> torch.Tensor:
    return torch.tensor(int(timestep), dtype=torch.int16)


@pytest.mark.parametrize(
    "kind", [float, np.float32, np.float64, np.int64, np.int32, np.uint16, np.array, torch.tensor, int16]
)
def test_any_timestep_gets_the_second_order(kind: Any) -> None:
    scheduler, x = FusedFlowMatchAB2Scheduler(), torch.randn(2, 5)
    sigmas = [1.0, 0.7, 0.5, 0.2]  # whole timesteps, for the kinds that have no others
    scheduler.set_timesteps(sigmas=sigmas)
    expected = run(scheduler, x)
    scheduler.set_timesteps(sigmas=sigmas)
    for t in scheduler.timesteps:
        x = scheduler.step(velocity(x, t, x.dtype), kind(t.item()), x).prev_sample
    assert torch.equal(x, expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(1, 5), (3, 5), (2, 5, 1), (10,)], ids=str)
def test_a_changed_batch_starts_with_euler_again(shape: tuple[int, ...], device: str) -> None:
    scheduler, euler = FusedFlowMatchAB2Scheduler(), FusedFlowMatchEulerScheduler()
    for s in (scheduler, euler):
        s.set_timesteps(4)
    t, x = scheduler.timesteps, torch.randn(2, 5)
    x = scheduler.step(velocity(x, t[0], x.dtype), t[0], x).prev_sample
    scheduler.step(velocity(x, t[1], x.dtype), t[1], x)
    x = torch.randn(shape, device=device)
    v = velocity(x, t[2], x.dtype)
    euler.set_begin_index(2)
    first = scheduler.step(v, t[2], x).prev_sample
    assert torch.equal(first, euler.step(v, t[2], x).prev_sample)
    then = velocity(first, t[3], x.dtype)
    exact = ab2(first, then, v, scheduler.sigmas[2:5].tolist())
    torch.testing.assert_close(scheduler.step(then, t[3], first).prev_sample, exact)


@pytest.mark.gpu
def test_a_changed_device_starts_with_euler_again() -> None:
    scheduler, euler = FusedFlowMatchAB2Scheduler(), FusedFlowMatchEulerScheduler()
    for s in (scheduler, euler):
        s.set_timesteps(4)
    t, x = scheduler.timesteps, torch.randn(2, 5)
    v = velocity(x, t[0], x.dtype)
    results = [
        [s.step(w, t[i], y).prev_sample for i, (w, y) in enumerate([(v, x), (v.cuda(), x.cuda())])]
        for s in (scheduler, euler)
    ]
    assert torch.equal(results[0][1], results[1][1])


def test_a_finished_run_holds_no_velocity() -> None:
    scheduler = FusedFlowMatchAB2Scheduler()
    scheduler.set_timesteps(3)
    run(scheduler, torch.randn(1, 5))
    assert scheduler._previous is None


def test_levels_that_stay_are_survived() -> None:
    scheduler = FusedFlowMatchAB2Scheduler()
    scheduler.set_timesteps(sigmas=[1.0, 0.6, 0.6, 0.2, 0.0])
    scheduler.set_begin_index(0)
    x = torch.randn(1, 5)
    for t in scheduler.timesteps:
        x = scheduler.step(velocity(x, t, x.dtype), t, x).prev_sample
        assert bool(x.isfinite().all())


@pytest.mark.parametrize(
    "config", [{"stochastic_sampling": True}, {"stochastic_sampling": True, "shift": 3.0}]
)
def test_stochastic_sampling_is_the_stock_step(config: dict[str, Any]) -> None:
    stock, fused = FlowMatchEulerDiscreteScheduler(**config), FusedFlowMatchAB2Scheduler(**config)
    for s in (stock, fused):
        s.set_timesteps(4)
    x = torch.randn(1, 5)
    for _ in range(4):
        x = assert_same_step(stock, fused, x, torch.float32)


def test_gradients_flow_to_the_earlier_velocity() -> None:
    scheduler = FusedFlowMatchAB2Scheduler()
    scheduler.set_timesteps(3)
    first, second = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    t, x = scheduler.timesteps, torch.randn(2, 3)
    after = scheduler.step(second, t[1], scheduler.step(first, t[0], x).prev_sample).prev_sample
    # Both steps are -1/3 wide: x - first / 3 - (3 / 2 second - 1 / 2 first) / 3.
    to_first, to_second = torch.autograd.grad(after.sum(), (first, second))
    width = scheduler.sigmas.diff().tolist()
    ratio = width[1] / (2.0 * width[0])
    torch.testing.assert_close(to_first, torch.full((2, 3), width[0] - width[1] * ratio))
    torch.testing.assert_close(to_second, torch.full((2, 3), width[1] * (1.0 + ratio)))


# -- configs and files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [FusedFlowMatchEulerScheduler, FusedFlowMatchAB2Scheduler])
def test_configs_go_both_ways(kind: type[Any], tmp_path: Path) -> None:
    config = {"shift": 3.0, "use_dynamic_shifting": True, "shift_terminal": 0.02, "base_shift": 0.4}
    stock = FlowMatchEulerDiscreteScheduler(**config)
    fused = kind.from_config(stock.config)
    back = FlowMatchEulerDiscreteScheduler.from_config(fused.config)
    fused.save_pretrained(tmp_path)
    loaded = kind.from_pretrained(tmp_path)
    stock_again = FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path)
    for scheduler in (fused, back, loaded, stock_again):
        for key, value in stock.config.items():
            assert key.startswith("_") or scheduler.config[key] == value, key
    assert type(back) is type(stock_again) is FlowMatchEulerDiscreteScheduler
    with pytest.raises(ValueError, match="mu"):
        loaded.set_timesteps(4)


# -- pipelines -----------------------------------------------------------------------------------------------


def tiny_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(4,),
        latent_channels=4,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.06,
        scaling_factor=1.5,
    )


def sd3() -> tuple[DiffusionPipeline, dict[str, Any]]:
    """A random SD3 with a static shift, and what to call it with."""
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        caption_projection_dim=16,
        pooled_projection_dim=8,
    )
    absent = dict.fromkeys(f"{part}{i}" for part in ("text_encoder", "tokenizer") for i in ("", "_2", "_3"))
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = StableDiffusion3Pipeline(transformer=transformer, scheduler=scheduler, vae=tiny_vae(), **absent)
    call = {
        "prompt_embeds": torch.randn(2, 5, 8),
        "negative_prompt_embeds": torch.randn(2, 5, 8),
        "pooled_prompt_embeds": torch.randn(2, 8),
        "negative_pooled_prompt_embeds": torch.randn(2, 8),
        "latents": torch.randn(2, 4, 8, 8),
    }
    return pipe, call


def flux() -> tuple[DiffusionPipeline, dict[str, Any]]:
    """A random FLUX.1, whose grid shifts with the image's size."""
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=(4, 4, 8),
    )
    absent = dict.fromkeys(f"{part}{i}" for part in ("text_encoder", "tokenizer") for i in ("", "_2"))
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    pipe = FluxPipeline(transformer=transformer, scheduler=scheduler, vae=tiny_vae(), **absent)
    call = {
        "prompt_embeds": torch.randn(2, 5, 8),
        "pooled_prompt_embeds": torch.randn(2, 8),
        "latents": torch.randn(2, 16, 16),
    }
    return pipe, call


@pytest.fixture(params=[sd3, flux], ids=["sd3", "flux"])
def pipeline(request: pytest.FixtureRequest) -> tuple[DiffusionPipeline, dict[str, Any]]:
    torch.manual_seed(0)
    pipe, call = request.param()
    pipe.set_progress_bar_config(disable=True)
    size = 8 if request.param is sd3 else 4 * 2
    return pipe, call | {"height": size, "width": size, "num_inference_steps": 5, "output_type": "np"}


def images(pipe: DiffusionPipeline, call: dict[str, Any], device: str, dtype: torch.dtype) -> np.ndarray:
    pipe = pipe.to(device, dtype)
    moved = {k: v.to(device, dtype) if isinstance(v, Tensor) else v for k, v in call.items()}
    return pipe(**moved).images


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "levels"), [(torch.float32, 1e-3), (torch.bfloat16, 8.0)])
def test_a_stock_pipeline_paints_the_same(
    pipeline: tuple[DiffusionPipeline, dict[str, Any]], device: str, dtype: torch.dtype, levels: float
) -> None:
    pipe, call = pipeline
    stock = images(pipe, call, device, dtype)
    pipe.scheduler = FusedFlowMatchEulerScheduler.from_config(pipe.scheduler.config)
    fused = images(pipe, call, device, dtype)
    assert stock.std() > 0.02
    assert np.abs(stock - fused).max() * 255 <= levels


@pytest.mark.parametrize("kind", [FusedFlowMatchEulerScheduler, FusedFlowMatchAB2Scheduler])
def test_a_saved_pipeline_loads_with_its_scheduler(
    kind: type[Any], pipeline: tuple[DiffusionPipeline, dict[str, Any]], tmp_path: Path
) -> None:
    pipe, call = pipeline
    pipe.scheduler = kind.from_config(pipe.scheduler.config)
    before = images(pipe, call, "cpu", torch.float32)
    pipe.save_pretrained(tmp_path)
    absent = {name: None for name, part in pipe.components.items() if part is None}
    loaded = type(pipe).from_pretrained(tmp_path, **absent)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.scheduler) is kind
    assert np.array_equal(images(loaded, call, "cpu", torch.float32), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_second_order_comes_closer_in_a_pipeline(
    pipeline: tuple[DiffusionPipeline, dict[str, Any]], dtype: torch.dtype
) -> None:
    pipe, call = pipeline
    stock = pipe.scheduler
    many = images(pipe, call | {"num_inference_steps": 200}, "cpu", torch.float32)
    far = images(pipe, call | {"num_inference_steps": 10}, "cpu", dtype)
    pipe.scheduler = FusedFlowMatchAB2Scheduler.from_config(stock.config)
    near = images(pipe, call | {"num_inference_steps": 10}, "cpu", dtype)
    assert np.abs(near - many).mean() < np.abs(far - many).mean()
