"""Verbs for the keys that let people into the web app: key add, key ls, key rm. They change the file; no server is asked."""

from __future__ import annotations

import argparse

from spooler.commands.common import DONE, MISSING, WRONG, Verbs, add_json, add_verb, say_json, tell
from spooler.settings import Settings


def add(verbs: Verbs) -> None:
    about = "Make, list or take away the keys that let people into the web app."
    inner = verbs.add_parser("key", help=about, description=about).add_subparsers(required=True, metavar="WHAT")
    new = add_verb(inner, "add", _add, "Make a key, and print its secret, which is shown this once.")
    new.add_argument("name", help="who it is for; the jobs that are sent with it are this person's")
    new.add_argument("--operator", action="store_true", help="may change everybody's jobs, and pause the queue")
    lists = add_verb(inner, "ls", _ls, "List the keys: names and roles, never secrets.")
    add_json(lists)
    gone = add_verb(inner, "rm", _rm, "Take a key away: whoever has it is out at once, sessions too.")
    gone.add_argument("name", help="whose")
    for each in (new, lists, gone):
        Settings.add_options(each, only=("keys",))


def _add(options: argparse.Namespace) -> int:
    from webui.keys import KeyFile, KeysError

    try:
        secret = KeyFile(options.keys).add(options.name, options.operator)
    except KeysError as error:
        tell(str(error))
        return WRONG
    print(secret)
    tell(f"That is the secret of {options.name}, kept in {options.keys}: it is not shown again.")
    return DONE


def _ls(options: argparse.Namespace) -> int:
    from webui.keys import KeyFile, KeysError

    try:
        found = [{"name": key.name, "role": "operator" if key.operator else "owner"} for key in KeyFile(options.keys).all()]
    except KeysError as error:
        tell(str(error))
        return WRONG
    if options.json:
        say_json(found)
    else:
        for each in found:
            print(f"{each['name']}  {each['role']}")
    return DONE


def _rm(options: argparse.Namespace) -> int:
    from webui.keys import KeyFile, KeysError

    try:
        file = KeyFile(options.keys)
        gone, left = file.remove(options.name), file.all()
    except KeysError as error:
        tell(str(error))
        return WRONG
    if not gone:
        tell(f"there is no key of {options.name!a}")
        return MISSING
    tell(f"The key of {options.name} is gone.")
    if not left:
        tell("It was the last one: a web app that runs lets nobody in until there is another, or it is started anew.")
    return DONE
