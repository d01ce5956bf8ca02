"""Write docs/api.md from the docstrings.

python docs/make_api.py            # write the file
python docs/make_api.py --check    # exit status 1 if the file is not what would be written
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import hvdkit as hvd  # noqa: E402  (from this checkout)

TARGET = ROOT / "docs" / "api.md"

INTRO = """\
# API

Every public name of hvdkit. `import hvdkit as hvd` comes first in all examples. Arguments have
the names, the order and the defaults that they have in `horovod.tensorflow.keras`.

This file is written by `python docs/make_api.py` from the docstrings; change those, not this.
"""

SECTIONS: dict[str, list[str]] = {
    "Start and stop": ["init", "shutdown", "is_initialized", "set_random_seed", "pause", "run"],
    "Training": [
        "DistributedOptimizer",
        "PartialDistributedOptimizer",
        "DistributedGradientTape",
        "PartialDistributedGradientTape",
        "Compression",
        "SyncBatchNormalization",
        "load_model",
        "strategy",
    ],
    "Data": ["shard", "ShardedData"],
    "Callbacks": ["callbacks"],
    "Checkpoints": ["checkpoint"],
    "One model over several devices and ranks": ["Mesh", "set_mesh", "parallel"],
    "Steps that are not finite": ["nonfinite"],
    "Variables": [
        "broadcast_variables",
        "broadcast_",
        "broadcast_layers",
        "broadcast_global_variables",
    ],
    "Collectives": [
        "allreduce",
        "grouped_allreduce",
        "allgather",
        "grouped_allgather",
        "broadcast",
        "alltoall",
        "reducescatter",
        "grouped_reducescatter",
        "barrier",
        "join",
    ],
    "Objects": ["broadcast_object", "broadcast_object_fn", "allgather_object"],
    "Operations": ["Average", "Sum", "Adasum", "Min", "Max", "Product"],
    "Who am I, how many are we": [
        "rank",
        "size",
        "local_rank",
        "local_size",
        "cross_rank",
        "cross_size",
        "is_homogeneous",
        "rank_op",
        "size_op",
        "local_rank_op",
        "local_size_op",
        "process_set_included_op",
    ],
    "Process sets": ["ProcessSet", "add_process_set", "remove_process_set", "global_process_set"],
    "What Horovod was built with": [
        "mpi_built",
        "mpi_enabled",
        "mpi_threads_supported",
        "gloo_built",
        "gloo_enabled",
        "nccl_built",
        "cuda_built",
        "rocm_built",
        "ccl_built",
        "ddl_built",
    ],
    "Timeline": ["start_timeline", "stop_timeline"],
    "Errors": [
        "HvdkitError",
        "FunctionError",
        "InstallationError",
        "NotInitializedError",
        "RankMismatchError",
        "NonfiniteGradientError",
        "CollectiveError",
    ],
    "Elastic": ["elastic"],
}

# Names that have no docstring of their own.
WITHOUT_DOCSTRING = {
    "Average": "The mean over ranks; the default of every reduction.",
    "Sum": "The sum over ranks.",
    "Adasum": "Horovod's adaptive sum (Maleki et al. 2020, arXiv:2006.02924); the number of "
    "ranks has to be a power of 2.",
    "Min": "The smallest value of each element.",
    "Max": "The largest value of each element.",
    "Product": "The product over ranks.",
    "ProcessSet": "Some of the ranks, as `ProcessSet([0, 2])`. Register it with "
    "`init(process_sets=[...])` or `add_process_set`, and pass it as `process_set=` to what only "
    "these ranks do. It has `ranks`, `rank()`, `size()`, `included()` and `process_set_id`.",
    "global_process_set": "All ranks; the default of every `process_set=`.",
}

# Nobody but hvdkit makes these.
WITHOUT_SIGNATURE = {"Compression", "ShardedData", "checkpoint.Manifest", "checkpoint.Preempted"}
# Methods that hvdkit itself calls.
INTERNAL = {"next_epoch", "dataset", "part_for", "weight_layout", "make_pieces"}
# Methods that Keras calls.
OF_KERAS = re.compile(
    r"on_|(call|build|compile|get_config|from_config|divide|merge)$|compute_|make_.*_function$"
    r"|.*build_config|build_from_config|(save|load)_own_variables"
)

_SECTION = re.compile(
    r"^(Args|Call arguments|Returns|Raises|Attributes|Example|Examples|Yields):[ \t]*$",
    re.MULTILINE,
)
_ITEM = re.compile(r"^(\*{0,2}\w+): +", re.MULTILINE)


def signature(name: str, thing: Any) -> str:
    """`name(arguments) -> type`, with types and defaults as they are written in the source."""
    result = ""
    if dataclasses.is_dataclass(thing):
        written = list(_fields(thing))
    else:
        function = inspect.unwrap(thing.__init__ if inspect.isclass(thing) else thing)
        if not getattr(function, "__module__", "").startswith("hvdkit"):
            return f"{name}(...)"  # the constructor of a Keras class, which its version decides
        node = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
        assert isinstance(node, ast.FunctionDef)
        if node.args.args and node.args.args[0].arg == "self":
            del node.args.args[0]
        written = [_double_quotes(argument) for argument in _one_by_one(node.args)]
        if node.returns is not None and not inspect.isclass(thing):
            result = f" -> {ast.unparse(node.returns)}".removesuffix(" -> None")
    one_line = f"{name}({', '.join(written)}){result}"
    if len(one_line) <= 84:
        return one_line
    return f"{name}(\n" + "".join(f"    {a},\n" for a in written) + f"){result}"


def _fields(cls: Any) -> Iterator[str]:
    """The arguments of a dataclass, which has no source of its `__init__`."""
    node = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(node, ast.ClassDef)
    kinds = {own.target.id: ast.unparse(own.annotation) for own in _annotated(node)}
    for own in dataclasses.fields(cls):
        if own.default_factory is not dataclasses.MISSING:
            default = f" = {getattr(own.default_factory, '__name__', '...')}()"
        else:
            default = "" if own.default is dataclasses.MISSING else f" = {own.default!r}"
        yield _double_quotes(f"{own.name}: {kinds[own.name]}{default}")


def _annotated(node: ast.ClassDef) -> Iterator[Any]:
    return (own for own in node.body if isinstance(own, ast.AnnAssign))


def _double_quotes(code: str) -> str:
    return code if '"' in code else code.replace("'", '"')


def _one_by_one(arguments: ast.arguments) -> Iterator[str]:
    """Each argument as it is written, and the marks between them."""
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(plain) - len(arguments.defaults)) + list(arguments.defaults)
    for argument, default in zip(plain, defaults, strict=True):
        yield _written(argument, default)
    if arguments.vararg:
        yield "*" + ast.unparse(arguments.vararg)
    elif arguments.kwonlyargs:
        yield "*"
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield _written(argument, default)
    if arguments.kwarg:
        yield "**" + ast.unparse(arguments.kwarg)


def _written(argument: ast.arg, default: ast.expr | None) -> str:
    if default is None:
        return ast.unparse(argument)
    equals = " = " if argument.annotation else "="
    return f"{ast.unparse(argument)}{equals}{ast.unparse(default)}"


def docstring(thing: Any) -> str:
    """The docstring as Markdown: sections become lists, the example a code block."""
    text = inspect.cleandoc(thing.__doc__ or "")
    parts = _SECTION.split(text)
    blocks = [parts[0].strip()]
    for title, raw in zip(parts[1::2], parts[2::2], strict=True):
        indented, *rest = re.split(r"\n(?=\w)", raw.strip("\n"), maxsplit=1)
        body = textwrap.dedent(indented).strip()
        if title.startswith("Example"):
            blocks.append(
                "```python\n" + re.sub(r"^(>>>|\.\.\.) ?", "", body, flags=re.M) + "\n```"
            )
        elif title in _LISTS:
            blocks.append(f"{_LISTS[title]}:\n\n" + _list(body))
        else:
            blocks.append(f"{title}: " + " ".join(body.split()))
        blocks += rest  # what stands behind the section, such as a source
    return "\n\n".join(block for block in blocks if block)


_LISTS = {
    "Args": "Arguments",
    "Call arguments": "Call arguments",
    "Attributes": "Attributes",
    "Raises": "Raises",
}


def _list(body: str) -> str:
    parts = _ITEM.split(body)
    lines = [
        f"- `{name}`: {' '.join(text.split())}"
        for name, text in zip(parts[1::2], parts[2::2], strict=True)
    ]
    return "\n".join(lines)


def entry(name: str, thing: Any) -> str:
    """A heading, the signature, and the docstring."""
    blocks = [f"### {name}"]
    if name in WITHOUT_DOCSTRING:
        return "\n\n".join([*blocks, WITHOUT_DOCSTRING[name]])
    if name not in WITHOUT_SIGNATURE and not _is_exception(thing):
        blocks.append(f"```python\nhvd.{signature(name, thing)}\n```")
    blocks.append(docstring(thing))
    if inspect.isclass(thing):
        blocks += _methods(thing)
    return "\n\n".join(blocks)


def _is_exception(thing: Any) -> bool:
    return inspect.isclass(thing) and issubclass(thing, Exception)


def _methods(cls: type) -> Iterator[str]:
    """What a class offers: methods of its own, and classes, but no hooks that Keras calls."""
    for name, member in vars(cls).items():
        if inspect.isclass(member):
            yield f"`hvd.{cls.__name__}.{name}`: {_summary(member)}"
        if name == "__len__":
            yield f"`len()`: {_summary(member)}"
        hidden = name.startswith("_") or OF_KERAS.match(name)
        if not hidden and inspect.isfunction(member) and name not in INTERNAL:
            yield f"`.{signature(name, member)}`: {_summary(member)}"


def _summary(thing: Any) -> str:
    return " ".join(docstring(thing).split("\n\n")[0].split())


def members(name: str, module: ModuleType) -> Iterator[str]:
    """What a public module offers."""
    yield inspect.cleandoc(module.__doc__ or "")
    for member in module.__all__:
        thing = getattr(module, member)
        yield (_overview if inspect.ismodule(thing) else entry)(f"{name}.{member}", thing)


def _overview(name: str, module: Any) -> str:
    """A module inside of one: what it is for, and a line for each class and function."""
    offered = {member: getattr(module, member) for member in module.__all__}
    lines = [
        f"- `{member}`: {_summary(thing)}"
        for member, thing in offered.items()
        if inspect.isclass(thing) or inspect.isfunction(thing)
    ]
    return "\n\n".join([f"### {name}", docstring(module), "\n".join(lines)])


def page() -> str:
    """The whole file.

    Raises:
        SystemExit: a public name is in no section, or a section has a name that is not public.
    """
    listed = [name for names in SECTIONS.values() for name in names]
    wrong = sorted(set(listed) ^ set(hvd.__all__))
    if wrong or len(listed) != len(set(listed)):
        sys.exit(f"docs/make_api.py: SECTIONS and hvdkit.__all__ differ in: {', '.join(wrong)}")
    index, blocks = [], []
    for title, names in SECTIONS.items():
        found = list(_section(names))
        blocks += [f"## {title}", *found]
        headings = [line[4:] for block in found for line in block.splitlines()[:1]]
        links = [
            f"[{h}](#{_anchor(h)})" for h, b in zip(headings, found, strict=True) if b[0] == "#"
        ]
        index.append(f"- **{title}**: " + ", ".join(links))
    return "\n\n".join([INTRO.strip(), "\n".join(index), *blocks]) + "\n"


def _section(names: list[str]) -> Iterator[str]:
    for name in names:
        thing = getattr(hvd, name)
        if inspect.ismodule(thing):
            yield from members(name, thing)
        else:
            yield entry(name, thing)


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def main() -> None:
    """Write the file, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    text = page()
    if not parser.parse_args().check:
        TARGET.write_text(text)
    elif not TARGET.exists() or TARGET.read_text() != text:
        sys.exit("docs/api.md is out of date: run python docs/make_api.py")


if __name__ == "__main__":
    main()
