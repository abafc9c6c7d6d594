"""Random texts of every kind that people hand over."""

from __future__ import annotations

import random

from tiny import WORDS

ODD = [
    "",
    " ",
    "\n\t",
    "\u3000\u00a0",
    "\x00",
    "\ud800",
    "w1 \udfff w2",
    "\ud83d\ude00 w3",
    "</s> <s> w4",
    "<pad>",
    "<pad> <pad> w5",
    "w" * 300,
    "w1 " * 400,
    "e\u0301 \u202eabc\u202c \ufeff",
    "大小 размер Größe حجم",
    "👩‍👩‍👧‍👦🏳️‍🌈",
    "W1 W2 Abc",
]


def cleaned(text: str) -> str:
    """Return what the stock class can take: lone surrogates replaced, pairs joined."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def words(draw: random.Random, count: int) -> str:
    """Return words that the word-level tokenizer knows."""
    return " ".join(draw.choice(WORDS) for _ in range(count))


def unicode_text(draw: random.Random, longest: int = 40) -> str:
    """Return any code points, of one script or of all."""
    start = draw.choice((0, 0, 0x20, 0x370, 0x4E00, 0xD800, 0xE000, 0x1F300, 0x10000))
    span = draw.choice((0x60, 0x400, 0x110000))
    points = (min(0x10FFFF, start + draw.randrange(span)) for _ in range(draw.randint(1, longest)))
    return "".join(map(chr, points))


def draw_texts(draw: random.Random) -> list[str]:
    """Return 1 to 40 texts; some equal, some odd, often with a beginning in common."""
    count = draw.choice((1, 2, 3, 5, 8, 13, 24, 40))
    shared = words(draw, draw.choice((4, 10, 20, 60))) if draw.random() < 0.7 else ""
    strange = draw.choice((0, 0, 0, 0.2, 0.8))
    longest = draw.choice((3, 12, 40, 120))
    texts: list[str] = []
    for _ in range(count):
        if texts and draw.random() < 0.1:
            texts.append(draw.choice(texts))
        elif draw.random() < strange:
            texts.append(draw.choice(ODD) if draw.random() < 0.5 else unicode_text(draw))
        elif shared and draw.random() < 0.97:
            texts.append(f"{shared} {words(draw, draw.randint(0, longest))}")
        else:
            texts.append(words(draw, draw.randint(1, longest)))
    return texts


def draw_prompts(draw: random.Random) -> dict[str, str]:
    """Return prompts by name, often none."""
    if draw.random() < 0.4:
        return {}
    made = {"query": f"{words(draw, draw.choice((1, 6, 12)))}: "}
    for name in draw.sample(("document", "passage", "other"), draw.randint(0, 2)):
        made[name] = draw.choice(("", f"{words(draw, 5)} "))
    return made
