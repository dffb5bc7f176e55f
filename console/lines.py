"""Lines of text, on a terminal and in a file."""

from rich.console import Console
from rich.padding import Padding
from rich.text import Text


def plain(text: str) -> Text:
    """Somebody else's text: no markup, no control characters, no direction tricks."""
    return Text("".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text))


def print_indented(text: Text, console: Console, indent: int) -> None:
    """Print below a heading: folded within the indent on a terminal, whole as one line in a file."""
    if console.soft_wrap:
        # Within a Padding it would end at the width.
        console.print(Text(" " * indent).append_text(text))
    else:
        # A Chinese sentence has no blanks to be broken at.
        text.overflow = "fold"
        console.print(Padding(text, (0, 0, 0, indent), expand=False))
