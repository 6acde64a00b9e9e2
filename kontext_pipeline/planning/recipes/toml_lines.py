"""Lines of the keys in a TOML document, for messages: `tomllib` returns values without their positions.

The document has been parsed before, so that only valid TOML is scanned. Keys inside an inline table or an array
have no line of their own.
"""

import re
import tomllib
from typing import Any, Final

KeyPath = tuple[str | int, ...]
"""Where a value is in the parsed document: keys, and indices into arrays of tables."""

_PIECE: Final = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}(?!")'
    r"|'''.*?'{3,5}(?!')"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|\#[^\n]*"
    r"|[^\"'#\n\[\]{}=]+"
    r"|.",
    re.DOTALL,
)


class KeyLines:
    """The lines, from 1, of the keys and table headers of a TOML document."""

    def __init__(self, text: str) -> None:
        """Scan a valid TOML document."""
        self._lines: dict[KeyPath, int] = {}
        self._lengths: dict[KeyPath, int] = {}
        self._table: KeyPath = ()
        statement, depth, line, start = "", 0, 1, 1
        is_value = False
        for piece in (match[0] for match in _PIECE.finditer(text + "\n")):
            if piece == "\n" and depth == 0:
                self._end(statement.strip(), start)
                statement, is_value, start = "", False, line + 1
            elif piece == "=" and depth == 0:
                is_value = True
            elif piece in {"[", "{"}:
                depth += 1
            elif piece in {"]", "}"}:
                depth -= 1
            if not (is_value or piece.startswith("#")):
                statement += piece
            line += piece.count("\n")

    def of(self, path: KeyPath) -> int:
        """Return the line of a value, or of the nearest table around the value that has a line; else 1."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)

    def _end(self, statement: str, line: int) -> None:
        if not statement:
            return
        if not statement.startswith("["):
            self._lines.setdefault(self._resolved(self._table, _keys(tomllib.loads(f"{statement}=0"))), line)
            return
        keys = _keys(tomllib.loads(statement))
        if statement.startswith("[["):
            array = (*self._resolved((), keys[:-1]), keys[-1])
            self._lengths[array] = self._lengths.get(array, 0) + 1
        self._table = self._resolved((), keys)
        self._lines.setdefault(self._table, line)

    def _resolved(self, start: KeyPath, keys: list[str]) -> KeyPath:
        """Return the path of `keys` below `start`, with the index of the latest table of each array."""
        path = start
        for key in keys:
            path = (*path, key)
            if path in self._lengths:
                path = (*path, self._lengths[path] - 1)
        return path


def _keys(document: Any) -> list[str]:
    """Return the keys on the way to the only value of a document."""
    keys = []
    while isinstance(document, dict) and document:
        key, document = next(iter(document.items()))
        keys.append(key)
        if isinstance(document, list):
            document = document[0]
    return keys
