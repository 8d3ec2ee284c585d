"""Draw what a program prints as a terminal in SVG: `make picture` draws docs/demo.svg for the README."""

import sys
from html import escape

WIDTH, LINE, LEFT, TOP = 7.3, 16.5, 18, 44
FIRST, LAST = "3. Load them", "Seconds per phase"


def shown(text: str) -> list[str]:
    """Return the load and its table: the part of the demo that fits a screen."""
    part = text[text.index(FIRST) : text.index(LAST)].rstrip().splitlines()
    return [line[:112] for line in part if "created: CREATE" not in line]


def picture(lines: list[str]) -> str:
    """Return the lines as an SVG; titles and the sum of the counts stand out."""
    width, height = 2 * LEFT + WIDTH * max(map(len, lines)), TOP + LINE * len(lines) + 10
    rows = "".join(
        f'<text x="{LEFT}" y="{TOP + LINE * (number + 1):.1f}"{look(line)} xml:space="preserve">{escape(line)}</text>\n'
        for number, line in enumerate(lines)
    )
    dots = "".join(f'<circle cx="{LEFT + 6 + 18 * n}" cy="20" r="5.5" fill="#5b6470"/>' for n in range(3))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'font-family="ui-monospace, DejaVu Sans Mono, monospace" font-size="12" fill="#d7dce1">'
        f"<title>{escape(lines[0])}</title>"
        f'<rect width="100%" height="100%" rx="8" fill="#16191d"/>{dots}\n{rows}</svg>\n'
    )


def look(line: str) -> str:
    """Return the attributes of a line."""
    if line.startswith(FIRST):
        return ' font-weight="bold" fill="#ffffff"'
    return ' fill="#5fd6a4"' if " read = " in line or "accounted for" in line else ""


if __name__ == "__main__":
    sys.stdout.write(picture(shown(sys.stdin.read())))
