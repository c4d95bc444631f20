"""The catalogues of the pages' languages: `python tools/translate.py` gathers the texts of templates and code and compiles.

`--check` changes nothing and ends with 1 when a text has no translation, or a catalogue is not compiled. A translator edits
webui/translations/<language>/LC_MESSAGES/messages.po, then runs this.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

ROOT = Path(__file__).parent.parent
WEBUI = ROOT / "webui"
TRANSLATIONS = WEBUI / "translations"
METHODS = [("**.py", "python"), ("templates/**.html", "jinja2")]
KEYWORDS = {"_": None, "gettext": None, "lazy_gettext": None, "ngettext": (1, 2), "msgid": None}


def gathered() -> Catalog:
    """Every text that a page may say, with where it is said."""
    catalog = Catalog(project="sdspool", fuzzy=False)
    found = extract_from_dir(str(WEBUI), METHODS, {"templates/**.html": {"silent": "false"}}, keywords=KEYWORDS)
    for file, _line, message, comments, context in found:
        catalog.add(message, None, [(f"webui/{file}", None)], auto_comments=comments, context=context)  # type: ignore[list-item]
    return catalog


def languages() -> Iterator[Path]:
    """The file of each language's texts."""
    yield from sorted(TRANSLATIONS.glob("*/LC_MESSAGES/messages.po"))


def read(path: Path) -> Catalog:
    with path.open("rb") as file:
        return read_po(file, locale=path.parent.parent.name)


def compiled(catalog: Catalog) -> bytes:
    made = io.BytesIO()
    write_mo(made, catalog)
    return made.getvalue()


def missing(template: Catalog, catalog: Catalog) -> list[str]:
    """The texts without a translation, or with an unsure one."""
    found = []
    for message in template:
        if not message.id:
            continue
        name = message.id[0] if isinstance(message.id, tuple) else message.id
        known = catalog.get(name)
        strings = () if known is None else known.string if isinstance(known.string, tuple) else (known.string,)
        if not strings or not all(strings) or (known is not None and known.fuzzy):
            found.append(name)
    return found


def update(path: Path, template: Catalog) -> Catalog:
    """Bring a language's file up to date: new texts come in empty, those that nobody says any more go."""
    catalog = read(path)
    catalog.update(template, no_fuzzy_matching=True, update_creation_date=False)
    catalog.obsolete.clear()
    with path.open("wb") as file:
        write_po(file, catalog, width=110, sort_output=True, ignore_obsolete=True, include_lineno=False)
    path.with_suffix(".mo").write_bytes(compiled(catalog))
    return catalog


def main() -> int:
    parser = argparse.ArgumentParser(prog="translate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, tell what is missing")
    options = parser.parse_args()
    template, status = gathered(), 0
    for path in languages():
        catalog = read(path) if options.check else update(path, template)
        lacking = missing(template, catalog)
        for text in lacking:
            print(f"{path.relative_to(ROOT)}: {text!r}")
        if options.check and path.with_suffix(".mo").read_bytes() != compiled(catalog):
            print(f"{path.relative_to(ROOT)} is not compiled: run tools/translate.py")
            status = 1
        status = status or bool(lacking)
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
