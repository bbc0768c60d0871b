"""Cameras: what is stored is read whatever it is, and what clients send is checked."""

from __future__ import annotations

from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonfast.components.webcam import MAX_TEXT, ROTATIONS, WebcamInfo, _check, _read, _whole
from moonfast.errors import BadRequest

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
OLD = ("urlStream", "urlSnapshot", "flipX", "flipY", "targetFps", "targetFpsIdle", "aspectRatio")
TYPES = {name: getattr(hint, "__origin__", hint) for name, hint in get_type_hints(WebcamInfo).items()}


@given(st.fixed_dictionaries({}, optional=dict.fromkeys([*TYPES, *OLD], ANYTHING)))
def test_whatever_is_stored_becomes_a_camera(record: dict[str, Any]) -> None:
    record["name"] = "cam"
    found: Any = _read("1", record)
    assert found is not None
    assert set(found) == set(TYPES)
    assert {name: type(value) for name, value in found.items()} == TYPES
    assert found["rotation"] in ROTATIONS
    assert (found["uid"], found["source"], found["name"]) == ("1", "database", "cam")
    _whole(found["stream_url"])


@pytest.mark.parametrize("record", [None, [], "x", {}, {"name": None}, {"name": 1}, {"urlStream": "/s"}])
def test_what_is_no_camera(record: Any) -> None:
    assert _read("1", record) is None


def test_what_is_right_stays() -> None:
    record = {
        "name": "top",
        "location": "bed",
        "service": "uv4l",
        "enabled": False,
        "icon": "mdiX",
        "target_fps": 30,
        "target_fps_idle": 2,
        "stream_url": "http://cam/1",
        "snapshot_url": "/2",
        "flip_horizontal": True,
        "flip_vertical": True,
        "rotation": 270,
        "aspect_ratio": "16:9",
        "extra_data": {"a": [1]},
    }
    assert _read("7", record) == {**record, "uid": "7", "source": "database"}


@pytest.mark.parametrize(
    ("given_", "word"),
    [
        ({"rotation": 45}, "rotation"),
        ({"rotation": -90}, "rotation"),
        ({"name": ""}, "name"),
        ({"stream_url": ""}, "stream_url"),
        ({"location": "x" * (MAX_TEXT + 1)}, "location"),
        ({"target_fps": 0}, "target_fps"),
        ({"target_fps_idle": 1000}, "target_fps_idle"),
    ],
)
def test_what_is_refused(given_: dict[str, Any], word: str) -> None:
    with pytest.raises(BadRequest, match=f"'{word}'"):
        _check(given_)


def test_what_is_taken() -> None:
    _check({})
    _check({"name": "x" * MAX_TEXT, "stream_url": "/", "snapshot_url": "", "icon": "", "rotation": 90, "target_fps": 1})


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("", ""),
        ("/webcam/?action=stream", "http://127.0.0.1/webcam/?action=stream"),
        ("webcam", "http://127.0.0.1/webcam"),
        ("https://cam/1", "https://cam/1"),
        ("rtsp://cam/1", "rtsp://cam/1"),
    ],
)
def test_addresses_without_a_host(url: str, whole: str) -> None:
    assert _whole(url) == whole
