from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "code",
    [
        "import danceopd.shapesworld as s; assert all(hasattr(s, name) for name in s.__all__)",
        "import danceopd.flow, danceopd.methods, danceopd.sampling, danceopd.training, sys; "
        "assert not {'diffusers', 'peft', 'danceopd.shapesworld'} & sys.modules.keys()",
    ],
    ids=["shapesworld-alone", "the-core-without-diffusers"],
)
def test_a_fresh_interpreter_imports(code: str) -> None:
    outcome = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
