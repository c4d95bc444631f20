"""Verbs that print what the program knows of itself: schema, settings, states."""

from __future__ import annotations

import argparse
import json

from spooler import settings, states
from spooler.commands.common import DONE, Verbs, add_verb
from spooler.job_schema import json_schema


def add(verbs: Verbs) -> None:
    schema = add_verb(verbs, "schema", _schema, "Print the JSON Schema of a job file, or the OpenAPI document of the web app.")
    schema.add_argument("which", choices=("job", "openapi"))
    add_verb(verbs, "settings", _settings, "Print the table of all settings.")
    add_verb(verbs, "states", _states, "Print the table of all changes of state.")


def _schema(options: argparse.Namespace) -> int:
    if options.which == "job":
        document = json_schema()
    else:
        from webui.openapi import document as openapi

        document = openapi()
    print(json.dumps(document, indent=2))
    return DONE


def _settings(options: argparse.Namespace) -> int:
    print(settings.markdown_table(), end="")
    return DONE


def _states(options: argparse.Namespace) -> int:
    print(states.markdown_table(), end="")
    return DONE
