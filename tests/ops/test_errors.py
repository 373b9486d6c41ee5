"""Wrong arguments: one sentence that names the argument, from the native ops and from the reference alike."""

# ruff: noqa: E501  (a case is one line of a table)
from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from danceopd import ops

x, v = torch.randn(2, 3), torch.randn(2, 3)
sigma = torch.tensor([0.5, 0.4])

WRONG: list[tuple[type[Exception], str, Callable[[Any], object]]] = [
    (ValueError, r"^velocity has shape \[2, 4\] but sample has \[2, 3\]", lambda m: m.euler_step(x, torch.ones(2, 4), 1, 0)),
    (ValueError, r"^cond has shape \[1, 3\] but uncond has \[2, 3\]", lambda m: m.guide(x, v[:1], 2.0)),
    (ValueError, r"^uncond has shape \[3\]", lambda m: m.euler_step(x, v, 1, 0, uncond=v[0], guidance_scale=2.0)),
    (ValueError, r"^clean has shape \[0, 3\]; pass a non-empty", lambda m: m.add_noise(x[:0], v[:0], 0.5)),
    (ValueError, r"^clean has shape \[\]; pass a non-empty", lambda m: m.add_noise(x[0, 0], v[0, 0], 0.5)),
    (ValueError, r"^noise is on meta but clean on cpu", lambda m: m.add_noise(x, v.to("meta"), 0.5)),
    (TypeError, r"^noise is list; pass a torch.Tensor", lambda m: m.add_noise(x, [1.0], 0.5)),
    (TypeError, r"^sample is ndarray; pass a torch.Tensor", lambda m: m.euler_step(x.numpy(), v, 1, 0)),
    (TypeError, r"^sample has dtype torch.int64; pass float32", lambda m: m.euler_step(x.long(), v, 1, 0)),
    (TypeError, r"^uncond has dtype torch.complex64", lambda m: m.guide(x.cfloat(), v.cfloat(), 1.0)),
    (TypeError, r"^cond has dtype torch.float16 but uncond has torch.float32", lambda m: m.guide(x, v.half(), 1.0)),
    (TypeError, r"^velocity has dtype torch.float64 but sample has torch.float32", lambda m: m.euler_step(x, v.double(), 1, 0)),
    (ValueError, r"^sigma is nan; pass a finite value in \[0, 1\]", lambda m: m.euler_step(x, v, math.nan, 0)),
    (ValueError, r"^sigma_next is -0.1; pass a finite value in \[0, 1\]", lambda m: m.euler_step(x, v, 0.5, -0.1)),
    (ValueError, r"^sigma is 750.0; pass a finite value in \[0, 1\]", lambda m: m.add_noise(x, v, 750)),
    (ValueError, r"^sigma contains 1.5; pass finite values in", lambda m: m.add_noise(x, v, torch.tensor([0.5, 1.5]))),
    (ValueError, r"^sigma has shape \[3\] but there are 2 samples", lambda m: m.add_noise(x, v, torch.ones(3))),
    (ValueError, r"^sigma has shape \[2, 1\]", lambda m: m.add_noise(x, v, sigma[:, None])),
    (TypeError, r"^sigma has dtype torch.int64", lambda m: m.add_noise(x, v, torch.tensor([0, 1]))),
    (TypeError, r"^sigma is str; pass a float", lambda m: m.add_noise(x, v, "high")),
    (TypeError, r"^sigma is str; pass a float", lambda m: m.euler_step(x, v, "0.9", 0.5)),
    (TypeError, r"^sigma_next is bool; pass a float", lambda m: m.euler_step(x, v, 0.9, False)),
    (TypeError, r"^scale is str; pass a float", lambda m: m.guide(x, v, " 4 ")),
    (TypeError, r"^sigma is ndarray; pass a float", lambda m: m.add_noise(x, v, sigma.numpy())),
    (TypeError, r"^sigma is NoneType; pass a float", lambda m: m.euler_step(x, v, None, 0.5)),
    (ValueError, r"^sigma requires grad", lambda m: m.add_noise(x, v, sigma.clone().requires_grad_())),
    (ValueError, r"^sigma_next is 0.6 but sigma is 0.5; pass sigma_next <= sigma", lambda m: m.euler_step(x, v, 0.5, 0.6)),
    (ValueError, r"^sigma_next exceeds sigma for sample 1", lambda m: m.euler_step(x, v, sigma, 0.45)),
    (ValueError, r"^sigma_next exceeds sigma for sample 0", lambda m: m.euler_step(x, v, 0.3, sigma)),
    (ValueError, r"^scale is inf; pass a finite value", lambda m: m.guide(x, v, math.inf)),
    (ValueError, r"^guidance_scale is 3.0 but uncond is None; pass", lambda m: m.euler_step(x, v, 1, 0, guidance_scale=3)),
    (ValueError, r"^guidance_scale contains 0.5\d* but uncond is None", lambda m: m.ab2_step(x, v, v, 1, 0.5, 0, guidance_scale=sigma)),
    (ValueError, r"^guidance_scale is 2.5 but uncond is None", lambda m: m.velocity_mse(x, v, guidance_scale=2.5)),
    (ValueError, r"^guidance_scale contains 3.0 but uncond is None", lambda m: m.velocity_mse_with_grad(x, v, guidance_scale=torch.tensor(3.0))),
    (TypeError, r"^guidance_scale is str; pass a float", lambda m: m.euler_step(x, v, 1, 0, guidance_scale="3")),
    (ValueError, r"^guidance_scale is nan; pass a finite", lambda m: m.velocity_mse(x, v, guidance_scale=math.nan)),
    (ValueError, r"^guidance_scale contains nan", lambda m: m.velocity_mse(x, v, uncond=v, guidance_scale=sigma * math.nan)),
    (ValueError, r"^velocity_next has shape \[2, 2\]", lambda m: m.heun_step(x, v, v[:, :2], 0.5, 0.4)),
    (ValueError, r"^sigma_next is 0.6 but sigma is 0.5", lambda m: m.heun_step(x, v, v, 0.5, 0.6)),
    (TypeError, r"^velocity_previous is NoneType", lambda m: m.ab2_step(x, v, None, 0.9, 0.5, 0.4)),
    (ValueError, r"^sigma_previous is 0.5 but sigma is 0.5; pass sigma_previous > sigma", lambda m: m.ab2_step(x, v, v, 0.5, 0.5, 0.4)),
    (ValueError, r"^sigma_previous is too low for sample 1", lambda m: m.ab2_step(x, v, v, torch.tensor([0.9, 0.4]), sigma, 0.1)),
    (ValueError, r"^sigma_previous is 0.4 but sigma is 0.5", lambda m: m.dpmpp_2m_step(x, v, v, 0.4, 0.5, 0.5)),
    (TypeError, r"^sigma_previous is NoneType; pass a float", lambda m: m.dpmpp_2m_step(x, v, v, None, 0.5, 0.4)),
    (ValueError, r"^clean_previous has shape \[1, 3\]", lambda m: m.dpmpp_2m_step(x, v, v[:1], 0.9, 0.5, 0.4)),
    (ValueError, r"^noise, seed and next_sample are all None; pass one", lambda m: m.sde_step(x, v, 0.5, 0.4)),
    (ValueError, r"^noise and seed are both given", lambda m: m.sde_step(x, v, 0.5, 0.4, noise=v, seed=1)),
    (ValueError, r"^next_sample has shape \[2, 2\]", lambda m: m.sde_step(x, v, 0.5, 0.4, next_sample=v[:, :2])),
    (ValueError, r"^noise requires grad", lambda m: m.sde_step(x, v, 0.5, 0.4, noise=v.clone().requires_grad_())),
    (ValueError, r"^noise_level is 0.0; pass a value above 0, or take euler_step", lambda m: m.sde_step(x, v, 0.5, 0.4, seed=1, noise_level=0.0)),
    (ValueError, r"^noise_level is nan", lambda m: m.sde_step(x, v, 0.5, 0.4, seed=1, noise_level=math.nan)),
    (TypeError, r"^noise_level is Tensor", lambda m: m.sde_step(x, v, 0.5, 0.4, seed=1, noise_level=sigma)),
    (ValueError, r"^seed is -1; pass an integer in \[0, 2\^63\)", lambda m: m.sde_step(x, v, 0.5, 0.4, seed=-1)),
    (ValueError, r"^seed is 9223372036854775808", lambda m: m.sde_step(x, v, 0.5, 0.4, seed=2**63)),
    (TypeError, r"^seed is float", lambda m: m.sde_step(x, v, 0.5, 0.4, seed=1.0)),
    (TypeError, r"^seed has dtype torch.int32", lambda m: m.sde_step(x, v, 0.5, 0.4, seed=torch.tensor([1, 2]).int())),
    (ValueError, r"^seed has shape \[3\] but there are 2 samples", lambda m: m.sde_step(x, v, 0.5, 0.4, seed=torch.tensor([1, 2, 3]))),
    (ValueError, r"^sigma is too large for a float", lambda m: m.add_noise(x, v, 10**400)),
    (TypeError, r"^std is NoneType; pass a float", lambda m: m.transition_kl(x, v, None)),
    (ValueError, r"^std is nan; pass a finite value", lambda m: m.transition_kl(x, v, math.nan)),
    (ValueError, r"^std is 0.0; pass a value of at least 1e-18", lambda m: m.transition_kl(x, v, 0.0)),
    (ValueError, r"^std is 1e-200; pass a value of at least 1e-18", lambda m: m.transition_kl(x, v, 1e-200)),
    (ValueError, r"^std contains 0.0; pass values of at least 1e-18", lambda m: m.transition_kl(x, v, sigma * 0)),
    (ValueError, r"^teacher_mean requires grad", lambda m: m.transition_kl(x, v.clone().requires_grad_(), 1.0)),
    (ValueError, r"^old_log_prob has shape \[3\] but log_prob has \[2\]", lambda m: m.policy_loss(x[:, 0], x[0], x[:, 0])),
    (ValueError, r"^advantage requires grad", lambda m: m.policy_loss(x, x, x.clone().requires_grad_())),
    (TypeError, r"^clip_range is Tensor; pass a float", lambda m: m.policy_loss(x, x, x, clip_range=sigma)),
    (TypeError, r"^clip_range is bool; pass a float", lambda m: m.policy_loss(x, x, x, clip_range=True)),
    (ValueError, r"^advantage_clip is nan", lambda m: m.policy_loss(x, x, x, advantage_clip=math.nan)),
    (TypeError, r"^advantage is list; pass a torch.Tensor", lambda m: m.policy_loss(x, x, [0.5])),
    (ValueError, r"^clip_range is 1; pass a value between 0 and 1", lambda m: m.policy_loss(x, x, x, clip_range=1)),
    (ValueError, r"^advantage_clip is 0.0; pass a value above 0", lambda m: m.policy_loss(x, x, x, advantage_clip=0.0)),
    (TypeError, r"^fields is Tensor; pass a list", lambda m: m.blend(x, [1.0])),
    (ValueError, r"^fields has 0 tensors; pass 1 to 32", lambda m: m.blend([], [])),
    (ValueError, r"^fields has 33 tensors; pass 1 to 32", lambda m: m.blend([x] * 33, [1.0] * 33)),
    (ValueError, r"^fields\[1\] has shape \[1, 3\]", lambda m: m.blend([x, v[:1]], [0.5, 0.5])),
    (TypeError, r"^fields\[1\] has dtype torch.bfloat16", lambda m: m.route([x, v.bfloat16()], torch.tensor([0, 1]))),
    (ValueError, r"^weights has 1 entries but fields has 2", lambda m: m.blend([x, v], [1.0])),
    (ValueError, r"^weights has shape \[3\]; pass \[2\] or \[2, 2\]", lambda m: m.blend([x, v], torch.ones(3))),
    (ValueError, r"^weights\[1\] is nan; pass a finite", lambda m: m.blend([x, v], [1.0, math.nan])),
    (ValueError, r"^weights contains a value that is not finite", lambda m: m.blend([x, v], torch.tensor([1.0, math.inf]))),
    (TypeError, r"^weights has dtype torch.int64", lambda m: m.blend([x, v], torch.tensor([1, 0]))),
    (TypeError, r"^weights\[0\] is 'a'; pass a float", lambda m: m.blend([x, v], ["a", 1.0])),
    (TypeError, r"^weights\[0\] is None; pass a float", lambda m: m.blend([x, v], [None, 1.0])),
    (TypeError, r"^weights is float; pass", lambda m: m.blend([x, v], 0.5)),
    (IndexError, r"^index\[1\] is 2 but there are only 2 fields", lambda m: m.route([x, v], torch.tensor([0, 2]))),
    (IndexError, r"^index\[0\] is -1", lambda m: m.route([x, v], torch.tensor([-1, 0]))),
    (ValueError, r"^index has shape \[3\] but the batch has 2 samples", lambda m: m.route([x, v], torch.tensor([0, 1, 0]))),
    (TypeError, r"^index has dtype torch.float32", lambda m: m.route([x, v], torch.tensor([0.0, 1.0]))),
    (TypeError, r"^index is list", lambda m: m.route([x, v], [0, 1])),
    (ValueError, r"^teacher has shape \[2, 2\]", lambda m: m.velocity_mse(x, v[:, :2])),
    (ValueError, r"^teacher requires grad, but no gradient flows to it; pass teacher.detach", lambda m: m.velocity_mse(x, v.clone().requires_grad_())),
    (ValueError, r"^uncond requires grad", lambda m: m.velocity_mse(x, v, uncond=v.clone().requires_grad_())),
    (ValueError, r"^weight has shape \[3\]", lambda m: m.velocity_mse(x, v, weight=torch.ones(3))),
    (ValueError, r"^mask has shape \[2, 2\] but student \[2, 3\]", lambda m: m.velocity_mse(x, v, mask=torch.ones(2, 2))),
    (ValueError, r"^mask has shape \[1, 2, 3\] but student", lambda m: m.velocity_mse(x, v, mask=torch.ones(1, 2, 3))),
    (TypeError, r"^mask has dtype torch.int64", lambda m: m.velocity_mse(x, v, mask=torch.ones(2, 3).long())),
    (TypeError, r"^grad_scale is Tensor; pass a float", lambda m: m.velocity_mse_with_grad(x, v, grad_scale=torch.tensor(2.0))),
    (TypeError, r"^grad_scale is Tensor; pass a float", lambda m: m.velocity_mse_with_grad(x, v, grad_scale=sigma)),
    (TypeError, r"^grad_scale is str; pass a float", lambda m: m.velocity_mse_with_grad(x, v, grad_scale="2")),
    (TypeError, r"^grad_scale is bool; pass a float", lambda m: m.velocity_mse_with_grad(x, v, grad_scale=True)),
    (ValueError, r"^grad_scale is nan", lambda m: m.velocity_mse_with_grad(x, v, grad_scale=math.nan)),
]  # fmt: skip


@pytest.mark.parametrize("module", [ops, ops.reference], ids=["native", "reference"])
@pytest.mark.parametrize(("error", "message", "run"), WRONG, ids=[m for _, m, _ in WRONG])
def test_one_sentence(
    module: Any, error: type[Exception], message: str, run: Callable[[Any], object]
) -> None:
    with pytest.raises(error, match=message) as caught:
        run(module)
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text and text.count(". ") == 0


def test_odd_tensors_do_not_crash() -> None:
    sparse = torch.eye(3).to_sparse()
    with pytest.raises((TypeError, ValueError, RuntimeError)):
        ops.guide(sparse, sparse, 2.0)
    expanded = torch.randn(2, 1).expand(2, 3)
    assert torch.equal(ops.guide(expanded, expanded.clone(), 1.0), expanded)
    resized = torch.randn(2, 3)
    resized.untyped_storage().resize_(0)
    with pytest.raises((TypeError, ValueError, RuntimeError)):
        ops.guide(resized, resized, 2.0)


def test_views_into_freed_storage_are_refused() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        whole = torch.randn(4, 300).to(dtype)
        for view in (whole[1:], whole[0], whole[3:, 299:]):
            whole.untyped_storage().resize_(whole.untyped_storage().nbytes())
            whole.untyped_storage().resize_(0)
            with pytest.raises(ValueError, match=r"^uncond holds no values, its storage was freed"):
                ops.guide(view, view, 2.0)
            with pytest.raises(ValueError, match=r"^fields\[0\] holds no values"):
                ops.route([view], torch.zeros(view.shape[0], dtype=torch.int64))
    index = torch.zeros(4, dtype=torch.int64)[2:]
    index.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=r"^index holds no values"):
        ops.route([x, v], index)


def test_views_beyond_a_shrunk_storage_are_refused() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        whole = torch.randn(4, 300).to(dtype)
        inside, last, strided = whole[:2], whole[3], whole.t()
        kept = inside.clone()
        whole.untyped_storage().resize_(whole.untyped_storage().nbytes() - 8)
        for view in (whole, last, strided):
            for module in (ops, ops.reference):
                with pytest.raises(ValueError, match=r"^uncond reaches beyond its storage, which was shrunk"):
                    module.guide(view, view, 2.0)
                with pytest.raises(ValueError, match=r"^teacher reaches beyond its storage"):
                    module.velocity_mse(torch.zeros(view.shape, dtype=dtype), view)
        assert torch.equal(ops.guide(inside, inside, 1.0), kept)
    each = torch.rand(8)[:2]
    assert ops.add_noise(x, v, each).isfinite().all()
    each.untyped_storage().resize_(4)
    with pytest.raises(ValueError, match=r"^sigma reaches beyond its storage"):
        ops.add_noise(x, v, each)


def test_numbers_of_any_kind() -> None:
    expected = ops.guide(x, v, 2.0)
    for two in (2, Fraction(2), np.float32(2), np.int64(2), np.array(2.0), torch.tensor(2.0)):
        assert torch.equal(ops.guide(x, v, two), expected)
        assert torch.equal(ops.reference.guide(x, v, two), ops.reference.guide(x, v, 2.0))


def test_a_scale_of_one_needs_no_uncond() -> None:
    plain = ops.euler_step(x, v, 1, 0)
    for one in (1, Fraction(1), np.float32(1), torch.ones(2), torch.tensor(1.0)):
        for m in (ops, ops.reference):
            assert torch.equal(m.euler_step(x, v, 1, 0, guidance_scale=one), plain)
            assert m.velocity_mse(x, v, guidance_scale=one) > 0


def test_unknown_backend() -> None:
    with pytest.raises(ValueError, match="backend is 'fast'; set it to 'native' or 'reference'"):
        ops.use("fast")  # type: ignore[arg-type]
    assert ops.build_info().backend == "native"
