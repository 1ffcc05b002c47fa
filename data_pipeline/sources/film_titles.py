"""Titles of film catalogues: as people say them, and as two catalogues can be compared by."""

import re
import unicodedata

_ARTICLES = (
    "The|A|An|Da|La|Las|Les|Le|Lo|Los|L'|El|Il|I|Gli|Un|Una|Une|Der|Die|Das|Den|Det|De|En|Ein|"
    "Eine|Het|O|Os"
)
# "Postino, Il", alone or before or inside parentheses.
_TRAILING_ARTICLE = re.compile(rf"([^()]+), ({_ARTICLES})(?= \(|\)|$)")
# (1995); of a series (1975-1979) or (2007-); (V) is a film made for video.
_YEAR = re.compile(r"^(.*?)(?: \((\d{4})(?:[-\u2013](?:\d{4})? ?)?\))?(?: \(V\))?$")
_IN_PARENTHESES = re.compile(r" ?\(([^()]*)\)")
_ALIAS = re.compile(r"^(?:a\.k\.a\.|aka) ")
_LEADING_ARTICLE = re.compile(
    r"^(?:the|a|an|la|las|les|le|l|lo|los|el|il|der|die|das|den|det) (?=.)"
)


def plain_title(title: str) -> tuple[str, float | None]:
    """A catalogue title as people say it, and its year.

    "Usual Suspects, The (1995)" -> ("The Usual Suspects", 1995.0)
    """
    match = _YEAR.match(" ".join(title.split()))
    assert match is not None, "the pattern matches every line"
    name, year = match.groups()

    def in_front(found: re.Match[str]) -> str:
        words, article = found.groups()
        return f"{article}{words}" if article.endswith("'") else f"{article} {words}"

    return _TRAILING_ARTICLE.sub(in_front, name), None if year is None else float(year)


def names_of(title: str) -> list[str]:
    """All names in a plain title, spelt so that two catalogues agree on them.

    "Cinema Paradiso (Nuovo cinema Paradiso)" -> ["cinema paradiso", "nuovo cinema paradiso"]
    """
    names = [_IN_PARENTHESES.sub("", title), *_IN_PARENTHESES.findall(title)]
    spelt = [_compared(_ALIAS.sub("", name)) for name in names]
    return list(dict.fromkeys(name for name in spelt if name))


def _compared(name: str) -> str:
    """Without case, accents, punctuation and a leading article."""
    decomposed = unicodedata.normalize("NFKD", name.casefold().replace("&", " and "))
    letters = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    words = re.sub(r"\W+", " ", re.sub(r"['\u2019]", "", letters)).strip()
    return _LEADING_ARTICLE.sub("", words)
