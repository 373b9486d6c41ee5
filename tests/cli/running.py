"""What the tests of the command line run it with."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from danceopd import cli


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def told(result: Result, *words: str, code: int = 2) -> None:
    """The result is one sentence on stderr with these words, and nothing on stdout."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    # The tiny family's experts are random, which a check warns of before it comes to the mistake.
    (sentence,) = [line for line in result.stderr.splitlines() if "weights are untrained" not in line]
    assert sentence.startswith("danceopd: ") and "Traceback" not in sentence
    for word in words:
        assert word in sentence
