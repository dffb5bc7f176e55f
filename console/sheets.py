"""Writes the sheets that prepare a wave's move."""

from pathlib import Path

from console.terminal import language, say, screen
from models.bilingual import Text
from reports.read import read_wave
from reports.sheets import write_sheets
from tasks.store import store

_WRITTEN = Text("准备单：{path}", "Sheet: {path}")


def write(wave: str, directory: Path | None, *, as_json: bool) -> None:
    """Write the sheets of a wave, and say where they are."""
    from flows.report_wave import report_directory

    kept = store()
    summary = read_wave(kept.engine, wave)
    where = directory or report_directory(wave) / "sheets"
    files = write_sheets(wave, summary.members, where, kept.settings.notice_contact)
    if as_json:
        say({"wave": wave, "files": [str(file) for file in files]}, as_json=True)
        return
    for file in files:
        if file.name.endswith(f".{language()}.html"):
            screen(as_json=False).print(_WRITTEN.format(path=file).in_language(language()), markup=False)
