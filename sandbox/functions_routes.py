"""Routes of HTTP functions: templates and their order, as in ASP.NET."""

import re

from sandbox.http_service import Request
from sandbox.worker import Function

_CONSTRAINTS = {"": "[^/]+", "int": "-?[0-9]+", "alpha": "[A-Za-z]+", "guid": "[0-9A-Fa-f-]{36}"}


class Route:
    """A route template of ASP.NET: `{name}`, `{name?}`, `{name:int}`, `{*rest}`; literals without regard to case."""

    def __init__(self, function: Function, prefix: str) -> None:
        """Read the route of an HTTP function. Raise ValueError if this stand-in does not understand it."""
        self.function = function
        self.template = "/".join(filter(None, (prefix, function.trigger.get("route") or function.name)))
        self.methods = {method.upper() for method in function.trigger.get("methods") or ()}
        self.level = str(function.trigger.get("authLevel") or "function").lower()
        self._names: list[str] = []
        self._pattern = re.compile("".join(map(self._segment, self.template.split("/"))) + "/?", re.IGNORECASE)
        # The host tries specific routes first: literals before parameters, longer before shorter.
        self.rank = [
            (1, -segment.count(":"), "") if "{" in segment else (0, 0, segment.lower())
            for segment in self.template.split("/")
        ] + [(2, 0, "")]

    def match(self, request: Request) -> dict[str, str] | None:
        """Give the route parameters if the route is the request's. A wrong method is no match: the host answers 404."""
        found = self._pattern.fullmatch(request.path)
        if not found or (self.methods and request.method not in self.methods):
            return None
        values = zip(self._names, found.groups(), strict=True)
        return {name: value for name, value in values if value is not None}

    def _segment(self, segment: str) -> str:
        parts = re.split(r"\{([^{}]*)\}", segment)
        pattern, optional = "", False
        for literal, parameter in zip(parts[::2], [*parts[1::2], None], strict=True):
            pattern += re.escape(literal)
            if parameter is None:
                continue
            name, _, constraint = parameter.rstrip("?").partition(":")
            rest = name.startswith("*")
            if constraint not in _CONSTRAINTS:
                raise ValueError(f"route {self.template!r}: this stand-in does not know the constraint {constraint!r}")
            self._names.append(name.lstrip("*"))
            pattern += "(.*)" if rest else f"({_CONSTRAINTS[constraint]})"
            optional = rest or parameter.endswith("?")
        return f"(?:/{pattern})?" if optional else f"/{pattern}"
