"""A plot of what was spent: bars by day, or by run where there are few days, and the sum as a line."""

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO
from math import ceil, floor, log10
from typing import Any, Final

import pyarrow as pa
from PIL import Image, ImageDraw, ImageFont

from kontext_pipeline.dataset.spend_table import sums_by
from kontext_pipeline.escaping import displayable

_WIDTH: Final = 760
_HEIGHT: Final = 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 56, 52, 34
_FEW_DAYS: Final = 3
"""Days from which on a bar is a day, and not a run."""
_BARS: Final = 60
"""Most bars: the latest."""
_MANIFESTS: Final = 5
"""Manifests with a colour of their own: those that cost most."""
_FONT_PX: Final = 12
_PAPER: Final = "#ffffff"
_INK: Final = "#1f2933"
_FAINT: Final = "#d8dee6"
_LINE: Final = "#7b8794"
_OTHERS: Final = "#9aa5b1"
_REST: Final = "others"
_POSSIBLY: Final = "#f0b429"
_COLOURS: Final = ("#2f6fb0", "#3f9c6b", "#8f5bb5", "#c2553f", "#2b8a9e")
_LONGEST_NAME: Final = 22

_Row = Mapping[str, Any]


def spend_plot(table: pa.Table) -> str | None:
    """Return a Markdown image with a chart for each backend of a spend table; None where nothing was spent.

    The table's order is that of `spend_table`: by backend, then by time.

    A bar shows what was charged, by manifest, and on top what was possibly charged. The line, with its scale on the
    right, is the sum of both since the beginning.
    """
    rows = [row for row in table.to_pylist() if row["charged_usd"] or row["possibly_charged_usd"]]
    backends = list(dict.fromkeys(row["backend"] for row in rows))
    if not backends:
        return None
    sheet = Image.new("RGB", (_WIDTH, _HEIGHT * len(backends)), _PAPER)
    for number, backend in enumerate(backends):
        sheet.paste(_chart(backend, [row for row in rows if row["backend"] == backend]), (0, _HEIGHT * number))
    buffer = BytesIO()
    sheet.quantize(64).save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"![what was spent](data:image/png;base64,{data})"


def _chart(backend: str, rows: Sequence[_Row]) -> Image.Image:
    by_day = len({row["day"] for row in rows}) >= _FEW_DAYS
    column = "day" if by_day else "run_id"
    every = {row[column]: row for row in sums_by(rows, column)}
    before = list(every)[:-_BARS]
    bars = list(every)[-_BARS:]
    sums = {key: row["charged_usd"] + row["possibly_charged_usd"] for key, row in every.items()}
    colours = _colours(rows)
    image = Image.new("RGB", (_WIDTH, _HEIGHT), _PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(_FONT_PX)
    total = sum(sums.values())
    unit = "day (UTC)" if by_day else "run"
    draw.text((_LEFT, 8), f"{backend}: {total:,.2f} USD in all; bars: USD a {unit}; line: the sum", _INK, font)
    _legend(draw, font, colours, any(row["possibly_charged_usd"] for row in rows))

    top = _ceiling(max(sums[key] for key in bars))
    top_of_line = _ceiling(total)
    floor_px, height = _HEIGHT - _BOTTOM, _HEIGHT - _TOP - _BOTTOM
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = floor_px - share * height
        draw.line((_LEFT, y, _WIDTH - _RIGHT, y), _FAINT)
        draw.text((_LEFT - 6, y), _usd(share * top), _INK, font, anchor="rm")
        draw.text((_WIDTH - _RIGHT + 6, y), _usd(share * top_of_line), _LINE, font, anchor="lm")

    step = (_WIDTH - _LEFT - _RIGHT) / max(len(bars), 8)
    reached = sum(sums[key] for key in before)
    line = []
    renamed = ({**row, "manifest": row["manifest"] if row["manifest"] in colours else _REST} for row in rows)
    parts = {(row[column], row["manifest"]): row["charged_usd"] for row in sums_by(renamed, column, "manifest")}
    for number, key in enumerate(bars):
        left, y = _LEFT + number * step, float(floor_px)
        right = left + max(2.0, 0.75 * step)
        for name, colour in colours.items():
            y = _block(draw, (left, right, y), parts.get((key, name), 0.0) / top * height, colour)
        _block(draw, (left, right, y), every[key]["possibly_charged_usd"] / top * height, _POSSIBLY)
        reached += sums[key]
        line.append(((left + right) / 2, floor_px - reached / top_of_line * height))
    if len(line) > 1:
        draw.line(line, _LINE, 2, joint="curve")
    for x, y in line:
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), _LINE)
    _axis(draw, font, bars, step)
    return image


def _colours(rows: Sequence[_Row]) -> dict[str, str]:
    """Return the manifests that have a colour of their own, the dearest first, and then the others together."""
    dearest = sorted(sums_by(rows, "manifest"), key=lambda row: -row["charged_usd"])
    names = [row["manifest"] for row in dearest[:_MANIFESTS]]
    return {**dict(zip(names, _COLOURS, strict=False)), **({_REST: _OTHERS} if len(dearest) > len(names) else {})}


def _legend(draw: ImageDraw.ImageDraw, font: Any, colours: Mapping[str, str], possibly: bool) -> None:
    x = float(_LEFT)
    for name, colour in [*colours.items(), *([("possibly charged", _POSSIBLY)] if possibly else [])]:
        text = displayable(name)
        text = text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 1]}…"
        draw.rectangle((x, 30, x + 9, 39), colour)
        draw.text((x + 14, 28), text, _INK, font)
        x += 14 + font.getlength(text) + 16


def _axis(draw: ImageDraw.ImageDraw, font: Any, bars: Sequence[Any], step: float) -> None:
    """Write the first days or ids of runs below the bars, as many as there is room for."""
    every = ceil(56 / step)
    for number, key in enumerate(bars):
        if number % every == 0:
            text = key.strftime("%b %d") if hasattr(key, "strftime") else str(key)[:8]
            draw.text((_LEFT + number * step, _HEIGHT - _BOTTOM + 8), displayable(text), _INK, font)


def _block(draw: ImageDraw.ImageDraw, base: tuple[float, float, float], height: float, colour: str) -> float:
    """Draw a part of a bar on its `base` (left, right, bottom) and return its upper edge."""
    left, right, bottom = base
    if height > 0:
        draw.rectangle((left, bottom - height, right, bottom), colour)
    return bottom - height


def _ceiling(amount: float) -> float:
    """Return a round number that is not less than a positive amount."""
    power = 10.0 ** floor(log10(amount))
    return next(power * factor for factor in (1, 2, 4, 5, 8, 10) if power * factor >= amount * (1 - 1e-9))


def _usd(amount: float) -> str:
    return f"{amount:,.0f}" if amount >= 100 else f"{amount:,.2f}"
