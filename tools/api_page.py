"""The page of the public names: signatures and docstrings as they stand in the source."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "effir_integrations"
HEAD = """# API

The public names of `effir_integrations`, from their docstrings. How they go together:
[the pipeline in Python](python.md).
"""
Definition = ast.ClassDef | ast.FunctionDef


def public_names() -> dict[str, str]:
    """Return the module that each public name comes from; nothing is imported for it."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    held = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id in ("_HOMES", "__all__")
    }
    return {name: held["_HOMES"][name] for name in held["__all__"]}


def api_page() -> str:
    """Return the page, functions first, then classes.

    Raises:
        ValueError: A name is not defined in the module that is its home, or has no docstring.
    """
    entries: dict[type, list[str]] = {ast.FunctionDef: [], ast.ClassDef: []}
    for name, home in sorted(public_names().items(), key=lambda x: x[0].lower()):
        path = PACKAGE / (home.replace(".", "/") + ".py")
        source = path.read_text(encoding="utf-8")
        found = {x.name: x for x in ast.parse(source).body if isinstance(x, Definition)}
        if name not in found or ast.get_docstring(found[name]) is None:
            raise ValueError(f"{path} defines no {name} with a docstring; see _HOMES")
        entry = "\n".join(_entry(found[name], source, found))
        entries[type(found[name])].append(entry)
    functions, classes = entries.values()
    return "\n".join([HEAD, "## Functions\n", *functions, "## Classes\n", *classes])


def _entry(node: Definition, source: str, beside: dict[str, Definition]) -> Iterator[str]:
    yield f"### {node.name}\n"
    if isinstance(node, ast.ClassDef):
        yield from _class(node, source, "####")
        return
    yield from _function(node, source)
    result = beside.get(ast.unparse(node.returns)) if node.returns else None
    if isinstance(result, ast.ClassDef) and result.name not in public_names():
        yield f"#### {node.name}: {result.name}\n"
        yield from _class(result, source, "#####")


def _class(node: ast.ClassDef, source: str, level: str) -> Iterator[str]:
    bases = ", ".join(map(ast.unparse, node.bases))
    yield _code(f"class {node.name}({bases})" if bases else f"class {node.name}")
    yield from _docstring(ast.get_docstring(node) or "")
    for field, following in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and not ast.unparse(field.target).startswith("_"):
            text = _constant(following)
            yield f"* `{ast.unparse(field)}`" + (f"\\\n  {text}" if text else "")
    yield ""
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and not member.name.startswith("_"):
            if ast.get_docstring(member):
                yield f"{level} {node.name}.{member.name}\n"
                yield from _function(member, source)


def _function(node: ast.FunctionDef, source: str) -> Iterator[str]:
    lines = source.splitlines()[node.lineno - 1 : node.body[0].lineno - 1]
    marks = [f"@{ast.unparse(mark)}" for mark in node.decorator_list]
    signature = textwrap.dedent("\n".join(lines)).strip().removesuffix(":")
    yield _code("\n".join([*marks, signature.removeprefix("def ")]))
    yield from _docstring(ast.get_docstring(node) or "")


def _docstring(text: str) -> Iterator[str]:
    """Yield a docstring as Markdown: each section of Google's style as a list."""
    parts = re.split(r"^(Args|Returns|Yields|Raises|Example):\n", text, flags=re.MULTILINE)
    yield parts[0].strip() + "\n"
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        yield f"**{title}**\n"
        body = textwrap.dedent(body).strip()
        if title == "Example":
            yield _code(body)
        elif title in ("Returns", "Yields"):
            yield body + "\n"
        else:
            entries = re.split(r"^(?=\S)", body, flags=re.MULTILINE)
            yield from (_item(" ".join(entry.split())) for entry in entries if entry.strip())
            yield ""


def _item(entry: str) -> str:
    name, colon, text = entry.partition(":")
    return f"* `{name}`:{text}" if colon else f"* {entry}"


def _constant(node: ast.AST | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return " ".join(str(node.value.value).split())
    return ""


def _code(text: str) -> str:
    return f"```python\n{text}\n```\n"
