"""Thousands of calls with arguments drawn from what goes wrong: an error or a result, never a crash."""

from __future__ import annotations

import inspect
import math
import random
from typing import Any

import numpy as np
import pytest
import torch

from danceopd import ops

CALLS = 1000
NAMES = (
    "guide",
    "euler_step",
    "heun_step",
    "ab2_step",
    "dpmpp_2m_step",
    "sde_step",
    "add_noise",
    "blend",
    "route",
    "velocity_mse",
    "velocity_mse_with_grad",
    "policy_loss",
    "transition_kl",
)


def tensors() -> list[Any]:
    x = torch.randn(2, 3)
    emptied = torch.randn(2, 3)
    emptied.untyped_storage().resize_(0)
    behind = torch.randn(4, 3)
    freed = [behind[2:], behind.flatten()[3:9].view(2, 3)]
    behind.untyped_storage().resize_(0)
    shrunk = torch.randn(4, 3)
    beyond = [shrunk[2:], shrunk.t()[:2]]
    shrunk.untyped_storage().resize_(40)
    floats = [
        x,
        x.bfloat16(),
        x.half(),
        x.double(),
        x.t().clone().t(),
        x[:, :1].expand(2, 3),
        torch._neg_view(x),
    ]
    others = [
        x.long(),
        x.cfloat(),
        x > 0,
        x.to("meta"),
        x.to_sparse(),
        x.numpy(),
        emptied,
        *freed,
        *beyond,
        x.tolist(),
    ]
    shapes = [x[:1], x[0], x[0, 0], x[:0], x[:, :0], x[None], torch.zeros((1,) * 20), torch.zeros(2, 4)]
    leaves = [torch.randn(2, 3, requires_grad=True), torch.nn.Parameter(x)]
    return floats * 4 + others + shapes + leaves


def numbers() -> list[Any]:
    plain = [0.5, 0.9, 0.1, 0, 1, 0.25, 1.0]
    wrong = [
        math.nan,
        math.inf,
        -1.0,
        750,
        -(2**70),
        10**400,
        "high",
        "0.5",
        True,
        None,
        1j,
        [0.5],
        (),
        {},
        np.float32(0.5),
    ]
    each = torch.tensor([0.5, 0.4])
    some = [
        each,
        each.double(),
        each.half(),
        each[:1],
        each[None],
        each * math.nan,
        each.long(),
        each[0],
        each + 1,
    ]
    return plain * 3 + wrong + some


def lists() -> list[Any]:
    x = torch.randn(2, 3)
    fields = [
        [x, x],
        [x],
        [],
        [x] * 33,
        (x, x),
        [x, None],
        [x, x[:1]],
        [x, x.double()],
        [[x], x],
        x,
        None,
        "ab",
    ]
    return fields * 2 + [
        [0.5, 0.5],
        [0.5],
        [math.nan, 1.0],
        ["a", 0.5],
        torch.tensor([0, 1]),
        torch.tensor([9, -1]),
    ]


@pytest.mark.filterwarnings("ignore")  # torch's own about numpy scalars and complex numbers
@pytest.mark.parametrize("name", NAMES)
def test_random_calls(name: str) -> None:
    call = getattr(ops, name)
    parameters = list(inspect.signature(call).parameters.values())
    pick = random.Random(name)
    pools = {"tensor": tensors(), "number": numbers(), "list": lists()}
    likely = {
        p.name: "list"
        if p.name in ("fields", "weights", "index")
        else "number"
        if p.name.startswith(
            ("sigma", "guidance", "noise_level", "std", "clip", "adv", "weight", "grad", "seed")
        )
        or p.name == "scale"
        else "tensor"
        for p in parameters
    }
    refused = 0
    for _ in range(CALLS):
        arguments, options = [], {}
        for p in parameters:
            kind = likely[p.name] if pick.random() < 0.9 else pick.choice(list(pools))
            value = pick.choice(pools[kind])
            if p.kind is p.KEYWORD_ONLY:
                if pick.random() < 0.3:
                    options[p.name] = value
            else:
                arguments.append(value)
        tensors_given = [a for a in arguments if isinstance(a, torch.Tensor)]
        if "out" in likely and tensors_given and pick.random() < 0.3:
            options["out"] = pick.choice(tensors_given)
        try:
            with torch.set_grad_enabled(pick.random() < 0.5):
                call(*arguments, **options)
        except (TypeError, ValueError, IndexError) as error:
            refused += 1
            text = str(error)
            assert text.endswith(".") and "\n" not in text, (arguments, options)
    assert CALLS / 4 < refused < CALLS
