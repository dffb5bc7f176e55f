"""The command line: `banjia`. Every command prints a result as text or, with --json, as one document on stdout.

Imports are late, because Prefect and pandas cost seconds that `banjia --help` does not have.
"""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from console.terminal import in_plain_words, language, say, say_what_does_not_count


class Commands(TyperGroup):
    """Commands whose failures are said in one sentence, with the exit code that each means."""

    def invoke(self, ctx: Any) -> Any:
        with in_plain_words():
            say_what_does_not_count()
            return super().invoke(ctx)


app = typer.Typer(
    name="banjia",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="搬家：move a company's mailboxes to a new mail service, and prove that nothing was lost.",
)
roster_app = typer.Typer(no_args_is_help=True, help="Look at a roster before anything happens.")
rules_app = typer.Typer(no_args_is_help=True, help="The rules for folders and messages.")
wave_app = typer.Typer(no_args_is_help=True, help="Waves: the members that move together.")
member_app = typer.Typer(no_args_is_help=True, help="One member.")
provider_app = typer.Typer(no_args_is_help=True, help="What is known of mail services.")
vault_app = typer.Typer(no_args_is_help=True, help="The stored passwords.")
probe_app = typer.Typer(help="Measure what a new mail service does with mail, in scratch folders of one mailbox.")
notices_app = typer.Typer(no_args_is_help=True, help="What members and admins are told about a wave.")
host_app = typer.Typer(no_args_is_help=True, help="Mail servers: how many connections, how fast, and when none.")
prefect_app = typer.Typer(no_args_is_help=True, help="The local Prefect server that Banjia starts for itself.")
for name, part in (
    ("roster", roster_app),
    ("rules", rules_app),
    ("wave", wave_app),
    ("member", member_app),
    ("provider", provider_app),
    ("vault", vault_app),
    ("probe", probe_app),
    ("notices", notices_app),
    ("host", host_app),
    ("prefect", prefect_app),
):
    app.add_typer(part, name=name)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")]
RosterFile = Annotated[Path, typer.Argument(help="The roster: CSV or XLSX.", metavar="ROSTER")]
WaveName = Annotated[str, typer.Argument(help="The wave's name.", metavar="WAVE")]
WaveOption = Annotated[str | None, typer.Option("--wave", help="The wave's name; default: the file's name.")]
SecretName = Annotated[
    str, typer.Argument(help="What it is called in the settings, or: source, target.", metavar="NAME")
]
ReportOption = Annotated[Path | None, typer.Option("--report", help="Folder for the reports.", metavar="DIR")]

ConfirmPairs = Annotated[
    bool,
    typer.Option(
        "--confirm-pairs", help="The addresses that do not agree are right: move these members, too. It is noted."
    ),
]


@app.command()
def migrate(
    roster: RosterFile,
    wave: WaveOption = None,
    report: ReportOption = None,
    confirm_pairs: ConfirmPairs = False,
    json: AsJson = False,
) -> None:
    """Check, copy, verify and report every mailbox of a roster. Run it again to go on, or to fetch new mail."""
    from console import run

    name = run.enrol(roster, wave, report, as_json=json)
    run.move(name, as_json=json, confirm_pairs=confirm_pairs)


@roster_app.command("check")
def roster_check(roster: RosterFile, json: AsJson = False) -> None:
    """Show every problem of a roster by line and column, with its cure. Nothing is stored."""
    from console import run

    run.check_roster(roster, as_json=json)


@roster_app.command("template")
def roster_template() -> None:
    """Print an empty roster with every column explained."""
    from models.roster import roster_template

    typer.echo(roster_template(language()), nl=False)


@rules_app.command("template")
def rules_template() -> None:
    """Print a banjia.toml with every rule explained and none in force."""
    from models.rules import rules_template

    typer.echo(rules_template(language()), nl=False)


@wave_app.command("create")
def wave_create(roster: RosterFile, wave: WaveOption = None, report: ReportOption = None, json: AsJson = False) -> None:
    """Take a roster into a wave, or update the wave from a mended roster. Nothing is moved."""
    from console import run

    run.create(roster, wave, report, as_json=json)


@wave_app.command("check")
def wave_check(wave: WaveName, json: AsJson = False) -> None:
    """Sign in to both mailboxes of every member, count, and say what would go wrong. Writes to no mailbox."""
    from console import check

    check.show(wave, as_json=json)


@wave_app.command("unknown")
def wave_unknown(wave: WaveName, json: AsJson = False) -> None:
    """Print servers' answers that no rule knows, as rules to mend and keep in answers.toml; no member is named."""
    from console import unknown

    unknown.show(wave, as_json=json)


@wave_app.command("addresses")
def wave_addresses(wave: WaveName, json: AsJson = False) -> None:
    """Ask Feishu or Lark Mail which new addresses exist, and what they are. Needs no member's password."""
    from console import addresses

    addresses.show(wave, as_json=json)


@wave_app.command("sheet")
def wave_sheet(
    wave: WaveName,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the files; default: sheets, in the report's.", metavar="DIR")
    ] = None,
    json: AsJson = False,
) -> None:
    """Write what admins and members prepare before the move: a sheet for you, and one for each old service."""
    from console import sheets

    sheets.write(wave, out, as_json=json)


@wave_app.command("plan")
def wave_plan(wave: WaveName, json: AsJson = False) -> None:
    """Show where each folder of every member goes, and why. Writes to no mailbox."""
    from console import plan

    plan.show(wave, as_json=json)


@wave_app.command("start")
def wave_start(
    wave: WaveName,
    at: Annotated[
        datetime | None,
        typer.Option(
            help="Let a worker start it then, for example 2026-12-05T22:00+08:00.",
            formats=["%Y-%m-%dT%H:%M%z", "%Y-%m-%dT%H:%M:%S%z"],
        ),
    ] = None,
    confirm_pairs: ConfirmPairs = False,
    json: AsJson = False,
) -> None:
    """Move the wave's members now, in this process, or let a worker do it at a later time (--at)."""
    from console import run, schedule

    if at is None:
        run.move(wave, as_json=json, confirm_pairs=confirm_pairs)
    else:
        schedule.start_at(wave, at, as_json=json, confirm_pairs=confirm_pairs)


@wave_app.command("retry")
def wave_retry(
    wave: WaveName,
    roster: Annotated[Path | None, typer.Option(help="A mended roster to take in first.", metavar="ROSTER")] = None,
    confirm_pairs: ConfirmPairs = False,
    json: AsJson = False,
) -> None:
    """Try only the members that failed, and messages that were not moved, again."""
    from console import run

    run.retry(wave, roster, as_json=json, confirm_pairs=confirm_pairs)


@wave_app.command("status")
def wave_status(wave: WaveName, json: AsJson = False) -> None:
    """Show how far every member is."""
    from console import run

    run.show_status(wave, as_json=json)


@wave_app.command("report")
def wave_report(wave: WaveName, report: ReportOption = None, json: AsJson = False) -> None:
    """Write the report from what is known now. Needs neither Prefect nor a mail server."""
    from console import run

    run.write_report(wave, report, as_json=json)


@wave_app.command("failures")
def wave_failures(wave: WaveName, json: AsJson = False) -> None:
    """Print the members that need attention as a roster to mend: the upload's columns, cause and cure."""
    from console import run

    run.print_failures(wave, as_json=json)


@wave_app.command("issues")
def wave_issues(
    wave: WaveName,
    export: Annotated[
        Path | None, typer.Option(help="Save each message as member/folder/UID.eml, and index.csv.", metavar="DIR")
    ] = None,
    altered: Annotated[
        bool, typer.Option(help="With --export: save the originals of what the new server altered gravely, too.")
    ] = False,
    json: AsJson = False,
) -> None:
    """List every message that was not moved or was altered, and why; --export saves originals as files."""
    from console import issues

    issues.list_issues(wave, export, altered_too=altered, as_json=json)


@member_app.command("show")
def member_show(
    email: Annotated[str, typer.Argument(help="The new address.")],
    wave: WaveOption = None,
    json: AsJson = False,
) -> None:
    """Show one member: state, cause with its cure, folders, messages that were not moved, timeline."""
    from console import run

    run.show_member(email, wave, as_json=json)


@app.command()
def verify(
    wave: WaveName,
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte back and compare digests.")] = False,
    json: AsJson = False,
) -> None:
    """Re-read the new mailboxes and compare them with what was moved. Writes to no mailbox."""
    from console import run

    run.verify(wave, deep=deep, as_json=json)


@vault_app.command("set")
def vault_set(name: SecretName, json: AsJson = False) -> None:
    """Store an administrator's password or an application's secret, typed at the prompt or read from stdin."""
    from console import vault

    vault.keep(name, as_json=json)


@vault_app.command("list")
def vault_list(json: AsJson = False) -> None:
    """Name the secrets that `vault set` stored. They are never shown."""
    from console import vault

    vault.names(as_json=json)


@vault_app.command("forget")
def vault_forget(name: SecretName, json: AsJson = False) -> None:
    """Delete a secret that `vault set` stored, for good."""
    from console import vault

    vault.forget(name, as_json=json)


NoticeKinds = Annotated[
    list[str] | None, typer.Option("--kind", help="invitation, reminder, completion, summary or alarm; default: all.")
]


@notices_app.command("preview")
def notices_preview(
    wave: WaveName,
    kind: NoticeKinds = None,
    member: Annotated[str | None, typer.Option(help="A member's new address; default: the first.")] = None,
    spoken: Annotated[str | None, typer.Option("--language", help="zh-CN or en; default: both.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the files.", metavar="DIR")] = Path("notices"),
    json: AsJson = False,
) -> None:
    """Write notices as they would be sent now, as .html, .txt and .eml. Sends nothing."""
    from console import notices

    notices.preview(wave, kind, member, spoken, out, as_json=json)


@notices_app.command("send")
def notices_send(
    wave: WaveName,
    kind: NoticeKinds = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what is due.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Also what was refused before, or was perhaps sent; may arrive twice.")
    ] = False,
    at_once: Annotated[bool, typer.Option("--now", help="In the quiet hours, too.")] = False,
    json: AsJson = False,
) -> None:
    """Send what is due. From the first time on, the members of this wave get their notices."""
    from console import notices

    notices.send(wave, kind, dry_run=dry_run, again=again, at_once=at_once, as_json=json)


@notices_app.command("status")
def notices_status(wave: WaveName, json: AsJson = False) -> None:
    """Show what was sent, what waits, and what did not arrive."""
    from console import notices

    notices.show(wave, as_json=json)


@provider_app.command("list")
def provider_list(json: AsJson = False) -> None:
    """List the mail services that are known, and how to write each into a roster."""
    from console import providers

    providers.show_all(as_json=json)


@provider_app.command("show")
def provider_show(
    name: Annotated[str, typer.Argument(help="As it is written into a roster.", metavar="NAME")], json: AsJson = False
) -> None:
    """Show one mail service: servers, sign-in, limits, and the steps of admin and member."""
    from console import providers

    providers.show_one(name, as_json=json)


@provider_app.command("template")
def provider_template() -> None:
    """Print a providers.toml to add services of your own, or to change what is known of these."""
    from console import providers

    providers.print_template()


@vault_app.command("rotate")
def vault_rotate(json: AsJson = False) -> None:
    """Seal every stored password with a new key and drop the old one."""
    from console import vault

    vault.rotate(as_json=json)


@vault_app.command("purge")
def vault_purge(wave: WaveName, json: AsJson = False) -> None:
    """Delete every stored password of a wave for good. Reports stay."""
    from console import vault

    vault.purge(wave, as_json=json)


@probe_app.callback(invoke_without_command=True)
def probe(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="The new server; default: BANJIA_TARGET_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Its port.")] = None,
    security: Annotated[Literal["tls", "starttls", "plain"], typer.Option(help="tls, starttls or plain.")] = "tls",
    user: Annotated[str | None, typer.Option(help="A mailbox there; its password is asked for.")] = None,
    wave: Annotated[str | None, typer.Option(help="Use the new mailbox of a member of this wave.")] = None,
    member: Annotated[str | None, typer.Option(help="Which member: the new address.", metavar="EMAIL")] = None,
    size_limit: Annotated[
        bool, typer.Option("--size-limit", help="Find the largest message by uploading up to 150 MB.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Measure what a new mail service does with mail, and take everything away again."""
    if context.invoked_subcommand is None:
        from console import probe

        probe.run(host, port, security, user, wave, member, size_limit=size_limit, as_json=json)


@probe_app.command("show")
def probe_show(
    host: Annotated[str, typer.Argument(help="A server that was probed.", metavar="HOST")], json: AsJson = False
) -> None:
    """Show what was measured of a server the last time."""
    from console import probe

    probe.show(host, as_json=json)


@app.command()
def deploy() -> None:
    """Register the flows with the Prefect server, so that workers can carry out scheduled waves."""
    from console import schedule

    schedule.deploy()


@app.command()
def worker(
    name: Annotated[str | None, typer.Option(help="The worker's name in Prefect.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Carry out so many runs at once at most.")] = None,
) -> None:
    """Carry out scheduled waves on this machine until interrupted."""
    from console import schedule

    schedule.work(name, limit)


HostName = Annotated[str, typer.Argument(help="The server's name, as `banjia host list` shows it.", metavar="HOST")]


@host_app.command("list")
def host_list(json: AsJson = False) -> None:
    """Show every mail server that was used: its connections, its limits, and whether it is left alone now."""
    from console import hosts

    hosts.show_all(as_json=json)


@host_app.command("show")
def host_show(host: HostName, json: AsJson = False) -> None:
    """Show one mail server."""
    from console import hosts

    hosts.show(host, as_json=json)


@host_app.command("set")
def host_set(
    host: HostName,
    connections: Annotated[
        int | None, typer.Option(min=0, help="Connections at the same time, of all workers together; 0: the default.")
    ] = None,
    logins_a_minute: Annotated[
        int | None, typer.Option(min=0, help="Sign-ins a minute, of all members together; 0: no limit.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Set what a mail server is asked for at most. A running wave follows within seconds."""
    from console import hosts

    hosts.set_limits(host, connections, logins_a_minute, as_json=json)


@host_app.command("pause")
def host_pause(
    host: HostName,
    minutes: Annotated[int, typer.Option(min=1, help="For so long.")] = 60,
    json: AsJson = False,
) -> None:
    """Leave a mail server alone for a while. Its members wait, others go on."""
    from console import hosts

    hosts.pause(host, minutes, as_json=json)


@host_app.command("resume")
def host_resume(host: HostName, json: AsJson = False) -> None:
    """Use a mail server again before its pause is over."""
    from console import hosts

    hosts.resume(host, as_json=json)


@prefect_app.command("start")
def prefect_start(json: AsJson = False) -> None:
    """Start the local Prefect server, if it does not run, and print where its pages are."""
    from tasks.prefect_server import ensure_server
    from tasks.settings import settings

    server = ensure_server(settings().home)
    say({"url": server.url, "ui": server.ui, "pid": server.pid}, as_json=json)


@prefect_app.command("stop")
def prefect_stop(json: AsJson = False) -> None:
    """Stop the local Prefect server. Nothing is lost: the state of every wave is in Banjia's own database."""
    from tasks.prefect_server import stop_server
    from tasks.settings import settings

    say({"stopped": stop_server(settings().home)}, as_json=json)


@prefect_app.command("status")
def prefect_status(json: AsJson = False) -> None:
    """Say whether the local Prefect server runs, and where."""
    from console import prefect_way

    prefect_way.show_status(as_json=json)


@prefect_app.command("link")
def prefect_link(json: AsJson = False) -> None:
    """Print a link that signs a browser of this machine in to Prefect's pages. It is void when the server has ended."""
    from console import prefect_way

    prefect_way.show_link(as_json=json)


@app.command()
def demo(
    json: AsJson = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the servers and the state up, to play with.")] = False,
) -> None:
    """Move twelve mailboxes between two mail servers on this machine: fail, mend, retry, verify."""
    from console import demo as demo_story

    raise typer.Exit(demo_story.play(as_json=json, keep=keep))


@app.command()
def doctor(json: AsJson = False) -> None:
    """Look at this installation: settings, database, keys, certificate authority, Prefect."""
    from console import doctor as doctor_visit

    raise typer.Exit(doctor_visit.examine(as_json=json))
