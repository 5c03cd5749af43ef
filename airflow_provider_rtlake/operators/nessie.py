"""Branches, tags and merges of a Nessie catalog as tasks. Each can be run again without harm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.providers.common.compat.sdk import BaseOperator, Context

from airflow_provider_rtlake.clients.nessie import Reference
from airflow_provider_rtlake.exceptions import ServiceUnavailable, UserError
from airflow_provider_rtlake.hooks.nessie import NessieHook
from airflow_provider_rtlake.operators.errors import no_retry_of_terminal_errors
from airflow_provider_rtlake.operators.values import run_name

_RUN = "rtlake.run"  # commit property that names the task's run
_COMMITS_SEARCHED = 5000  # a bronze lane commits every few seconds: some hours of them


class _NessieOperator(BaseOperator):
    """What all of them share.

    :param nessie_conn_id: connection id (templated).
    """

    template_fields: Sequence[str] = ("nessie_conn_id",)
    ui_color = "#d3e7e6"

    def __init__(self, *, nessie_conn_id: str = NessieHook.default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.nessie_conn_id = nessie_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Do it; terminal errors fail the task without a retry.

        :param context: the task's context.
        """
        with no_retry_of_terminal_errors(), NessieHook(self.nessie_conn_id) as hook:
            return self.run(context, hook)

    def run(self, context: Context, hook: NessieHook) -> dict[str, Any]:
        """What the operator does.

        :param context: the task's context.
        :param hook: the server.
        :return: what goes to XCom.
        """
        raise NotImplementedError


class NessieCreateBranchOperator(_NessieOperator):
    """Make a branch. A branch of that name is kept as it is, or reset.

    :param branch: its name (templated).
    :param from_ref: branch or tag it starts from; by default the connection's branch (templated).
    :param if_exists: ``keep`` works on with what is there (a second try of the same run), ``reset`` lets it
        start anew from ``from_ref``, ``fail`` refuses it.
    :param nessie_conn_id: connection id (templated).
    :return: ``branch``, ``hash``, ``from_ref`` and ``changed``.
    """

    template_fields = ("nessie_conn_id", "branch", "from_ref", "if_exists")

    def __init__(self, *, branch: str, from_ref: str | None = None, if_exists: str = "keep", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.branch = branch
        self.from_ref = from_ref
        self.if_exists = if_exists

    def run(self, context: Context, hook: NessieHook) -> dict[str, Any]:
        """Make it where it is not there.

        :param context: the task's context.
        :param hook: the server.
        """
        if self.if_exists not in ("keep", "reset", "fail"):
            raise UserError(f"if_exists must be keep, reset or fail, not {self.if_exists!r}")
        start = hook.get_reference(self.from_ref)
        present = hook.client.find_reference(self.branch)
        if present is None or self.if_exists == "fail":
            reference, changed = hook.client.create_branch(self.branch, start), True
        elif self.if_exists == "reset" and present.hash != start.hash:
            reference, changed = hook.client.assign(self.branch, start, expected_hash=present.hash), True
        else:
            reference, changed = present, False
        self.log.info("branch %s is at %s (%s)", self.branch, reference.hash, "made" if changed else "kept")
        return {"branch": self.branch, "hash": reference.hash, "from_ref": start.name, "changed": changed}


class NessieCreateTagOperator(_NessieOperator):
    """Make a tag, or let an existing one stay or move.

    :param tag: its name (templated).
    :param from_ref: branch or tag it points to; by default the connection's branch (templated).
    :param hash_: a commit of it; by default its newest (templated).
    :param move: let an existing tag point there; False refuses a tag that points elsewhere.
    :param nessie_conn_id: connection id (templated).
    :return: ``tag``, ``hash`` and ``changed``.
    """

    template_fields = ("nessie_conn_id", "tag", "from_ref", "hash_")

    def __init__(
        self,
        *,
        tag: str,
        from_ref: str | None = None,
        hash_: str | None = None,
        move: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.tag = tag
        self.from_ref = from_ref
        self.hash_ = hash_
        self.move = move

    def run(self, context: Context, hook: NessieHook) -> dict[str, Any]:
        """Make or move it where it does not point there.

        :param context: the task's context.
        :param hook: the server.
        """
        target = hook.get_reference(self.from_ref)
        if self.hash_:
            target = Reference(target.name, self.hash_, target.type)
        present = hook.client.find_reference(self.tag)
        changed = present is None or present.hash != target.hash
        if present is not None and changed and self.move:
            hook.client.assign(self.tag, target, expected_hash=present.hash)
        elif changed:
            hook.client.create_tag(self.tag, target)
        return {"tag": self.tag, "hash": target.hash, "changed": changed}


class NessieMergeBranchOperator(_NessieOperator):
    """Publish a branch: everything on it appears on the target in one commit, or nothing does.

    The merge carries the name of the task's run, so where its answer is lost, or a second try finds no
    branch, the target's log decides whether it took place.

    :param branch: what to merge (templated).
    :param into: the target; by default the connection's branch (templated).
    :param from_hash: merge up to this commit, such as the one that was audited; by default all (templated).
    :param message: commit message (templated).
    :param properties: kept in the commit's metadata (templated).
    :param delete_branch: delete the branch once it is published.
    :param nessie_conn_id: connection id (templated).
    :return: ``branch``, ``into``, ``hash`` of the target, ``keys`` that it brought, and ``changed``.
    """

    template_fields = ("nessie_conn_id", "branch", "into", "from_hash", "message", "properties")

    def __init__(
        self,
        *,
        branch: str,
        into: str | None = None,
        from_hash: str | None = None,
        message: str | None = None,
        properties: Mapping[str, str] | None = None,
        delete_branch: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.branch = branch
        self.into = into
        self.from_hash = from_hash
        self.message = message
        self.properties = properties
        self.delete_branch = delete_branch

    def run(self, context: Context, hook: NessieHook) -> dict[str, Any]:
        """Merge, and delete the branch where that is wanted.

        :param context: the task's context.
        :param hook: the server.
        """
        run = run_name(context)
        target = hook.get_reference(self.into)
        source = hook.client.find_reference(self.branch)
        if source is None and self._published(hook, target, run):
            return self._result(target, (), changed=False)  # by an earlier try, which also deleted the branch
        from_hash = self.from_hash or (source or hook.client.get_reference(self.branch)).hash
        try:
            merged = hook.client.merge(
                self.branch,
                from_hash=from_hash,
                into=target.name,
                message=self.message or f"Publish {self.branch}",
                properties={**(self.properties or {}), _RUN: run},
            )
            keys, changed = merged.keys, merged.applied
        except ServiceUnavailable:
            if not self._published(hook, target, run):
                raise
            keys, changed = (), True
        if self.delete_branch:
            hook.client.delete_reference(self.branch, source.hash if source else None)
        return self._result(hook.client.get_reference(target.name), keys, changed=changed)

    def _published(self, hook: NessieHook, target: Reference, run: str) -> bool:
        """Whether the target's newest commits hold this run's merge."""
        newest = hook.client.log(target.name, limit=_COMMITS_SEARCHED)
        return any(commit.properties.get(_RUN) == run for commit in newest)

    def _result(self, target: Reference, keys: Sequence[tuple[str, ...]], *, changed: bool) -> dict[str, Any]:
        names = [".".join(key) for key in keys]
        self.log.info("%s holds %s: %s", target.name, self.branch, names or "nothing new")
        return {
            "branch": self.branch,
            "into": target.name,
            "hash": target.hash,
            "keys": names,
            "changed": changed,
        }


class NessieDeleteBranchOperator(_NessieOperator):
    """Delete a branch or tag; one that is not there is as good as deleted.

    :param branch: its name (templated).
    :param nessie_conn_id: connection id (templated).
    :return: ``branch`` and ``changed``.
    """

    template_fields = ("nessie_conn_id", "branch")

    def __init__(self, *, branch: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.branch = branch

    def run(self, context: Context, hook: NessieHook) -> dict[str, Any]:
        """Delete it where it is there.

        :param context: the task's context.
        :param hook: the server.
        :raises UserError: it is the branch that readers look at.
        """
        if self.branch in (hook.branch, hook.client.default_branch()):
            raise UserError(f"{self.branch} is the branch that readers look at; it is not deleted")
        return {"branch": self.branch, "changed": hook.client.delete_reference(self.branch)}
