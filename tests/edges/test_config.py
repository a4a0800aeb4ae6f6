"""HOME/config.toml: a closed list of typed keys."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bitdustfs.core.placement import parse_code
from bitdustfs.edges.config import (
    KEYS,
    Settings,
    Watched,
    addresses_in,
    load,
    meaning,
    parse_address,
    parse_owner,
    show,
    store,
)
from bitdustfs.errors import BadFormat, BadRequest
from bitdustfs.model import Code

OWNER = "ab" * 32


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return path


def test_a_missing_file_gives_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path / "config.toml") == Settings()


def test_every_key_has_a_meaning_and_a_shown_default() -> None:
    assert all(meaning(key) for key in KEYS)
    assert all(isinstance(show(Settings(), key), str) for key in KEYS)


def test_values_are_read_as_people_write_them(tmp_path: Path) -> None:
    text = f'read_timeout = 5\npractice = true\ncode = "3/5"\n[give]\nsize = "50G"\n[allow]\n{OWNER} = "1 GiB"\n'
    settings = load(written(tmp_path, text))
    assert (settings.give_size, settings.read_timeout, settings.practice) == (50 * 1024**3, 5.0, True)
    assert (settings.code, dict(settings.allow)) == ("3/5", {OWNER: 1024**3})


def test_an_unknown_key_is_refused_with_the_nearest_known_one(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="no key 'spol': did you mean 'spool'"):
        load(written(tmp_path, 'spol = "50G"\n'))


@pytest.mark.parametrize(
    "line",
    [
        'donate = "much"',
        "donate = -1",
        "donate = true",
        'listen = "nowhere"',
        "listen = 4878",
        'code = "5/3"',
        'read_timeout = "soon"',
        "read_timeout = nan",
        'practice = "maybe"',
        'log_level = "loud"',
        'shelf = "relative/path"',
        'allow = "everybody"',
        'allow = {short = "1G"}',
    ],
)
def test_a_wrong_value_names_its_key(tmp_path: Path, line: str) -> None:
    with pytest.raises(BadRequest, match=line.split()[0]):
        load(written(tmp_path, line + "\n"))


@pytest.mark.parametrize("text", ["donate = ", "[allow", "\x00", "donate = 1\ndonate = 2"])
def test_what_is_not_toml_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadFormat):
        load(written(tmp_path, text))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(BadFormat):
        load(path)


@pytest.mark.parametrize(
    ("key", "text", "shown"),
    [
        ("give.size", "2.5G", "2560 MiB"),
        ("read_timeout", "90", "1m30s"),
        ("practice", "yes", "true"),
        ("give.listen", "[::1]:80", "[::1]:80"),
        ("code", "3/5", "3/5"),
        ("log_level", "DEBUG", "debug"),
        (f"allow.{OWNER}", "1G", "1 GiB"),
        (f"dial.{OWNER}", "192.0.2.7:4878", "192.0.2.7:4878"),
    ],
)
def test_what_is_set_is_read_back(tmp_path: Path, key: str, text: str, shown: str) -> None:
    path = tmp_path / "config.toml"
    store(path, key, text)
    assert show(load(path), key) == shown


def test_setting_one_key_keeps_the_others(tmp_path: Path) -> None:
    path = written(tmp_path, 'log_level = "debug"\n')
    store(path, "give.size", "1G")
    assert load(path).log_level == "debug"


def test_a_customer_with_nothing_allowed_is_taken_out(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    store(path, f"allow.{OWNER}", "1G")
    store(path, f"allow.{OWNER.upper()}", "0")
    assert not load(path).allow
    store(path, f"dial.{OWNER}", "192.0.2.7:4878")
    store(path, f"dial.{OWNER}", "")
    assert not load(path).dial


@pytest.mark.parametrize(
    ("key", "text"),
    [("give.size", "much"), ("give.sise", "1G"), ("allow", "1G"), ("allow.x", "1G"), ("dial.x", "a:1")],
)
def test_a_refused_setting_changes_nothing(tmp_path: Path, key: str, text: str) -> None:
    path = written(tmp_path, "practice = true\n")
    with pytest.raises(BadRequest):
        store(path, key, text)
    assert path.read_text() == "practice = true\n"


@pytest.mark.parametrize(
    ("text", "address"),
    [("192.0.2.7:80", ("192.0.2.7", 80)), ("[::1]:0", ("::1", 0)), ("name.example:65535", ("name.example", 65535))],
)
def test_an_address_is_read(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "80", ":80", "host", "host:", "host:65536", "host:http", "::1:80", "h:-1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_address(text)


def test_a_code_is_read() -> None:
    assert parse_code("3/5") == Code(3, 5)


@pytest.mark.parametrize("text", ["5/3", "0/5", "3", "3/", "/5", "a/b", "3/5/7", "1/256", "-1/5"])
def test_what_is_no_code_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_code(text)


@pytest.mark.parametrize("text", ["", "ab", "zz" * 32, "ab" * 33])
def test_what_is_no_owner_id_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_owner(text)


def test_settings_that_two_store_at_once_are_both_kept(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    keys = {"give.size": "5 GiB", "spool": "6 GiB", "log_level": "debug", "practice": "true", "code": "3/5"}
    with ThreadPoolExecutor(len(keys)) as pool:
        list(pool.map(lambda key: store(path, key, keys[key]), keys))
    settings = load(path)
    assert {key: show(settings, key) for key in keys} == keys
    assert [left.name for left in tmp_path.iterdir()] == ["config.toml"]


def test_limits_lie_in_a_table(tmp_path: Path) -> None:
    path = written(tmp_path, '[limits]\nup = "1 MiB"\n')
    store(path, "limits.down", "500K/s")
    settings = load(path)
    assert (settings.limits_up, settings.limits_down) == (1 << 20, 500 * 1024)
    assert (show(settings, "limits.up"), show(settings, "limits.down")) == ("1 MiB", "500 KiB")


@pytest.mark.parametrize("text", ['limits = "1M"', '[limits]\nsideways = "1M"', '[limits]\nup = "1K"'])
def test_wrong_limits_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadRequest, match="limits"):
        load(written(tmp_path, text + "\n"))


def test_a_file_that_changes_is_read_again_and_one_that_cannot_be_read_is_not(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    watched = Watched(path, load(path))
    assert not watched.has_changed()
    store(path, "limits.up", "1M")
    assert watched.has_changed()
    assert watched.settings.limits_up == 1 << 20
    path.write_text("limits = ")
    assert not watched.has_changed()
    assert watched.settings.limits_up == 1 << 20


def test_addresses_to_begin_from_are_a_list(tmp_path: Path) -> None:
    path = written(tmp_path, '[dht]\nbootstrap = "192.0.2.1:7000, friend.example.org:7000"\n')
    settings = load(path)
    assert settings.dht_enabled
    assert addresses_in(settings.dht_bootstrap) == ("192.0.2.1:7000", "friend.example.org:7000")
    assert not store(path, "dht.enabled", "no").dht_enabled
    with pytest.raises(BadRequest, match=r"dht\.bootstrap"):
        store(path, "dht.bootstrap", "192.0.2.1:7000, nowhere")


def test_how_many_snapshots_are_kept_is_open_until_somebody_says(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    assert load(path).snapshots_hourly is None
    assert store(path, "snapshots.hourly", "0").snapshots_hourly == 0
    assert show(load(path), "snapshots.hourly") == "0"
    assert store(path, "snapshots.hourly", "").snapshots_hourly is None
    assert show(load(path), "snapshots.hourly") == ""
    for wrong in ("-1", "x", "10001", "9" * 5000):
        with pytest.raises(BadRequest):
            store(path, "snapshots.hourly", wrong)
