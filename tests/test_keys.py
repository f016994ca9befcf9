"""Files of keys, and the commands that make them."""

import os
import re
import sys

import pytest
import zmq

from live_restore.errors import KeyFileError
from live_restore.keys import ClientKeys, KeyFolder
from tests.conftest import live_restore

SECRET = r"[0-9a-zA-Z.\-:+=^!/*?&<>()[\]{}@%$#]{40}"


@pytest.fixture
def folder(tmp_path):
    keys = KeyFolder(tmp_path / "keys")
    keys.init()
    return keys


def test_a_clients_file_holds_a_pair_that_the_daemon_knows(folder, tmp_path):
    folder.add("alice", "viewer", tmp_path / "alice.keys")
    keys = ClientKeys.load(tmp_path / "alice.keys")
    assert zmq.curve_public(keys.secret) == keys.public
    assert keys.server == folder.public()
    assert folder.role_of(keys.public) == "viewer"
    assert [(one.name, one.role, one.public) for one in folder.clients()] == [
        ("alice", "viewer", keys.public)
    ]
    folder.remove("alice")
    assert folder.role_of(keys.public) is None


def test_secret_keys_are_nowhere_else_and_never_shown(folder, tmp_path):
    folder.add("alice", "viewer", tmp_path / "alice.keys")
    keys = ClientKeys.load(tmp_path / "alice.keys")
    holders = [
        file.name
        for file in tmp_path.rglob("*.*")
        if file.is_file() and keys.secret.decode() in file.read_text()
    ]
    assert holders == ["alice.keys"]
    assert keys.secret.decode() not in repr(keys)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_files_with_secrets_are_their_owners_alone(folder, tmp_path):
    folder.add("alice", "viewer", tmp_path / "alice.keys")
    for file in (tmp_path / "alice.keys", folder.folder / "daemon.toml"):
        assert file.stat().st_mode & 0o077 == 0


def test_the_daemons_own_pair_is_an_operators(folder):
    assert folder.role_of(folder.own_client().public) == "operator"


def test_nothing_is_overwritten(folder, tmp_path):
    before = folder.public()
    with pytest.raises(KeyFileError, match="is there already"):
        folder.init()
    folder.add("alice", "viewer", tmp_path / "alice.keys")
    kept = ClientKeys.load(tmp_path / "alice.keys")
    with pytest.raises(KeyFileError, match="is there already"):
        folder.add("alice", "operator", tmp_path / "other.keys")
    assert not (tmp_path / "other.keys").exists()
    with pytest.raises(KeyFileError, match="is there already"):
        folder.add("bob", "viewer", tmp_path / "alice.keys")
    assert ClientKeys.load(tmp_path / "alice.keys") == kept
    assert folder.role_of(kept.public) == "viewer"
    assert [one.name for one in folder.clients()] == ["alice"]
    assert folder.public() == before


@pytest.mark.parametrize("name", ["", "../alice", "a/b", "müller", "a b", ".hidden", "x" * 65])
def test_names_are_fit_for_files(folder, name):
    with pytest.raises(KeyFileError, match="letters, digits"):
        folder.allow(name, zmq.curve_keypair()[0], "viewer")


@pytest.mark.parametrize("key", ["", "short", "x" * 41, "ä" * 40, '"' * 40, " " * 40])
def test_only_keys_are_allowed(folder, key):
    with pytest.raises(KeyFileError, match="key of eve: a key has 40 characters of Z85"):
        folder.allow("eve", key.encode(), "viewer")
    assert folder.clients() == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "public is missing"),
        ("public = 7", "public: a key has 40 characters"),
        ("public = '", "can't be read as a key file"),
        ("\0\xff", "can't be read as a key file"),
    ],
)
def test_a_damaged_file_is_told_of_by_name(folder, tmp_path, text, expected):
    (tmp_path / "bad.keys").write_bytes(text.encode("latin-1"))
    with pytest.raises(KeyFileError, match=rf"bad\.keys.*{expected}"):
        ClientKeys.load(tmp_path / "bad.keys")


def test_an_unknown_role_is_refused(folder):
    folder.allow("alice", zmq.curve_keypair()[0], "viewer")
    file = folder.folder / "allowed" / "alice.toml"
    file.write_text(file.read_text().replace("viewer", "root"))
    with pytest.raises(
        KeyFileError, match="role = 'root': must be one of viewer, sender, operator"
    ):
        folder.clients()


def test_keys_are_made_and_listed_by_commands(tmp_path):
    folder = ("--folder", tmp_path / "keys")
    missing = live_restore("keys", "list", *folder)
    assert missing.returncode == 2
    assert "has no keys yet; make them with: live-restore keys init" in missing.stderr
    made = live_restore("keys", "init", *folder)
    assert made.returncode == 0, made.stderr
    assert f"keys = '{tmp_path / 'keys'}'" in made.stdout
    output = tmp_path / "alice.keys"
    assert live_restore("keys", "add", "alice", *folder, "--output", output).returncode == 0
    public = zmq.curve_keypair()[0].decode()
    own = live_restore("keys", "allow", "bob", public, "--role", "sender", *folder)
    assert own.returncode == 0, own.stderr
    assert ClientKeys.load(output).server.decode() in own.stdout
    listed = live_restore("keys", "list", *folder).stdout
    assert re.search(rf"alice +viewer +{SECRET}", listed)
    assert re.search(rf"bob +sender +{re.escape(public)}", listed)
    assert ClientKeys.load(output).secret.decode() not in listed
    assert live_restore("keys", "remove", "alice", *folder).returncode == 0
    gone = live_restore("keys", "remove", "alice", *folder)
    assert gone.returncode == 2
    assert "alice: not on the list, which has bob" in gone.stderr


def test_key_files_need_no_torch():
    code = "import sys, live_restore.cli.keys, live_restore.keys; assert 'torch' not in sys.modules"
    import subprocess

    subprocess.run([sys.executable, "-c", code], check=True)
