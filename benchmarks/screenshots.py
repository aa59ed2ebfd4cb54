"""Pictures of a home's report for docs/images.

`benchmarks/screenshots.py HOME NAME` writes NAME_light.png, NAME_dark.png and NAME_phone.png.

Needs Chromium, and Pillow, which takes the colours down to few, so that a picture stays below 400
kB.
"""

import shutil
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from flows.report.page import write_report
from transforms.home import Settings
from transforms.warehouse.tables import Warehouse

IMAGES = Path(__file__).parent.parent / "docs" / "images"
N_COLOURS = 200
PICTURES = {
    "light": ("light", 1280, 2700),
    "dark": ("dark", 1280, 2700),
    "phone": ("light", 390, 1700),
}


def main(home: Path, name: str) -> None:
    page = write_report(Warehouse(Settings(home=home)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for picture, (scheme, width, height) in PICTURES.items():
            context = browser.new_context(
                viewport={"width": width, "height": height}, color_scheme=scheme, offline=True
            )
            shown = context.new_page()
            shown.goto(page.as_uri())
            shown.locator(f"html[data-drawn={scheme}]").wait_for()
            image = Image.open(BytesIO(shown.screenshot())).convert("RGB").quantize(N_COLOURS)
            image.save(IMAGES / f"{name}_{picture}.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
