from __future__ import annotations

import configparser

from hypothesis import given
from hypothesis import strategies as st

from moonfast.codec import decode, encode
from moonfast.config.load import Config
from moonfast.config.sections import CORE
from moonfast.config.source import read_text


def config(text: str) -> Config:
    found = Config(read_text(text), "moonraker.conf", "/data")
    for kind in CORE:
        found.section(kind)
    return found


def test_unknown_options_and_sections_are_warnings() -> None:
    text = "[server]\nprot: 1\nxyz: 1\n[serber]\n[poower lamp]\n[xyzzy]\n[server x]\n"
    assert config(text).all_warnings() == [
        "Unparsed config option 'prot' detected in section [server] (moonraker.conf, line 2). It is ignored. "
        "Did you mean 'port'?",
        "Unparsed config option 'xyz' detected in section [server] (moonraker.conf, line 3). It is ignored. Remove it.",
        "Unparsed config section [serber] detected (moonraker.conf, line 4). It is ignored. Did you mean [server]?",
        "Unparsed config section [poower lamp] detected (moonraker.conf, line 5). It is ignored. "
        "Did you mean [power lamp]?",
        "Unparsed config section [xyzzy] detected (moonraker.conf, line 6). It is ignored. "
        "Remove it, if it is not there for another program.",
        "Unparsed config section [server x] detected (moonraker.conf, line 7). It is ignored. Did you mean [server]?",
    ]


def test_sections_that_are_right_for_moonraker_are_not_called_mistakes() -> None:
    assert config("[history]\nx: 1\n[power lamp]\n[timelapse]\n").all_warnings() == [
        "These config sections are not supported by this version of moonfast yet and are ignored: "
        "[history] (moonraker.conf, line 1), [power lamp] (moonraker.conf, line 3)",
        "These config sections belong to add-ons for Moonraker, which moonfast cannot load, and are ignored: "
        "[timelapse] (moonraker.conf, line 4)",
    ]


def test_sections_with_an_owner_are_the_owners_business() -> None:
    assert config("[history]\n[power lamp]\n").all_warnings(["history", "power"]) == []


def test_old_forms_of_sections() -> None:
    warnings = config("[system_args]\n[update_manager client x]\n[update_manager static y]\n").all_warnings()
    assert warnings == [
        "Config section [system_args] is of a deprecated form (moonraker.conf, line 1). It has no effect; remove it.",
        "Config section [update_manager client x] is of a deprecated form (moonraker.conf, line 2). "
        "Rename it to [update_manager NAME].",
        "Config section [update_manager static y] is of a deprecated form (moonraker.conf, line 3). "
        "It has no effect; remove it.",
    ]


def test_view() -> None:
    view = config(
        "[server]\nhost: 127.0.0.1\ngcode_store_size: 20\nklippy_uds_address: {data_path}/k\nodd: x\n"
        "[authorization]\ntrusted_clients:\n    127.0.0.1\n[power lamp]\ntype: gpio\n"
    ).view()
    server = view["config"]["server"]
    assert server["host"] == "127.0.0.1"
    assert server["port"] == 7125
    assert server["klippy_uds_address"] == "/data/k"
    assert server["odd"] == "x"
    assert server["gcode_store_size"] == 20
    assert server["ssl_certificate_path"] is None
    assert view["config"]["data_store"] == {"temperature_store_size": 1200, "gcode_store_size": 20}
    assert view["config"]["authorization"]["trusted_clients"] == ["127.0.0.1"]
    assert view["config"]["power lamp"] == {"type": "gpio"}
    assert view["orig"] == {
        "DEFAULT": {},
        "server": {
            "host": "127.0.0.1",
            "gcode_store_size": "20",
            "klippy_uds_address": "{data_path}/k",
            "odd": "x",
        },
        "authorization": {"trusted_clients": "\n127.0.0.1"},
        "power lamp": {"type": "gpio"},
    }
    assert view["files"] == [{"filename": "moonraker.conf", "sections": ["server", "authorization", "power lamp"]}]


@given(st.text())
def test_any_configuration_can_be_shown(text: str) -> None:
    found = Config(read_text(text), "moonraker.conf", "/data")
    assert found.all_warnings() is not None
    assert decode(encode(found.view()))["files"]


WORD = st.text("abcxyz_019", min_size=1).filter(lambda word: word != "include")
LINE = st.text("ab .:=%{}[]", min_size=1).map(str.strip).filter(bool)


@given(st.dictionaries(WORD, st.dictionaries(WORD, st.lists(LINE, min_size=1, max_size=3))))
def test_orig_is_what_configparser_reads(content: dict[str, dict[str, list[str]]]) -> None:
    text = ""
    for name, options in content.items():
        text += f"[{name}]\n"
        for key, lines in options.items():
            text += f"{key}: " + "\n  ".join(lines) + "\n"
    oracle = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=("#", ";"))
    oracle.read_string(text)
    expected = {name: dict(oracle.items(name)) for name in oracle.sections()}
    assert config(text).view()["orig"] == {"DEFAULT": {}} | expected
