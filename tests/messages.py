"""What the program can say, errors and warnings, read off its sources: `docs/troubleshooting.md` has to have it all."""

import ast
import inspect
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rotators import errors

ROOT = Path(__file__).parents[1]
SOURCES = (*sorted((ROOT / "rotators").rglob("*.py")), ROOT / "function_app.py")
ERRORS = {
    name: kind
    for name, kind in vars(errors).items()
    if inspect.isclass(kind) and issubclass(kind, errors.RotationError)
}
# What stands for whatever is known only when the error is made.
GAP = "…"
# Made into the text of an error elsewhere: what is unreadable in a value, why there is nothing to be done.
_PARTS_OF_ERRORS = {"_UnreadableError": (0,), "Skip": (1,), "_no_way_back": (0,), "complain": (0, 1), "_problem": (2,)}
# What an outcome warns of, and why a task is not retried.
_WARNINGS = {"warn": (0,), "Verdict": (1,), "reference": (1,)}
_LISTS_OF_WARNINGS = re.compile(r"\b(?:warnings|remarks)\b")
# Never leave their module, and say nothing to anybody.
_NOT_TOLD = {"_TakenBackError", "ValueError", "TypeError", "KeyError"}
_DEPTH = 4


@dataclass(frozen=True, slots=True)
class Message:
    """What is said, with a gap for each part that is not known beforehand, and where."""

    text: str
    where: str

    @property
    def is_passed_on(self) -> bool:
        """Whether it only hands on what somebody else says."""
        return not any(letter.isalpha() for letter in self.text.replace("secret", ""))


def messages() -> list[Message]:
    return [message for path in SOURCES for message in _of_module(path) if not message.is_passed_on]


def _of_module(path: Path) -> Iterator[Message]:
    tree = ast.parse(path.read_text())
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for node, function in _with_function(tree, None):
        arguments = _said_in(node, function)
        if arguments is None:
            continue
        reader = _Reader(functions, function)
        for texts in itertools.product(*(reader.texts(argument, _DEPTH) for argument in arguments)):
            yield Message(re.sub(f"{GAP}+", GAP, " ".join(texts)), f"{path.relative_to(ROOT)}:{arguments[0].lineno}")


def _with_function(node: ast.AST, function: ast.FunctionDef | None) -> Iterator[tuple[ast.AST, ast.FunctionDef | None]]:
    for child in ast.iter_child_nodes(node):
        yield child, function
        yield from _with_function(child, child if isinstance(child, ast.FunctionDef) else function)


def _said_in(node: ast.AST, function: ast.FunctionDef | None) -> list[ast.expr] | None:  # noqa: PLR0911 (one a way)
    """Return what makes the text of an error; None where none is made."""
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and _name(node.exc) not in ERRORS:
        name = _name(node.exc)
        return None if name in _NOT_TOLD or name in _PARTS_OF_ERRORS else [node.exc.args[0]]
    if isinstance(node, ast.Return) and function is not None and function.name == "verify":
        return [node.value] if isinstance(node.value, ast.Tuple) and node.value.elts else None
    if isinstance(node, ast.JoinedStr) and "{self._title}: " in ast.unparse(node):
        return [node]
    if not isinstance(node, ast.Call):
        return None
    if _name(node) in ERRORS:
        return [node.args[0]]
    if _name(node) == "append" and function is not None:
        is_told = function.name == "hindrances" or _LISTS_OF_WARNINGS.search(ast.unparse(node.func))
        return [node.args[0]] if is_told else None
    places = {**_PARTS_OF_ERRORS, **_WARNINGS}.get(_name(node))
    if places is None or len(node.args) <= max(places) or isinstance(node.args[0], ast.Starred):
        return None
    return [node.args[place] for place in places]


def _name(call: ast.Call) -> str:
    return getattr(call.func, "id", getattr(call.func, "attr", ""))


class _Reader:
    """Reads texts: those of a name are all that the function gives it, those of a call all that it returns."""

    def __init__(self, functions: Mapping[str, ast.FunctionDef], function: ast.FunctionDef | None) -> None:
        self._functions = functions
        self._given: dict[str, list[ast.expr]] = {}
        for node in ast.walk(function) if function is not None else ():
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self._given.setdefault(node.targets[0].id, []).append(node.value)
            elif isinstance(node, ast.NamedExpr):
                self._given.setdefault(node.target.id, []).append(node.value)
            elif isinstance(node, ast.For) and isinstance(node.target, ast.Tuple) and isinstance(node.iter, ast.Tuple):
                rows = [row.elts for row in node.iter.elts if isinstance(row, ast.Tuple)]
                for name, *values in zip(node.target.elts, *rows, strict=True):
                    self._given.setdefault(ast.unparse(name), []).extend(values)

    def texts(self, node: ast.expr, depth: int) -> list[str]:  # noqa: PLR0911 (one return a kind of expression)
        """Return the texts that an expression may have; a gap for what it does not tell."""
        match node:
            case ast.Constant(str() as text):
                return [text]
            case ast.JoinedStr(values):
                return ["".join(parts) for parts in itertools.product(*(self.texts(value, depth) for value in values))]
            case ast.FormattedValue(value=value):
                return self.texts(value, depth)
            case ast.BinOp(left, ast.Add(), right):
                return [a + b for a in self.texts(left, depth) for b in self.texts(right, depth)]
            case ast.Tuple(elements):
                return [text for element in elements for text in self.texts(element, depth)]
            case ast.IfExp(_, body, orelse):
                return self.texts(body, depth) + self.texts(orelse, depth)
            case ast.Name(name) if depth and name in self._given:
                return _known(text for value in self._given[name] for text in self.texts(value, depth - 1))
            case ast.Call(func=ast.Name(name)) if depth and name in self._functions:
                function = self._functions[name]
                inner = _Reader(self._functions, function)
                returned = [each.value for each in ast.walk(function) if isinstance(each, ast.Return) and each.value]
                return _known(text for value in returned for text in inner.texts(value, depth - 1))
        return [GAP]


def _known(texts: Iterator[str]) -> list[str]:
    """Return each text once; without a gap where there is something, nor the blank that a name is given at first."""
    found = [text for text in dict.fromkeys(texts) if text != GAP]
    return found if any(found) else [GAP]
