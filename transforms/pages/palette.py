"""The colours of the page and its charts, light and dark.

Tests check that they are readable (WCAG AA) and distinct for colour-blind readers.
"""

from typing import Any

# the first of `series` is for what is kept, the second for what is rejected, the third for
# duplicate rows
THEMES: dict[str, dict[str, Any]] = {
    "light": {
        "ground": "#ffffff",
        "surface": "#f4f6f8",
        "text": "#1a1f26",
        "muted": "#56606c",
        "line": "#cfd6de",
        "edge": "#7d8894",
        "link": "#0a5ca0",
        "good": "#0b6e4f",
        "bad": "#b3261e",
        "series": ["#0072b2", "#c7780c", "#08a057", "#802570", "#70560c", "#7a7681"],
    },
    "dark": {
        "ground": "#11161d",
        "surface": "#1a212b",
        "text": "#e8edf3",
        "muted": "#a7b2bf",
        "line": "#333d4a",
        "edge": "#748192",
        "link": "#7cc0f5",
        "good": "#57d0a4",
        "bad": "#ff9b8f",
        "series": ["#5ab0ee", "#e08a3c", "#3fd896", "#e6b4d2", "#f3ea6a", "#808b86"],
    },
}


def chart_config(theme: str) -> dict[str, Any]:
    """Vega's configuration in a theme's colours."""
    colours = THEMES[theme]
    words = {
        "labelColor": colours["muted"],
        "titleColor": colours["muted"],
        "labelFontSize": 12,
        "titleFontSize": 12,
    }
    return {
        "background": "transparent",
        "font": "system-ui, sans-serif",
        "range": {"category": colours["series"]},
        "mark": {"color": colours["series"][0]},
        "view": {"stroke": "transparent"},
        "title": {
            "color": colours["text"],
            "fontSize": 13,
            "fontWeight": 600,
            "anchor": "start",
            "offset": 8,
        },
        "axis": {
            **words,
            "gridColor": colours["line"],
            "domainColor": colours["edge"],
            "tickColor": colours["edge"],
            "titleFontWeight": "normal",
        },
        "axisX": {"grid": False},
        "legend": {
            **words,
            "labelColor": colours["text"],
            "orient": "top",
            "columns": 3,
            "symbolType": "square",
            "title": None,
        },
        "rule": {"color": colours["muted"]},
    }
