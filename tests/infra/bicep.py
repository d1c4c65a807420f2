"""Bicep as these tests read it: what a file declares, and with which values.

No Bicep compiler is to be had on PyPI or npm. A grammar is, so that what the compiler would say of names and modules is
asked here.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import tree_sitter_bicep
from tree_sitter import Language, Node, Parser

INFRA = Path(__file__).parents[2] / "infra"
ENTRIES = ("main.bicep", "events.bicep")
"""What is deployed by itself; everything else is a module."""

_PARSER = Parser(Language(tree_sitter_bicep.language()))
_DECLARATIONS = {
    "parameter_declaration",
    "variable_declaration",
    "resource_declaration",
    "module_declaration",
    "output_declaration",
}


@dataclass(frozen=True, slots=True)
class Expression:
    """What only a deployment can work out. `begins` is what is known of a string's beginning."""

    text: str
    begins: str = ""
    branches: tuple["Value", ...] = ()
    """Values in it, such as both sides of `? :`."""


type Value = str | int | bool | Expression | list[Value] | dict[str, Value] | None


@dataclass(frozen=True, slots=True)
class Declaration:
    """A parameter or an output; `default` is the text of its value, blank if there is none."""

    name: str
    type: str
    description: str
    default: str
    allowed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Resource:
    """`type` is the whole one, also of a resource within another."""

    symbol: str
    type: str
    version: str
    is_existing: bool
    body: dict[str, Value]


@dataclass(frozen=True, slots=True)
class Module:
    symbol: str
    path: Path
    body: dict[str, Value]

    @property
    def arguments(self) -> Mapping[str, Value]:
        return as_object(self.body["params"])


@dataclass(frozen=True, slots=True)
class BicepFile:
    path: Path
    root: Node = field(repr=False)
    scope: str
    description: str
    parameters: Mapping[str, Declaration]
    outputs: Mapping[str, Declaration]
    variables: Mapping[str, Value]
    resources: tuple[Resource, ...]
    modules: tuple[Module, ...]

    def of_type(self, resource_type: str) -> list[Resource]:
        """Return the resources of a type that the file makes."""
        return [made for made in self.resources if made.type == resource_type and not made.is_existing]


def files() -> list[BicepFile]:
    return [read(path) for path in sorted(INFRA.rglob("*.bicep"))]


def made() -> list[Resource]:
    """Return all that a deployment makes."""
    return [resource for file in files() for resource in file.resources if not resource.is_existing]


@cache
def read(path: Path) -> BicepFile:
    """Read a file. Raise ValueError, with the first place, if it is not Bicep."""
    return parse(path.read_text(), path)


def parse(source: str, path: Path) -> BicepFile:
    """Read the text of a file. Raise ValueError, with the first place, if it is not Bicep."""
    root = _PARSER.parse(source.encode()).root_node
    for node in walk(root):
        if node.is_error or node.is_missing:
            raise ValueError(f"{path.name}:{node.start_point.row + 1}: no Bicep at {text(node)[:40]!r}")
    found = dict(_decorated(root))
    declared = {kind: [node for node in found if node.type == kind] for kind in _DECLARATIONS}
    return BicepFile(
        path=path,
        root=root,
        scope=next(
            (str(_value(n.children[-1])) for n in root.children if n.type == "target_scope_assignment"), "group"
        ),
        description=next((str(_value(n.children[-1])) for n in root.children if n.type == "metadata_declaration"), ""),
        parameters={d.name: d for d in (_declaration(n, found[n]) for n in declared["parameter_declaration"])},
        outputs={d.name: d for d in (_declaration(n, found[n]) for n in declared["output_declaration"])},
        variables={text(n.children[1]): _value(n.children[-1]) for n in declared["variable_declaration"]},
        resources=tuple(r for n in declared["resource_declaration"] for r in _resources(n)),
        modules=tuple(
            Module(text(n.children[1]), path.parent / str(_value(n.children[2])), as_object(_value(n.children[-1])))
            for n in declared["module_declaration"]
        ),
    )


def walk(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from walk(child)


def text(node: Node) -> str:
    return (node.text or b"").decode()


def as_object(value: Value) -> dict[str, Value]:
    """Return an object, also that which a loop repeats. Raise TypeError for anything else."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is no object")
    return value


def strings(value: Value) -> list[str]:
    """Return a list of plain strings. Raise TypeError for anything else."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TypeError(f"{value!r} is no list of strings")
    return [str(item) for item in value]


def at(value: Value, *path: str | int) -> Value:
    """Return what stands at a path of names and indexes."""
    for step in path:
        value = value[step] if isinstance(value, list) and isinstance(step, int) else as_object(value)[str(step)]
    return value


def objects(value: Value) -> Iterator[dict[str, Value]]:
    """Yield all objects in a value, those in its expressions too."""
    within: Sequence[Value] = ()
    match value:
        case dict():
            yield value
            within = list(value.values())
        case list():
            within = value
        case Expression():
            within = value.branches
    for part in within:
        yield from objects(part)


def _decorated(root: Node) -> Iterator[tuple[Node, Node | None]]:
    """Yield each declaration with its decorators."""
    decorators = None
    for node in root.children:
        if node.type == "decorators":
            decorators = node
        elif node.type in _DECLARATIONS:
            yield node, decorators
            decorators = None


def _declaration(node: Node, decorators: Node | None) -> Declaration:
    calls = {
        text(call.children[0]): call.children[1].named_children
        for call in (decorator.children[-1] for decorator in (decorators.children if decorators else ()))
    }
    described = calls.get("description")
    is_equal = [child.type == "=" for child in node.children]
    return Declaration(
        name=text(node.children[1]),
        type=text(node.children[2]),
        description=str(_value(described[0])) if described else "",
        default=text(node.children[-1]) if any(is_equal) else "",
        allowed=tuple(strings(_value(calls["allowed"][0]))) if "allowed" in calls else (),
    )


def _resources(node: Node, outer: Resource | None = None) -> Iterator[Resource]:
    name, _, version = str(_value(node.children[2])).partition("@")
    body = as_object(_value(node.children[-1]))
    made = Resource(
        symbol=text(node.children[1]),
        type=f"{outer.type}/{name}" if outer else name,
        version=version or (outer.version if outer else ""),
        is_existing=any(child.type == "existing" or text(child) == "existing" for child in node.children[3:4]),
        body=body,
    )
    yield made
    body_node = next(n for n in walk(node.children[-1]) if n.type == "object")
    for member in body_node.named_children:
        if member.named_children and member.named_children[0].type == "resource_declaration":
            yield from _resources(member.named_children[0], made)


def _value(node: Node) -> Value:  # noqa: PLR0911 (one for each kind of node)
    match node.type:
        case "string":
            return _string(node)
        case "number":
            return int(text(node))
        case "boolean":
            return text(node) == "true"
        case "null":
            return None
        case "array":
            return [_value(child) for child in node.named_children if child.type != "comment"]
        case "object":
            return dict(_members(node))
        case "parenthesized_expression":
            return _value(node.named_children[0])
        case "if_statement":
            return _value(node.children[-1])
        case "for_statement":
            return [_value(node.named_children[-1])]
        case _:
            return Expression(text(node), branches=tuple(_branches(node)))


def _branches(node: Node) -> Iterator[Value]:
    for child in node.named_children:
        if child.type in {"object", "array", "string", "ternary_expression", "call_expression", "arguments"}:
            value = _value(child)
            if child.type == "arguments" and isinstance(value, Expression):
                yield from value.branches
            else:
                yield value


def _string(node: Node) -> str | Expression:
    """Return a plain string, or what is known of one with `${}` in it."""
    parts = [child for child in node.children if child.type != "'"]
    if any(part.type == "interpolation" for part in parts):
        begins = text(parts[0]) if parts[0].type == "string_content" else ""
        return Expression(text(node), begins)
    return text(node)[1:-1].replace("\\'", "'")


def _members(node: Node) -> Iterator[tuple[str, Value]]:
    for member in node.named_children:
        if member.type != "object_property":
            continue
        name = member.named_children[0]
        if name.type in {"identifier", "string"}:
            key = _value(name) if name.type == "string" else text(name)
            yield key if isinstance(key, str) else text(name), _value(member.named_children[-1])
