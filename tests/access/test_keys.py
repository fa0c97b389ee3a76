"""Keys at rest, their callers, and their limits."""

import errno
import json
import os
import stat
from pathlib import Path

import pytest

from app.access.caller import Caller
from app.access.keyring import Keyring
from app.access.keys import KeyRecord, digest, new_key, read_keys, revoke, write_keys
from app.access.meter import Meter
from app.errors import BadRequest, NotFound, RateLimited


def record(**changed):
    key, identity = new_key()
    fields = {"id": identity, "name": "somebody", "sha256": digest(key), "scopes": ("infer",)}
    return key, KeyRecord(**(fields | changed))


def test_the_file_holds_no_key_and_only_its_owner_reads_it(tmp_path):
    file = tmp_path / "in" / "keys.json"
    key, one = record(tenant="acme", per_minute=3)
    write_keys(file, [one])
    assert key not in file.read_text()
    assert key.rpartition("_")[2] not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_keys(file) == [one]
    assert os.listdir(file.parent) == ["keys.json"]
    file.chmod(0o640)
    write_keys(file, [])
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_keys_differ():
    made = [new_key() for _ in range(50)]
    assert len({key for key, _ in made}) == len({identity for _, identity in made}) == 50
    assert all(key.startswith(f"ot_{identity}_") and len(key) > 50 for key, identity in made)


def test_revoking(tmp_path):
    file = tmp_path / "keys.json"
    (_, one), (_, two) = record(), record()
    write_keys(file, [one, two])
    assert revoke(file, one.id) == one
    assert read_keys(file) == [two]
    with pytest.raises(NotFound, match=two.id):
        revoke(file, one.id)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"keys": [{}]}', '{"keys": [{"id": "x"}]}', '{"keys": [], "more": 1}', "\udcff"]
)
def test_a_wrong_file_is_refused(tmp_path, text):
    file = tmp_path / "keys.json"
    file.write_text(text, errors="surrogateescape")
    with pytest.raises(BadRequest, match="wrong"):
        Keyring(file=file)
    with pytest.raises(BadRequest, match="overtone keys add"):
        Keyring(file=tmp_path / "none.json")


def test_a_changed_file_is_read_again_and_a_broken_one_changes_nothing(tmp_path):
    file = tmp_path / "keys.json"
    (key, one), (other, two) = record(), record()
    write_keys(file, [one])
    ring = Keyring(file=file)
    assert ring.find(key).key == one.id
    write_keys(file, [two])
    ring.refresh()
    assert ring.find(key) is None
    assert ring.find(other).key == two.id
    file.write_text("nonsense")
    ring.refresh()
    assert ring.find(other).key == two.id
    file.unlink()
    ring.refresh()
    assert ring.find(other).key == two.id


def test_a_file_that_could_not_be_read_for_a_moment_is_read_later(tmp_path, monkeypatch, caplog):
    """As where the process has no file descriptor left at the moment of a revocation."""
    file = tmp_path / "keys.json"
    (key, one), (_, two) = record(), record()
    write_keys(file, [one, two])
    ring = Keyring(file=file)
    write_keys(file, [two])

    def fail(_):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", fail)
        for _ in range(3):
            assert ring.refresh() == set()
    assert caplog.text.count("Too many open files") == 1
    assert ring.find(key) is not None
    assert ring.refresh() == {one.id}
    assert ring.find(key) is None
    assert ring.refresh() == set()


@pytest.mark.parametrize(
    ("changed", "ends"),
    [
        ({"scopes": ("adapters",)}, True),
        ({"tenant": "acme"}, True),
        ({"adapters": ("a*",)}, True),
        ({"sha256": digest("another")}, True),
        ({"name": "else"}, False),
        ({"per_minute": 3}, False),
    ],
)
def test_what_a_change_of_the_file_ends(tmp_path, changed, ends):
    file = tmp_path / "keys.json"
    (_, one), (_, two) = record(), record()
    write_keys(file, [one])
    ring = Keyring(file=file)
    write_keys(file, [two, one.model_copy(update=changed)])
    assert ring.refresh() == ({one.id} if ends else set())


def test_plain_keys():
    ring = Keyring(("user",), ("admin",))
    assert ring.find("user").scopes == {"infer"}
    assert ring.find("admin").scopes == {"infer", "adapters", "train"}
    assert ring.find("use") is ring.find("") is ring.find("user ") is None
    assert ring.anonymous.scopes == frozenset()
    assert Keyring(("user",)).find("user").scopes == {"infer", "adapters", "train"}
    assert Keyring(admin_keys=("admin",)).anonymous.scopes == {"infer"}
    assert Keyring().anonymous.scopes == {"infer", "adapters", "train"}


@pytest.mark.parametrize(
    ("caller", "sees", "changes"),
    [
        (Caller("k"), "abc", "abc"),
        (Caller("k", tenant="acme"), "ac", "a"),
        (Caller("k", tenant="acme", adapters=("none",)), "a", "a"),
        (Caller("k", adapters=("sha*",)), "c", "c"),
    ],
)
def test_what_a_caller_sees(caller, sees, changes):
    adapters = {"a": ("mine", "acme"), "b": ("theirs", "other"), "c": ("shared", None)}
    assert "".join(x for x, (name, owner) in adapters.items() if caller.sees(name, owner)) == sees
    assert "".join(x for x, (name, owner) in adapters.items() if caller.may_change(name, owner)) == changes


def test_requests_a_minute():
    now = [0.0]
    meter, caller = Meter(lambda: now[0]), Caller("k", per_minute=6)

    def ask():
        with meter.admitted(caller):
            pass

    for _ in range(6):
        ask()
    with pytest.raises(RateLimited) as refused:
        ask()
    assert refused.value.retry_after_s == 10
    now[0] += 10
    ask()
    with pytest.raises(RateLimited):
        ask()
    with meter.admitted(Caller("other", per_minute=6)):
        pass
    now[0] += 3600
    for _ in range(6):
        ask()
    with pytest.raises(RateLimited):
        ask()


def test_requests_at_a_time_end_however_they_end():
    meter, caller = Meter(), Caller("k", concurrent=1)
    with pytest.raises(RateLimited, match="1 requests at a time"), meter.admitted(caller), meter.admitted(caller):
        pass
    assert meter.running(caller) == 0
    with meter.admitted(caller):
        assert meter.running(caller) == 1


def test_requests_of_all_keys_of_a_tenant_count_together():
    meter, one, two = Meter(tenant_most=2), Caller("k", tenant="acme"), Caller("l", tenant="acme")
    with meter.admitted(one), meter.admitted(two):
        for caller in (one, two):
            with pytest.raises(RateLimited, match="OVERTONE_TENANT_REQUESTS"), meter.admitted(caller):
                pass
        for other in (Caller("m", tenant="rival"), Caller("n"), Caller("n")):
            with meter.admitted(other):
                assert meter.running_of_tenants()["acme"] == 2
    assert meter.running_of_tenants() == {}
    with meter.admitted(one), meter.admitted(one):
        pass


def test_a_record_reads_as_it_was_written(tmp_path):
    _, one = record(adapters=("a*", "b"), concurrent=2)
    write_keys(tmp_path / "k", [one])
    (told,) = json.loads(Path(tmp_path / "k").read_text())["keys"]
    assert told["adapters"] == ["a*", "b"]
    assert read_keys(tmp_path / "k")[0].caller() == Caller(one.id, frozenset({"infer"}), None, ("a*", "b"), None, 2)
