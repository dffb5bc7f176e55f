"""No form in which a server can quote a password shows it: all kinds of passwords, in echoes of all forms."""

import base64
import html
import json
import random
import re
import string
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest

from imapcopy.redaction import redact

# Written anew here, and not taken from what is tested.
PLAIN_FORMS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "a quoted string of IMAP": lambda s: s.replace("\\", "\\\\").replace('"', '\\"'),
    "capitals": str.upper,
    "small letters": str.lower,
    "swapped case": str.swapcase,
    "URL": lambda s: quote(s, safe=""),
    "URL, small digits": lambda s: re.sub("%..", lambda m: m[0].lower(), quote(s, safe="")),
    "URL, everything": lambda s: "".join(f"%{octet:02X}" for octet in s.encode()),
    "form": quote_plus,
    "JSON": lambda s: json.dumps(s)[1:-1],
    "JSON, UTF-8": lambda s: json.dumps(s, ensure_ascii=False)[1:-1],
    "repr": lambda s: repr(s)[1:-1],
    "repr of octets": lambda s: repr(s.encode())[2:-1],
    "HTML": html.escape,
    "HTML, numbers": lambda s: "".join(f"&#{ord(c)};" for c in s),
    "CSV": lambda s: s.replace('"', '""'),
    "octal": lambda s: "".join(f"\\{octet:03o}" for octet in s.encode()),
    "a blank between all": lambda s: " ".join(s),
    "UTF-8 taken for Latin-1": lambda s: s.encode().decode("latin-1"),
    "undecodable octets": lambda s: s.encode("gb18030", "replace").decode("utf-8", "backslashreplace"),
}
ENCODED_FORMS: dict[str, Callable[[bytes], str]] = {
    "base64": lambda o: base64.b64encode(o).decode(),
    "base64 without padding": lambda o: base64.b64encode(o).decode().rstrip("="),
    "base64 for URLs": lambda o: base64.urlsafe_b64encode(o).decode(),
    "base64 in lines": lambda o: re.sub("(.{8})", r"\1 ", base64.b64encode(o).decode()),
    "base64 in small letters": lambda o: base64.b64encode(o).decode().lower(),
    "base64 in capitals": lambda o: base64.b64encode(o).decode().upper(),
    "hex": bytes.hex,
    "hex in capitals": lambda o: o.hex().upper(),
    "hex with blanks": lambda o: o.hex(" "),
    "hex with colons": lambda o: o.hex(":"),
    "hex with 0x": lambda o: " ".join(f"0x{octet:02x}" for octet in o),
}
LETTERS = (
    string.ascii_letters + string.digits,
    string.ascii_letters + string.digits + string.punctuation,
    "\"\\'`$ {}%&<>" + string.ascii_letters,
    "密码授权迁移邮箱客户端专用" + string.digits,
    "😀🔑🦊𝒜𠀀" + string.ascii_lowercase,
    "äöüßéèñçÅØ" + string.ascii_letters,
    string.digits,
)
SENTENCES = (
    "NO [AUTHENTICATIONFAILED] Invalid credentials ({})",
    'BAD Error in IMAP command received by server: AUTHENTICATE PLAIN "{}".',
    "NO LOGIN failed: user lin password {} is wrong",
    "NO [ALERT] 登录失败，授权码 {} 错误",
    "* BYE unexpected line {}",
    "{}",
)


def a_password(draw: random.Random) -> str:
    letters = draw.choice(LETTERS)
    return "".join(draw.choice(letters) for _ in range(draw.randint(8, 40)))


def an_echo(draw: random.Random, password: str) -> tuple[str, str]:
    """What a server makes of a password, and the name of it."""
    cut = password
    if draw.random() < 0.3:
        # Part of it: at least six characters, so at least six octets.
        first = draw.randint(0, len(password) - 6)
        cut = password[first : draw.randint(first + 6, len(password))]
    if draw.random() < 0.5:
        name = draw.choice(list(PLAIN_FORMS))
        return PLAIN_FORMS[name](cut), name
    encoding = draw.choice(["utf-8", "utf-8", "utf-16-le"])
    line = draw.choice(["{}", "\0lin@example.com\0{}", "admin\0lin\0{}", "user=lin\x01auth=Bearer {}\x01\x01"])
    name = draw.choice(list(ENCODED_FORMS))
    said = ENCODED_FORMS[name](line.format(cut).encode(encoding))
    if draw.random() < 0.3:
        outer = draw.choice(list(PLAIN_FORMS))
        if "case" not in outer and "letters" not in outer and "capitals" not in outer:
            return PLAIN_FORMS[outer](said), f"{name} in {outer}"
    return said, name


def runs_of(password: str) -> list[str]:
    """Characters in a row that are six octets or a few more."""
    found = []
    for at in range(len(password)):
        end = at + 1
        while end <= len(password) and len(password[at:end].encode()) < 6:
            end += 1
        if end <= len(password):
            found.append(password[at:end])
    return found


def shown_of(text: str, password: str) -> str:
    """A form of the password of which a part is to be seen in a text; "" for none."""
    small = text.lower()
    for name, form in PLAIN_FORMS.items():
        said = form(password).lower()
        runs = [form(run).lower() for run in runs_of(password)] if name == "as it is" else []
        runs = runs or [said[at : at + len(form(password[at : at + 6]))] for at in range(len(password) - 5)]
        if any(run in small for run in runs):
            return name
    for name, encode in ENCODED_FORMS.items():
        for octets in (password.encode(), password.encode("utf-16-le")):
            for ahead in range(3):
                said = encode(b"\0" * ahead + octets).lower()[6:-6]
                if any(said[at : at + 18] in small for at in range(len(said) - 17)):
                    return name
    return ""


@pytest.mark.parametrize("passwords", [300, pytest.param(10_000, marks=pytest.mark.thorough)])
def test_no_echo_of_a_password_shows_it(passwords: int) -> None:
    draw = random.Random(passwords)
    for number in range(passwords):
        password, other = a_password(draw), a_password(draw)
        said, form = an_echo(draw, password)
        text = draw.choice(SENTENCES).format(said)
        # The other account's counts as well.
        secrets = [password, other] if number % 2 else [other, password]
        shown = redact(text, secrets)
        assert not shown_of(shown, password), (form, password, text, shown)


def test_what_would_be_shown_without_it_is_found() -> None:
    """The search of the test above, tried on what it is to find."""
    draw = random.Random(0)
    for _ in range(300):
        password = "".join(draw.choice(string.ascii_letters + string.digits) for _ in range(24))
        for name, form in PLAIN_FORMS.items():
            assert shown_of(f"NO {form(password)} is wrong", password), name
        for name, encode in ENCODED_FORMS.items():
            if "lines" not in name:
                assert shown_of(f"NO {encode(password.encode())} is wrong", password), name


def test_words_without_a_secret_stay_as_they_are() -> None:
    kept = [
        "NO [AUTHENTICATIONFAILED] Invalid credentials (Failure)",
        "NO LOGIN Login error or password error",
        "BAD [CLIENTBUG] Invalid command, tag 1a2b3c4d5e6f, session QmFzZTY0IGlzIGZpbmU=",
        "NO 授权码错误，请使用客户端专用密码登录 535",
    ]
    assert [redact(text, ["Canary-0-Geheimnis", "另一个秘密🔑"]) for text in kept] == kept


def test_words_that_hold_a_secret_in_another_form_keep_their_code_and_the_words_of_rules() -> None:
    password = "Canary 密码 \\ 🔑"
    line = base64.b64encode(f"\0lin\0{password}".encode()).decode()
    text = f"NO [AUTHENTICATIONFAILED] invalid password, try again in 30 seconds: {line}"
    assert redact(text, [password]) == "NO [AUTHENTICATIONFAILED] invalid password try again in 30 seconds …"
    assert redact(f"NO 密码错误: {line}", [password]) == "NO …"


def test_a_short_password_is_hidden_whole() -> None:
    for password in ("a", "NO", "1234", "密", '"', "\\", "…", "***"):
        shown = redact(f"NO [AUTHENTICATIONFAILED] {password} is wrong", [password])
        assert password not in shown.replace("***", "").replace("…", ""), password


def test_secrets_are_taken_out_the_longest_first_and_control_characters_made_visible() -> None:
    text = redact("NO secret-long and secret\x1b[31m\r\nB9 OK", ["secret", "", "secret-long"])
    assert text == "NO *** and ***\\x1b[31m\\x0d\\x0aB9 OK"


def test_endless_words_are_cut() -> None:
    assert len(redact("x" * 10_000, [])) == 500
    assert redact("x" * 500, []) == "x" * 500


def test_a_text_that_can_be_undone_in_many_ways_is_judged_in_bounded_work() -> None:
    """Each view makes others: a hostile server must not keep a run busy by one line."""
    draw = random.Random(1)
    for alphabet in ("\\x41%25+=&amp;", "0123456789abcdef", string.ascii_letters + "+/", "\"'\\"):
        text = "".join(draw.choice(alphabet) for _ in range(5000))
        assert redact(text, ["Canary-secret-of-a-member"])
