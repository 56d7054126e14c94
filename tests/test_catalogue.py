"""Browsing the methods: every grouping is a partition, filters are what a plain loop finds, mistakes are answered."""

import itertools
import json
import re
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import typer.testing

from cutaway.cli import app
from cutaway.commands.catalogue import BY, By, chosen, grouped, markdown, nothing
from cutaway.core.errors import UnknownNameError
from cutaway.core.method import Method, Tags
from cutaway.methods import METHODS

TAGS = {
    "family": ("sensitivity", "data", "by-text"),
    "focus": ("model", "data", "both"),
    "when": ("post-hoc", "ad-hoc"),
    "level": ("low", "mid", "high", "any"),
}


def made_up() -> list[Method]:
    """A method for every combination of tags; the real ones leave many empty."""
    one = METHODS["saliency"]
    combined = itertools.product(*TAGS.values())
    return [
        replace(one, name=f"m{i}", tags=Tags(**dict(zip(TAGS, values, strict=True))))  # type: ignore[arg-type]
        for i, values in enumerate(combined)
    ]


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("methods", [list(METHODS.values()), made_up()], ids=["real", "made up"])
def test_every_grouping_is_a_partition(by: By, methods: list[Method]) -> None:
    groups = grouped(methods, by)
    assert sorted(m.name for g in groups for m in g.methods) == sorted(m.name for m in methods)
    for group in groups:
        own = {m.chapter if by == "chapter" else getattr(m.tags, by) for m in group.methods}
        assert own == {group.value}
        assert group.meaning or by == "chapter"
    assert len({g.value for g in groups}) == len(groups)


def test_filters_are_a_plain_loop() -> None:
    methods = made_up()
    asked = itertools.product(*[(None, *values) for values in TAGS.values()])
    sizes = set()
    for family, focus, when, level in asked:
        wanted = [
            m.name
            for m in methods
            if (family is None or m.tags.family == family)
            and (focus is None or m.tags.focus == focus or m.tags.focus == "both")
            and (when is None or m.tags.when == when)
            and (level is None or m.tags.level == level or m.tags.level == "any")
        ]
        filters: dict[By, str | None] = {"family": family, "focus": focus, "when": when, "level": level}
        assert [m.name for m in chosen(methods, filters)] == wanted
        sizes.add(len(wanted))
    assert len(sizes) > 4


def test_a_value_that_does_not_exist_is_refused_with_all_there_are() -> None:
    with pytest.raises(UnknownNameError) as caught:
        chosen(METHODS.values(), {"level": "middle"})
    assert caught.value.accepted == "low, mid, high, any"
    assert "'middle'" in caught.value.found
    assert caught.value.hint == "'mid'"


def test_an_empty_choice_says_what_there_is() -> None:
    methods = [m for m in made_up() if (m.tags.family, m.tags.level) in (("data", "low"), ("by-text", "mid"))]
    said = nothing(methods, {"family": "data", "level": "mid"}).splitlines()
    assert said[0] == "no method is filed under family data, level mid"
    assert said[1] == "without --family there are: by-text 6"
    assert said[2] == "without --level there are: low 6"


def run(*arguments: str) -> Any:
    return typer.testing.CliRunner().invoke(app, ["methods", *arguments])


def test_the_command_filters_groups_and_prints_json() -> None:
    found = json.loads(run("--family", "sensitivity", "--level", "mid", "--by", "level", "--json").stdout)
    names = [m["name"] for m in found["methods"]]
    assert set(names) == {
        n for n, m in METHODS.items() if m.tags.family == "sensitivity" and m.tags.level in ("mid", "any")
    }
    assert found["by"] == "level"
    assert Counter(n for g in found["groups"] for n in g["methods"]) == Counter(names)
    assert all(METHODS[n].tags.level == g["level"] for g in found["groups"] for n in g["methods"])
    listed = run("--focus", "model", "--by", "family").stdout
    assert re.search(r"^sensitivity +what would move", listed, re.M)
    assert listed.count("  guided_backprop ") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--family", "sensitivty"), "sensitivity"),
        (("--by", "kind"), "family, focus, when, level, chapter"),
        (("lrp", "--level", "low"), "cutaway methods lrp"),
    ],
)
def test_mistakes_are_answered(arguments: tuple[str, ...], said: str) -> None:
    done = run(*arguments)
    assert done.exit_code in (2, 4)
    assert said in done.stderr
    assert not done.stdout


def test_nothing_found_is_said_and_is_no_error() -> None:
    done = run("--family", "decomposition", "--when", "ad-hoc")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "no method is filed under family decomposition, when ad-hoc" in done.stderr
    assert json.loads(run("--family", "decomposition", "--when", "ad-hoc", "--json").stdout)["methods"] == []


def test_the_page_holds_each_method_once_per_grouping_and_its_sentence() -> None:
    methods = sorted(METHODS.values(), key=lambda m: m.name)
    page = markdown(methods)
    sections = re.split(r"^### By (\w+)$", page, flags=re.M)
    assert sections[1::2] == list(BY)
    for by, section in zip(sections[1::2], sections[2::2], strict=True):
        listed = "\n".join(re.findall(r"^- `\w+`" if by == "family" else r"\| [^|]*\|$", section, re.M))
        assert Counter(re.findall(r"`(\w+)`", listed)) == Counter([*METHODS]), by
    for m in methods:
        assert f"- `{m.name}`: {m.summary}\n" in page
        assert page.count(f"| `{m.name}` | {m.chapter} |") == 1


def test_names_to_choose_from_are_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    monkeypatch.setattr("cutaway.commands.listing.console", lambda: Console(width=80))
    printed = typer.testing.CliRunner().invoke(app, ["methods", "lrp"]).stdout
    assert "…" not in printed
