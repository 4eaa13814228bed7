"""What compare.py and ablation.py found, as Markdown, JSON and a picture. Uses cases, measure; matplotlib for the picture."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loadtests.cases import BY_NAME
from loadtests.targets import Rows, Target

PICTURED = ("hello", "params", "json-in", "json-100", "inline", "not-found")  # one part of the picture each


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are figures."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *lines]) + "\n"


@dataclass
class Results:
    """The summaries of one run of compare.py, by case and server."""

    machine: dict[str, Any]
    options: dict[str, Any]
    rows: Rows
    skipped: dict[str, str]
    failed: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def markdown(self, targets: Sequence[tuple[Target, float]]) -> str:
        parts = [taken_on(self.machine, self.options)]
        if targets:
            parts += ["Targets: CPU time per request of greenlua, as a ratio.\n", _target_table(targets)]
        for case, peers in self.rows.items():
            own = peers.get("greenlua")
            lines = []
            for peer, row in sorted(peers.items(), key=lambda item: item[1]["cpu_us"]):
                lines.append(
                    [
                        peer,
                        f"{row['cpu_us']:.1f}",
                        f"{row['cpu_us_low']:.1f} to {row['cpu_us_high']:.1f}",
                        f"{row['cpu_us'] / own['cpu_us']:.2f}" if own else "-",
                        f"{row['rate']:,.0f}" + ("*" if row["load_busy"] > 0.95 else ""),
                        f"{row['p50']:.2f}",
                        f"{row['p99']:.2f}",
                        f"{row['memory'] / 2**20:.0f}",
                        str(row["errors"]),
                    ]
                )
            head = [
                "server",
                "CPU us",
                "quartiles",
                "x greenlua",
                "requests/s",
                "p50 ms",
                "p99 ms",
                "PSS MiB",
                "errors",
            ]
            parts += [f"`{case}`: {BY_NAME[case].what}\n", table(head, lines)]
        if any(row["load_busy"] > 0.95 for peers in self.rows.values() for row in peers.values()):
            parts.append("\\* wrk's own core was full: the server could have answered more.\n")
        for peer, why in self.skipped.items():
            parts.append(f"Not measured: {peer}, {why.splitlines()[0]}\n")
        for entry, why in self.failed.items():
            parts.append(f"**Failed**: {entry}, {why.splitlines()[0]}\n")
        return "\n".join(parts)

    def draw(self, path: Path) -> None:
        """Bars of CPU time per request, a part for each case."""
        try:
            import matplotlib
        except ImportError:
            print("no picture: matplotlib is missing (pip install -e '.[bench]')", file=sys.stderr)
            return
        matplotlib.use("agg")
        from matplotlib import pyplot

        cases = [case for case in PICTURED if case in self.rows] or list(self.rows)
        columns = min(2, len(cases))
        high = -(-len(cases) // columns)
        figure, axes = pyplot.subplots(high, columns, figsize=(6 * columns, 3.2 * high), squeeze=False)
        for axis in axes.flat[len(cases) :]:
            axis.set_axis_off()
        for axis, case in zip(axes.flat, cases, strict=False):
            peers = sorted(self.rows[case].items(), key=lambda item: -item[1]["cpu_us"])
            names = [name for name, _ in peers]
            values = [row["cpu_us"] for _, row in peers]
            spread = [
                [max(0.0, row["cpu_us"] - row["cpu_us_low"]) for _, row in peers],
                [max(0.0, row["cpu_us_high"] - row["cpu_us"]) for _, row in peers],
            ]
            colors = ["#2a9d4a" if name.startswith("greenlua") else "#9aa5b1" for name in names]
            axis.barh(names, values, xerr=spread, color=colors, error_kw={"elinewidth": 1, "ecolor": "#444"})
            for at, value in enumerate(values):
                axis.annotate(f" {value:.1f}", (spread[1][at] + value, at), va="center", fontsize=8)
            axis.set_title(f"{case}: {BY_NAME[case].what}", fontsize=9, loc="left")
            axis.margins(x=0.12)
            axis.tick_params(labelsize=8)
            axis.spines[["top", "right"]].set_visible(False)
        figure.supxlabel("CPU microseconds per request, median and quartiles; less is better", fontsize=9)
        figure.tight_layout()
        figure.savefig(path, dpi=110)
        pyplot.close(figure)


def _target_table(targets: Sequence[tuple[Target, float]]) -> str:
    lines = []
    for target, ratio in targets:
        most = f"{target.most:.2f}" + (f", then {target.then:.2f}" if target.then else "")
        lines.append([target.what, most, f"{ratio:.2f}", "yes" if ratio <= target.most else "**no**"])
    return table(["target", "at most", "measured", "reached"], lines)


def taken_on(machine: dict[str, Any], options: dict[str, Any]) -> str:
    said = ", ".join(f"{name} {value}" for name, value in (machine | options).items())
    return f"Taken with: {said}.\n"


def publish(name: str, markdown: str, document: dict[str, Any], output: Path | None, page: Path | None) -> None:
    """Prints the tables; puts them and the figures into the folder ``output``, and the tables into ``page``."""
    print(markdown)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / f"{name}.md").write_text(markdown)
        (output / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    if page is not None:
        page.write_text(replaced(page.read_text(), name, markdown))


def replaced(text: str, name: str, markdown: str) -> str:
    """``text`` with other tables between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``.

    Raises:
        ValueError: those marks are not in it, once each.
    """
    marks = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
    if len(marks.findall(text)) != 1:
        raise ValueError(f"the page needs one <!-- begin {name} --> and after it one <!-- end {name} -->")
    return marks.sub(lambda match: match[1] + "\n" + markdown + "\n" + match[2], text)
