"""``live-restore keys``: who may connect to a daemon that other PCs can reach."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

__all__ = ["add_command"]

_BAD_ARGUMENT = 2  # exit code


def add_command(commands: Any) -> None:
    """Add this command to the parser's."""
    from live_restore.keys import ROLES

    parser: argparse.ArgumentParser = commands.add_parser(
        "keys",
        help="make and list the keys of those who may connect from other PCs",
        description="A daemon that other PCs can reach lets in only those whose keys are on its list. "
        "Make the daemon's own keys once (init), then a file for each client (add); give it that file on "
        "a way you trust, and name it: live-restore listen --keys FILE. Viewers may watch, senders may "
        "send planes to the ingest port, operators may do both and give commands.",
    )
    parser.set_defaults(exit_code=_BAD_ARGUMENT)
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")

    def add(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        action: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text)
        action.add_argument("--folder", type=Path, help="of the keys, as in the profile")
        action.set_defaults(run=run)
        return action

    add("init", _init, "make the daemon's own keys")
    action = add("add", _add, "make keys for a client, allow it, and write the file to give to it")
    action.add_argument("name", help="of the client")
    action.add_argument("--role", choices=ROLES, default="viewer", help="(default: viewer)")
    action.add_argument("--output", type=Path, help="the file to write (default: NAME.keys)")
    action = add("allow", _allow, "allow a client that made its keys itself")
    action.add_argument("name", help="of the client")
    action.add_argument("public", help="its public key, 40 characters")
    action.add_argument("--role", choices=ROLES, default="viewer", help="(default: viewer)")
    action = add("remove", _remove, "don't let a client in any more")
    action.add_argument("name", help="of the client")
    add("list", _list, "the daemon's public key, and who is allowed in")


def _folder(options: argparse.Namespace) -> Any:
    from live_restore.keys import KeyFolder, default_key_folder

    return KeyFolder(options.folder or default_key_folder())


def _init(options: argparse.Namespace) -> int:
    folder = _folder(options)
    public = folder.init()
    print(f"written to {folder.folder}\npublic key {public.decode()}")
    name = f"'{folder.folder.resolve()}'" if options.folder else '"default"'
    print(f"in the profile, in [publish] or [source]: keys = {name}")
    return 0


def _add(options: argparse.Namespace) -> int:
    output = options.output or Path(f"{options.name}.keys")
    _folder(options).add(options.name, options.role, output)
    print(
        f"{options.name} may connect as {options.role}; give it the file {output}, and keep it secret"
    )
    return 0


def _allow(options: argparse.Namespace) -> int:
    folder = _folder(options)
    folder.allow(options.name, options.public.encode(), options.role)
    print(f"{options.name} may connect as {options.role}")
    print(f"it needs the daemon's public key: {folder.public().decode()}")
    return 0


def _remove(options: argparse.Namespace) -> int:
    _folder(options).remove(options.name)
    print(f"{options.name} isn't let in any more; restart the daemon to end what is connected")
    return 0


def _list(options: argparse.Namespace) -> int:
    folder = _folder(options)
    print(f"{'(this daemon)':20} {'':9} {folder.public().decode()}")
    for client in folder.clients():
        print(f"{client.name:20} {client.role:9} {client.public.decode()}")
    return 0
