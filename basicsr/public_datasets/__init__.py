"""What is known of public data sets: their parts, folders, names and counts, with the source of each."""

from __future__ import annotations

import difflib
import re

from basicsr.errors import OptionError

from . import haze, low_light, mixed, rain, snow, underwater
from .entries import Entry

CATALOGUE = (*snow.ENTRIES, *rain.ENTRIES, *haze.ENTRIES, *low_light.ENTRIES, *underwater.ENTRIES, *mixed.ENTRIES)


def find_entry(name: str) -> Entry:
    """The entry of a data set; case, hyphens and the like do not matter.

    Raises:
        OptionError: There is none of this name; the text lists those that are alike, or all.
    """
    known = {plain(entry.name): entry for entry in CATALOGUE}
    if plain(name) not in known:
        alike = difflib.get_close_matches(plain(name), known, 3, 0.5)
        names = ', '.join(known[a].name for a in alike) or ', '.join(e.name for e in CATALOGUE)
        raise OptionError(f"No data set is called '{name}'; {'did you mean' if alike else 'known are'} {names}?")
    return known[plain(name)]


def plain(name: str) -> str:
    """A name in small letters and digits alone."""
    return re.sub(r'[^a-z0-9]', '', name.lower())
