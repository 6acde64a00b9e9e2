"""Draw `docs/demo.jpg`: the pictures of the shipped manifest on one sheet, as `make demo` left them in `data/demo`.

make demo
.venv/bin/python benchmarks/demo_sheet.py [DATA_DIR]
"""

import sys
from itertools import accumulate
from pathlib import Path

import pandas as pd
from PIL import Image, ImageOps

ROOT = Path(__file__).parents[1]
COLUMNS = 6
THUMB_PX = 194
GAP_PX = 6
QUALITY = 84


def main(data_dir: Path, out: Path) -> None:
    """Write the sheet of every picture in `data_dir`, in the order of the manifest, to `out`."""
    table = pd.read_parquet(data_dir / "metadata").sort_values(["row", "variant"])
    thumbs = []
    for path in table["image_path"].dropna():
        with Image.open(data_dir / path) as image:
            thumbs.append(ImageOps.contain(image.convert("RGB"), (THUMB_PX, THUMB_PX)))
    lines = [thumbs[start : start + COLUMNS] for start in range(0, len(thumbs), COLUMNS)]
    heights = [max(thumb.height for thumb in line) for line in lines]
    tops = list(accumulate((height + GAP_PX for height in heights), initial=GAP_PX))
    sheet = Image.new("RGB", (COLUMNS * (THUMB_PX + GAP_PX) + GAP_PX, tops[-1]), "white")
    for line, top, height in zip(lines, tops, heights, strict=False):
        for column, thumb in enumerate(line):
            left = GAP_PX + column * (THUMB_PX + GAP_PX) + (THUMB_PX - thumb.width) // 2
            sheet.paste(thumb, (left, top + (height - thumb.height) // 2))
    sheet.save(out, quality=QUALITY, optimize=True)
    print(f"{out}: {len(thumbs)} pictures, {sheet.width} x {sheet.height}, {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(*sys.argv[1:2] or [ROOT / "data" / "demo"]), ROOT / "docs" / "demo.jpg")
