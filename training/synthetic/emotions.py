"""How each emotion looks and sounds."""

from __future__ import annotations

from mmx.training.synthetic.face import Expression
from mmx.training.synthetic.voice import Prosody

EXPRESSIONS: dict[str, Expression] = {
    "anger": Expression(brow=-0.09, brow_tilt=-0.45, eye=-0.015, smile=-0.05, stretch=-0.03),
    "disgust": Expression(brow=-0.04, brow_tilt=-0.15, eye=-0.03, smile=-0.06, mouth=0.05, sneer=0.09),
    "fear": Expression(brow=0.09, brow_tilt=0.35, eye=0.045, smile=-0.03, mouth=0.1, stretch=0.08),
    "happy": Expression(brow=0.02, eye=-0.012, smile=0.13, mouth=0.08, stretch=0.09),
    "sad": Expression(brow_tilt=0.45, eye=-0.03, smile=-0.12, stretch=-0.03),
    "surprise": Expression(brow=0.15, brow_tilt=0.05, eye=0.055, mouth=0.26, stretch=-0.08),
}

PROSODIES: dict[str, Prosody] = {
    "anger": Prosody(pitch=1.15, lift=-2, swing=2.5, rate=1.15, loudness=9, tilt=-7, breath=0.02),
    "disgust": Prosody(pitch=0.75, lift=-4, swing=1.5, rate=0.8, loudness=-1, tilt=1, tremor=0.6, breath=0.05),
    "fear": Prosody(pitch=1.5, lift=1, swing=1.0, rate=1.35, loudness=-3, tilt=1, tremor=1.2, breath=0.5),
    "happy": Prosody(pitch=1.3, lift=2, swing=3.5, rate=1.1, loudness=4, tilt=-3, breath=0.05),
    "sad": Prosody(pitch=0.92, lift=-3, swing=0.5, rate=0.7, loudness=-9, tilt=9, breath=0.25),
    "surprise": Prosody(pitch=1.8, lift=8, swing=2.5, rate=0.95, loudness=3, tilt=4, breath=0.1),
}
