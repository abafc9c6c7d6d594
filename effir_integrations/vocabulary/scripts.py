"""Which writing systems the letters of a text are of, and which ones a language is written in."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import cache

LANGUAGES = {
    "am": "ETHIOPIC",
    "ar": "ARABIC",
    "be": "CYRILLIC",
    "bg": "CYRILLIC",
    "bn": "BENGALI",
    "el": "GREEK",
    "fa": "ARABIC",
    "gu": "GUJARATI",
    "he": "HEBREW",
    "hi": "DEVANAGARI",
    "hy": "ARMENIAN",
    "ja": "CJK HIRAGANA KATAKANA",
    "ka": "GEORGIAN",
    "kk": "CYRILLIC",
    "km": "KHMER",
    "kn": "KANNADA",
    "ko": "HANGUL CJK",
    "lo": "LAO",
    "mk": "CYRILLIC",
    "ml": "MALAYALAM",
    "mn": "CYRILLIC",
    "mr": "DEVANAGARI",
    "my": "MYANMAR",
    "ne": "DEVANAGARI",
    "pa": "GURMUKHI",
    "ru": "CYRILLIC",
    "si": "SINHALA",
    "sr": "CYRILLIC LATIN",
    "ta": "TAMIL",
    "te": "TELUGU",
    "th": "THAI",
    "uk": "CYRILLIC",
    "ur": "ARABIC",
    "zh": "CJK",
}
"""ISO 639-1 code -> scripts, for languages that are not written in Latin letters."""
LATIN = frozenset(
    "af az ca cs cy da de en eo es et eu fi fr ga gl hr hu id is it lt lv ms mt nl no pl pt ro sk "
    "sl sq sv sw tl tr uz vi".split()
)
"""Those that are."""


def scripts_of(languages: Iterable[str]) -> frozenset[str]:
    """Return the scripts that languages are written in.

    Args:
        languages: ISO 639-1 codes, or names of scripts as Unicode's names of letters begin with
            them: latin, cyrillic, cjk.

    Raises:
        ValueError: One is neither.
    """
    found: set[str] = set()
    for language in languages:
        if language in LATIN:
            found.add("LATIN")
        elif language in LANGUAGES:
            found.update(LANGUAGES[language].split())
        elif language.upper() in _known_scripts():
            found.add(language.upper())
        else:
            raise ValueError(
                f"language {language!r} is not known; give a code such as en, de, ru, zh, or a "
                f"script: {', '.join(sorted(_known_scripts())).lower()}"
            )
    return frozenset(found)


def letters_of(text: str) -> frozenset[str]:
    """Return the scripts of a text's letters; digits, signs and spaces are of none."""
    return frozenset(script for x in text if (script := _script(x)))


@cache
def _script(character: str) -> str:
    if not character.isalpha():
        return ""
    return unicodedata.name(character, "").split(" ")[0]


def _known_scripts() -> frozenset[str]:
    return frozenset(" ".join(LANGUAGES.values()).split()) | {"LATIN"}
