"""Write the pages that say what the code says: docs/cli/ from the commands, docs/config.md from the settings.

In docs/replication.md the tables below ``<!-- table: NAME -->`` are those of the committed replication, in
docs/kernels.md the one below ``<!-- signatures -->`` is that of `danceopd.ops`.

python docs/generate.py          # or: make docs
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

import typer
from typer.models import ArgumentInfo

from danceopd import ops
from danceopd.cli import app
from danceopd.training.settings_help import describe_settings

DOCS = Path(__file__).parent
TABLES = DOCS.parent / "benchmarks" / "results" / "replication" / "tables"
NOTICE = "<!-- Written by docs/generate.py: change the help in {source} instead, then `make docs`. -->"
_TYPES = {int: "integer", float: "number", str: "text", Path: "path"}


class Parameter(NamedTuple):
    """An argument or option of a command.

    Attributes:
        usage: how it is written: an argument's place in the line, or the option's names.
        text: what it means.
        note: its type, range and default in a line.
        is_argument: whether it stands without a name.
    """

    usage: str
    text: str
    note: str
    is_argument: bool


def pages() -> dict[Path, str]:
    """Every generated page by its path below docs/."""
    commands = {str(command.name or command.callback.__name__): command.callback for command in _commands()}
    written = {Path("cli/README.md"): _index(commands), Path("config.md"): _config()}
    for name, command in commands.items():
        written[Path("cli") / f"{name}.md"] = _command(name, command)
    written[Path("replication.md")] = _with_tables((DOCS / "replication.md").read_text(encoding="utf-8"))
    written[Path("kernels.md")] = _with_signatures((DOCS / "kernels.md").read_text(encoding="utf-8"))
    return written


def _with_signatures(text: str) -> str:
    """The page with the calls of `danceopd.ops` as they are now below their marker."""
    functions = {name: getattr(ops, name) for name in ops.__all__ if inspect.isfunction(getattr(ops, name))}
    # No other escapes: formulas stand in code, where Markdown shows them as they are.
    told = {name: inspect.getdoc(each) or "" for name, each in functions.items()}
    first = {name: " ".join(text.split("\n\n")[0].split()).replace("|", "\\|") for name, text in told.items()}
    rows = [f"| `{name}{_without_types(each)}` | {first[name]} |" for name, each in functions.items()]
    table = ["| call of `opd.ops` | |", "|---|---|", *rows]
    marker = r"(<!-- signatures: .* -->)\n\n(\|.*\n)*"
    return re.sub(marker, lambda found: "\n".join([found[1], "", *table, ""]), text)


def _without_types(function: Callable[..., Any]) -> str:
    """The arguments and their defaults; with their types a line would be too long to read."""
    signature = inspect.signature(function)
    plain = [each.replace(annotation=each.empty) for each in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=signature.empty))


def _with_tables(text: str) -> str:
    """The page with each table as it is now in the file that its marker names."""

    def current(found: re.Match[str]) -> str:
        lines = (TABLES / f"{found['name']}.md").read_text(encoding="utf-8").splitlines()
        table = "\n".join(line for line in lines if line.startswith("|"))
        return f"{found['marker']}\n\n{table}\n\n"  # without the last line what follows would be a row

    marked = r"(?P<marker><!-- table: (?P<name>[\w-]+) -->)\n\n(\|.*\n)*\n*"
    return re.sub(marked, current, text).rstrip("\n") + "\n"


def _commands() -> list[Any]:
    return list(app.registered_commands)


def _index(commands: Mapping[str, Callable[..., None]]) -> str:
    group: Any = app.registered_callback
    lines = [NOTICE.format(source="danceopd/cli"), "# The command line", "", *_paragraphs(group.callback)]
    lines += ["", "| command | |", "|---|---|"]
    lines += [f"| [`danceopd {name}`]({name}.md) | {_paragraphs(f)[0]} |" for name, f in commands.items()]
    lines += ["", "`python -m danceopd` does the same. Options before the command:", ""]
    lines += _table("option", [(_names(p.usage), p.text, p.note) for p in _parameters(group.callback)])
    lines += [
        "",
        "A mistake ends in one sentence on stderr and exit code 2, training that fails on its way in exit "
        "code 1, and training that a signal stopped in 128 plus its number.",
    ]
    return "\n".join(lines) + "\n"


def _command(name: str, command: Callable[..., None]) -> str:
    parameters = list(_parameters(command))
    arguments = [param for param in parameters if param.is_argument]
    options = [param for param in parameters if not param.is_argument]
    usage = " ".join(["danceopd", name, *(["[OPTIONS]"] if options else []), *(a.usage for a in arguments)])
    lines = [NOTICE.format(source="danceopd/cli"), f"# danceopd {name}", "", "```", usage, "```"]
    for paragraph in _paragraphs(command):
        lines += ["", paragraph]
    for kind, rows in (("argument", arguments), ("option", options)):
        if rows:
            lines += ["", *_table(kind, [(_names(row.usage), row.text, row.note) for row in rows])]
    if any(argument.usage == "CONFIG" for argument in arguments):
        lines += ["", "All keys of CONFIG are in [the config](../config.md)."]
    return "\n".join(lines) + "\n"


def _parameters(command: Callable[..., None]) -> Iterator[Parameter]:
    """Read off the signature, where each parameter is annotated with what typer makes of it."""
    hints = get_type_hints(command, include_extras=True)
    for name, param in inspect.signature(command).parameters.items():
        if hints[name] is typer.Context:
            continue
        annotation, info = get_args(hints[name])[:2]
        required = param.default is inspect.Parameter.empty
        union = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
        kinds = [kind for kind in union if kind is not type(None)]
        kind = (get_args(kinds[0]) or kinds)[0]
        is_argument = isinstance(info, ArgumentInfo)
        if is_argument:
            usage = info.metavar or name.upper()
            usage = (usage if required else f"[{usage}]") + ("..." if get_origin(kinds[0]) is list else "")
        else:
            # In an annotation typer takes the first name for a default.
            names = [each for each in (info.default, *(info.param_decls or ())) if isinstance(each, str)]
            usage = ", ".join(names or ["--" + name.replace("_", "-")]).replace("/", ", ")
        yield Parameter(usage, _markup(info.help), _note(info, kind, param.default), is_argument)


def _note(info: Any, kind: type, default: object) -> str:
    notes = []
    if issubclass(kind, Enum):
        notes.append("one of " + ", ".join(f"`{each.value}`" for each in kind))
        default = getattr(default, "value", default)
    elif kind is not bool:
        notes.append(_TYPES[kind] if info.min is None else f"{_TYPES[kind]}, at least {info.min:g}")
    if default is inspect.Parameter.empty:
        notes.append("required")
    elif default is not None and default is not False:
        notes.append("default: yes" if default is True else f"default: `{default}`")
    if info.envvar:
        notes.append(f"environment: `{info.envvar}`")
    return "; ".join(notes)


def _config() -> str:
    lines = [
        NOTICE.format(source="the settings classes"),
        "# The config",
        "",
        "What a run's YAML file may hold, as `danceopd train --help` tells it. On the command line "
        "`KEY=VALUE` sets one key: dots go into mappings, numbers into lists, the value is YAML "
        "(`teachers.0.guidance_scale=4.5`). In Python the same keys are the keywords of "
        "`danceopd.TrainConfig`, `Teacher`, `Route`, `StudentConfig`, `QuerySettings` and "
        "`ValidationSettings`. An unknown key or a value out of its range is an error that names the key.",
    ]
    for group in describe_settings():
        # Groups of the top level have a title, those below it the place of their keys.
        title = group.title if group.title[0].isupper() else f"`{group.title.rstrip('.')}`"
        lines += ["", f"## {title}"]
        if group.text:
            lines += ["", group.text.replace("*", "\\*")]
        rows = [(f"`{key.name}`", _escape(key.text), _escape(key.note)) for key in group.keys]
        lines += ["", *_table("key", rows)]
    return "\n".join(lines) + "\n"


def _table(first: str, rows: Sequence[tuple[str, ...]]) -> list[str]:
    return [f"| {first} | | |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]


def _paragraphs(command: Callable[..., None]) -> list[str]:
    return [_markup(" ".join(part.split())) for part in (inspect.getdoc(command) or "").split("\n\n")]


def _names(usage: str) -> str:
    return ", ".join(f"`{_escape(name)}`" for name in usage.split(", "))


def _markup(text: str) -> str:
    """The terminal's markup as Markdown; commands are bold there."""
    return _escape(re.sub(r"\[bold\](.*?)\[/bold\]", r"`\1`", text))


def _escape(text: str) -> str:
    """Text for a cell of a table."""
    return text.replace("|", "\\|").replace("*", "\\*")


def main() -> None:
    """Write the pages, and remove those of commands that are gone."""
    written = pages()
    for stale in set((DOCS / "cli").glob("*.md")) - {DOCS / path for path in written}:
        stale.unlink()
    for path, text in written.items():
        (DOCS / path).parent.mkdir(exist_ok=True)
        (DOCS / path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
