"""Facts about the code, read from its source: who imports whom, and what is long.

python -m tests.helpers.architecture [CHECKOUT]
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TOP = ("base", "dedup", "model", "pipelines", "jobs")
LAYERS = {
    "base": ("base",),
    "dedup": ("dedup", "base"),
    "model": ("model", "base"),
    "pipelines": ("pipelines", "dedup", "model", "base"),
    "jobs": ("jobs", "pipelines", "dedup", "model", "base"),
}
"""What each folder may import."""
_CORPUS = ("corpus.reading", "corpus.text", "corpus.settings", "corpus.ledger", "corpus.inputs")
_BELOW_STAGES = (*_CORPUS, "config", "runtime", "inference.models")
WITHIN_PIPELINES: dict[str, tuple[str, ...]] = {
    "runtime.settings": (),
    "inference.settings": (),
    "corpus.reading": (),
    "corpus.text": ("corpus.reading",),
    "corpus.settings": ("corpus.reading",),
    "corpus.ledger": (),
    "corpus.inputs": ("corpus.reading",),
    "config": ("corpus.settings", "corpus.reading", "corpus.text", "runtime.settings", "inference.settings"),
    "runtime": ("runtime.settings", "config"),
    "training.results": (),
    "training": ("config", "runtime", "training.results"),
    "inference.models": ("training.results",),
    "inference": ("inference.settings", "config", "runtime", "inference.models"),
    "corpus.stages": _BELOW_STAGES,
    "corpus.report": (*_BELOW_STAGES, "corpus.stages"),
    "corpus.versions": (*_BELOW_STAGES, "corpus.stages", "corpus.report"),
    "corpus.views": (*_BELOW_STAGES, "corpus.stages", "corpus.report", "corpus.versions"),
}
"""From the lowest on: what each folder or module of pipelines/ may import of it, besides itself.

Settings stand below the configuration that composes them, and it below what runs.
"""
MAX_FUNCTION = 80
MAX_CLASS = 200
COMPILED = {"njit", "jit", "kernel", "intrinsic", "vectorize", "overload"}
"""Names in the decorators of compiled kernels."""


@dataclass(frozen=True, kw_only=True)
class Import:
    """One module imports another, when it is loaded or when a function runs."""

    importer: str
    imported: str
    late: bool


@dataclass(frozen=True, kw_only=True)
class Block:
    """A function or class and its lines."""

    place: str
    lines: int
    is_class: bool
    compiled: bool


@cache
def modules(root: Path) -> dict[str, Path]:
    """The modules of the package folders by name; `__init__` is its folder's."""
    found = {}
    for top in TOP:
        for path in sorted((root / top).rglob("*.py")):
            name = ".".join(path.relative_to(root).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


@cache
def tree(path: Path) -> ast.Module:
    """The parsed source of a module."""
    return ast.parse(path.read_bytes())


def imports(root: Path) -> list[Import]:
    """Every import of a module of ours by another; those for type checkers alone are left out."""
    known = modules(root)
    return [
        Import(importer=name, imported=imported, late=late)
        for name, path in known.items()
        for imported, late in _imports(tree(path), known, late=False)
        if imported != name
    ]


def _imports(node: ast.AST, known: dict[str, Path], *, late: bool) -> Iterator[tuple[str, bool]]:
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return
    if isinstance(node, ast.Import):
        yield from ((alias.name, late) for alias in node.names if alias.name in known)
    elif isinstance(node, ast.ImportFrom) and node.module:
        for alias in node.names:
            inner = f"{node.module}.{alias.name}"
            if inner in known:
                yield inner, late
            elif node.module in known:
                yield node.module, late
    for child in ast.iter_child_nodes(node):
        within = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _imports(child, known, late=within)


def upward(root: Path) -> list[str]:
    """Imports of a folder that may not be imported from there, in functions too."""
    return sorted(
        f"{one.importer} imports {one.imported}"
        for one in imports(root)
        if one.imported.split(".")[0] not in LAYERS[one.importer.split(".")[0]]
    )


def upward_within_pipelines(root: Path) -> list[str]:
    """Imports inside pipelines/ that are not in the table, in functions too."""
    return sorted(
        f"{one.importer} imports {one.imported}"
        for one in imports(root)
        if one.importer.startswith("pipelines.") and one.imported.startswith("pipelines.")
        if (above := layer(one.importer)) != (below := layer(one.imported))
        and below not in WITHIN_PIPELINES[above]
    )


def layer(module: str) -> str:
    """The row of the table that a module of pipelines/ belongs to, the narrowest one."""
    inside = module.removeprefix("pipelines.")
    rows = [row for row in WITHIN_PIPELINES if f"{inside}.".startswith(f"{row}.")]
    if not rows:
        raise ValueError(f"{module} has no place in the table of tests/helpers/architecture.py")
    return max(rows, key=len)


def circles(root: Path) -> list[list[str]]:
    """Groups of modules that import each other when they are loaded."""
    graph = _graph(root)
    reached = {name: _reached(graph, name) for name in graph}
    groups = {
        tuple(sorted(other for other in reached[name] if name in reached[other]))
        for name in graph
        if name in reached[name]
    }
    return [list(group) for group in sorted(groups)]


def longest_chain(root: Path) -> list[str]:
    """The longest way from module to module by imports when they are loaded."""
    graph = _graph(root)
    best: dict[str, list[str]] = {}

    def chain(name: str, above: tuple[str, ...]) -> list[str]:
        if name in best:
            return best[name]
        below = [chain(other, (*above, name)) for other in graph[name] if other not in above + (name,)]
        best[name] = [name, *max(below, key=len, default=[])]
        return best[name]

    return max((chain(name, ()) for name in sorted(graph)), key=len)


def _graph(root: Path) -> dict[str, list[str]]:
    graph: dict[str, list[str]] = {name: [] for name in modules(root)}
    for one in imports(root):
        if not one.late:
            graph[one.importer].append(one.imported)
    return graph


def _reached(graph: dict[str, list[str]], name: str) -> set[str]:
    found: set[str] = set()
    waiting = list(graph[name])
    while waiting:
        if (other := waiting.pop()) not in found:
            found.add(other)
            waiting += graph[other]
    return found


def blocks(root: Path) -> list[Block]:
    """Every function and class, the longest first."""
    found = []
    for name, path in modules(root).items():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                decorators = {word for one in node.decorator_list for word in _words(one)}
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                is_class = isinstance(node, ast.ClassDef)
                compiled = bool(decorators & COMPILED)
                place = f"{name}.{node.name}"
                found.append(Block(place=place, lines=lines, is_class=is_class, compiled=compiled))
    return sorted(found, key=lambda block: (-block.lines, block.place))


def _words(node: ast.AST) -> Iterator[str]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name):
            yield inner.id
        elif isinstance(inner, ast.Attribute):
            yield inner.attr


def too_long(root: Path, *, compiled: bool = False) -> list[Block]:
    """Functions and classes over the limits: those that are compiled, or all others."""
    return [
        block
        for block in blocks(root)
        if block.compiled == compiled and block.lines > (MAX_CLASS if block.is_class else MAX_FUNCTION)
    ]


def occurrences(root: Path, text: str) -> int:
    """How often a text occurs in the source of the package folders."""
    return sum(path.read_text().count(text) for path in modules(root).values())


def main() -> None:
    """Print the facts of a checkout: this one, or the one that is named."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2]
    inside = [path for name, path in modules(root).items() if name.startswith("pipelines")]
    own = [path for path in inside if path.name != "__init__.py"]
    chain = longest_chain(root)
    print(f"pipelines/: {len({path.parent for path in inside})} folders, {len(own)} modules")
    print(f"longest import chain: {len(chain)} modules: {' > '.join(chain)}")
    print(f"circles: {[' = '.join(group) for group in circles(root)] or 'none'}")
    print(f"upward imports: {upward(root) + upward_within_pipelines(root) or 'none'}")
    for compiled, name in ((False, "too long"), (True, "compiled kernels, longer")):
        found = too_long(root, compiled=compiled)
        print(f"{name}: {len(found)}: {', '.join(f'{b.place} {b.lines}' for b in found)}")
    for text in ("dict[str, Any]", 'rsplit("/"'):
        print(f"{text}: {occurrences(root, text)}")


if __name__ == "__main__":
    main()
