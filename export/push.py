"""``mmx push``: a bundle as a repository on the Hugging Face Hub, in one commit."""

from __future__ import annotations

from pathlib import Path

from mmx.runtime.bundle import Bundle
from mmx.runtime.card import CARD, model_card
from mmx.runtime.errors import UsageError
from mmx.runtime.hub import Remote, client, signature_of
from mmx.runtime.manifest_reader import MANIFEST
from mmx.runtime.variants import check_files


def push(bundle: Bundle, remote: Remote, *, private: bool = False) -> str:
    """Upload a bundle, its signature if there is one, and its card; returns the commit.

    The repository is made if there is none. Files of an earlier version of the bundle go, in the same commit.

    Raises:
        BadDataError: a file of the bundle was changed. UsageError: the repository holds another bundle.
        EnvironmentMissing: the Hub cannot be reached, or does not let the user write there.
    """
    name = bundle.path.absolute().name
    for variant in bundle.variants:
        check_files(variant)
    files = files_of(bundle)
    card = model_card(bundle.manifest, name, [variant.record for variant in bundle.variants])
    with client(remote.repository) as hub:
        api = hub.HfApi()
        api.create_repo(remote.repository, private=private or None, exist_ok=True)
        if remote.revision:
            api.create_branch(remote.repository, branch=remote.revision, exist_ok=True)
        there = set(api.list_repo_files(remote.repository, revision=remote.revision))
        others = {each.partition("/")[0] for each in there if each.endswith(f"/{MANIFEST}") and each.count("/") == 1}
        if others - {name}:
            raise UsageError(f"{remote.repository} holds {sorted(others - {name})[0]}", "give another repository")
        stale = sorted(each for each in there if each.startswith((f"{name}/", f"{name}.sig")) and each not in files)
        commit = api.create_commit(
            remote.repository,
            [
                *(hub.CommitOperationAdd(place, str(path)) for place, path in files.items()),
                hub.CommitOperationAdd(CARD, card.encode()),
                *(hub.CommitOperationDelete(each) for each in stale),
            ],
            commit_message=f"{name} ({bundle.identity[:12]})",
            revision=remote.revision,
        )
    return str(commit.oid)


def files_of(bundle: Bundle) -> dict[str, Path]:
    """The files to upload by their place in the repository: the whole folder, and the signature beside it."""
    folder = bundle.path.absolute()
    found = {f"{folder.name}/{path.relative_to(folder).as_posix()}": path for path in sorted(folder.rglob("*"))}
    files = {place: path for place, path in found.items() if path.is_file() and "/." not in place}
    signature = signature_of(folder)
    return files | ({signature.name: signature} if signature.is_file() else {})
