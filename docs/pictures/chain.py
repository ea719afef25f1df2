"""Draws chain-light.svg and chain-dark.svg, the picture of the README. Run it after a change."""

from pathlib import Path

LIGHT = {
    "ink": "#1f2933",
    "muted": "#5b6775",
    "line": "#c9d1da",
    "data": "#f6f8fa",
    "job": "#eaf1fb",
    "edge": "#3b6fb6",
    "chip": "#ffffff",
    "loop": "#2a8f5a",
    "track": "#f1ecfa",
    "track_edge": "#7a5bc0",
}
DARK = {
    "ink": "#e6edf3",
    "muted": "#9da7b3",
    "line": "#3d4653",
    "data": "#1a2028",
    "job": "#172640",
    "edge": "#6ea3ea",
    "chip": "#0f1826",
    "loop": "#5cc58d",
    "track": "#251f38",
    "track_edge": "#a78bea",
}
TOP, BOTTOM = 84, 226
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
SANS = "-apple-system, BlinkMacSystemFont, 'Segoe UI', Roboto, Helvetica, Arial, 'DejaVu Sans', sans-serif"


class Canvas:
    """Collects SVG elements in one set of colours."""

    def __init__(self, colour: dict[str, str]) -> None:
        """An empty drawing."""
        self.colour = colour
        self.parts: list[str] = []

    def box(
        self, x: float, y: float, width: float, height: float, fill: str, edge: str, radius: int = 8
    ) -> None:
        """A rounded rectangle."""
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="{radius}" '
            f'fill="{self.colour[fill]}" stroke="{self.colour[edge]}" stroke-width="1.2"/>'
        )

    def text(
        self, x: float, y: float, words: str, size: float = 11, colour: str = "muted", bold: bool = False,
        mono: bool = False, anchor: str = "middle",
    ) -> None:  # fmt: skip
        """One line of text with its baseline at y."""
        family = f' font-family="{MONO}"' if mono else ""
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(
            f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}" '
            f'fill="{self.colour[colour]}"{family}{weight}>{words}</text>'
        )

    def arrow(self, path: str, colour: str = "muted", dashed: bool = False, head: bool = True) -> None:
        """A line, with an arrow head at its end."""
        dash = ' stroke-dasharray="2 4"' if dashed else ""
        end = f' marker-end="url(#{colour})"' if head else ""
        self.parts.append(
            f'<path d="{path}" fill="none" stroke="{self.colour[colour]}" stroke-width="1.5"{dash}{end}/>'
        )

    def svg(self, width: int, height: int, label: str) -> str:
        """The finished drawing on a transparent ground."""
        markers = "".join(
            f'<marker id="{name}" viewBox="0 0 8 8" refX="6.5" refY="4" markerWidth="7" markerHeight="7" '
            f'orient="auto"><path d="M0.5,0.5 L7,4 L0.5,7.5 z" fill="{self.colour[name]}"/></marker>'
            for name in ("muted", "loop")
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" aria-label="{label}" font-family="{SANS}"><defs>{markers}</defs>\n'
            + "\n".join(self.parts)
            + "\n</svg>\n"
        )


def draw(colour: dict[str, str]) -> str:
    """The chain from sources to samples."""
    canvas = Canvas(colour)
    middle = (TOP + BOTTOM) / 2 + 3

    def data(x: float, width: float, title: str, lines: list[str], stacked: bool = False) -> None:
        if stacked:
            canvas.box(x + 6, TOP + 12, width, BOTTOM - TOP - 24, "data", "line")
            canvas.box(x + 3, TOP + 15, width, BOTTOM - TOP - 27, "data", "line")
        canvas.box(x, TOP + 18, width, BOTTOM - TOP - 30, "data", "line")
        canvas.text(x + width / 2, middle - 6 - 8 * len(lines), title, 13.5, "ink", bold=True)
        for number, line in enumerate(lines):
            canvas.text(x + width / 2, middle + 16 - 8 * len(lines) + 16 * number, line)

    def job(x: float, y: float, width: float, height: float, name: str, lines: list[str]) -> None:
        canvas.box(x, y, width, height, "job", "edge")
        canvas.text(x + width / 2, y + 25, name, 13, "edge", bold=True, mono=True)
        for number, line in enumerate(lines):
            canvas.text(x + width / 2, y + 46 + 16 * number, line)

    data(10, 104, "sources", ["jsonl.zst, gz", "parquet, text", "on any fsspec URL"])
    job(142, TOP, 288, BOTTOM - TOP, "jobs.prepare", ["Ray tasks, each one restartable"])
    for number, name in enumerate(("ingest", "clean", "dedupe", "tokenize", "shard")):
        left = 152 + 54.5 * number
        canvas.box(left, TOP + 64, 50, 28, "chip", "edge", 6)
        canvas.text(left + 25, TOP + 82, name, 10.5, "ink")
    canvas.text(286, TOP + 117, "a ledger accounts for every document and byte")
    data(458, 116, "corpus version", ["Arrow token shards", "manifest, report", "dedup index"], stacked=True)
    job(608, TOP, 112, BOTTOM - TOP, "jobs.train", ["GPT-NeoX", "Ray Train", "DeepSpeed", "exact resume"])
    data(748, 100, "checkpoints", ["DeepSpeed", "Hugging Face"], stacked=True)
    job(882, TOP, 112, 66, "jobs.evaluate", ["loss by source"])
    job(882, BOTTOM - 66, 112, 66, "jobs.infer", ["Ray Data batches"])

    for start, end in ((114, 138), (430, 454), (581, 604), (720, 744)):
        canvas.arrow(f"M{start},{middle} H{end}")
    for y in (TOP + 33, BOTTOM - 33):
        canvas.arrow(f"M855,{middle} H862 Q868,{middle} 868,{middle + (6 if y > middle else -6)} V{y} H878")

    canvas.arrow("M516,95 V58 Q516,46 504,46 H298 Q286,46 286,58 V80", "loop")
    canvas.text(401, 22, "jobs.refresh", 13, "loop", bold=True, mono=True)
    canvas.text(401, 38, "new files only, compared with all earlier documents")

    canvas.box(142, 268, 852, 44, "track", "track_edge")
    words = "one experiment, its runs linked by tags: configuration, metrics, corpus report, samples, models"
    canvas.text(296, 295, "MLflow", 13.5, "track_edge", bold=True, anchor="start")
    canvas.text(356, 294.5, words, 11.5, anchor="start")
    for x in (286, 664, 938):
        canvas.arrow(f"M{x},{BOTTOM + 4} V265", dashed=True, head=False)
    return canvas.svg(1004, 322, "From sources to a trained, evaluated and sampled model")


if __name__ == "__main__":
    for name, colours in (("light", LIGHT), ("dark", DARK)):
        Path(__file__).with_name(f"chain-{name}.svg").write_text(draw(colours))
