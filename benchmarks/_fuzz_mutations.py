"""Random changes of bytes, texts, JSON documents and zip archives."""

from __future__ import annotations

import io
import json
import random
import zipfile
from typing import Any

TEXTS = [
    "", " ", "0", "-1", "1e999", "nan", "none", "true", "[]", "{}", "\\", "%s", "{0}", "\x00", "é√",
    "../../outside", "/etc/passwd", "a" * 3000, "trades:epsilon=1/0", "pgd:norm=l7", "posix.system",
    "keras.utils.get_file", "__lambda__", "Lambda", "TFSMLayer",
]  # fmt: skip
NUMBERS = [0, -1, 1, 2, 255, 2**31, 2**63, 10**20, 0.5, -1.5, 1e308, float("inf"), float("nan")]
WORDS = [b"\xff" * 4, b"\xff" * 8, b"\x00" * 8, b"\xff\xff\xff\x7f", b"\x80", b"\n", b"\x00", b"{"]


def mutate_bytes(content: bytes, draw: random.Random) -> bytes:
    """Return bytes with one to four random changes."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(data) + 1)
        length = draw.choice([1, 2, 4, 16, 256])
        kind = draw.choice(["flip", "word", "cut", "remove", "repeat", "noise"])
        if kind == "flip" and data:
            data[at % len(data)] ^= 1 << draw.randrange(8)
        elif kind == "word":
            word = draw.choice(WORDS)
            data[at : at + len(word)] = word
        elif kind == "cut":
            del data[at:]
        elif kind == "remove":
            del data[at : at + length]
        elif kind == "repeat":
            data[at:at] = data[at : at + length]
        else:
            data[at : at + length] = draw.randbytes(length)
    return bytes(data)


def mutate_text(text: str, draw: random.Random) -> str:
    """Return a text with one random change that keeps it a text without NUL characters."""
    if draw.random() < 0.4:
        return draw.choice(TEXTS).replace("\x00", "")
    changed = mutate_bytes(text.encode(), draw).decode("utf-8", "replace")
    return changed.replace("\x00", "")


def mutate_json(content: Any, draw: random.Random) -> Any:
    """Return a JSON document with one to three entries that are removed or replaced."""
    content = json.loads(json.dumps(content))
    for _ in range(draw.randint(1, 3)):
        places = list(_places(content))
        if not places:
            return _value(draw)
        parent, key = draw.choice(places)
        if draw.random() < 0.25:
            del parent[key]
        elif draw.random() < 0.2:
            parent[key] = parent[draw.choice(list(_keys(parent)))]  # two entries with one value
            content = json.loads(json.dumps(content))
        else:
            parent[key] = _value(draw, parent[key])
    return content


def _keys(parent: Any) -> Any:
    return parent.keys() if isinstance(parent, dict) else range(len(parent))


def _places(content: Any) -> Any:
    """Yield every container in a document with every key of it."""
    if isinstance(content, dict | list):
        for key in _keys(content):
            yield content, key
            yield from _places(content[key])


def _value(draw: random.Random, old: Any = None) -> Any:
    """Return a value to put in the place of an old one."""
    nested: Any = old
    for _ in range(draw.choice([1, 5, 400])):
        nested = [nested]
    same_kind = old * 1000 if isinstance(old, int | float) else mutate_text(str(old), draw)
    number, text = draw.choice(NUMBERS), draw.choice(TEXTS)
    return draw.choice([number, text, same_kind, None, [], {}, True, [number], nested])


def mutate_zip(content: bytes, draw: random.Random) -> bytes:
    """Return an intact archive with one member that is changed, missing, added or repeated."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = draw.choice(list(members))
    kind = draw.random()
    if kind < 0.1:
        del members[name]
    elif kind < 0.15:
        members["../outside.txt"] = members["/outside.txt"] = b"outside"
    elif name.endswith(".json") and kind < 0.8:
        members[name] = json.dumps(mutate_json(json.loads(members[name]), draw)).encode()
    elif kind < 0.2:
        members[name] = bytes(draw.choice([0, 1, 10**7]))
    else:
        members[name] = mutate_bytes(members[name], draw)
    written = io.BytesIO()
    method = draw.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    with zipfile.ZipFile(written, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return written.getvalue()
