"""SVG elements of matplotlib figures, in colours that the page defines.

Lines and text use CSS variables of the page (--ink, --muted, --line, --accent, --mark), so that one picture
fits light and dark pages.
"""

import io
import re

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

SERIES = ("#4477aa", "#ee6677", "#2a9d5c", "#ccaa33", "#56b4d8", "#aa3377", "#ee8866", "#7a6fd0")
"""Colours of sources, readable on white and on black (after Paul Tol's qualitative schemes)."""
OTHER = "#8a8f98"

# matplotlib has no CSS variables: these stand-ins are replaced in the finished SVG
INK, MUTED, LINE, ACCENT, MARK = "#010203", "#010204", "#010205", "#010206", "#010207"
_VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line", ACCENT: "--accent", MARK: "--mark"}
STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "text.color": INK,
    "font.size": 10,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "ytick.left": False,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def colours(names: list[str]) -> dict[str, str]:
    """A colour for each source; the ninth and later ones are grey."""
    return {name: SERIES[index] if index < len(SERIES) else OTHER for index, name in enumerate(names)}


def element(figure: Figure, description: str) -> Markup:
    """The figure as an svg element without identifiers or addresses, the same bytes every time."""
    stream = io.StringIO()
    with rc_context({"svg.hashsalt": description}):
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(stream, format="svg", metadata=nothing)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r"\bfont: ([\d.]+px)[^;\"]*", r"font-size: \1", text)
    head, body = text.split(">", 1)
    (box,) = re.findall(r'viewBox="([^"]*)"', head)
    width = float(box.split()[2]) * 4 / 3
    for stand_in, variable in _VARIABLES.items():
        body = body.replace(stand_in, f"var({variable})")
    return Markup(
        f'<svg viewBox="{box}" style="max-width: {width:.0f}px" role="img" aria-label="{description}">{body}'
    )
