#!/usr/bin/python
"""A copy of folders, brought up to date."""

from __future__ import annotations

import filecmp
import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
---
module: rtlake_tree
short_description: A readable copy of folders
description: Makes dest hold exactly the files of the named folders of src, readable by everybody.
options:
  src: {description: Folder to copy from, type: path, required: true}
  dest: {description: Folder to copy to, type: path, required: true}
  folders: {description: Folders below both, type: list, elements: str, required: true}
author: [RTLake]
"""
EXAMPLES = r"""
- name: Copy
  rtlake_tree: {src: /home/me/rtlake, dest: /opt/rtlake/project, folders: [dags]}
"""
RETURN = r"""
paths: {description: What was changed, type: list, returned: always}
"""
_IGNORED = ("__pycache__", "target", "logs", "dbt_packages")


def files_of(root: Path) -> set[Path]:
    """Files below a folder, relative, without what programs make there."""
    return {
        p.relative_to(root)
        for p in root.rglob("*")
        if p.is_file() and not any(part in _IGNORED for part in p.relative_to(root).parts)
    }


def sync(source: Path, target: Path, check: bool) -> list[str]:
    """Copy what differs, remove what is gone."""
    wanted, present = files_of(source), files_of(target) if target.is_dir() else set()
    stale = list(present - wanted)
    changed = [f for f in wanted if f not in present or not filecmp.cmp(source / f, target / f, shallow=False)]
    if not check:
        for file in changed:
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file, target / file)
            (target / file).chmod(0o644)
        for file in stale:
            (target / file).unlink()
        for folder in [target, *(p for p in target.rglob("*") if p.is_dir())]:
            if folder.is_dir():
                folder.chmod(0o755)
    return sorted(str(target / f) for f in [*stale, *changed])


def main() -> None:
    """Run."""
    module = AnsibleModule(
        argument_spec={
            "src": {"type": "path", "required": True},
            "dest": {"type": "path", "required": True},
            "folders": {"type": "list", "elements": "str", "required": True},
        },
        supports_check_mode=True,
    )
    source, target = Path(module.params["src"]), Path(module.params["dest"])
    paths: list[str] = []
    try:
        if not module.check_mode:
            target.mkdir(parents=True, exist_ok=True)
            target.chmod(0o755)
        for folder in module.params["folders"]:
            if (source / folder).is_dir():
                paths += sync(source / folder, target / folder, module.check_mode)
    except OSError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(paths), paths=paths)


if __name__ == "__main__":
    main()
