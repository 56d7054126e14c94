"""Words on pictures: Pillow's built-in font, its gaps filled by plain spellings, and methods' names for people."""

from __future__ import annotations

import unicodedata
from functools import cache

from PIL import ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

INK, MUTED, HAIRLINE, PAPER = "#1b1f24", "#586069", "#d0d5da", "#ffffff"

# The built-in font knows ASCII and a little more; what it lacks is spelled out rather than drawn as a box.
_SPELLED = str.maketrans(
    {
        "−": "-",
        "–": "-",
        "—": "-",
        "×": "x",
        "≥": ">=",
        "≤": "<=",
        "→": "->",
        "←": "<-",
        "µ": "u",
        "√": "sqrt ",
    }
    | {
        "≈": "~",
        "≠": "!=",
        "∞": "inf",
        "Σ": "sum",
        "∂": "d",
        "ß": "ss",
        "ø": "o",
        "æ": "ae",
        "ł": "l",
        "·": "·",
    }
    | {"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "Δ": "delta ", "ε": "eps", "λ": "lambda"}
    | {"μ": "mu", "σ": "sigma", "φ": "phi", "τ": "tau", "θ": "theta"}
)
_EXTRA = "·±“”‘’…°|"

_CAPITALS = {
    word.lower(): word
    for word in [
        "CAM",
        "LRP",
        "LIME",
        "SHAP",
        "RISE",
        "PCA",
        "SNE",
        "UMAP",
        "NMF",
        "DeepLIFT",
        "DeepFool",
        "FGSM",
        "PGD",
        "SmoothGrad",
        "RectGrad",
        "DeepDream",
    ]
}

_USUAL = (
    ("grad CAM", "Grad-CAM"),
    ("Grad CAM", "Grad-CAM"),
    ("Layer CAM", "LayerCAM"),
    (" plus plus", "++"),
    ("T SNE", "t-SNE"),
    ("Lbfgs", "L-BFGS"),
    ("Deep dream", "DeepDream"),
)


@cache
def font(size: int) -> Font:
    """Pillow's built-in font at a size in pixels."""
    return ImageFont.load_default(size)


def plain(text: str) -> str:
    """The text in letters the built-in font has.

    >>> plain("café −1.5 × Łódź ✓")
    'cafe -1.5 x Lodz ?'
    """
    kept = []
    for c in text.translate(_SPELLED).replace("Ł", "L").replace("Ø", "O"):
        for part in c if c.isascii() or c in _EXTRA else unicodedata.normalize("NFKD", c):
            if part.isascii() or part in _EXTRA:
                kept.append(part if part.isprintable() else " ")
            elif not unicodedata.combining(part):
                kept.append("?")
    return "".join(kept)


def method_title(name: str) -> str:
    """A method's name for people, where no catalogue gives its title.

    >>> method_title("grad_cam_plus_plus"), method_title("integrated_gradients")
    ('Grad-CAM++', 'Integrated gradients')
    """
    words = [_CAPITALS.get(w, w) for w in name.split("_")]
    words[0] = words[0][:1].upper() + words[0][1:]
    text = " ".join(words)
    for spelled, usual in _USUAL:
        text = text.replace(spelled, usual)
    return text


def wrap(text: str, size: int, width: float, lines: int = 0) -> list[str]:
    """The text broken into lines no wider than `width` pixels; beyond `lines` (if given) it ends in "…"."""
    out: list[str] = []
    line = ""
    for word in plain(text).split():
        longer = f"{line} {word}".strip()
        if line and font(size).getlength(longer) > width:
            out.append(line)
            line = word
        else:
            line = longer
    out.append(line)
    if lines and len(out) > lines:
        out = [*out[: lines - 1], " ".join(out[lines - 1 :])]
    return [_cut(row, size, width) for row in out]


def _cut(text: str, size: int, width: float) -> str:
    if font(size).getlength(text) <= width:
        return text
    while text and font(size).getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def write(
    draw: ImageDraw.ImageDraw, x: float, y: float, text: str, size: int, color: str = INK, anchor: str = "la"
) -> None:
    """Write one line of plain text at (x, y); `anchor` as in Pillow, "la" for its upper left corner."""
    draw.text((x, y), plain(text), fill=color, font=font(size), anchor=anchor)
