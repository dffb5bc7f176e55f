"""A notice as an Internet message: a text and a page below headers that no text can break."""

from dataclasses import dataclass
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, parseaddr

from models.bilingual import Language
from models.columns import now


@dataclass(frozen=True, slots=True)
class Mail:
    """One mail, before it has a sender. `key` is the same for the same notice, however often it is handed over."""

    to: str
    subject: str
    text: str
    html: str
    language: Language
    key: str


def composed(mail: Mail, sender: str) -> EmailMessage:
    """The message. ValueError for an address that cannot stand in a header."""
    author = sender_address(sender)
    message = EmailMessage(policy=SMTP)
    message["From"] = author
    # Without a name: a display name that a member chose is no place to trust a header's quoting to.
    message["To"] = _address("", mail.to)
    message["Subject"] = _no_encoded_words(" ".join(mail.subject.split()))
    message["Date"] = format_datetime(now())
    # Stable, so that a mail that went out twice after all is shown once by most mail programs.
    message["Message-ID"] = f"<{mail.key}@{author.domain}>"
    # RFC 3834 section 5, and what Exchange asks for: no out-of-office answers.
    message["Auto-Submitted"] = "auto-generated"
    message["X-Auto-Response-Suppress"] = "All"
    message.set_content(mail.text, cte="base64")
    message.add_alternative(mail.html, subtype="html", cte="base64")
    message["Content-Language"] = mail.language  # last: content fields of before have gone into the first part
    return message


def sender_address(sender: str) -> Address:
    """The address of one who is written as `name <address>`; ValueError where it cannot stand in a header."""
    name, address = parseaddr(sender)
    return _address(_no_encoded_words(name), address)


def _address(name: str, address: str) -> Address:
    local, _, domain = address.rpartition("@")
    if not local or not local.isascii():
        raise ValueError("only servers with SMTPUTF8 (RFC 6531) take such an address, and few have it")
    try:
        return Address(name, addr_spec=f"{local}@{domain.encode('idna').decode()}")
    except (MessageError, IndexError) as error:
        raise ValueError(str(error)) from None


def _no_encoded_words(text: str) -> str:
    """Break what looks like an encoded word: Python's mail package would decode it into the header, line ends too."""
    return text.replace("=?", "= ?")
