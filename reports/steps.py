"""What is to be clicked against a cause: for each provider its own steps, with the members that they are for. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from models.bilingual import LANGUAGES, Text
from models.causes import Cause
from models.hints import Hint
from models.providers import Provider, provider_named
from reports.texts import sentence


class Addressed(Protocol):
    """Who is known by the new address."""

    @property
    def email(self) -> str: ...


class Served(Protocol):
    """Whose providers are known by their rows in the table, "" where nobody could tell."""

    @property
    def source_provider(self) -> str: ...
    @property
    def target_provider(self) -> str: ...


T = TypeVar("T", bound=Addressed)


@dataclass(frozen=True, slots=True)
class Cure(Generic[T]):
    """What members of one provider click against a cause."""

    provider: Provider
    steps: tuple[Text, ...]
    members: tuple[T, ...]


def cures_of(cause: Cause, members: Iterable[tuple[T, Provider]]) -> tuple[Cure[T], ...]:
    """The steps of each provider that has some, the one with most members first."""
    found: dict[str, list[T]] = defaultdict(list)
    rows: dict[str, Provider] = {}
    for member, provider in members:
        if provider.steps_for(cause.step):
            found[provider.name].append(member)
            rows[provider.name] = provider
    cures = (Cure(rows[name], rows[name].steps_for(cause.step), tuple(some)) for name, some in found.items())
    return tuple(sorted(cures, key=lambda cure: (-len(cure.members), cure.provider.name)))


def hints_of(members: Iterable[tuple[T, Hint | None]]) -> tuple[tuple[Text, tuple[T, ...]], ...]:
    """What probably lies behind a cause, with the members of whom it is thought, the commonest first."""
    found: dict[Text, list[T]] = defaultdict(list)
    for member, hint in members:
        if hint and hint.text:
            found[hint.text].append(member)
    return tuple(sorted(((text, tuple(some)) for text, some in found.items()), key=lambda each: -len(each[1])))


def services_sentence(members: Iterable[Served]) -> Text | None:
    """Which services these members come from and go to, the commonest first; None where nobody could tell any."""
    everybody = list(members)
    told = []
    for head, sides in (
        (sentence("services_old"), Counter(member.source_provider for member in everybody)),
        (sentence("services_new"), Counter(member.target_provider for member in everybody)),
    ):
        known = sorted((n for n in sides if n), key=lambda each: (-sides[each], each))
        parts = [(provider_named(each).title, sides[each]) for each in known]
        if known and sides[""]:
            parts.append((sentence("services_unknown"), sides[""]))
        zh = "、".join(f"{title.zh} {count:,}" for title, count in parts)
        en = ", ".join(f"{title.en} {count:,}" for title, count in parts)
        told += [Text(head.zh.format(them=zh), head.en.format(them=en))] if parts else []
    return Text("；".join(each.zh for each in told) + "。", "; ".join(each.en for each in told) + ".") if told else None


def steps_document(steps: Sequence[Text]) -> dict[str, list[str]] | None:
    """Steps as plain values, ready for JSON; None for none."""
    return {language: [step.in_language(language) for step in steps] for language in LANGUAGES} if steps else None


def cures_document(cures: Iterable[Cure[T]]) -> list[dict[str, Any]]:
    """The same for those of several providers."""
    return [
        {
            "provider": cure.provider.name,
            "title": cure.provider.title.as_dict(),
            "steps": steps_document(cure.steps),
            "members": [member.email for member in cure.members],
        }
        for cure in cures
    ]
