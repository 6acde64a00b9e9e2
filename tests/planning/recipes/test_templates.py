"""Templates say what their values say, and can do nothing else."""

from typing import Any

import pytest

from kontext_pipeline.planning.recipes.templates import LONGEST_TEXT, Template, TemplateProblem

LISTS: dict[str, Any] = {"weather": "rain", "part": {"items": "a door", "undo": "remove the door"}, "n": 3}
INPUT = {"stem": "old-town", "subject": None, "tags": ["a", "b"], "two words": "x"}


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("in {{ weather }}", "in rain"),
        ("{{ part.items }}, {{ part['undo'] }}", "a door, remove the door"),
        ("{{ input.stem | replace('-', ' ') | title }}", "Old Town"),
        ("{{ input['two words'] }}{{ input.tags | join(', ') }}", "xa, b"),
        ("a {% if input.subject %}{{ input.subject }}{% else %}thing{% endif %}{{ input.subject }}", "a thing"),
        ("{{ 'many' if n > 2 and not n == 4 else 'few' }} {{ n + 1 }} {{ input.stem[:3] }}", "many 4 old"),
        ("{{ '<&>' }} & \"", '<&> & "'),
        ("two\nlines\n", "two\nlines"),
    ],
)
def test_rendered(source: str, text: str) -> None:
    template = Template(source)
    assert template.render(LISTS, {name: INPUT[name] for name in template.attributes}) == text


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{% for i in range(10**9) %}x{% endfor %}", "'for', which is not allowed"),
        ("{{ range(10) }}", "calls a function"),
        ("{{ weather.upper() }}", "calls a function"),
        ("{{ weather * 1000000000 }}", "'mul', which is not allowed"),
        ("{{ 9 ** 9 ** 9 }}", "'pow', which is not allowed"),
        ("{{ '%999999999d' % 1 }}", "'mod', which is not allowed"),
        ("{% set x = weather ~ weather %}", "'assign', which is not allowed"),
        ("{% include 'x' %}", "'include', which is not allowed"),
        ("{% macro m() %}{% endmacro %}", "'macro', which is not allowed"),
        ("{{ weather | center(1000000000) }}", "filter 'center'; allowed: capitalize"),
        ("{{ input }}", "input as a whole"),
        ("{{ input | join }} {{ input.stem }}", "input as a whole"),
        ("{{ weather", "not a valid jinja2 template: unexpected"),
        ("a\n{{ }}", "line 2 of the template"),
        ("{{ " + "(" * 4000 + "1" + ")" * 4000 + " }}", "nested too deeply"),
        ("{{ " + "not " * 250 + "n }}", "nested too deeply"),
        ("{% if n %}" * 110 + "x" + "{% endif %}" * 110, "nested too deeply"),
        ("{{ " + "9" * 5000 + " }}", "4300 digits"),
        ("x" * (LONGEST_TEXT + 1), "10,001 characters; at most 10,000"),
    ],
)
def test_what_is_refused_before_it_runs(source: str, words: str) -> None:
    with pytest.raises(TemplateProblem, match=words.replace("(", r"\(")):
        Template(source)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ weather.nothing }}", "has no attribute 'nothing'"),
        ("{{ weather + n }}", "can't be rendered"),
        ("{{ part }}", "name one of them \\(items, undo\\)"),
        ("{{ 'aaaaaaaaaaaa'" + " | replace('a', 'aaaaaaaaaaaaaaaaaaaa')" * 40 + " }}", "more than 10,000 characters"),
        ("{{ input.stem }}" * 600, "gives 12,000 characters"),
    ],
)
def test_what_is_refused_while_it_runs(source: str, words: str) -> None:
    with pytest.raises(TemplateProblem, match=words):
        Template(source).render(LISTS, {"stem": "x" * 20})


@pytest.mark.parametrize(("condition", "text"), [("input.stem == 'a'", "true"), ("n < 3", ""), ("n > 2", "true")])
def test_a_condition_is_an_expression(condition: str, text: str) -> None:
    assert Template(condition, is_condition=True).render(LISTS, {"stem": "a"}) == text


@pytest.mark.parametrize("condition", ["true %}{% for x in y %}{% endfor %}{% if true", "n >", "{{ n }}"])
def test_what_is_no_condition(condition: str) -> None:
    with pytest.raises(TemplateProblem):
        Template(condition, is_condition=True)
