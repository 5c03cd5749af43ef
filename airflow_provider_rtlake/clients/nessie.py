"""Nessie's REST API, version 2: references, merges, and what a reference holds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote

from airflow_provider_rtlake.clients.rest import RestClient
from airflow_provider_rtlake.exceptions import Conflict, NotFound, ReferenceConflict

ReferenceType = Literal["BRANCH", "TAG"]
ContentKey = tuple[str, ...]

SERVICE = "Nessie"
_PAGE = 500  # entries asked for at a time


@dataclass(frozen=True)
class Reference:
    """A branch or tag and the commit that it points to.

    :param name: the reference's name.
    :param hash: full hash of its newest commit.
    :param type: ``BRANCH`` or ``TAG``.
    """

    name: str
    hash: str
    type: ReferenceType = "BRANCH"

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Reference:
        """Read the server's spelling.

        :param data: an object with ``type``, ``name`` and ``hash``.
        """
        return cls(name=data["name"], hash=data["hash"], type=data["type"])

    def to_json(self) -> dict[str, str]:
        """The server's spelling."""
        return {"type": self.type, "name": self.name, "hash": self.hash}


@dataclass(frozen=True)
class Entry:
    """One table, view or namespace on a reference.

    :param key: namespace parts and name.
    :param type: ``ICEBERG_TABLE``, ``ICEBERG_VIEW``, ``NAMESPACE``, …
    :param content_id: stays the same over every commit and branch, as long as the table is not dropped.
    :param metadata_location: of an Iceberg table's metadata file; None for other types or if not asked for.
    :param snapshot_id: Iceberg's current snapshot; None likewise, -1 for an empty table.
    """

    key: ContentKey
    type: str
    content_id: str | None = None
    metadata_location: str | None = None
    snapshot_id: int | None = None

    @property
    def name(self) -> str:
        """``namespace.name``."""
        return ".".join(self.key)

    @classmethod
    def from_json(cls, key: Iterable[str], content: Mapping[str, Any], type_: str | None = None) -> Entry:
        """Read the server's spelling.

        :param key: namespace parts and name.
        :param content: the content object; may be empty.
        :param type_: the content's type where ``content`` does not say it.
        """
        return cls(
            key=tuple(key),
            type=content.get("type") or type_ or "UNKNOWN",
            content_id=content.get("id"),
            metadata_location=content.get("metadataLocation"),
            snapshot_id=content.get("snapshotId"),
        )


@dataclass(frozen=True)
class Difference:
    """One key that two references hold differently.

    :param key: namespace parts and name.
    :param before: what the first reference holds, None where nothing.
    :param after: what the second holds, None where nothing.
    """

    key: ContentKey
    before: Entry | None
    after: Entry | None


@dataclass(frozen=True)
class Commit:
    """One entry of a reference's log.

    :param hash: full hash.
    :param parents: hashes of the parents, the first one is the direct predecessor on this reference.
    :param message: the commit message.
    :param author: who made it, as the client said.
    :param commit_time: ISO 8601, UTC, as the server spells it.
    :param properties: free key and value pairs.
    :param keys: what it touched; empty unless operations were asked for.
    """

    hash: str
    parents: tuple[str, ...]
    message: str
    author: str
    commit_time: str
    properties: dict[str, str] = field(default_factory=dict, hash=False)
    keys: tuple[ContentKey, ...] = ()


@dataclass(frozen=True)
class MergeResult:
    """Outcome of a merge that the server accepted.

    :param applied: whether the target moved; False for a dry run and where there was nothing to merge.
    :param target_hash: the target's hash afterwards.
    :param effective_target_hash: the target's hash on top of which the merge was made.
    :param common_ancestor: where the two references parted.
    :param keys: what the merge brought.
    """

    applied: bool
    target_hash: str
    effective_target_hash: str
    common_ancestor: str | None
    keys: tuple[ContentKey, ...] = ()


def ref_path(name: str, hash_: str | None = None) -> str:
    """Spell a reference as one element of a URL's path.

    :param name: reference name.
    :param hash_: full or abbreviated hash, or None for the newest commit.
    """
    # A trailing "@" tells the server that a name with "/" ends here.
    suffix = f"@{hash_}" if hash_ else ("@" if "/" in name else "")
    return quote(name, safe="") + suffix


def key_path(key: ContentKey) -> str:
    """Spell a content key as one element of a URL's path: dots part its elements, a dot inside one is U+001D.

    :param key: namespace parts and name.
    """
    return quote(".".join(part.replace(".", "\u001d") for part in key), safe="")


class NessieClient:
    """Nessie API v2.

    :param base_url: up to and with ``/api/v2``.
    :param token: bearer token, or None.
    :param timeout: seconds for one request.
    :param attempts: tries of a request that may be sent again.
    :param verify: False, True or a CA bundle's path.
    """

    def __init__(
        self,
        base_url: str,
        *,
        token: str | None = None,
        timeout: float = 30.0,
        attempts: int = 5,
        verify: bool | str = True,
    ) -> None:
        headers = {"Nessie-Client-Spec": "2"}  # without it, errors come without their details
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self.rest = RestClient(SERVICE, base_url, timeout=timeout, attempts=attempts, verify=verify, headers=headers)

    def __enter__(self) -> NessieClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self.rest.close()

    # -- references ------------------------------------------------------------------------------------------

    def config(self) -> dict[str, Any]:
        """The server's configuration: ``defaultBranch``, ``actualApiVersion``, ``specVersion``, …"""
        return dict(self.rest.get("/config"))

    def default_branch(self) -> str:
        """Name of the default branch, usually ``main``."""
        return str(self.config()["defaultBranch"])

    def references(self, filter_: str | None = None) -> list[Reference]:
        """All branches and tags.

        :param filter_: a CEL expression such as ``ref.name.startsWith('audit_')``.
        """
        params = {"filter": filter_} if filter_ else {}
        return [Reference.from_json(item) for item in self._pages("/trees", "references", params)]

    def get_reference(self, name: str) -> Reference:
        """A branch or tag with the hash of its newest commit.

        :param name: reference name.
        :raises NotFound: there is none.
        """
        return Reference.from_json(self.rest.get(f"/trees/{ref_path(name)}")["reference"])

    def find_reference(self, name: str) -> Reference | None:
        """As :meth:`get_reference`, None where there is none.

        :param name: reference name.
        """
        try:
            return self.get_reference(name)
        except NotFound:
            return None

    def create_branch(self, name: str, source: Reference | str | None = None) -> Reference:
        """Make a branch. One of that name at the same commit is taken as ours: a repeated call is harmless.

        :param name: the new branch.
        :param source: reference, or name of one, that it starts from; by default the default branch.
        :raises Conflict: a reference of that name exists at another commit.
        """
        return self._create(name, "BRANCH", source)

    def create_tag(self, name: str, source: Reference | str | None = None) -> Reference:
        """Make a tag; as :meth:`create_branch`.

        :param name: the new tag.
        :param source: reference, or name of one, that it points to; by default the default branch.
        :raises Conflict: a reference of that name exists at another commit.
        """
        return self._create(name, "TAG", source)

    def _create(self, name: str, type_: ReferenceType, source: Reference | str | None) -> Reference:
        start = self._resolve(source)
        try:
            answer = self.rest.post("/trees", params={"name": name, "type": type_}, json=start.to_json(), retry=True)
        except Conflict:
            present = self.find_reference(name)
            if present is not None and present.type == type_ and present.hash == start.hash:
                return present
            raise
        return Reference.from_json(answer["reference"])

    def assign(self, name: str, target: Reference | str, *, expected_hash: str | None = None) -> Reference:
        """Let an existing branch or tag point to another commit.

        :param name: the branch or tag to move.
        :param target: reference, or name of one, that it shall equal.
        :param expected_hash: hash that it must have now; by default the one it has.
        :raises Conflict: it has another hash.
        """
        present = self.get_reference(name)
        to = self._resolve(target)
        answer = self.rest.put(
            f"/trees/{ref_path(name, expected_hash or present.hash)}",
            params={"type": present.type},
            json=to.to_json(),
        )
        return Reference.from_json(answer["reference"])

    def delete_reference(self, name: str, expected_hash: str | None = None) -> bool:
        """Delete a branch or tag; nothing where there is none.

        :param name: branch or tag.
        :param expected_hash: hash that it must have; by default whatever it has.
        :return: whether there was one.
        :raises Conflict: it has another hash.
        """
        present = self.find_reference(name)
        if present is None:
            return False
        path = f"/trees/{ref_path(name, expected_hash or present.hash)}"
        try:
            self.rest.delete(path, params={"type": present.type})
        except NotFound:
            return False  # somebody else deleted it meanwhile, or the answer of our first try was lost
        return True

    def _resolve(self, source: Reference | str | None) -> Reference:
        if isinstance(source, Reference):
            return source
        return self.get_reference(source or self.default_branch())

    # -- merging ---------------------------------------------------------------------------------------------

    def merge(
        self,
        from_ref: str,
        *,
        from_hash: str | None = None,
        into: str | None = None,
        expected_hash: str | None = None,
        message: str | None = None,
        properties: Mapping[str, str] | None = None,
        dry_run: bool = False,
    ) -> MergeResult:
        """Merge everything that a reference has more than the target, as one commit, or nothing.

        The request is sent once: where its answer is lost (``ServiceUnavailable``), the caller has to look
        at the target.

        :param from_ref: branch or tag to merge.
        :param from_hash: its commit up to which to merge; by default its newest.
        :param into: the target branch; by default the default branch.
        :param expected_hash: a commit of the target, by default its newest. Tables that changed on the target
            since the two references parted are a conflict all the same; other changes are not.
        :param message: commit message; by default the server writes one.
        :param properties: kept in the commit's metadata.
        :param dry_run: only find out whether it would succeed.
        :raises ReferenceConflict: both sides changed a table; nothing was applied. ``keys`` names the tables.
        :raises NotFound: a reference or hash does not exist.
        """
        target = into or self.default_branch()
        body: dict[str, Any] = {
            "fromRefName": from_ref,
            "fromHash": from_hash or self.get_reference(from_ref).hash,
            # Nessie 0.99 ignores the spelling without "is" and would then apply a dry run.
            "isDryRun": dry_run,
            "isReturnConflictAsResult": True,
        }
        if message or properties:
            body["commitMeta"] = {
                "message": message or "",
                "allProperties": {key: [value] for key, value in (properties or {}).items()},
            }
        path = f"/trees/{ref_path(target, expected_hash or self.get_reference(target).hash)}/history/merge"
        try:
            answer = self.rest.post(path, json=body)
        except Conflict as error:
            keys = conflict_keys(error.body)
            raise _merge_conflict(from_ref, target, keys, str(error), error.body) from error
        return _merge_result(from_ref, target, answer)

    # -- contents --------------------------------------------------------------------------------------------

    def entries(
        self,
        ref: str | None = None,
        *,
        hash_: str | None = None,
        content: bool = True,
        prefix: ContentKey = (),
    ) -> list[Entry]:
        """What a reference holds.

        :param ref: branch or tag; by default the default branch.
        :param hash_: a commit of it; by default the newest.
        :param content: also fetch metadata location and snapshot.
        :param prefix: only keys that begin with these parts.
        """
        params: dict[str, Any] = {"content": str(content).lower()}
        if prefix:
            params["prefix-key"] = ".".join(part.replace(".", "\u001d") for part in prefix)
        path = f"/trees/{ref_path(ref or self.default_branch(), hash_)}/entries"
        return [
            Entry.from_json(item["name"]["elements"], item.get("content") or {}, item.get("type"))
            for item in self._pages(path, "entries", params)
        ]

    def content(self, key: ContentKey, ref: str | None = None, *, hash_: str | None = None) -> Entry | None:
        """One table as a reference holds it, None where it does not.

        :param key: namespace parts and name.
        :param ref: branch or tag; by default the default branch.
        :param hash_: a commit of it; by default the newest.
        :raises NotFound: the reference does not exist.
        """
        path = f"/trees/{ref_path(ref or self.default_branch(), hash_)}/contents/{key_path(key)}"
        try:
            answer = self.rest.get(path)
        except NotFound as error:
            if error_code(error.body) == "CONTENT_NOT_FOUND":
                return None
            raise
        return Entry.from_json(key, answer["content"])

    def log(
        self, ref: str | None = None, *, limit: int = 100, until: str | None = None, operations: bool = False
    ) -> list[Commit]:
        """A reference's commits, newest first.

        :param ref: branch or tag; by default the default branch.
        :param limit: at most so many.
        :param until: hash of the last commit to list.
        :param operations: also fetch which keys each commit touched.
        """
        params: dict[str, Any] = {"max-records": min(limit, _PAGE)}
        if until:
            params["limit-hash"] = until
        if operations:
            params["fetch"] = "ALL"
        commits: list[Commit] = []
        for item in self._pages(f"/trees/{ref_path(ref or self.default_branch())}/history", "logEntries", params):
            commits.append(_commit(item))
            if len(commits) >= limit:
                break
        return commits

    def diff(self, from_ref: str, to_ref: str) -> list[Difference]:
        """The keys that two references hold differently.

        :param from_ref: branch, tag or ``name@hash``.
        :param to_ref: likewise.
        """
        path = f"/trees/{_spec_path(from_ref)}/diff/{_spec_path(to_ref)}"
        return [
            Difference(
                key=tuple(item["key"]["elements"]),
                before=_side(item, "from"),
                after=_side(item, "to"),
            )
            for item in self._pages(path, "diffs", {})
        ]

    def _pages(self, path: str, items: str, params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Items of every page of a listing."""
        query: dict[str, Any] = {"max-records": _PAGE, **params}
        while True:
            page = self.rest.get(path, params=query)
            yield from page.get(items) or ()
            if not page.get("hasMore") or not page.get("token"):
                return
            query["page-token"] = page["token"]


def conflict_keys(body: str) -> tuple[ContentKey, ...]:
    """The keys that an error's details name as conflicting; empty where the body does not tell.

    :param body: the error's JSON text, possibly cut off.
    """
    try:
        details = json.loads(body).get("errorDetails") or {}
    except (ValueError, AttributeError):
        return ()
    conflicts = details.get("conflicts") or [details]
    return tuple(tuple(item["key"]["elements"]) for item in conflicts if item.get("key"))


def error_code(body: str) -> str | None:
    """Nessie's own code of an error such as ``CONTENT_NOT_FOUND``; None where the body does not tell.

    :param body: the error's JSON text, possibly cut off.
    """
    try:
        code = json.loads(body).get("errorCode")
    except (ValueError, AttributeError):
        return None
    return None if code is None else str(code)


def _spec_path(spec: str) -> str:
    name, _, hash_ = spec.partition("@")
    return ref_path(name, hash_ or None)


def _side(item: Mapping[str, Any], side: str) -> Entry | None:
    content = item.get(side)
    return Entry.from_json(item["key"]["elements"], content) if content else None


def _commit(item: Mapping[str, Any]) -> Commit:
    meta = item["commitMeta"]
    parents = meta.get("parentCommitHashes") or [item.get("parentCommitHash")]
    authors = meta.get("authors") or [meta.get("author")]
    return Commit(
        hash=meta["hash"],
        parents=tuple(parent for parent in parents if parent),
        message=meta.get("message") or "",
        author=", ".join(author for author in authors if author),
        commit_time=meta.get("commitTime") or "",
        properties={key: ", ".join(values) for key, values in (meta.get("allProperties") or {}).items()},
        keys=tuple(tuple(operation["key"]["elements"]) for operation in item.get("operations") or ()),
    )


def _merge_result(from_ref: str, target: str, answer: Mapping[str, Any]) -> MergeResult:
    details = answer.get("details") or []
    if not answer["wasSuccessful"]:
        conflicting = [item for item in details if item.get("conflict")]
        keys = tuple(tuple(item["key"]["elements"]) for item in conflicting)
        text = "; ".join(str(item["conflict"].get("message")) for item in conflicting)
        raise _merge_conflict(from_ref, target, keys, text, json.dumps(details))
    effective = answer.get("effectiveTargetHash") or answer.get("expectedHash") or ""
    return MergeResult(
        applied=bool(answer["wasApplied"]),
        target_hash=answer.get("resultantTargetHash") or effective,
        effective_target_hash=effective,
        common_ancestor=answer.get("commonAncestor"),
        keys=tuple(tuple(item["key"]["elements"]) for item in details),
    )


def _merge_conflict(
    from_ref: str, target: str, keys: tuple[ContentKey, ...], text: str, body: str
) -> ReferenceConflict:
    names = tuple(".".join(key) for key in keys)
    message = (
        f"{from_ref} does not merge into {target}, both changed {', '.join(names) or 'the same content'}; "
        f"nothing was applied. {text}"
    )
    return ReferenceConflict(SERVICE, message.strip(), status=409, body=body, keys=names)
