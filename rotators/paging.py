"""Long lists in pages, as Azure's own APIs have them: `maxresults`, `$skiptoken` and a `nextLink`. Pure."""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from urllib.parse import urlencode, urlsplit, urlunsplit

from rotators.errors import BadRequestError
from rotators.policy import is_text

PAGE = 100
LARGEST_PAGE = 500
SIZE = "maxresults"
CURSOR = "$skiptoken"


def page_size(query: Mapping[str, str]) -> int:
    """Return how many entries a page is to have at most. Raise BadRequestError if the query says it wrongly."""
    text = query.get(SIZE, str(PAGE))
    if not re.fullmatch(r"[1-9][0-9]{0,2}", text) or int(text) > LARGEST_PAGE:
        raise BadRequestError(f"{SIZE} is not a whole number from 1 to {LARGEST_PAGE}")
    return int(text)


def next_link(url: str, size: int, cursor: tuple[str, ...]) -> str:
    """Return the address of the page that `cursor` leads to.

    Of the address that was asked for, `url`, the query does not come along: a function key may stand in it.
    """
    token = base64.urlsafe_b64encode(json.dumps(cursor).encode()).decode().rstrip("=")
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode({SIZE: size, CURSOR: token}), ""))


def read_cursor(query: Mapping[str, str], *, parts: int) -> tuple[str, ...]:
    """Return the cursor in a query, blank parts for the first page. Raise BadRequestError if it is none of ours."""
    token = query.get(CURSOR)
    if token is None:
        return ("",) * parts
    try:
        cursor = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        cursor = None
    is_list = isinstance(cursor, list) and len(cursor) == parts
    if not is_list or not all(isinstance(part, str) and is_text(part) for part in cursor):
        raise BadRequestError(f"{CURSOR} is none that a nextLink of this list had; begin anew without it")
    return tuple(cursor)
