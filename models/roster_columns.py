"""The columns a roster can have: their names, aliases and meaning, the only list of them.

Reading, the template, the example file and the documentation all follow `COLUMNS`.
"""

import csv
import difflib
import io
import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass

from models.bilingual import Language, Text


@dataclass(frozen=True, slots=True)
class Column:
    """One column: `name` as we write it, `field` as `RosterRow` calls it."""

    name: str
    field: str
    meaning: Text
    example: Text
    aliases: tuple[str, ...]
    # Headers that count only where the column itself is absent or blank: MigrationWiz has "Source Email" beside an
    # optional "Source UserName".
    fallbacks: tuple[str, ...] = ()
    required: bool = False
    secret: bool = False


def _same(value: str) -> Text:
    return Text(zh=value, en=value)


def _names(zh: str, en: str) -> tuple[str, ...]:
    return (*zh.split(","), *en.split(","))


COLUMNS: tuple[Column, ...] = (
    Column(
        "EmailAddress",
        "email",
        Text(zh="新邮箱地址，邮件搬到这里", en="The new mailbox, where the mail goes"),
        Text(zh="zhang.wei@example.cn", en="alice@example.com"),
        _names(
            "新邮箱地址,新邮箱,目标邮箱,目标邮箱地址,邮箱地址,邮箱",
            "Destination Email,Destination Email Address,Target Email,Target Address,New Email,Email,Mailbox",
        ),
        required=True,
    ),
    Column(
        "UserName",
        "user_name",
        Text(zh="登录原邮箱的账号", en="The login of the old mailbox"),
        Text(zh="zhangwei@old.example.cn", en="alice@old.example.com"),
        _names(
            "原邮箱账号,原邮箱帐号,原邮箱,原账号,原帐号,旧邮箱账号,旧邮箱,源邮箱账号,源邮箱,用户名,登录名,账号,帐号",
            "Source UserName,Source User,Source Login,Login,User",
        ),
        fallbacks=("Source Email", "Source Email Address", "Source Address", "Old Email", "原邮箱地址", "旧邮箱地址"),
        required=True,
    ),
    Column(
        "Password",
        "password",
        Text(
            zh="原邮箱的密码或客户端专用密码（授权码）；留空则该成员等待补填",
            en="The password or app password of the old mailbox; blank leaves the member waiting until it is given",
        ),
        Text(zh="qmzx-4821-oldmail", en="correct-horse-4821"),
        _names(
            "原邮箱密码,客户端专用密码,客户端授权码,授权码,专用密码,应用专用密码,原密码,旧邮箱密码,源邮箱密码,邮箱密码,密码",
            "Source Password,Old Password,App Password,Passwd,Pass,Pwd",
        ),
        secret=True,
    ),
    Column(
        "UserRoot",
        "user_root",
        Text(zh="原邮箱中作为起点的文件夹；通常留空", en="The folder of the old mailbox to start from; usually blank"),
        _same("INBOX"),
        _names(
            "原邮箱根文件夹,根文件夹,根目录",
            "Root Folder,Source Root",
        ),
    ),
    Column(
        "DisplayName",
        "display_name",
        Text(zh="成员姓名", en="The member's name"),
        Text(zh="张伟", en="Alice Archer"),
        _names(
            "姓名,成员姓名,名称,显示名称,显示名",
            "Name,Full Name",
        ),
    ),
    Column(
        "Department",
        "department",
        Text(zh="部门", en="The member's department"),
        Text(zh="财务部", en="Finance"),
        _names(
            "部门,部门名称,所属部门",
            "Dept",
        ),
    ),
    Column(
        "Wave",
        "wave",
        Text(zh="批次名称，同批一起搬", en="The wave's name; the members of a wave move together"),
        Text(zh="第一批", en="pilot"),
        _names(
            "批次,搬家批次,批次名称",
            "Batch,Migration Batch",
        ),
    ),
    Column(
        "Provider",
        "provider",
        Text(
            zh="原邮箱的服务商，见 banjia provider list；写了它，SourceHost 可以留空",
            en="The old mailbox's provider (banjia provider list); with it, SourceHost may stay blank",
        ),
        Text(zh="aliyun", en="gmail"),
        _names(
            "服务商,邮箱服务商,原服务商,原邮箱服务商",
            "Source Provider,Mail Provider",
        ),
    ),
    Column(
        "SourceHost",
        "source_host",
        Text(zh="原邮箱的 IMAP 服务器", en="The old mailbox's IMAP server"),
        Text(zh="imap.old.example.cn", en="imap.old.example.com"),
        _names(
            "原服务器,原邮箱服务器,原邮箱服务器地址,原IMAP服务器,源服务器,源邮箱服务器",
            "Source Server,Source IMAP Server,Source IMAP Host,IMAP Server,IMAP Host",
        ),
    ),
    Column(
        "SourcePort",
        "source_port",
        Text(zh="原服务器的端口，通常是 993", en="The old server's port, usually 993"),
        _same("993"),
        _names(
            "原端口,原服务器端口,原邮箱端口,原邮箱服务器端口,源端口",
            "Source IMAP Port,IMAP Port",
        ),
    ),
    Column(
        "SourceSecurity",
        "source_security",
        Text(zh="原服务器的加密方式：tls、starttls 或 plain", en="The old server's encryption: tls, starttls or plain"),
        _same("tls"),
        _names(
            "原加密方式,原服务器加密方式,原邮箱加密方式,源加密方式",
            "Source Encryption,IMAP Security",
        ),
    ),
    Column(
        "TargetHost",
        "target_host",
        Text(zh="新邮箱的 IMAP 服务器", en="The new mailbox's IMAP server"),
        Text(zh="imap.example.cn", en="imap.example.com"),
        _names(
            "新服务器,新邮箱服务器,新邮箱服务器地址,新IMAP服务器,目标服务器,目标邮箱服务器",
            "Target Server,Destination Host,Destination Server",
        ),
    ),
    Column(
        "TargetPort",
        "target_port",
        Text(zh="新服务器的端口，通常是 993", en="The new server's port, usually 993"),
        _same("993"),
        _names(
            "新端口,新服务器端口,新邮箱端口,新邮箱服务器端口,目标端口",
            "Destination Port",
        ),
    ),
    Column(
        "TargetSecurity",
        "target_security",
        Text(zh="新服务器的加密方式：tls、starttls 或 plain", en="The new server's encryption: tls, starttls or plain"),
        _same("tls"),
        _names(
            "新加密方式,新服务器加密方式,新邮箱加密方式,目标加密方式",
            "Target Encryption,Destination Security,Destination Encryption",
        ),
    ),
    Column(
        "TargetUserName",
        "target_user_name",
        Text(
            zh="登录新邮箱的账号；留空则用 EmailAddress",
            en="The login of the new mailbox; blank means EmailAddress",
        ),
        Text(zh="zhang.wei@example.cn", en="alice@example.com"),
        _names(
            "新邮箱账号,新邮箱帐号,新邮箱登录名,新账号,目标账号,目标邮箱账号",
            "Target User,Target Login,Destination UserName,Destination User,Destination Login",
        ),
    ),
    Column(
        "TargetPassword",
        "target_password",
        Text(zh="新邮箱的密码或客户端专用密码", en="The password or app password of the new mailbox"),
        Text(zh="qmzx-7350-newmail", en="battery-staple-7350"),
        _names(
            "新邮箱密码,新邮箱客户端专用密码,新邮箱专用密码,新邮箱授权码,新密码,目标密码,目标邮箱密码",
            "Destination Password,New Password",
        ),
        secret=True,
    ),
    Column(
        "SourceAdmin",
        "source_admin",
        Text(
            zh="代成员登录原邮箱的管理员账号，Password 是管理员的密码；通常留空",
            en="The administrator who signs in to the old mailbox; Password is theirs then; usually blank",
        ),
        Text(zh="mailadmin", en="mailadmin"),
        _names("原邮箱管理员,原管理员,源管理员", "Source Auth User,Source Administrator"),
    ),
    Column(
        "TargetAdmin",
        "target_admin",
        Text(
            zh="代成员登录新邮箱的管理员账号，TargetPassword 是管理员的密码；通常留空",
            en="The administrator who signs in to the new mailbox; TargetPassword is theirs then; usually blank",
        ),
        Text(zh="mailadmin", en="mailadmin"),
        _names("新邮箱管理员,新管理员,目标管理员", "Target Auth User,Target Administrator"),
    ),
    Column(
        "ExcludeFolders",
        "exclude_folders",
        Text(zh="不搬的文件夹，用 | 或分号隔开", en="Folders to leave out, separated by | or a semicolon"),
        Text(zh="垃圾邮件|已删除", en="Spam|Trash"),
        _names(
            "不搬的文件夹,排除文件夹,排除的文件夹,忽略的文件夹",
            "Excluded Folders,Skip Folders,Exclude",
        ),
    ),
    Column(
        "Since",
        "since",
        Text(zh="只搬这一天及以后的邮件，如 2024-01-31", en="Move only mail from this day on, such as 2024-01-31"),
        _same("2020-01-01"),
        _names(
            "起始日期,开始日期,邮件起始日期",
            "From Date,Start Date,Since Date",
        ),
    ),
    Column(
        "Language",
        "language",
        Text(zh="成员页面和通知的语言：zh-CN 或 en", en="The language the member reads: zh-CN or en"),
        Text(zh="zh-CN", en="en"),
        _names(
            "语言,界面语言,通知语言",
            "Lang,Locale",
        ),
    ),
    Column(
        "NotifyAddress",
        "notify_address",
        Text(zh="给成员发通知的邮箱地址", en="Where the member is told about the move"),
        Text(zh="zhangwei@old.example.cn", en="alice@old.example.com"),
        _names(
            "通知地址,通知邮箱,通知邮箱地址,联系邮箱",
            "Notify,Notification Email,Notify Email",
        ),
    ),
    Column(
        "Shared",
        "shared",
        Text(zh="是否公共邮箱：是或否", en="Whether it is a shared mailbox: yes or no"),
        Text(zh="否", en="no"),
        _names(
            "公共邮箱,共享邮箱,是否公共邮箱,是否共享",
            "Shared Mailbox,Is Shared",
        ),
    ),
    Column(
        "Note",
        "note",
        Text(zh="备注，只给管理员看", en="A note for the admins"),
        Text(zh="示例行，请删除", en="An example; delete this row"),
        _names(
            "备注,说明,注释",
            "Notes,Comment,Comments,Remark,Remarks",
        ),
    ),
)

# Headers that change nothing here and need no remark: MigrationWiz's own switches, and what our failure export adds.
IGNORED_HEADERS = ("Flags", "Cause", "Fix", "原因", "处理办法")


def fold_header(header: str) -> str:
    """Reduce a header to what tells it from others: `Ｅmail_Address *` becomes `emailaddress`."""
    return re.sub(r"[\s_*\-\u200b-\u200d\u2060\ufeff]", "", unicodedata.normalize("NFKC", header)).casefold()


_BY_NAME = {fold_header(name): column for column in COLUMNS for name in (column.name, *column.aliases)}
_BY_FALLBACK = {fold_header(name): column for column in COLUMNS for name in column.fallbacks}
_IGNORED = {fold_header(name) for name in IGNORED_HEADERS}
# Whatever else the header says, such a column holds passwords.
_SECRET_WORDS = ("passw", "pwd", "密码", "授权码")


def column_of(header: str) -> Column | None:
    """Find the column a header stands for, by name or alias."""
    folded = fold_header(header)
    return _BY_NAME.get(folded) or _BY_FALLBACK.get(folded)


def is_fallback(header: str) -> bool:
    """Say whether the header counts only where the column itself is blank."""
    return fold_header(header) in _BY_FALLBACK


def is_ignored(header: str) -> bool:
    """Say whether the header is known to have no meaning here."""
    return fold_header(header) in _IGNORED


def similar_column(header: str, absent: Collection[Column]) -> Column | None:
    """Find the column that a misspelt header probably means, among those the file does not have."""
    folded = fold_header(header)
    names = {fold_header(name): column for column in absent for name in (column.name, *column.aliases)}
    close = difflib.get_close_matches(folded, names, n=1, cutoff=0.75)
    if close:
        return names[close[0]]
    if any(word in folded for word in _SECRET_WORDS):
        return next((column for column in absent if column.secret), None)
    return None


def roster_template(language: Language) -> str:
    """Write a CSV with every column and one invented row, its values in the admin's language."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(column.name for column in COLUMNS)
    writer.writerow(column.example.in_language(language) for column in COLUMNS)
    return text.getvalue()
