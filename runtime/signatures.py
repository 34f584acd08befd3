"""Signatures of bundles by the OpenSSF ``model-signing`` package, with the user's own keys (elliptic curves, PEM).

The signature lies beside the bundle (``ckpt.mmx.sig``) and covers every file in it, variants included: what is changed,
added or removed afterwards is an error. Where ``MMX_VERIFY_KEY`` names a public key, each bundle is verified with it
when it is opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmx.runtime.errors import BadDataError, UsageError, missing_extra
from mmx.runtime.files import whole_file
from mmx.runtime.hub import signature_of

VARIABLE = "MMX_VERIFY_KEY"


def sign(bundle: Path, key: Path, password: str | None = None) -> Path:
    """Sign every file of a bundle; returns the signature, which takes the place of an older one.

    Raises:
        UsageError: the key cannot be used, or the place cannot be written. EnvironmentMissing: no model-signing.
    """
    signing, hashing = _packages("signing", "hashing")
    out = signature_of(bundle)
    with _one_line(UsageError, f"{key} cannot sign {bundle}", "an EC private key in PEM (docs/trust.md), its password"):
        signer = signing.Config().use_elliptic_key_signer(
            private_key=key, password=None if password is None else password.encode()
        )
        with whole_file(out) as part:
            signer.set_hashing_config(_hashing(hashing)).sign(bundle.absolute(), part)
    return out


def verify(bundle: Path, key: Path) -> None:
    """Compare every file of a bundle with its signature.

    Raises:
        BadDataError: there is no signature, it is of another key, or a file was changed, added or removed.
        UsageError: the key cannot be used. EnvironmentMissing: model-signing is not installed.
    """
    verifying, hashing = _packages("verifying", "hashing")
    if not key.is_file():
        raise UsageError(f"{key}, the key to verify bundles with, does not exist", f"{VARIABLE} names a public key")
    with _one_line(UsageError, f"{key} cannot verify", "an EC public key in PEM (docs/trust.md)"):
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=key)
    signature = signature_of(bundle)
    if not signature.is_file():
        raise BadDataError(f"{bundle} is not signed: there is no {signature.name} beside it", "do not use it")
    with _one_line(BadDataError, f"{bundle} is not what was signed", "do not use it; sign again what you changed"):
        verifier.set_hashing_config(_hashing(hashing)).verify(bundle.absolute(), signature)


def verify_if_asked(bundle: Path) -> None:
    """``verify`` with the key that ``MMX_VERIFY_KEY`` names; nothing without one."""
    if key := os.environ.get(VARIABLE):
        verify(bundle, Path(key))


def _packages(*names: str) -> list[Any]:
    try:
        import model_signing
    except ImportError as e:
        raise missing_extra("model-signing", "sign") from e
    return [getattr(model_signing, name) for name in names]


def _hashing(hashing: Any) -> Any:
    """Every file, git's too."""
    return hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False)


@contextmanager
def _one_line(kind: type[BadDataError] | type[UsageError], problem: str, hint: str) -> Iterator[None]:
    """One line for what model-signing and cryptography raise: they have no base class in common."""
    try:
        yield
    except (BadDataError, UsageError):
        raise
    except Exception as e:
        said = str(e).strip().splitlines()
        raise kind(f"{problem}: {said[0][:300] if said else type(e).__name__}", hint) from e
