"""What can be wrong with a roster, and what the admin should write instead, in both languages.

A problem never shows a password: the callers give no value for such a cell, and no text here has a place for one.
"""

from dataclasses import dataclass

from models.bilingual import Text

_SHOWN = 80


@dataclass(frozen=True, slots=True)
class RosterProblem:
    """One thing to put right: where it stands, what stands there, what is wrong and what to write instead.

    `column` is our own name for the column, the header as written when the column is unknown, and empty when the
    whole row or file is meant. `value` is empty wherever it could be a password.
    """

    line: int
    column: str
    value: str
    problem: Text
    fix: Text
    code: str
    wave: str = ""
    """That the row names; empty where it names none, or that cannot be read."""


def roster_problem(code: str, line: int, column: str = "", value: str = "", **places: object) -> RosterProblem:
    """Fill in the texts of `code`; `places` are the names that stand in braces there."""
    problem, fix = (text.format(column=column, **places) for text in FAULTS[code])
    return RosterProblem(line, visible(column), visible(value), problem, fix, code)


def visible(text: str) -> str:
    """Show control and other invisible characters as escapes, and cut what is too long for a table."""
    shown = text[: _SHOWN + 1]
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
    return shown if len(shown) <= _SHOWN else shown[: _SHOWN - 1] + "…"


_ONLY_A_ROSTER = Text(
    zh="请只保留名单这一张表，复制到新工作簿中另存为“CSV UTF-8”，人多时分成几个文件。",
    en='Keep the roster alone: copy it into a new workbook and save that as "CSV UTF-8"; divide it if it is long.',
)

# code -> (what is wrong, what to do)
FAULTS: dict[str, tuple[Text, Text]] = {
    # -- the file
    "empty-file": (
        Text(zh="文件 {name} 是空的。", en="The file {name} is empty."),
        Text(zh="请上传带表头且每人一行的名单。", en="Upload a roster with a header and one row for each member."),
    ),
    "unreadable-text": (
        Text(zh="无法识别文件 {name} 的文字编码。", en="The text encoding of {name} cannot be recognised."),
        Text(zh="请在 Excel 中另存为“CSV UTF-8”，再上传。", en='Save it in Excel as "CSV UTF-8" and upload it again.'),
    ),
    "unreadable-workbook": (
        Text(
            zh="文件 {name} 不是可以打开的 Excel 工作簿（可能已损坏或有打开密码）。",
            en="{name} is not an Excel workbook that can be opened (damaged, or protected by a password).",
        ),
        Text(
            zh="请在 Excel 中打开，去掉打开密码，另存为 .xlsx 或“CSV UTF-8”。",
            en='Open it in Excel, remove the password, and save it as .xlsx or "CSV UTF-8".',
        ),
    ),
    # -- beyond what a roster may be (models/roster_file.py)
    "file-too-large": (
        Text(zh="文件 {name} 超过 {most} MB。", en="{name} is larger than {most} MB."),
        _ONLY_A_ROSTER,
    ),
    "workbook-too-large": (
        Text(zh="工作簿 {name} 解压后超过 {most} MB。", en="{name} takes more than {most} MB once it is unpacked."),
        _ONLY_A_ROSTER,
    ),
    "too-many-columns": (
        Text(zh="文件 {name} 的列超过 {most} 列。", en="{name} has more than {most} columns."),
        Text(
            zh="请检查分隔符，并删除表格右侧远处多余的单元格（Ctrl+End 会跳到最后一个），再上传。",
            en="Check the separator, and delete stray cells far to the right (Ctrl+End jumps to the last one).",
        ),
    ),
    "too-many-cells": (
        Text(zh="文件 {name} 的单元格超过 {most} 个。", en="{name} has more than {most} cells."),
        Text(zh="请把名单分成几个文件。", en="Divide the roster into several files."),
    ),
    "too-much-memory": (
        Text(zh="读取文件 {name} 需要超过 {most} MB 内存。", en="Reading {name} took more than {most} MB of memory."),
        _ONLY_A_ROSTER,
    ),
    "too-much-time": (
        Text(zh="读取文件 {name} 超过 {most} 秒。", en="Reading {name} took more than {most} seconds."),
        _ONLY_A_ROSTER,
    ),
    "no-header": (
        Text(zh="第一行不是表头：没有认识的列名。", en="The first row is not a header: no column name is known."),
        Text(
            zh="请在第一行写上列名，例如 EmailAddress,UserName,Password。",
            en="Write the column names in the first row, such as EmailAddress,UserName,Password.",
        ),
    ),
    "no-rows": (
        Text(zh="表头下面没有成员。", en="There is no member below the header."),
        Text(zh="请每人写一行。", en="Write one row for each member."),
    ),
    "missing-column": (
        Text(zh="缺少必需的列 {column}。", en="The required column {column} is missing."),
        Text(zh="请在表头加上 {column}，含义：{meaning_zh}。", en="Add {column} to the header: {meaning_en}."),
    ),
    "unknown-column": (
        Text(zh="不认识列名“{header}”，这一列会被忽略。", en='The column "{header}" is not known and is ignored.'),
        Text(zh="如果不需要，请删除这一列。", en="Delete the column if it is not needed."),
    ),
    "misspelt-column": (
        Text(zh="不认识列名“{header}”，这一列会被忽略。", en='The column "{header}" is not known and is ignored.'),
        Text(
            zh="您是不是想写 {suggestion}？是的话请改成 {suggestion}。",
            en="Did you mean {suggestion}? If so, write {suggestion} instead.",
        ),
    ),
    "misspelt-password-column": (
        Text(
            zh="列名“{header}”像是 {suggestion}，而名单里没有 {suggestion} 列。为了不漏掉密码，整份名单暂不采用。",
            en='The column "{header}" looks like {suggestion}, which the roster does not have. '
            "So that no password is lost, nothing of the roster is used yet.",
        ),
        Text(
            zh="您是不是想写 {suggestion}？是的话请改成 {suggestion}，不是的话请删除这一列。",
            en="Did you mean {suggestion}? If so, write {suggestion} instead; if not, delete the column.",
        ),
    ),
    "nameless-column": (
        Text(zh="第 {position} 列有内容但没有列名，会被忽略。", en="Column {position} has no name and is ignored."),
        Text(zh="请写上列名，或删除这一列。", en="Give it a name, or delete the column."),
    ),
    "duplicate-header": (
        Text(zh="列 {column} 出现了不止一次。", en="The column {column} is there more than once."),
        Text(zh="请只保留一列 {column}。", en="Keep one column {column} only."),
    ),
    # -- the structure of a row
    "field-count": (
        Text(zh="应有 {expected} 个字段，实际有 {found} 个。", en="Expected {expected} fields, found {found}."),
        Text(
            zh='请补齐或去掉多余的字段；含有 {delimiter} 的内容要用英文双引号括起来，例如 "a{delimiter}b"。',
            en='Add or remove fields; quote a cell that contains the delimiter, such as "a{delimiter}b".',
        ),
    ),
    "unclosed-quote": (
        Text(
            zh='这一行有一个双引号没有在本行结束，一直读到了第 {last} 行。',
            en="A quotation mark opened in this line is not closed in it; the cell ran on to line {last}.",
        ),
        Text(
            zh='请在内容末尾补上双引号；内容本身的双引号要写两个，例如 "a""b"。',
            en='Close the quotation mark; write a quotation mark inside a cell twice, such as "a""b".',
        ),
    ),
    "stray-quote": (
        Text(zh="结束的双引号后面还有内容。", en="Something follows a closing quotation mark."),
        Text(
            zh='内容本身的双引号要写两个，整个内容再用双引号括起来，例如 "a""b"。',
            en='Write a quotation mark inside a cell twice, and the whole cell in quotation marks, such as "a""b".',
        ),
    ),
    "cell-too-long": (
        Text(zh="这一行有一个单元格过长。", en="A cell in this line is too long."),
        Text(zh="请缩短内容，或检查双引号是否成对。", en="Shorten it, or check that quotation marks come in pairs."),
    ),
    # -- a cell
    "blank": (
        Text(zh="{column} 不能为空。", en="{column} must not be blank."),
        Text(zh="请填写，含义：{meaning_zh}。", en="Fill it in: {meaning_en}."),
    ),
    "conflicting-cells": (
        Text(zh="{column} 有两列，内容不同，无法判断用哪个。", en="{column} is there twice with different values."),
        Text(zh="请只保留正确的一个。", en="Keep the right one only."),
    ),
    "control-character": (
        Text(zh="含有不可见的控制字符。", en="It contains an invisible control character."),
        Text(zh="请删除整个单元格，再手工输入。", en="Clear the cell and type it again by hand."),
    ),
    "line-break": (
        Text(zh="单元格里有换行。", en="The cell contains a line break."),
        Text(
            zh="请写成一行；如果本不该换行，请检查前面的双引号是否多余。",
            en="Write it in one line; if no break was meant, look for a stray quotation mark before it.",
        ),
    ),
    "invisible-character": (
        Text(zh="含有不可见字符或特殊空格。", en="It contains an invisible character or a special blank."),
        Text(zh="请改成 {suggestion}", en="Write it as {suggestion}"),
    ),
    "full-width": (
        Text(zh="含有全角字符。", en="It contains full-width characters."),
        Text(zh="请用半角字符，写成 {suggestion}", en="Write it in half-width characters as {suggestion}"),
    ),
    "bad-address": (
        Text(zh="不是邮箱地址。", en="It is not a mail address."),
        Text(zh="请写完整的地址，例如 {suggestion}", en="Write the whole address, such as {suggestion}"),
    ),
    "password-blanks": (
        Text(zh="密码的开头或结尾有空格。", en="The password begins or ends with a blank."),
        Text(
            zh="请删除粘贴时带上的空格；全角空格也要删除。",
            en="Remove the blanks that came along when it was pasted, also full-width ones.",
        ),
    ),
    "password-invisible": (
        Text(zh="密码里有不可见字符或特殊空格。", en="It contains an invisible character or a special blank."),
        Text(zh="请清空后手工输入密码。", en="Clear the cell and type the password by hand."),
    ),
    "password-full-width": (
        Text(
            zh="密码里有全角字符或中文标点。",
            en="The password contains full-width characters or Chinese or curly punctuation.",
        ),
        Text(zh="请切换到英文半角，重新输入密码。", en="Switch the keyboard to English and type the password again."),
    ),
    "host-scheme": (
        Text(zh="服务器名前面多了协议。", en="The server name starts with a protocol."),
        Text(zh="只写服务器名：{suggestion}", en="Write the server name alone: {suggestion}"),
    ),
    "host-path": (
        Text(zh="服务器名后面多了路径。", en="The server name is followed by a path."),
        Text(zh="只写服务器名：{suggestion}", en="Write the server name alone: {suggestion}"),
    ),
    "host-port": (
        Text(zh="服务器名后面多了端口。", en="The server name is followed by a port."),
        Text(
            zh="服务器名写 {suggestion}，端口 {port} 写到 {port_column} 列。",
            en="Write {suggestion} here and {port} in the column {port_column}.",
        ),
    ),
    "bad-host": (
        Text(zh="不是服务器名。", en="It is not a server name."),
        Text(zh="请写服务器名，例如 imap.example.com", en="Write the server's name, such as imap.example.com"),
    ),
    "bad-port": (
        Text(zh="端口不在 1 到 65535 之间。", en="It is not a port from 1 to 65535."),
        Text(
            zh="请写数字，通常是 993（tls）或 143（starttls）。",
            en="Write a number, usually 993 (tls) or 143 (starttls).",
        ),
    ),
    "bad-security": (
        Text(zh="不认识这种加密方式。", en="This kind of encryption is not known."),
        Text(zh="请写 tls、starttls 或 plain。", en="Write tls, starttls or plain."),
    ),
    "bad-date": (
        Text(zh="不是年-月-日格式的日期。", en="It is not a date written as year-month-day."),
        Text(zh="请写成 {suggestion}", en="Write it as {suggestion}"),
    ),
    "bad-yes-no": (
        Text(zh="看不出是“是”还是“否”。", en="It is neither yes nor no."),
        Text(zh="请写“是”或“否”。", en="Write yes or no."),
    ),
    "bad-language": (
        Text(zh="不支持这种语言。", en="This language is not available."),
        Text(zh="请写 zh-CN 或 en。", en="Write zh-CN or en."),
    ),
    "excel-number": (
        Text(
            zh="Excel 把它存成了数字，而且超过 15 位，后面的数位已经丢失。",
            en="Excel stored it as a number of more than 15 digits and has lost the last ones.",
        ),
        Text(
            zh="请把单元格格式改为“文本”，再重新输入。",
            en="Set the cell's format to Text and type it again.",
        ),
    ),
    "excel-date": (
        Text(zh="Excel 把它变成了日期或时间。", en="Excel has turned it into a date or a time."),
        Text(
            zh="请把单元格格式改为“文本”，再重新输入。",
            en="Set the cell's format to Text and type it again.",
        ),
    ),
    "excel-formula": (
        Text(zh="单元格是没有结果的公式。", en="The cell holds a formula without a result."),
        Text(
            zh="请把单元格格式改为“文本”，再直接输入内容。",
            en="Set the cell's format to Text and type the value itself.",
        ),
    ),
    # -- the mail services
    "unknown-provider": (
        Text(zh="不认识这个服务商。", en="This provider is not known."),
        Text(
            zh="是否指 {near_zh}？全部服务商见 banjia provider list；自建或其他服务请留空并填写 SourceHost。",
            en="Is one of these meant: {near_en}? All are listed by banjia provider list; leave it blank for "
            "servers of your own and for others, and give SourceHost.",
        ),
    ),
    "strange-provider": (
        Text(zh="不认识这个服务商。", en="This provider is not known."),
        Text(
            zh="全部服务商见 banjia provider list；自建或其他服务请留空并填写 SourceHost。",
            en="All are listed by banjia provider list; leave it blank for servers of your own and for others, and "
            "give SourceHost.",
        ),
    ),
    "server-missing": (
        Text(zh="没有填写服务器。", en="No server is given."),
        Text(
            zh="在 {column} 列填写服务器名，例如 imap.example.com；或设置 {setting}。",
            en="Write the server into {column}, for example imap.example.com, or set {setting}.",
        ),
    ),
    "server-of-their-own": (
        Text(zh="没有填写服务器。", en="No server is given."),
        Text(
            zh="“{title_zh}”的服务器每家不同：请在 {column} 列填写公司自己的服务器名。",
            en="Each customer of {title_en} has servers of their own: write yours into {column}.",
        ),
    ),
    # -- what a roster may not decide (models/roster_policy.py)
    "no-servers-address": (
        Text(
            zh="这是链路本地地址或云主机的元数据地址，不会有邮件服务器。",
            en="No mail server is at this address: it is link-local, or a cloud's metadata.",
        ),
        Text(zh="请填写邮件服务器的名称。", en="Write the name of the mail server."),
    ),
    "host-not-allowed": (
        Text(zh="[policy] 不允许名单使用这台服务器。", en="[policy] does not let a roster name this server."),
        Text(
            zh="请核对服务器名；确实要用时，由管理员写入 banjia.toml 中 [policy] 的 {setting}。",
            en="Check the name; if it is right, the admin adds it to {setting} in [policy] of banjia.toml.",
        ),
    ),
    "private-host-not-named": (
        Text(
            zh="这是内网地址，而 [policy] 没有点名它。",
            en="It is in a private network, and [policy] does not name it.",
        ),
        Text(
            zh="确实要用时，由管理员写入 banjia.toml 中 [policy] 的 {setting}。",
            en="If it is right, the admin adds it to {setting} in [policy] of banjia.toml.",
        ),
    ),
    "port-not-allowed": (
        Text(
            zh="[policy] 不允许使用 {host} 的这个端口。", en="[policy] does not let a roster name this port of {host}."
        ),
        Text(
            zh="请留空或写 993；确实要用时，由管理员以“服务器:端口”写入 banjia.toml 中 [policy] 的 {setting}。",
            en="Leave it blank or write 993; if it is right, the admin adds host:port to {setting} in [policy] of "
            "banjia.toml.",
        ),
    ),
    "plain-not-allowed": (
        Text(
            zh="[policy] 不允许与 {host} 明文连接。",
            en="[policy] does not let a roster ask for clear text with {host}.",
        ),
        Text(
            zh="请写 tls 或 starttls；若只能明文，由管理员把该服务器写入 BANJIA_PLAIN_HOSTS。",
            en="Write tls or starttls; if the server has nothing else, the admin names it in BANJIA_PLAIN_HOSTS.",
        ),
    ),
    # -- two rows, or two sides of a row
    "duplicate-email": (
        Text(zh="与第 {other} 行是同一个新邮箱。", en="It is the same new mailbox as in line {other}."),
        Text(
            zh="请删除其中一行，或改成另一个地址；本行暂不采用。",
            en="Delete one of the two, or write another address; this line is left out for now.",
        ),
    ),
    "duplicate-target": (
        Text(zh="与第 {other} 行搬到同一个新邮箱。", en="It goes to the same new mailbox as line {other}."),
        Text(
            zh="请改正 TargetUserName，或删除其中一行。",
            en="Correct TargetUserName, or delete one of the two rows.",
        ),
    ),
    "duplicate-source": (
        Text(
            zh="与第 {other} 行是同一个原邮箱，却搬到不同的新邮箱。",
            en="It is the same old mailbox as in line {other}, going to another new mailbox.",
        ),
        Text(zh="请改正 UserName，或删除其中一行。", en="Correct UserName, or delete one of the two rows."),
    ),
    "source-is-target": (
        Text(zh="原邮箱和新邮箱是同一个。", en="The old mailbox and the new one are the same."),
        Text(
            zh="请改正 SourceHost 或 TargetHost，或改正两边的账号。",
            en="Correct SourceHost or TargetHost, or the login of one side.",
        ),
    ),
}  # fmt: skip
