"""Keys: who may connect to a daemon that other PCs can reach, and as what.

The daemon's folder of keys holds its own pair and the list of those who are allowed in, a file each::

    daemon.toml            its public and its secret key
    allowed/alice.toml     the public key of a client, and its role

A client has one file with all that it needs: its pair, and the daemon's public key. Keys are
CurveZMQ's, written in Z85, 40 characters each.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from live_restore.errors import KeyFileError

if TYPE_CHECKING:
    import zmq

__all__ = [
    "ROLES",
    "AllowedClient",
    "ClientKeys",
    "KeyFolder",
    "Role",
    "default_key_folder",
    "open_key_folder",
]

Role = Literal["viewer", "sender", "operator"]
ROLES: tuple[Role, ...] = get_args(Role)
"""A viewer may watch and ask, a sender may send planes, an operator may do both and give commands."""

_OWN = "daemon.toml"
_ALLOWED = "allowed"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEY_LENGTH = 40


def default_key_folder() -> Path:
    """Where keys lie unless a profile names another folder."""
    from platformdirs import user_config_path  # which a client does without

    return user_config_path("live-restore") / "keys"


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """What a client needs to be let in.

    Attributes
    ----------
    public, secret : bytes
        The client's own pair, Z85.
    server : bytes
        The daemon's public key, Z85.
    """

    public: bytes
    secret: bytes = field(repr=False)
    server: bytes

    @classmethod
    def load(cls, file: str | Path) -> Self:
        """Read the file that `KeyFolder.add` made.

        Raises
        ------
        KeyFileError
            It can't be read, or isn't one.
        """
        table = _read(Path(file))
        return cls(*(_key(table, name, Path(file)) for name in ("public", "secret", "server")))

    def secure(self, socket: zmq.Socket[Any]) -> None:
        """Set on a socket, before it connects."""
        socket.curve_publickey = self.public
        socket.curve_secretkey = self.secret
        socket.curve_serverkey = self.server


@dataclass(frozen=True, slots=True)
class AllowedClient:
    """A line of the list of those who are allowed in.

    Attributes
    ----------
    name : str
        As its operator calls it.
    public : bytes
        Z85.
    role : {"viewer", "sender", "operator"}
        What it may do.
    """

    name: str
    public: bytes
    role: Role


def open_key_folder(path: Path | None) -> KeyFolder | None:
    """The folder that a profile names, "default" being `default_key_folder`; None for none."""
    if path is None:
        return None
    return KeyFolder(default_key_folder() if str(path) == "default" else path)


class KeyFolder:
    """A daemon's keys.

    Parameters
    ----------
    folder : pathlib.Path
        Need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def init(self) -> bytes:
        """Make the daemon's own pair; its public key.

        Raises
        ------
        KeyFileError
            There is one already, or the folder can't be written.
        """
        file = self.folder / _OWN
        public, secret = _new_pair()
        text = "# The daemon's own keys. Whoever can read this file can give it commands.\n"
        _write(file, f"{text}{_line('public', public)}{_line('secret', secret)}")
        return public

    @property
    def exists(self) -> bool:
        """Whether the daemon has a pair."""
        return (self.folder / _OWN).is_file()

    def secure(self, socket: zmq.Socket[Any]) -> None:
        """Set the daemon's pair on a socket, before it binds.

        Raises
        ------
        KeyFileError
            There is none, or it can't be read.
        """
        public, secret = self._pair()
        socket.curve_server = True
        socket.curve_publickey = public
        socket.curve_secretkey = secret

    def own_client(self) -> ClientKeys:
        """For commands given on the daemon's own PC, by whoever can read its keys.

        Raises
        ------
        KeyFileError
            There is no pair, or it can't be read.
        """
        public, secret = self._pair()
        return ClientKeys(public, secret, public)

    def add(self, name: str, role: Role, output: Path) -> None:
        """Make a client's pair, allow it, and write the file to hand over to it.

        The secret key is in that file alone.

        Raises
        ------
        KeyFileError
            The name is taken or unfit, a file can't be written, or the daemon has no pair.
        """
        server, _ = self._pair()
        public, secret = _new_pair()
        text = f"# Key of {name}, {role}. Secret: whoever has this file is {name} to the daemon.\n"
        lines = (_line("server", server), _line("public", public), _line("secret", secret))
        _write(output, text + "".join(lines))
        try:
            self.allow(name, public, role)
        except KeyFileError:
            output.unlink()
            raise

    def allow(self, name: str, public: bytes, role: Role) -> None:
        """Let in a client that made its pair itself.

        Raises
        ------
        KeyFileError
            The name is taken or unfit, the key is none, or the file can't be written.
        """
        if not _NAME.fullmatch(name):
            raise KeyFileError(
                f"name {name!r}: letters, digits, dots, dashes and underscores are expected, 64 at most"
            )
        _check_key(public.decode("ascii", "replace"), f"key of {name}")
        text = f'{_line("public", public)}role = "{role}"\n'
        _write(self.folder / _ALLOWED / f"{name}.toml", text)

    def remove(self, name: str) -> None:
        """Don't let a client in any more; what is connected stays so until the daemon restarts.

        Raises
        ------
        KeyFileError
            There is none of that name.
        """
        try:
            (self.folder / _ALLOWED / f"{name}.toml").unlink()
        except OSError as error:
            known = ", ".join(client.name for client in self.clients()) or "nobody"
            raise KeyFileError(f"{name}: not on the list, which has {known}") from error

    def public(self) -> bytes:
        """The daemon's public key.

        Raises
        ------
        KeyFileError
            There is none, or it can't be read.
        """
        return self._pair()[0]

    def clients(self) -> list[AllowedClient]:
        """Who is allowed in, by name.

        Raises
        ------
        KeyFileError
            A file of the list can't be read or isn't right.
        """
        found = []
        for file in _listed(self.folder / _ALLOWED):
            table = _read(file)
            role = table.get("role")
            if role not in ROLES:
                raise KeyFileError(f"{file}: role = {role!r}: must be one of {', '.join(ROLES)}")
            found.append(AllowedClient(file.stem, _key(table, "public", file), role))
        return found

    def role_of(self, public: bytes) -> Role | None:
        """What the owner of a public key may do; None for a stranger.

        The daemon's own pair is an operator's.

        Raises
        ------
        KeyFileError
            A file can't be read or isn't right.
        """
        if public == self.public():
            return "operator"
        return next((client.role for client in self.clients() if client.public == public), None)

    def _pair(self) -> tuple[bytes, bytes]:
        file = self.folder / _OWN
        try:
            table = _read(file)
        except KeyFileError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            raise KeyFileError(
                f"{file}: the daemon has no keys yet; make them with: live-restore keys init "
                f'--folder "{self.folder}"'
            ) from error
        return _key(table, "public", file), _key(table, "secret", file)


def _line(name: str, key: bytes) -> str:
    return f'{name} = "{key.decode()}"\n'  # Z85 has neither quotes nor backslashes


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise KeyFileError(f"{file}: can't be read as a key file: {error}") from error


def _listed(folder: Path) -> list[Path]:
    """Key files of a folder, by name; none where there is no folder."""
    try:
        return sorted(file for file in folder.iterdir() if file.match("*.toml"))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise KeyFileError(f"{folder}: key files can't be listed: {error}") from error


def _key(table: dict[str, Any], name: str, file: Path) -> bytes:
    if name not in table:
        raise KeyFileError(f"{file}: {name} is missing; is it a file of live-restore keys?")
    return _check_key(table[name], f"{file}: {name}")


def _check_key(text: object, where: str) -> bytes:
    problem = f"{where}: a key has {_KEY_LENGTH} characters of Z85, this is "
    if not isinstance(text, str) or len(text) != _KEY_LENGTH:
        raise KeyFileError(problem + (f"{len(text)} long" if isinstance(text, str) else "no text"))
    from zmq.utils import z85

    try:
        z85.decode(text)
    except (ValueError, KeyError) as error:
        raise KeyFileError(problem + "not Z85") from error
    return text.encode()


def _new_pair() -> tuple[bytes, bytes]:
    import zmq

    return zmq.curve_keypair()


def _write(file: Path, text: str) -> None:
    """A new file that its owner alone can read."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError as error:
        raise KeyFileError(
            f"{file}: is there already; remove it first, or choose another"
        ) from error
    except OSError as error:
        raise KeyFileError(f"{file}: can't be written: {error}") from error
