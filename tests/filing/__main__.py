"""`python -m tests.filing --pair Dovecot-Cyrus --operations 10000`: the drill with as much usage as is wanted."""

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.fidelity.__main__ import KINDS, running
from tests.filing.drill import Usage, drill


def main() -> int:
    usual = Usage()
    kinds: dict[str, type[Any]] = {kind.__name__: kind for kind in KINDS}
    parser = argparse.ArgumentParser(prog="python -m tests.filing")
    parser.add_argument("--pair", default="Dovecot-Dovecot", help="the source's server and the target's")
    for name in ("messages", "folders", "operations", "group_folders", "group_messages", "seed"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(usual, name))
    parser.add_argument("--often", type=float, default=usual.often, help="how probable an operation is after a step")
    given = vars(parser.parse_args())
    source, target = (kinds[name] for name in given.pop("pair").split("-"))
    usage = replace(usual, **given)
    with running([source, target]) as servers, tempfile.TemporaryDirectory() as directory:
        found = drill(*servers, usage, Path(directory))
    print(f"{source.__name__}-{target.__name__}: {found.line()}")
    return 0 if found.is_right else 1


if __name__ == "__main__":
    sys.exit(main())
