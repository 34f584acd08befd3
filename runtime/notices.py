"""What everyone who sees a model's answers must know: whether to believe them, what they are for, and the law."""

from __future__ import annotations

from mmx.runtime.manifest import Manifest

UNTRAINED = "This model was never trained: its weights are random, and its answers mean nothing."
SYNTHETIC = (
    "This model learned from drawn faces and synthesised voices: it is a test bed, and its answers say nothing about "
    "people."
)
FLAGS = {"untrained_model": UNTRAINED, "synthetic_model": SYNTHETIC}
"""Flags that every prediction of such a model carries."""

USES = (
    "Research on how emotion is expressed, with people who agreed to take part.",
    "Tools that help people label recordings, where a person decides.",
    "Measuring and comparing systems.",
)
MISUSES = (
    "Decisions about a person: hiring, grading, credit, insurance, policing, migration, diagnosis.",
    "Inferring emotions at work or in education.",
    "Watching people who do not know it or did not agree.",
    "Telling whether somebody lies, or what they feel inside.",
)
LIMITS = (
    "It predicts which label raters would give to what is seen, heard and said, not what a person feels.",
    "Expression differs between cultures, ages, languages and people; no score here was measured by group.",
    "Acted and scripted recordings are easier than everyday ones: expect more errors outside the data set.",
    "Noise, reverberation, poor light, small or turned faces and misheard words make answers worse, often without a "
    "flag: mmx eval --corrupt measures how much.",
)
LAW = (
    "In the European Union, AI systems that infer emotions of people at work or in education are prohibited, except "
    "for medical or safety reasons (AI Act, Article 5(1)(f), since 2 February 2025). Elsewhere, people who are exposed "
    "to emotion recognition must be told (Article 50(3), since 2 August 2026). Faces and voices are personal data. "
    "Other countries have rules of their own. This is no legal advice."
)


def model_flags(manifest: Manifest) -> tuple[str, ...]:
    """``untrained_model`` or ``synthetic_model``; nothing for most models."""
    checkpoint = manifest.provenance.get("checkpoint")
    if isinstance(checkpoint, dict) and checkpoint.get("untrained") is True:
        return ("untrained_model",)
    return ("synthetic_model",) if manifest.dataset == "synthetic" else ()
