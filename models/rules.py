"""The admin's own rules, from `banjia.toml`: which folders are moved, under which names, what may be repaired, and
what the report may tell of single messages.

Pure: text in, rules or a list of mistakes out, each with its line and its cure in both languages.
"""

import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeVar

from models.bilingual import Language, Text

ROLES = ("sent", "drafts", "trash", "junk", "archive")
"""Special folders of which a mailbox has one."""
OWNERS = ("others", "public")
"""Whose a folder is that is not the member's own: another user's, or everybody's (RFC 2342)."""
KINDS = (*ROLES, "virus", "ads", "subscriptions", *OWNERS)
"""What a pattern can name by a backslash: `\\Junk`."""
TABLES = frozenset({"folders", "messages", "report"})
"""The tables of banjia.toml that are rules; everything else there is a setting."""

Repair = Literal["never", "refused"]
Subjects = Literal["shown", "hidden"]
"""Whether messages that stay behind or arrive altered are told with subject and sender; if not, neither is kept."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FolderRules:
    """What is asked for about folders; a folder's path is written with `/`, whatever its server uses."""

    only: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rules:
    """All rules; what nobody has written is as without a file."""

    folders: FolderRules = FolderRules()
    repair: Repair = "never"
    subjects: Subjects = "shown"


@dataclass(frozen=True, slots=True)
class RuleMistake:
    """Something in the file that cannot be followed."""

    line: int
    key: str
    problem: Text
    fix: Text


class RulesMistaken(Exception):
    """The rules cannot be followed; nothing is moved by half of them."""

    def __init__(self, file: str, mistakes: Sequence[RuleMistake]) -> None:
        self.file = file
        self.mistakes = tuple(mistakes)
        super().__init__(self.told.en)

    @property
    def told(self) -> Text:
        """Every mistake: file, line, key, what is wrong, what to do."""
        lines = [
            Text(
                f"{self.file} 第 {each.line} 行 {each.key}：{each.problem.zh}。{each.fix.zh}。",
                f"{self.file}, line {each.line}, {each.key}: {each.problem.en}. {each.fix.en}.",
            )
            for each in self.mistakes
        ]
        return Text("\n".join(line.zh for line in lines), "\n".join(line.en for line in lines))


def parse_rules(text: str, file: str = "banjia.toml", *, alone: bool = False) -> Rules:
    """Read the rules out of a banjia.toml; RulesMistaken with every mistake in it.

    What else stands there are settings, and not looked at, unless the rules are to stand `alone`.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RulesMistaken(file, [_not_toml(text, error)]) from None
    reader = _Reader(text)
    if alone:
        reader.only(document, TABLES)
    folders = reader.table(document, "folders", ("only", "include", "exclude", "rename", "roles"))
    messages = reader.table(document, "messages", ("repair",))
    report = reader.table(document, "report", ("subjects",))
    rules = Rules(
        FolderRules(
            reader.patterns(folders, "only"),
            reader.patterns(folders, "include"),
            reader.patterns(folders, "exclude"),
            reader.names(folders, "rename"),
            reader.names(folders, "roles", among=ROLES),
        ),
        reader.repair(messages),
        reader.subjects(report),
    )
    if reader.mistakes:
        raise RulesMistaken(file, sorted(reader.mistakes, key=lambda mistake: mistake.line))
    return rules


def fits(pattern: str, path: Sequence[str], kinds: Iterable[str] = ()) -> bool:
    """Whether a pattern means a folder: its path with `*` and `?`, a folder above it, or `\\Role`."""
    if pattern.startswith("\\"):
        return pattern[1:].casefold() in {kind.casefold() for kind in kinds}
    name = "/".join(path)
    return fnmatchcase(name, pattern) or name == pattern or name.startswith(pattern.rstrip("/") + "/")


class _Reader:
    """Takes values out of a document and notes what cannot be taken."""

    def __init__(self, text: str) -> None:
        self._lines = _lines_of_keys(text)
        self.mistakes: list[RuleMistake] = []

    def only(self, document: Mapping[str, Any], known: Collection[str]) -> None:
        """Note keys that are none of these."""
        for key in document.keys() - set(known):
            self._wrong(
                (key,),
                Text("不是规则", "is no rule"),
                Text(f"可用的表有：{'、'.join(sorted(known))}", f"There are the tables {', '.join(sorted(known))}"),
            )

    def table(self, document: Mapping[str, Any], name: str, known: Sequence[str]) -> Mapping[str, Any]:
        found = document.get(name, {})
        if not isinstance(found, dict):
            self._wrong((name,), Text("应当是一个表", "must be a table"), _in_table(name))
            return {}
        for key in found:
            if key not in known:
                self._wrong(
                    (name, key),
                    Text("没有这个规则", "there is no such rule"),
                    Text(f"可用的有：{'、'.join(known)}", f"There are: {', '.join(known)}"),
                )
        return found

    def patterns(self, table: Mapping[str, Any], key: str) -> tuple[str, ...]:
        found = table.get(key, [])
        fix = Text('请写成列表，例如 ["\\\\Junk", "临时/*"]', 'Write a list, such as ["\\\\Junk", "Temp/*"]')
        if not isinstance(found, list) or not all(isinstance(each, str) and each for each in found):
            self._wrong(("folders", key), Text("应当是文件夹名的列表", "must be a list of folder names"), fix)
            return ()
        for each in found:
            if each.startswith("\\") and each[1:].casefold() not in KINDS:
                named = ", ".join(f"\\{kind.title()}" for kind in KINDS)
                self._wrong(
                    ("folders", key),
                    Text(f"没有 {each} 这种文件夹", f"there is no kind of folder called {each}"),
                    Text(f"可用的有：{named}", f"There are: {named}"),
                )
        return tuple(found)

    def names(self, table: Mapping[str, Any], key: str, among: Sequence[str] = ()) -> dict[str, str]:
        found = table.get(key, {})
        if not isinstance(found, dict):
            self._wrong(("folders", key), Text("应当是一个表", "must be a table"), _in_table(f"folders.{key}"))
            return {}
        good: dict[str, str] = {}
        for name, value in found.items():
            where = ("folders", key, name)
            if not isinstance(value, str) or not value.strip("/") or not name.strip("/"):
                self._wrong(
                    where,
                    Text("两边都应当是文件夹名", "both sides must be names"),
                    Text('例如 "项目/旧" = "归档/项目"', 'For example "Projects/Old" = "Archive/Projects"'),
                )
            elif among and value.casefold() not in among:
                self._wrong(
                    where,
                    Text(f"没有 {value} 这种特殊文件夹", f"there is no special folder called {value}"),
                    Text(f"可用的有：{'、'.join(among)}", f"There are: {', '.join(among)}"),
                )
            else:
                good[name.strip("/")] = value.casefold() if among else value.strip("/")
        return good

    def repair(self, table: Mapping[str, Any]) -> Repair:
        match table.get("repair", "never"):
            case "never":
                return "never"
            case "refused":
                return "refused"
        self._no_such_value("messages", "repair", "never", "refused")
        return "never"

    def subjects(self, table: Mapping[str, Any]) -> Subjects:
        match table.get("subjects", "shown"):
            case "shown":
                return "shown"
            case "hidden":
                return "hidden"
        self._no_such_value("report", "subjects", "shown", "hidden")
        return "hidden"

    def _no_such_value(self, table: str, key: str, one: str, other: str) -> None:
        self._wrong(
            (table, key),
            Text("不是可用的值", "is no value that can be used"),
            Text(f'请写 "{one}" 或 "{other}"', f'Write "{one}" or "{other}"'),
        )

    def _wrong(self, path: tuple[str, ...], problem: Text, fix: Text) -> None:
        line = next((self._lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self._lines), 1)
        self.mistakes.append(RuleMistake(line, ".".join(path), problem, fix))


def _in_table(name: str) -> Text:
    return Text(f"请写在 [{name}] 下面，每行一个 名称 = 值", f"Write it below [{name}], one name = value a line")


def _not_toml(text: str, error: tomllib.TOMLDecodeError) -> RuleMistake:
    found = re.search(r"at line (\d+)", str(error))
    return RuleMistake(
        int(found[1]) if found else len(text.splitlines()) or 1,
        "",
        Text(f"不是有效的 TOML（{error}）", f"is no valid TOML ({error})"),
        Text(
            "名称里有空格或中文时要加引号，反斜杠在双引号里要写两个",
            "Names with blanks or letters beyond ASCII need quotes; within double quotes a backslash is written twice",
        ),
    )


def _lines_of_keys(text: str) -> dict[tuple[str, ...], int]:
    """Where tables and keys stand: the library that reads TOML does not tell."""
    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[([^\[\]]+)\]", line):
            table = _key(header[1])
            found.setdefault(table, number)
        elif key := re.match(r"""\s*((?:"(?:[^"\\]|\\.)*"|'[^']*'|[\w-]+|\s*\.\s*)+?)\s*=""", line):
            found.setdefault((*table, *_key(key[1])), number)
    return found


def _key(text: str) -> tuple[str, ...]:
    """A dotted key in its parts."""
    return tuple(_parts_of(text))


def _parts_of(text: str) -> Iterator[str]:
    for double, single, bare in re.findall(r"""\s*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([^."'\s]+))\s*\.?""", text):
        yield double.replace('\\"', '"').replace("\\\\", "\\") or single or bare


def rules_template(language: Language) -> str:
    """A banjia.toml with every rule explained and none in force."""
    return _TEMPLATE.in_language(language)


_TEMPLATE = Text(
    r"""# 文件夹和邮件的搬家规则。保存为 BANJIA_HOME 中的 banjia.toml，或用 BANJIA_RULES 指定文件。
# 先用 banjia wave plan 批次 查看每个文件夹会搬到哪里。规则在第一次搬家之前生效：已经搬过的文件夹保持原来的去处。
# 路径一律用 / 分隔；* 代表任意多个字符，? 代表一个字符；写了一个文件夹，它下面的也算在内。
# \Sent \Drafts \Trash \Junk \Archive \Virus \Ads \Subscriptions 代表该种类的文件夹，不论叫什么名字；
# \Others 代表其他用户共享的文件夹，\Public 代表公共文件夹。
# 用单引号，反斜杠就不必写两个。

[folders]
# 只搬这些文件夹；空列表表示全部。
only = []
# 程序默认不搬的文件夹（例如 '\Virus'）中，仍要搬的。'\Others'、'\Public' 或其中一个（如 'Public/制度'）会搬进
# 每一个看得见它的成员的新邮箱。
include = []
# 不搬的文件夹，例如 ['\Junk', '\Trash', '临时/*']。比上面两项优先。
exclude = []

[folders.rename]
# '源文件夹' = '目标文件夹'，下面的子文件夹跟着走。两个文件夹可以搬到同一个里。
# '项目/旧' = '归档/项目'

[folders.roles]
# '源文件夹' = 'sent'、'drafts'、'trash'、'junk' 或 'archive'：服务器没有标明、名字又少见的特殊文件夹。
# '发信记录' = 'sent'

[messages]
# 目标服务器因格式拒收的邮件：'never' 不改动，列为未搬邮件；'refused' 只修复被拒收的那一封，并在报告中注明。
repair = 'never'

[report]
# 未搬的邮件和被改动的邮件，报告中是否写出主题和发件人：'shown' 写出；'hidden' 不写，也不读取、不保存。
subjects = 'shown'
""",
    r"""# Rules for folders and messages. Save as banjia.toml in BANJIA_HOME, or name the file by BANJIA_RULES.
# Look first: banjia wave plan WAVE shows where each folder goes. Rules count before the first pass: a folder that has
# been moved keeps its place.
# A path is written with /; * stands for any characters, ? for one; a folder stands for all below it, too.
# \Sent \Drafts \Trash \Junk \Archive \Virus \Ads \Subscriptions mean folders of that kind, whatever their names;
# \Others those that other users share, \Public those of everybody.
# Within single quotes a backslash is written once.

[folders]
# Only these are moved; none means all.
only = []
# Moved although they would be left out by default, such as '\Virus'. '\Others', '\Public', or one of them such as
# 'Public/Rules', is moved into the new mailbox of each member who can see it.
include = []
# Left out, such as ['\Junk', '\Trash', 'Temp/*']. Counts more than the two above.
exclude = []

[folders.rename]
# 'source folder' = 'target folder'; what lies below goes along. Two folders may go into one.
# 'Projects/Old' = 'Archive/Projects'

[folders.roles]
# 'source folder' = 'sent', 'drafts', 'trash', 'junk' or 'archive': special folders with rare names.
# 'What I wrote' = 'sent'

[messages]
# Messages that the new server refuses as malformed: 'never' lists them as not moved; 'refused' repairs just these, and
# the report says so.
repair = 'never'

[report]
# Whether messages that were not moved or were altered are told with subject and sender: 'shown', or 'hidden': then they
# are neither read nor kept.
subjects = 'shown'
""",
)
