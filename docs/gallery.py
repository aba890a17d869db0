"""The gallery: runs five shipped configs, keeps their pages here, and makes an index with pictures of them.

    python docs/gallery.py                        # make gallery
    python docs/gallery.py --picture              # make picture: docs/report.png, from the first page
    python docs/gallery.py --to elsewhere old_faithful diabetes fits.mcmc.draws=50

What is finished in the results is kept, as `triptych run` does. Pictures of the pages need a Chromium; where
there is none, the ones that are there stay.
"""

from __future__ import annotations

import argparse
import html
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
NAMES = ("old_faithful", "galaxies", "digits", "diabetes", "carcinoma")
LARGEST = 5_000_000  # bytes of a page
NARROW = 480  # pixels of a picture in the index


def main() -> int:
    """Make the gallery, or the picture of the README."""
    reader = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    reader.add_argument(
        "words", nargs="*", metavar="NAME | KEY=VALUE", help="configs (default: all), overrides"
    )
    reader.add_argument(
        "--results", type=Path, default=HERE.parent / "results", help="where the runs are kept"
    )
    reader.add_argument("--to", type=Path, default=HERE / "gallery", help="where the pages go")
    reader.add_argument("--picture", action="store_true", help="take docs/report.png again, and no more")
    given = reader.parse_args()
    overrides = [word for word in given.words if "=" in word]
    names = [word for word in given.words if "=" not in word] or list(NAMES)
    if given.picture:
        return int(not photograph(given.to / f"{NAMES[0]}.html", HERE / "report.png", 1130, 1960))
    given.to.mkdir(parents=True, exist_ok=True)
    for name in names:
        directory = given.results / name
        command = [sys.executable, "-m", "triptych", "run", name, *overrides, "--output", str(directory)]
        if subprocess.run(command, check=False).returncode:
            print(f"{name}: the run did not end well; no page of it is kept.", file=sys.stderr)
            return 1
        page = (directory / "report.html").read_text(encoding="utf-8")
        told = unfit(page)
        if told:
            print(f"{name}: the page {told}; it is not kept.", file=sys.stderr)
            return 1
        kept = given.to / f"{name}.html"
        kept.write_text(page, encoding="utf-8")
        photograph(kept, given.to / f"{name}.png", 1130, 860, NARROW)
    (given.to / "README.md").write_text(index(given.to), encoding="utf-8")
    print(f"Gallery: {given.to}")
    return 0


def unfit(page: str) -> str:
    """Say why a page is not to be shown; "" where it is."""
    if len(page.encode()) > LARGEST:
        return f"has {len(page.encode()) / 1e6:.1f} MB"
    places = {str(Path.home()), str(HERE.parent), tempfile.gettempdir(), sys.prefix} - {"/"}
    told = [place for place in places if re.search(rf"{re.escape(place)}(?![\w-])", page)]
    return f"names a place on this machine, {told[0]}" if told else ""


def photograph(page: Path, picture: Path, width: int, height: int, narrow: int = 0) -> bool:
    """Take a picture of the top of a page; give whether there is one."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    chromium = next((path for name in names if (path := shutil.which(name))), None)
    if chromium is None or not page.is_file():
        print(f"{picture.name}: no Chromium, or no page; the picture stays as it was.", file=sys.stderr)
        return False
    with tempfile.TemporaryDirectory() as profile:
        taken = Path(profile) / "taken.png"
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={profile}",
        ]
        size = [f"--window-size={width},{height}", f"--screenshot={taken}", page.resolve().as_uri()]
        subprocess.run([chromium, *options, *size], check=True, capture_output=True, timeout=120)
        from PIL import Image

        with Image.open(taken) as image:
            found = image.convert("RGB")
            if narrow:
                found = found.resize(
                    (narrow, round(narrow * found.height / found.width)), Image.Resampling.LANCZOS
                )
            found.save(picture, optimize=True)  # all its colours: the fits are told apart by them
    return True


def index(directory: Path) -> str:
    """Write the index: a picture and the first line of every page that is there."""
    lines = [
        "# Gallery",
        "",
        "Finished pages, each one file that needs no network: download it and open it in a browser.",
    ]
    lines += ["`make gallery` runs the configs again and writes the pages anew.", ""]
    known = sorted(directory.glob("*.html"), key=lambda page: (*NAMES, page.stem).index(page.stem))
    for page in known:
        text = page.read_text(encoding="utf-8")
        subtitle, first = (_said(text, look) for look in ("subtitle", "lead"))
        picture = f'<img src="{page.stem}.png" width="{NARROW}" alt="The top of the page of {page.stem}">'
        shown = f'<a href="{page.name}">{picture}</a>' if page.with_suffix(".png").is_file() else ""
        lines += [f"## [{page.stem}]({page.name})", "", f"{subtitle}. *{first}*", "", shown, ""]
    return "\n".join(lines).rstrip() + "\n"


def _said(page: str, look: str) -> str:
    found = re.search(rf'<p class="{look}[^>]*>(.*?)</p>', page, flags=re.DOTALL)
    return html.unescape(re.sub(r"<[^>]+>", "", found[1])).strip() if found else ""


if __name__ == "__main__":
    sys.exit(main())
