"""Parts of the pages about a home: the style, tables, small pictures, and the policy.

A page is one HTML file. Every name is escaped by the template, and the page's own policy lets the
browser run the scripts of known digest and fetch nothing at all.
"""

import base64
import hashlib
import re
from datetime import datetime, timedelta
from importlib.resources import files
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup, escape

from transforms.pages.palette import THEMES


class Table(NamedTuple):
    """A table under its caption: headings, then rows of what is written in the cells."""

    caption: str
    columns: list[str]
    rows: list[tuple[Any, ...]]
    left_out: int = 0


def render(template: str, *scripts: str, state: str = "", **shown: Any) -> str:
    """Make a page of a template, which has the macros of `parts.html` and the filters here.

    A page that is served has the `state` of what it shows, and may ask its server for the newest.
    """
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.DictLoader({"parts.html": part("parts.html")}),
    )
    environment.filters |= {
        "n": lambda number: f"{number:,}",
        "percent": percent,
        "minute": minute,
        "bars": bars,
        "cell": cell,
        "prose": prose,
        "breakable": breakable,
        **shown.pop("filters", {}),
    }
    given = {
        "style": part("page.css"),
        "themes": THEMES,
        "policy": policy(*scripts, is_served=bool(state)),
        **shown,
    }
    return environment.from_string(template).render(scripts=scripts, state=state, **given)


def policy(*scripts: str, is_served: bool = False) -> str:
    """Write the policy under which a browser runs these scripts, and fetches nothing.

    A page that is served may ask its own server.
    """
    digests = (
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts
    )
    connect = "'self'" if is_served else "'none'"
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        f"connect-src {connect}; base-uri 'none'; form-action 'none'"
    )


def percent(share: float | None) -> str:
    """Write a share for people.

    >>> percent(0.1234), percent(None)
    ('12.3%', '')
    """
    return "" if share is None else f"{share:.1%}"


def minute(instant: datetime | None) -> str:
    """Write an instant to the minute."""
    return f"{instant:%Y-%m-%d %H:%M} UTC" if instant else ""


def ago(then: datetime, now: datetime) -> str:
    """Describe how long ago something was.

    >>> from datetime import UTC
    >>> ago(datetime(2024, 5, 1, tzinfo=UTC), datetime(2024, 5, 21, tzinfo=UTC))
    '20 days ago'
    """
    passed = max(now - then, timedelta())
    units = ((365, "years"), (30, "months"), (1, "days"))
    for days, unit in units:
        if passed.days >= 2 * days:
            return f"{passed.days // days} {unit} ago"
    hours, minutes = divmod(int(passed.total_seconds()) // 60, 60)
    return f"{hours} h {minutes} min ago" if hours else f"{minutes} min ago"


def short(value: float) -> str:
    """Write a number for people: three significant digits, thousands separated.

    >>> short(1234567), short(0.123456), short(3.0), short(float("nan"))
    ('1,234,567', '0.123', '3', 'nan')
    """
    is_long = abs(value) >= 100 or float(value).is_integer()  # noqa: PLR2004
    return f"{value:,.0f}" if is_long else f"{value:.3g}"


def cell(value: Any) -> str:
    """Write what is in a cell of a table."""
    if isinstance(value, datetime):
        return minute(value)
    return short(value) if isinstance(value, int | float) else "" if value is None else str(value)


def prose(text: str) -> Markup:
    """Write a text in which names are in backticks.

    >>> prose("1 if `a<b`, else 0.")
    Markup('1 if <code>a&lt;b</code>, else 0.')
    """
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped


def breakable(name: str) -> Markup:
    """Let a long name go on in another line after each of its underscores.

    >>> breakable("n_records")
    Markup('n_<wbr>records')
    """
    return escape(name).replace("_", Markup("_<wbr>"))


def bars(counts: list[int]) -> str:
    """Draw a histogram as the path of an SVG, 100 wide and 24 high; only empty bars are flat."""
    width, most = 100 / max(len(counts), 1), max([1, *counts])
    heights = [max(1.0, 24 * n / most) if n else 0 for n in counts]
    return "".join(
        f"M{place * width:.1f} 24v-{height:.1f}h{width * 0.85:.1f}V24z"
        for place, height in enumerate(heights)
        if height
    )


def part(name: str) -> str:
    """Read a template or a style of this package."""
    return files(__package__).joinpath(name).read_text("utf-8")
