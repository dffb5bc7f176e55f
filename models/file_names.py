"""File names for what strangers named: folders and addresses may be hostile, endless or alike. Pure."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Collection

LONGEST = 100
"""Octets in UTF-8: file systems take 255 for a name, and paths have several."""

# Separators, what Windows refuses, and what hides or reorders: controls, formats, surrogates, private use.
_FORBIDDEN = re.compile(r'[/\\:*?"<>|]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?\Z", re.IGNORECASE)


def file_names(texts: Collection[str]) -> dict[str, str]:
    """A name for each text: itself where it is harmless, else a harmless form of it with a mark of its own.

    No two are the same, also where upper and lower case are.
    """
    tame = {text: _tamed(text) for text in texts}
    alike = Counter(unicodedata.normalize("NFC", name).casefold() for name in tame.values())
    return {
        text: name
        if name == text and alike[unicodedata.normalize("NFC", name).casefold()] == 1
        else f"{name}-{hashlib.blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=5).hexdigest()}"
        for text, name in tame.items()
    }


def _tamed(text: str) -> str:
    name = "".join("_" if unicodedata.category(c)[0] == "C" or _FORBIDDEN.match(c) else c for c in text)
    name = name.encode()[:LONGEST].decode("utf-8", "ignore").strip(" .") or "_"
    return f"_{name}" if _RESERVED.match(name) or name.startswith(("-", "~")) else name
