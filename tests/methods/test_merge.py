from __future__ import annotations

import pytest
import torch

from danceopd.methods import add_differences, merge_weights


def state(value: float, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((2, 3), value, dtype=dtype), "steps": torch.tensor(4)}


def test_the_mean_of_experts() -> None:
    merged = merge_weights([state(1.0), state(2.0), state(6.0)])
    torch.testing.assert_close(merged["weight"], torch.full((2, 3), 3.0))
    assert merged["steps"] == 4


def test_weights_are_normalised() -> None:
    torch.testing.assert_close(
        merge_weights([state(1.0), state(5.0)], [3.0, 1.0])["weight"], torch.full((2, 3), 2.0)
    )


def test_one_expert_is_itself_in_new_storage() -> None:
    expert = {"weight": torch.randn(4, generator=torch.Generator().manual_seed(0))}
    merged = merge_weights([expert])
    assert torch.equal(merged["weight"], expert["weight"])
    assert merged["weight"].data_ptr() != expert["weight"].data_ptr()


def test_bf16_is_rounded_once() -> None:
    generator = torch.Generator().manual_seed(0)
    experts = [{"weight": torch.randn(256, generator=generator).bfloat16()} for _ in range(7)]
    merged = merge_weights(experts)["weight"]
    exact = torch.stack([expert["weight"].double() for expert in experts]).mean(dim=0)
    assert merged.dtype == torch.bfloat16
    # Half a unit in the last of bf16's 8 significant bits, plus fp32 rounding before it.
    assert bool(((merged.double() - exact).abs() <= exact.abs() * 2**-8 * 1.001 + 1e-6).all())


def test_different_architectures_are_refused() -> None:
    with pytest.raises(ValueError, match=r"states\[1\] differs from states\[0\] at 'bias'"):
        merge_weights([state(1.0), state(1.0) | {"bias": torch.zeros(1)}])
    with pytest.raises(ValueError, match=r"states\[2\] differs from states\[0\] at 'weight'"):
        merge_weights([state(1.0), state(1.0), state(1.0, torch.float16)])


def test_other_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one state dict"):
        merge_weights([])
    with pytest.raises(ValueError, match="got 1 for 2"):
        merge_weights([state(1.0), state(2.0)], [1.0])
    with pytest.raises(ValueError, match="integers of 'steps'"):
        merge_weights([state(1.0), state(1.0) | {"steps": torch.tensor(5)}])


def test_differences_from_the_base_are_added_with_their_factors() -> None:
    merged = add_differences(state(1.0), [state(3.0), state(0.0)], [0.5, 2.0])
    torch.testing.assert_close(merged["weight"], torch.full((2, 3), 1.0 + 0.5 * 2.0 + 2.0 * -1.0))
    assert merged["steps"] == 4


def test_an_expert_with_factor_one_is_itself_and_with_zero_the_base() -> None:
    generator = torch.Generator().manual_seed(0)
    base, expert = ({"weight": torch.randn(64, generator=generator).half()} for _ in range(2))
    assert torch.equal(add_differences(base, [expert], [0.0])["weight"], base["weight"])
    torch.testing.assert_close(add_differences(base, [expert], [1.0])["weight"], expert["weight"])


@pytest.mark.parametrize(
    ("factors", "message"), [([1.0, 2.0], "factors must hold one number"), ([float("nan")], "finite")]
)
def test_bad_factors_are_named(factors: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        add_differences(state(1.0), [state(2.0)], factors)


def test_a_state_of_another_model_is_named() -> None:
    with pytest.raises(ValueError, match=r"states\[0\] differs"):
        add_differences(state(1.0), [{"other": torch.zeros(1)}], [1.0])
