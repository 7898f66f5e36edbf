"""Damaged copies of a file: bytes changed anywhere, and JSON, cells and lines changed where a format has them.

Everything is drawn from the generator that is given, so a seed says which copy it was.
"""

import json
from collections.abc import Callable
from random import Random
from typing import Any

LONGEST = 1 << 16
"""Bytes of a copy, but for what `bloat` makes."""
ODD = (
    None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e308, float("nan"), float("inf"), -float("inf"), 2**31, 2**63, 10**400,
    "", " ", "yes", "no", "Yes.", "0", "-1", "1e400", "NaN", "\u0000", "\ud800", "\u2028", "\ufeff", "é" * 300,
    "../../etc/passwd", "/etc/passwd", "C:\\x", "a\0b", "x" * 5000, "${oc.env:HOME}", "{}", "[]", "<image>", "a;b;;",
    [], {}, [[]], [None], [1, "a"], {"a": 1}, {"": {}}, [[[[[[[[]]]]]]]],
)  # fmt: skip
"""Values that no field expects."""
PIECES = (
    b"\0", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\r\n", b"\n\n", b"\t", b"\t\t\t", b'"', b"'", b"\\", b"{", b"}",
    b"[", b"]", b",", b":", b";", b"null", b"true", b"NaN", b"Infinity", b"-1", b"1e999", b"9" * 5000, b"[" * 3000,
    b'{"a":' * 3000, b"../", b"/etc/passwd", b"${oc.env:HOME}", b"${a}", b"_target_: os.system\n",
    b"!!python/object:os.system", b"*a", b"&a ", b"yes", b"no", b"not", b"Yes, ", b"n't", b".", b"\xe2\x80\xa8",
    b"\xf0\x9f\x98\x80", b"a" * 3000, b" " * 3000,
)  # fmt: skip
"""Bytes that readers stumble over."""


def damaged(content: bytes, others: list[bytes], draw: Random) -> bytes:
    """A copy with one to four things changed.

    Args:
        content: of the file.
        others: files to take pieces from.
        draw: where chance comes from.
    """
    for _ in range(draw.choice((1, 1, 2, 4))):
        how = draw.choice((_bytes, _bytes, _json, _json, _json, _cells, _lines))
        content = how(content, others, draw)
    return content[:LONGEST] if draw.random() < 0.999 else bloat(content, draw)


def bloat(content: bytes, draw: Random) -> bytes:
    """A copy in which one line is longer than a megabyte."""
    place = draw.randrange(len(content) + 1)
    return (
        content[:place]
        + draw.choice((b"aaaa", b"9999", b"    ", b"[[[[", b"yes ", b'""""')) * 300_000
        + content[place:]
    )


def _bytes(content: bytes, others: list[bytes], draw: Random) -> bytes:
    start = draw.randrange(len(content) + 1)
    end = min(len(content), start + draw.choice((1, 2, 4, 8, 64, 1000)))
    span = content[start:end]
    put: Callable[[], bytes] = draw.choice((
        lambda: b"",
        lambda: bytes(draw.randrange(256) for _ in span),
        lambda: bytes(byte ^ 1 << draw.randrange(8) for byte in span[:1]) + span[1:],
        lambda: span * draw.choice((2, 3, 50)),
        lambda: draw.choice(PIECES),
        lambda: span + draw.choice(PIECES),
        lambda: _piece(draw.choice(others), draw) if others else b"",
    ))  # fmt: skip
    if draw.random() < 0.05:
        return content[:start]
    return content[:start] + put() + content[end:]


def _piece(content: bytes, draw: Random) -> bytes:
    start = draw.randrange(len(content) + 1)
    return content[start : start + draw.choice((4, 40, 400))]


def _json(content: bytes, others: list[bytes], draw: Random) -> bytes:
    """A value of a JSON file, or of one line of JSON lines, changed; other files are damaged byte by byte."""
    try:
        return _written(_changed(json.loads(content), draw))
    except (ValueError, RecursionError):
        pass
    lines = content.split(b"\n")
    place = draw.randrange(len(lines))
    try:
        lines[place] = _written(_changed(json.loads(lines[place]), draw))
    except (ValueError, RecursionError):
        return _bytes(content, others, draw)
    return b"\n".join(lines)


def _written(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=True).encode()


def _changed(value: Any, draw: Random) -> Any:
    """The value with one of those within it replaced, renamed, doubled or taken out."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        name = draw.choice(list(value))
        deed = draw.random()
        if deed < 0.1:
            return {key: held for key, held in value.items() if key != name}
        if deed < 0.2:
            return {(draw.choice(("", "x", name + "s", "_target_")) if key == name else key): held
                    for key, held in value.items()}  # fmt: skip
        return {**value, name: _changed(value[name], draw)}
    if isinstance(value, list) and value and draw.random() < 0.9:
        place = draw.randrange(len(value))
        deed = draw.random()
        if deed < 0.1:
            return value[:place] + value[place + 1 :]
        if deed < 0.2:
            return [*value, value[place]]
        return [*value[:place], _changed(value[place], draw), *value[place + 1 :]]
    if draw.random() < 0.1:
        return draw.choice(([value], {"a": value}, str(value)))
    return draw.choice(ODD)


def _cells(content: bytes, others: list[bytes], draw: Random) -> bytes:
    """A cell between commas, tabs or colons replaced."""
    mark = draw.choice((b",", b"\t", b":", b" "))
    cells = content.split(mark)
    cells[draw.randrange(len(cells))] = draw.choice(PIECES)
    return mark.join(cells)


def _lines(content: bytes, others: list[bytes], draw: Random) -> bytes:
    """A line left out, doubled, moved or joined with the next."""
    lines = content.split(b"\n")
    place, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    deed = draw.randrange(4)
    if deed == 0:
        del lines[place]
    elif deed == 1:
        lines.insert(other, lines[place])
    elif deed == 2:
        lines[place], lines[other] = lines[other], lines[place]
    else:
        lines[place : place + 2] = [b"".join(lines[place : place + 2])]
    return b"\n".join(lines)
