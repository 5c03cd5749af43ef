#!/usr/bin/python
"""Folders and files with given contents, many in one run."""

from __future__ import annotations

import difflib
import grp
import os
import pwd
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
---
module: rtlake_files
short_description: Folders and files with given contents
description: Makes folders and writes files, atomically, only where contents, mode or owner differ.
options:
  role: {description: Role whose templates are used (action plugin only), type: str}
  owner: {description: Owner of each entry that names none, type: str, default: ""}
  group: {description: Group of each entry that names none, type: str, default: ""}
  files:
    description: >-
      Entries with path, mode, and state directory, absent or file. The action plugin takes a file's content or
      template here, too.
    type: list
    elements: dict
    required: true
  contents:
    description: Content of each file by its path, which no output or log shows (from the action plugin).
    type: dict
    default: {}
author: [RTLake]
"""
EXAMPLES = r"""
- name: Settings
  rtlake_files:
    role: kafka
    files:
      - {path: /opt/rtlake/etc/kafka/server.properties, template: server.properties.j2, mode: "0640"}
"""
RETURN = r"""
paths: {description: What was changed, type: list, returned: always}
"""


def apply(
    entry: dict[str, Any], contents: dict[str, str], defaults: tuple[str, str], check: bool
) -> tuple[bool, dict[str, str]]:
    """Bring one entry about; returns whether it changed, and its diff."""
    path = Path(entry["path"])
    state = entry.get("state", "file")
    if state == "absent":
        exists = path.exists()
        if exists and not check:
            path.unlink()
        return exists, {}
    changed, diff = False, {}
    mode = int(str(entry.get("mode", "0755" if state == "directory" else "0644")), 8)
    if state == "directory":
        changed = not path.is_dir()
        if changed and not check:
            path.mkdir(parents=True, exist_ok=True)
    else:
        changed, diff = write(path, contents[entry["path"]].encode(), mode, check)
    owner = entry["owner"] if "owner" in entry else defaults[0]
    group = entry["group"] if "group" in entry else defaults[1]
    return metadata(path, mode, owner, group, check) or changed, diff


def write(path: Path, content: bytes, mode: int, check: bool) -> tuple[bool, dict[str, str]]:
    """Replace the file when its contents differ; it is never readable by more than the mode allows."""
    there = path.exists()
    old = path.read_bytes() if there else b""
    if there and old == content:
        return False, {}
    # What not everybody may read, or might until now, is not shown either.
    shown = mode & 0o004 and (not there or path.stat().st_mode & 0o004)
    before, after = (old.decode(errors="replace"), content.decode()) if shown else ("(hidden)\n", "(hidden, changed)\n")
    lines = difflib.unified_diff(before.splitlines(True), after.splitlines(True), str(path), str(path))
    if not check:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    return True, {"prepared": "".join(lines)}


def metadata(path: Path, mode: int, owner: str, group: str, check: bool) -> bool:
    """Mode and owner."""
    if not path.exists():
        return False
    changed = False
    stat = path.stat()
    uid = pwd.getpwnam(owner).pw_uid if owner else stat.st_uid
    gid = grp.getgrnam(group).gr_gid if group else stat.st_gid
    if (stat.st_uid, stat.st_gid) != (uid, gid):
        changed = True
        if not check:
            os.chown(path, uid, gid)
    if stat.st_mode & 0o7777 != mode:
        changed = True
        if not check:
            path.chmod(mode)
    return changed


def main() -> None:
    """Run."""
    module = AnsibleModule(
        argument_spec={
            "role": {"type": "str"},
            "owner": {"type": "str", "default": ""},
            "group": {"type": "str", "default": ""},
            "files": {"type": "list", "elements": "dict", "required": True},
            "contents": {"type": "dict", "default": {}, "no_log": True},
        },
        supports_check_mode=True,
    )
    changed, diffs = [], []
    for entry in module.params["files"]:
        try:
            defaults = (module.params["owner"], module.params["group"])
            did, diff = apply(entry, module.params["contents"], defaults, module.check_mode)
        except (OSError, KeyError) as error:
            module.fail_json(msg=f"{entry.get('path')}: {error}")
        if did:
            changed.append(entry["path"])
        if diff:
            diffs.append(diff)
    module.exit_json(changed=bool(changed), paths=changed, diff=diffs)


if __name__ == "__main__":
    main()
