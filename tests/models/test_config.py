"""Configs survive JSON, and reject what cannot be built."""

from __future__ import annotations

import json

import pytest

from mmx.models.config import FocalNetConfig, to_dict
from mmx.models.registry import SYSTEMS, get_system
from mmx.runtime.errors import BadDataError, UsageError

PRESETS = [(name, preset) for name, system in SYSTEMS.items() for preset in system.presets]


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_round_trip(name, preset):
    config = SYSTEMS[name].presets[preset]
    assert SYSTEMS[name].config(json.loads(json.dumps(to_dict(config)))) == config


def test_partial_config_keeps_the_rest():
    config = get_system("ours").config({"visual": {"simam": "paper", "plan": [32, 32, 0, 64, 64, 0, 128, 128]}})
    assert config.visual.simam == "paper" and config.visual.plan[3] == 64
    assert config.visual.stem == 48 and config.audio == FocalNetConfig()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"lables": 6}, "unknown key 'lables'"),
        ({"visual": {"simam": "both"}}, "config.visual.simam"),
        ({"visual": {"form": "training"}}, "rfam trunk has no training form"),
        ({"visual": {"plan": [48, 0, 0, 0, 0, 0, 0]}}, "leaves nothing of a 48x48 face"),
        ({"visual": {"plan": []}}, "config.visual.plan"),
        ({"visual": 3}, "expected a dictionary"),
        ({"audio": {"kind": "wav2vec"}}, "config.audio.kind"),
        ({"audio": {"depths": [2, 2, 10**9, 2]}}, "a stack of 1000000000 layers"),
        ({"audio": {"channels": 5}}, "FocalNet cannot cut"),
        ({"text": {"heads": 7}}, "do not divide a width of 768"),
        ({"text": {"width": True}}, "config.text.width"),
        ({"encoder": {"feed_forward": -1}}, "feed_forward is -1"),
        ({"labels": 0}, "labels is 0"),
    ],
)
def test_what_cannot_be_built_is_rejected(values, says):
    with pytest.raises(BadDataError, match=says):
        get_system("ours").config(values)


def test_unknown_names():
    with pytest.raises(UsageError, match="no system is called 'v3em'") as caught:
        get_system("v3em")
    assert "v2em" in caught.value.hint
    with pytest.raises(UsageError, match="no preset 'huge'"):
        get_system("ours").config(preset="huge")
