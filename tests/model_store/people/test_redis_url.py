"""A url of Redis is read before anybody connects, and no message shows a part of the password."""

import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio.connection import parse_url

from model_store.errors import InvalidInput
from model_store.people.redis_url import parse_redis_url
from service.redis.calls import connect
from service.settings import load_settings

_PASSWORDS = st.text(st.sampled_from("/@#:%?[]&=, ab19xyzZ._-"), min_size=3, max_size=20)


@given(password=_PASSWORDS)
def test_an_encoded_password_is_the_password(password: str) -> None:
    url = f"redis://user:{quote(password, safe='')}@shop.example:7000/3"
    assert parse_redis_url(url).url == url
    read = parse_url(parse_redis_url(url).url)
    assert (read["username"], read["password"]) == ("user", password)
    assert (read["host"], read["port"], read["db"]) == ("shop.example", 7000, 3)


@given(password=_PASSWORDS.filter(lambda text: "%" not in text))
def test_a_password_as_it_is_means_itself_or_is_refused_without_being_shown(password: str) -> None:
    url = f"redis://user:{password}@shop.example:7000/3"
    message = ""
    try:
        address = parse_redis_url(url)
    except InvalidInput as error:
        message = str(error).replace("percent-encode the characters / @ # : % ? [ ] and blanks", "to be encoded")
    if message:
        assert "to be encoded" in message
        assert password not in message
        assert not [part for part in re.findall(r"[ab19xyzZ._-]{3,}", password) if part in message]
        return
    read = parse_url(address.url)
    assert (read["password"], read["host"], read["port"], read["db"]) == (password, "shop.example", 7000, 3)
    assert password not in repr(address)


@pytest.mark.parametrize(
    ("url", "nodes"),
    [
        ("redis://shop", ["shop:6379"]),
        ("redis://shop:1/0", ["shop:1"]),
        ("rediss://:p@a:1,b,[::1]:3/0", ["a:1", "b:6379", "::1:3"]),
        ("redis://[::1]", ["[::1]:6379"]),
    ],
)
def test_hosts_are_read_with_their_ports(url: str, nodes: list[str]) -> None:
    address = parse_redis_url(url, cluster=True)
    first = address.url.rpartition("@")[2].removeprefix("redis://").split("/")[0]
    assert [first, *(f"{host}:{port}" for host, port in address.further_nodes)] == nodes


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("shop:6379", "begins with none of"),
        ("http://shop", "begins with none of"),
        ("redis://", "no host and port"),
        ("redis://shop:x1", "no host and port"),
        ("redis://shop:70000", "no host and port"),
        ("redis://shop/zero", "no number of a database"),
        ("redis://a,b", "several hosts"),
        ("unix://", "names no socket"),
        ("redis://:123#secret@shop", "percent-encode"),
        ("redis://:123/secret@shop", "percent-encode"),
        ("redis://:123?secret@shop", "percent-encode"),
        ("redis://:sec%zzret@shop", "percent-encode"),
        ("redis://:sec[ret@shop", "percent-encode"),
        ("redis://:sec ret@shop", "percent-encode"),
    ],
)
def test_what_is_no_url_is_refused_in_one_line(url: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as refusal:
        parse_redis_url(url)
    assert "secret" not in str(refusal.value)
    assert "\n" not in str(refusal.value)
    with pytest.raises(InvalidInput, match="^HATSTAND_REDIS_URL: .*" + message) as refusal:
        load_settings({"HATSTAND_REDIS_URL": url})
    assert "secret" not in str(refusal.value)


def test_an_option_that_cannot_be_read_is_refused_without_its_value() -> None:
    with pytest.raises(InvalidInput, match="an option with a wrong value") as refusal:
        connect("redis://:hush@shop/0?socket_timeout=soon", cluster=False, timeout_seconds=1)
    assert "soon" not in str(refusal.value)
