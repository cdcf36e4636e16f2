"""What SocketOptions promises before there is a socket."""

from __future__ import annotations

import dataclasses
import inspect
import ipaddress
import json
import math
import pickle
import sys

import hypothesis
import hypothesis.strategies as st
import pytest

from sockscope._core.errors import UnknownOptionError
from sockscope._options.codec import INT_MAX
from sockscope._options.table import SETTABLE, TABLE
from sockscope._options.value_types import (
    BufferLock,
    DeadPeer,
    KeepAlive,
    Linger,
    PathMTUDiscovery,
    TransmitTime,
)
from sockscope._options.values import SocketOptions
from tests._options.samples import SAMPLES

if sys.version_info >= (3, 11):
    import tomllib

KEY = b"squeamish ossifrage"


class TestValue:
    def test_every_field_defaults_to_none(self):
        options = SocketOptions()
        assert all(getattr(options, row.name) is None for row in SETTABLE)
        assert options.preferred == frozenset()
        assert dict(options.extra) == {}

    def test_fields_are_the_table_and_keyword_only(self):
        parameters = inspect.signature(SocketOptions).parameters
        assert list(parameters) == [*(row.name for row in SETTABLE), "preferred", "extra"]
        assert {p.kind for p in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
        with pytest.raises(TypeError):
            SocketOptions(True)

    def test_frozen_and_slotted(self):
        options = SocketOptions(nodelay=True)
        with pytest.raises(dataclasses.FrozenInstanceError):
            options.nodelay = False
        with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to 'no_delay'"):
            options.no_delay = False
        assert not hasattr(options, "__dict__")

    def test_hashable_equal_and_picklable_with_every_field(self):
        values = {n: s.value for n, s in SAMPLES.items()}
        for name in ("exclusive_address_use", "dead_peer", "microsecond_timestamps", "no_checksum"):
            del values[name]
        one, other = (
            SocketOptions(**values, preferred={"mark"}, extra={(6, 1): 1}) for _ in range(2)
        )
        assert one == other
        assert hash(one) == hash(other)
        assert pickle.loads(pickle.dumps(one)) == one
        assert one != one.replace(nodelay=None)

    def test_repr_shows_what_is_stated(self):
        options = SocketOptions(
            priority=3, nodelay=False, preferred={"priority"}, extra={(6, 1): 7}
        )
        text = (
            "SocketOptions(nodelay=False, priority=3, preferred={'priority'}, extra={(6, 1): ...})"
        )
        assert repr(options) == text


class TestSecrets:
    @pytest.mark.parametrize(
        "options",
        [
            SocketOptions(tcp_md5_key=KEY),
            SocketOptions(tcp_md5_keys={"10.0.0.0/8": KEY}),
            SocketOptions(fast_open_key=KEY[:16]),
            SocketOptions(extra={(6, 14): KEY}),
        ],
    )
    def test_a_key_is_in_no_repr(self, options):
        assert "squeamish" not in repr(options)
        assert KEY[:16].hex() not in repr(options)

    @pytest.mark.parametrize("bad", ["squeamish", KEY * 10, b""])
    def test_a_key_is_in_no_error(self, bad):
        for values in ({"tcp_md5_key": bad}, {"tcp_md5_keys": {"10.0.0.1": bad}}):
            with pytest.raises((TypeError, ValueError)) as caught:
                SocketOptions(**values)
            assert "squeamish" not in str(caught.value)
            assert "tcp_md5_key" in str(caught.value)

    def test_a_misspelt_key_is_in_no_error(self):
        with pytest.raises(ValueError, match="tcp_md5_key") as caught:
            SocketOptions.from_mapping({"tcp_md5_key": "hex:squeamish"})
        assert "squeamish" not in str(caught.value)
        assert caught.value.__suppress_context__


BAD_VALUES = [
    ("nodelay", 1, TypeError),
    ("nodelay", "yes", TypeError),
    ("priority", True, TypeError),
    ("priority", 1.5, TypeError),
    ("priority", -1, ValueError),
    ("priority", 2**31, ValueError),
    ("mark", 2**32, ValueError),
    ("receive_buffer", -1, ValueError),
    ("receive_buffer", 2**30, ValueError),
    ("traffic_class", 256, ValueError),
    ("hop_limit", 0, ValueError),
    ("user_timeout", math.nan, ValueError),
    ("user_timeout", -0.5, ValueError),
    ("user_timeout", True, TypeError),
    ("user_timeout", "5", TypeError),
    ("receive_timeout", -1, ValueError),
    ("keepalive", 30, TypeError),
    ("linger", 5, TypeError),
    ("linger", True, TypeError),
    ("dead_peer", 30.0, TypeError),
    ("mtu_discovery", 2, TypeError),
    ("buffer_lock", 1, TypeError),
    ("buffer_lock", BufferLock(4), ValueError),
    ("bind_to_device", b"lo", TypeError),
    ("bind_to_device", "x" * 16, ValueError),
    ("bind_to_device", "l\0", ValueError),
    ("congestion", "", ValueError),
    ("multicast_interface", True, TypeError),
    ("multicast_interface", -1, ValueError),
    ("multicast_interface", "x" * 16, ValueError),
    ("local_port_range", 5, TypeError),
    ("local_port_range", (1, 2, 3), TypeError),
    ("local_port_range", (3, 2), ValueError),
    ("local_port_range", (0, 65536), ValueError),
    ("transmit_time", 1, TypeError),
    ("tcp_md5_key", bytearray(81), ValueError),
    ("tcp_md5_keys", [("10.0.0.1", b"k")], TypeError),
    ("tcp_md5_keys", {"10.0.0.300": b"k"}, ValueError),
    ("tcp_md5_keys", {10: b"k"}, TypeError),
    ("tcp_md5_keys", {b"\x0a\0\0\1": b"k"}, TypeError),
    ("fast_open_key", b"short", ValueError),
    ("preferred", "mark", TypeError),
    ("preferred", 3, TypeError),
    ("preferred", {"mrak"}, ValueError),
    ("preferred", {3}, ValueError),
    ("extra", [], TypeError),
    ("extra", {6: 1}, TypeError),
    ("extra", {(6, 1, 1): 1}, TypeError),
    ("extra", {(True, 1): 1}, TypeError),
    ("extra", {(6, -1): 1}, ValueError),
    ("extra", {(6, 1): True}, TypeError),
    ("extra", {(6, 1): "x"}, TypeError),
    ("extra", {(6, 1): 2**32}, ValueError),
    ("extra", {(1, 4): 0}, ValueError),
]


class TestChecks:
    @pytest.mark.parametrize(("name", "value", "error"), BAD_VALUES)
    def test_a_bad_value_is_refused_by_name(self, name, value, error):
        with pytest.raises(error, match=name):
            SocketOptions(**{name: value})

    @pytest.mark.parametrize(
        ("make", "error"),
        [
            (lambda: KeepAlive(idle=0), ValueError),
            (lambda: KeepAlive(idle=32768), ValueError),
            (lambda: KeepAlive(idle="1"), TypeError),
            (lambda: KeepAlive(interval=True), TypeError),
            (lambda: KeepAlive(count=0), ValueError),
            (lambda: KeepAlive(count=128), ValueError),
            (lambda: KeepAlive(count=1.5), TypeError),
            (lambda: KeepAlive(count=True), TypeError),
            (lambda: Linger(-1), ValueError),
            (lambda: Linger(65536), ValueError),
            (lambda: Linger(math.nan), ValueError),
            (lambda: Linger(None), TypeError),
            (lambda: DeadPeer(detect_within=1.9), ValueError),
            (lambda: DeadPeer(detect_within=math.inf), ValueError),
            (lambda: DeadPeer(detect_within=True), TypeError),
            (lambda: TransmitTime(True), TypeError),
            (lambda: TransmitTime(1, -1), ValueError),
        ],
    )
    def test_a_typed_value_checks_itself(self, make, error):
        with pytest.raises(error):
            make()

    def test_an_unknown_name_is_a_type_error_with_the_nearest_known_one(self):
        with pytest.raises(TypeError, match=r"no_delay.*did you mean 'nodelay'"):
            SocketOptions(no_delay=True)
        with pytest.raises(TypeError, match=r"'qqqqqq'$"):
            SocketOptions(qqqqqq=True)

    @pytest.mark.parametrize(
        "values",
        [
            {"dead_peer": DeadPeer(5), "user_timeout": 3.0},
            {"dead_peer": DeadPeer(5), "keepalive": KeepAlive(idle=3)},
            {"dead_peer": DeadPeer(5), "keepalive": False},
            {"reuse_address": True, "exclusive_address_use": True},
            {"timestamps": True, "microsecond_timestamps": True},
            {"no_checksum": True, "gso_segment_size": 1200},
        ],
    )
    def test_what_says_the_same_thing_differently_is_refused(self, values):
        with pytest.raises(ValueError, match="cannot both") as caught:
            SocketOptions(**values)
        assert all(name in str(caught.value) for name in values)

    @pytest.mark.parametrize(
        "values",
        [
            {"dead_peer": DeadPeer(5), "keepalive": True},
            {"reuse_address": False, "exclusive_address_use": True},
            {"timestamps": True, "microsecond_timestamps": False},
        ],
    )
    def test_what_says_no_other_thing_is_taken(self, values):
        SocketOptions(**values)

    @hypothesis.given(st.one_of(st.integers(), st.booleans(), st.floats(), st.text(), st.binary()))
    @pytest.mark.parametrize("row", SETTABLE, ids=lambda row: row.name)
    @hypothesis.settings(max_examples=10)
    def test_any_value_is_taken_whole_or_refused_by_name(self, row, value):
        try:
            taken = getattr(SocketOptions(**{row.name: value}), row.name)
        except (TypeError, ValueError) as exc:
            error = str(exc)
        else:
            error = row.name
            assert taken == value
        assert row.name in error

    def test_addresses_and_networks_of_keys_come_in_any_form(self):
        class Named:
            host = ipaddress.ip_address("10.0.0.1")

        keys = SocketOptions(
            tcp_md5_keys={
                Named(): b"a",
                ipaddress.ip_address("::1"): bytearray(b"b"),
                "10.1.0.0/16": b"c",
                ipaddress.ip_network("fd00::/8"): b"d",
            }
        ).tcp_md5_keys
        assert {str(network): key for network, key in keys.items()} == {
            "10.0.0.1/32": b"a",
            "::1/128": b"b",
            "10.1.0.0/16": b"c",
            "fd00::/8": b"d",
        }


class TestDeadPeer:
    @hypothesis.given(st.floats(2, 32767))
    def test_the_timers_find_it_in_time_idle_or_sending(self, seconds):
        timers = DeadPeer(seconds).timers
        last_probe = timers.idle + timers.interval * timers.probes
        # Idle: the first probe time that is not before the user timeout, and it is the last.
        assert last_probe <= seconds
        assert last_probe - timers.interval < timers.user_timeout <= last_probe
        # Sending: the kernel is up to 0.45 s late.
        assert timers.user_timeout + 0.45 <= seconds
        assert timers.idle >= 1
        assert timers.interval >= 1
        # No sooner than a second before it has to.
        assert last_probe > seconds - 1


class TestMerge:
    def test_the_right_one_wins(self):
        merged = SocketOptions(priority=1, nodelay=True) | SocketOptions(priority=2, mark=3)
        assert merged == SocketOptions(priority=2, nodelay=True, mark=3)

    def test_extra_is_merged_key_by_key_and_preferred_united(self):
        one = SocketOptions(extra={(6, 1): 1, (6, 3): 1}, preferred={"mark"})
        merged = one | SocketOptions(extra={(6, 3): 0, (1, 9): b"x"}, preferred={"priority"})
        assert dict(merged.extra) == {(6, 1): 1, (6, 3): 0, (1, 9): b"x"}
        assert merged.preferred == {"mark", "priority"}

    def test_what_excludes_each_other_is_replaced_either_way(self):
        timing = SocketOptions(keepalive=KeepAlive(3), user_timeout=4.0)
        dead_peer = SocketOptions(dead_peer=DeadPeer(9))
        assert timing | dead_peer == dead_peer
        assert dead_peer | timing == timing
        on = SocketOptions(keepalive=True)
        assert on | dead_peer == SocketOptions(keepalive=True, dead_peer=DeadPeer(9))

    def test_only_with_options(self):
        with pytest.raises(TypeError):
            SocketOptions() | {"nodelay": True}

    def test_replace_takes_back_with_none_and_checks(self):
        options = SocketOptions(priority=1, nodelay=True)
        assert options.replace(priority=None) == SocketOptions(nodelay=True)
        with pytest.raises(ValueError, match="priority"):
            options.replace(priority=-1)

    def test_diff_tells_both_sides(self):
        one = SocketOptions(priority=1, nodelay=True, preferred={"mark"})
        other = SocketOptions(priority=2, nodelay=True)
        assert one.diff(other) == {
            "priority": (1, 2),
            "preferred": (frozenset({"mark"}), frozenset()),
        }
        assert one.diff(one) == {}


def to_toml(mapping, prefix=""):
    """As much of a TOML writer as options need: JSON's scalars and lists are TOML's."""
    lines = [
        f"{json.dumps(k)} = {json.dumps(v)}" for k, v in mapping.items() if not isinstance(v, dict)
    ]
    for key, value in mapping.items():
        if isinstance(value, dict):
            name = f"{prefix}{json.dumps(key)}"
            lines += [f"[{name}]", *to_toml(value, f"{name}.")]
    return lines


SINGLE_VALUES = {
    **{name: st.just(sample.value) for name, sample in SAMPLES.items()},
    "tcp_md5_key": st.binary(min_size=1, max_size=80),
    "fast_open_key": st.binary(min_size=16, max_size=16),
    "user_timeout": st.floats(0, 2147483),
    "receive_timeout": st.floats(0, allow_nan=False),
    "mark": st.integers(0, 2**32 - 1),
    "max_pacing_rate": st.integers(0, 2**64 - 1),
    "local_port_range": st.tuples(st.integers(0, 99), st.integers(100, 65535)),
    "keepalive": st.one_of(
        st.booleans(),
        st.builds(KeepAlive, st.none() | st.floats(1, 99), st.none() | st.integers(1, 99)),
    ),
    "linger": st.just(False) | st.builds(Linger, st.floats(0, 65535)),
    "buffer_lock": st.sampled_from([BufferLock(n) for n in range(4)]),
    "mtu_discovery": st.sampled_from(PathMTUDiscovery),
    "bind_to_device": st.text(st.characters(blacklist_characters="\0", codec="ascii"), max_size=15),
    "preferred": st.sets(st.sampled_from(sorted(SAMPLES))),
    "extra": st.dictionaries(
        st.tuples(st.integers(5, INT_MAX), st.integers(0, INT_MAX)),
        st.binary(max_size=20) | st.integers(-(2**31), 2**32 - 1),
    ),
}
# They exclude others.
for _name in ("dead_peer", "exclusive_address_use", "microsecond_timestamps", "no_checksum"):
    del SINGLE_VALUES[_name]
ANY_OPTIONS = st.fixed_dictionaries({}, optional=SINGLE_VALUES).map(lambda v: SocketOptions(**v))


class TestMapping:
    @hypothesis.given(ANY_OPTIONS)
    @hypothesis.settings(max_examples=50)
    def test_round_trip_through_json(self, options):
        text = json.dumps(options.to_mapping(), allow_nan=False)
        assert SocketOptions.from_mapping(json.loads(text)) == options

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
    @hypothesis.given(ANY_OPTIONS)
    @hypothesis.settings(max_examples=50)
    def test_round_trip_through_toml(self, options):
        text = "\n".join(to_toml(options.to_mapping())).replace("\\u007f", "\x7f")
        assert SocketOptions.from_mapping(tomllib.loads(text.replace("\x7f", "\\u007F"))) == options

    @pytest.mark.parametrize("name", sorted(SAMPLES))
    def test_each_alone(self, name):
        options = SocketOptions(**{name: SAMPLES[name].value})
        assert SocketOptions.from_mapping(json.loads(json.dumps(options.to_mapping()))) == options

    def test_what_a_person_writes(self):
        mapping = {
            "nodelay": True,
            "keepalive": {"idle": 30, "count": 3},
            "linger": 5,
            "mtu_discovery": "do",
            "tcp_md5_keys": {"10.0.0.0/8": "secret"},
            "preferred": ["mark"],
            "extra": {"6:1": 1, "1:25": "lo"},
        }
        assert SocketOptions.from_mapping(mapping) == SocketOptions(
            nodelay=True,
            keepalive=KeepAlive(idle=30, count=3),
            linger=Linger(5),
            mtu_discovery=PathMTUDiscovery.DO,
            tcp_md5_keys={"10.0.0.0/8": b"secret"},
            preferred={"mark"},
            extra={(6, 1): 1, (1, 25): b"lo"},
        )

    @pytest.mark.parametrize(
        ("mapping", "match"),
        [
            ({"keepalive": {"idel": 3}}, "idel"),
            ({"mtu_discovery": "never"}, "mtu_discovery must be one of dont"),
            ({"buffer_lock": ["both"]}, "buffer_lock"),
            ({"buffer_lock": 3}, "buffer_lock"),
            ({"extra": {"6": 1}}, "level:number"),
            ({"extra": 3}, "extra"),
            ({"extra": {"6:1": "hex:zz"}}, "extra"),
            ({"mtu_discovery": 3}, "mtu_discovery"),
            ({"tcp_md5_keys": 3}, "tcp_md5_keys"),
            ({"tcp_md5_key": 3}, "tcp_md5_key"),
            ({"linger": True}, "linger"),
            ({"dead_peer": True}, "dead_peer"),
            ({"transmit_time": 3}, "transmit_time"),
        ],
    )
    def test_what_is_wrong_is_told_by_name(self, mapping, match):
        with pytest.raises((ValueError, TypeError), match=match):
            SocketOptions.from_mapping(mapping)

    def test_an_unknown_name_with_the_nearest_known_one(self):
        with pytest.raises(UnknownOptionError, match="did you mean 'nodelay'") as caught:
            SocketOptions.from_mapping({"no_delay": True})
        assert isinstance(caught.value, ValueError)
        assert isinstance(caught.value, TypeError)
        assert caught.value.option == "no_delay"

    def test_read_only_names_are_no_fields(self):
        assert "tcp_info" in TABLE
        with pytest.raises(UnknownOptionError):
            SocketOptions.from_mapping({"tcp_info": 1})
