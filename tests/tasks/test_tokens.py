"""Tokens come from Google's and Microsoft's protocols, are kept as long as they are good, and say why there is none."""

import traceback
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from deployments.demo.imap_tokens import TokenBook
from imapcopy.errors import MemberError, MigrationError, ServerError
from tasks.credentials import GOOGLE_SCOPE, MICROSOFT_SCOPES, SignIn, token_source
from tasks.tokens import NotIssued, TokenSource, google_tokens, microsoft_tokens
from tests.servers.certificates import Authority
from tests.servers.token_endpoint import (
    CLIENT,
    CLIENT_SECRET,
    KEY_ID,
    TENANT,
    Refusal,
    TokenEndpoint,
    token_endpoint,
)

LIN = "lin@company.example"
WANG = "wang@company.example"
SCOPE = MICROSOFT_SCOPES["outlook.office365.com"]


@pytest.fixture
def endpoint(authority: Authority, tmp_path: Path) -> Iterator[TokenEndpoint]:
    (tmp_path / "ca.pem").write_bytes(authority.root)
    with token_endpoint(TokenBook().issue, authority, tmp_path) as running:
        yield running


@pytest.fixture
def google(endpoint: TokenEndpoint, tmp_path: Path) -> TokenSource:
    key_file = endpoint.write_service_account(tmp_path / "service-account.json")
    return google_tokens(key_file, GOOGLE_SCOPE, ca_file=tmp_path / "ca.pem")


@pytest.fixture
def microsoft(endpoint: TokenEndpoint, tmp_path: Path) -> TokenSource:
    return microsoft_tokens(TENANT, CLIENT, SCOPE, endpoint.url, secret=CLIENT_SECRET, ca_file=tmp_path / "ca.pem")


def said(error: BaseException | None) -> str:
    words = ""
    while error is not None:
        words += f"{error!r} {error.args} {getattr(error, 'server_text', '')}"
        words += "".join(traceback.format_exception_only(error))
        error = error.__cause__ or error.__context__
    return words


def test_google_issues_a_token_for_each_member_and_it_is_kept(google: TokenSource, endpoint: TokenEndpoint) -> None:
    lin, wang = google.tokens("source", LIN), google.tokens("source", WANG)
    first = lin.current()
    assert first.fresh
    assert lin.current().value == first.value
    assert not lin.current().fresh
    assert google.tokens("source", LIN).current().value == first.value
    assert wang.current().value != first.value
    assert endpoint.subjects == [LIN, WANG]


def test_microsoft_issues_one_token_for_all(microsoft: TokenSource, endpoint: TokenEndpoint) -> None:
    lin, wang = microsoft.tokens("source", LIN), microsoft.tokens("source", WANG)
    assert wang.current().value == lin.current().value
    assert endpoint.subjects == [""]
    assert set(endpoint.asked[0]) >= {"client_id", "client_secret", "scope", "grant_type"}


@pytest.mark.parametrize("kind", ["google", "microsoft"])
def test_a_token_that_a_server_takes_no_longer_is_replaced(
    kind: str, request: pytest.FixtureRequest, endpoint: TokenEndpoint
) -> None:
    tokens = request.getfixturevalue(kind).tokens("source", LIN)
    first = tokens.current()
    tokens.ended(first)
    second = tokens.current()
    assert (second.fresh, second.value != first.value, len(endpoint.subjects)) == (True, True, 2)
    # What another connection says of the one before does not end the new one.
    tokens.ended(first)
    assert tokens.current().value == second.value
    assert [*tokens.issued()] == [first.value, second.value]


def test_a_certificate_stands_for_the_secret(endpoint: TokenEndpoint, authority: Authority, tmp_path: Path) -> None:
    """msal takes RSA keys alone."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mover")])
    served = x509.load_pem_x509_certificate(authority.issue().chain)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(served.not_valid_before_utc)
        .not_valid_after(served.not_valid_after_utc)
        .sign(key, hashes.SHA256())
    )
    endpoint.certificate_key = key.public_key()
    pem = tmp_path / "application.pem"
    pem.touch(mode=0o600)
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    found = microsoft_tokens(TENANT, CLIENT, SCOPE, endpoint.url, certificate=pem, ca_file=tmp_path / "ca.pem")
    assert found.tokens("target", LIN).current().fresh
    assert jwt.get_unverified_header(endpoint.asked[0]["client_assertion"])["alg"] in {"PS256", "RS256"}
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    with pytest.raises(NotIssued) as caught:
        microsoft_tokens(TENANT, CLIENT, SCOPE, endpoint.url, certificate=pem)
    assert "private key" in caught.value.text


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_tokens_are_replaced_ahead_of_their_end(endpoint: TokenEndpoint, google: TokenSource) -> None:
    clock = Clock()
    source = TokenSource(google._issue, "", clock=clock)
    tokens = source.tokens("source", LIN)
    first = tokens.current()
    clock.now += 3200
    assert tokens.current().value == first.value
    clock.now += 150
    second = tokens.current()
    assert second.value != first.value
    endpoint.lifetime = 100
    clock.now += 4000
    short = tokens.current()
    clock.now += 70
    assert tokens.current().value == short.value
    clock.now += 15
    assert tokens.current().value != short.value


def test_a_token_is_used_to_its_end_while_no_other_can_be_had(endpoint: TokenEndpoint, google: TokenSource) -> None:
    clock = Clock()
    answers = [True]

    def issue(user: str) -> object:
        if answers[-1]:
            return google._issue(user)
        raise NotIssued("down", waiting_helps=True)

    tokens = TokenSource(issue, "https://tokens.example", clock=clock).tokens("target", LIN)  # type: ignore[arg-type]
    first = tokens.current()
    answers.append(False)
    clock.now += 3400
    assert tokens.current().value == first.value
    clock.now += 300
    with pytest.raises(ServerError) as caught:
        tokens.current()
    assert (caught.value.cause_id, caught.value.side, caught.value.where) == (
        "token_unavailable",
        "target",
        "https://tokens.example",
    )


@pytest.mark.parametrize(
    ("kind", "refusal", "cause"),
    [
        ("google", Refusal("unauthorized_client", "Client is unauthorized to retrieve access tokens", 401), "consent"),
        ("google", Refusal("invalid_grant", "Invalid email or User ID"), "no_such_user"),
        ("google", Refusal("invalid_grant", "Invalid JWT Signature."), "consent"),
        ("google", Refusal("access_denied", "Requested client not authorized"), "consent"),
        ("microsoft", Refusal("invalid_client", "AADSTS7000215: Invalid client secret", 401), "consent"),
        ("microsoft", Refusal("unauthorized_client", "AADSTS700016: not found in the directory"), "consent"),
        ("microsoft", Refusal("temporarily_unavailable", "AADSTS90033: try again"), "unavailable"),
        ("microsoft", Refusal("server_error", "", 503), "unavailable"),
    ],
)
def test_a_refusal_has_its_cause_and_the_endpoint_s_words(
    request: pytest.FixtureRequest, endpoint: TokenEndpoint, kind: str, refusal: Refusal, cause: str
) -> None:
    endpoint.refusals = [refusal]
    tokens = request.getfixturevalue(kind).tokens("source", LIN)
    with pytest.raises(MigrationError) as caught:
        tokens.current()
    assert caught.value.cause_id == {"consent": "oauth_consent", "unavailable": "token_unavailable"}.get(cause, cause)
    assert isinstance(caught.value, ServerError) == (cause == "unavailable")
    if refusal.status < 500:
        assert refusal.description in caught.value.server_text
    if kind == "google":
        # msal keeps some refusals for a minute.
        assert tokens.current().fresh


@pytest.mark.parametrize("kind", ["google", "microsoft"])
def test_no_secret_is_in_what_is_said_of_a_refusal(
    request: pytest.FixtureRequest, endpoint: TokenEndpoint, kind: str
) -> None:
    tokens = request.getfixturevalue(kind).tokens("source", LIN)
    tokens.current()
    form = endpoint.asked[-1]
    sent = form.get("assertion") or form["client_secret"]
    tokens.ended(tokens.current())
    endpoint.refusals = [Refusal("invalid_client", f"{CLIENT_SECRET} {KEY_ID} {endpoint.private_key}")]
    with pytest.raises(MigrationError) as caught:
        tokens.current()
    for secret in (CLIENT_SECRET if kind == "microsoft" else KEY_ID, sent):
        assert secret not in said(caught.value)
    if kind == "google":
        assert endpoint.private_key.split("\n")[3] not in said(caught.value)


@pytest.mark.parametrize("kind", ["google", "microsoft"])
def test_an_endpoint_that_does_not_answer_is_a_matter_of_waiting(
    request: pytest.FixtureRequest, authority: Authority, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "ca.pem").write_bytes(authority.root)
    with token_endpoint(TokenBook().issue, authority, tmp_path) as endpoint:
        key_file = endpoint.write_service_account(tmp_path / "key.json")
        found = (
            google_tokens(key_file, GOOGLE_SCOPE, ca_file=tmp_path / "ca.pem")
            if kind == "google"
            else microsoft_tokens(TENANT, CLIENT, SCOPE, endpoint.url, secret=CLIENT_SECRET)
        )
    with pytest.raises(ServerError) as caught:
        found.tokens("source", LIN).current()
    assert caught.value.cause_id == "token_unavailable"
    assert CLIENT_SECRET not in said(caught.value)


def test_an_endpoint_that_nobody_vouches_for_gets_nothing(endpoint: TokenEndpoint, tmp_path: Path) -> None:
    found = microsoft_tokens(TENANT, CLIENT, SCOPE, endpoint.url, secret=CLIENT_SECRET)
    with pytest.raises(ServerError) as caught:
        found.tokens("source", LIN).current()
    assert caught.value.cause_id == "token_unavailable"
    assert not endpoint.asked


@pytest.mark.parametrize("tenant", ["no-such-tenant", "../..", ""])
def test_a_tenant_that_is_none_is_the_admin_s_to_mend(endpoint: TokenEndpoint, tmp_path: Path, tenant: str) -> None:
    found = microsoft_tokens(tenant, CLIENT, SCOPE, endpoint.url, secret=CLIENT_SECRET, ca_file=tmp_path / "ca.pem")
    with pytest.raises(MemberError) as caught:
        found.tokens("source", LIN).current()
    assert caught.value.cause_id == "oauth_consent"


@pytest.mark.parametrize(
    ("host", "endpoint", "asked"),
    [
        ("outlook.office365.com", "", "https://login.microsoftonline.com/tenant-1"),
        ("Partner.Outlook.cn", "", "https://login.partner.microsoftonline.cn/tenant-1"),
        ("partner.outlook.cn", "https://tokens.example/", "https://tokens.example/tenant-1"),
        ("127.0.0.1", "", "https://login.microsoftonline.com/tenant-1"),
    ],
)
def test_the_mail_server_tells_which_cloud_issues_its_tokens(host: str, endpoint: str, asked: str) -> None:
    settings = SignIn(method="microsoft", tenant="tenant-1", client="c", endpoint=endpoint)
    assert token_source(settings, host, "secret", None, "source").endpoint == asked


@pytest.mark.parametrize("content", ["", "{}", "[]", "no json", '{"token_uri": "https://x", "private_key_id": "7"}'])
def test_a_file_that_is_no_service_account_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "key.json"
    file.touch(mode=0o600)
    file.write_text(content)
    with pytest.raises((NotIssued, MemberError)) as caught:
        google_tokens(file, GOOGLE_SCOPE).tokens("source", LIN).current()
    assert "key.json is no key" in getattr(caught.value, "text", "") + getattr(caught.value, "server_text", "")


def test_nothing_is_sent_in_clear_text(tmp_path: Path, endpoint: TokenEndpoint) -> None:
    key_file = endpoint.write_service_account(tmp_path / "key.json")
    for make in (
        lambda: google_tokens(key_file, GOOGLE_SCOPE, "http://127.0.0.1:1/token"),
        lambda: microsoft_tokens(TENANT, CLIENT, SCOPE, "http://127.0.0.1:1", secret=CLIENT_SECRET),
    ):
        with pytest.raises(NotIssued) as caught:
            make()
        assert "https://" in caught.value.text


@pytest.mark.parametrize("kind", ["google", "microsoft"])
def test_a_redirect_of_the_endpoint_is_not_followed(
    request: pytest.FixtureRequest, endpoint: TokenEndpoint, authority: Authority, tmp_path: Path, kind: str
) -> None:
    """It would be handed what signs in for everybody, by its own protocol or in clear."""
    tokens = request.getfixturevalue(kind).tokens("source", LIN)
    (tmp_path / "other").mkdir()
    with token_endpoint(lambda user: "stolen", authority, tmp_path / "other") as other:
        for elsewhere in (f"{other.url}/token", f"http://127.0.0.1:{other.port}/token"):
            endpoint.sends_to = elsewhere
            with pytest.raises(MigrationError):
                tokens.current()
        assert other.asked == []
