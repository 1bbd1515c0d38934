"""Templates to pages and cards; values are text and never markup."""

import functools
from collections.abc import Callable
from typing import Any

import jinja2
from markupsafe import Markup

from fakedetect_jax.pages import formats
from tfds_ffpp.terminal.text import markdown, printable

# Templates.


def _safe(value: Any) -> Any:
    """Text without characters that do more than show; markup of ours as it is."""
    if type(value) is not str:
        return value
    return "\n".join(printable(line) for line in value.split("\n"))


def _safe_markdown(value: Any) -> Any:
    return markdown(value) if type(value) is str else value


def code(value: str) -> Markup:
    """Text between backticks, which end with the line or with a backtick."""
    return Markup(printable(value).replace("`", "'"))  # noqa: S704


@functools.cache
def _environment(finalize: Callable[[Any], Any]) -> jinja2.Environment:
    """One for all pages: it keeps the templates that it has compiled."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fakedetect_jax.pages"),
        autoescape=jinja2.select_autoescape(["html"]),
        finalize=finalize,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        signed=formats.signed,
        share=formats.share,
        count=formats.count,
        number=formats.number,
        percent=formats.percent,
        span=formats.span,
        percent_span=formats.percent_span,
        compact=formats.compact,
        code=code,
        touch_line=formats.touch_line,
        unpaired_line=formats.unpaired_line,
    )
    return environment


def render(template: str, **values: Any) -> str:
    """A page or card from templates/."""
    finalize = _safe_markdown if template.endswith(".md") else _safe
    return _environment(finalize).get_template(template).render(**values)
