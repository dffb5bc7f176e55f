"""What is to be clicked against a cause: for each provider its own steps, with the members that they are for. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from models.bilingual import LANGUAGES, Text
from models.causes import Cause
from models.providers import Provider


class Addressed(Protocol):
    """Who is known by the new address."""

    @property
    def email(self) -> str: ...


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
        if provider.steps.get(cause.step):
            found[provider.name].append(member)
            rows[provider.name] = provider
    cures = (Cure(rows[name], rows[name].steps[cause.step], tuple(some)) for name, some in found.items())
    return tuple(sorted(cures, key=lambda cure: (-len(cure.members), cure.provider.name)))


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
