#!/usr/bin/python
"""Installs components from the artifact lock."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
---
module: rtlake_artifacts
short_description: Components of the artifact lock, fetched, verified, installed
description: Fetches what the cache lacks, checks each file's sha256 and puts the component's folder together.
options:
  components: {description: Names in the lock, type: list, elements: str, required: true}
  lock: {description: The lock file, type: path, required: true}
  cache: {description: Download cache, type: path, required: true}
  opt: {description: Folder of all components, type: path, required: true}
author: [RTLake]
"""
EXAMPLES = r"""
- name: Kafka
  rtlake_artifacts:
    components: [kafka]
    lock: ansible/artifacts.lock.json
    cache: ~/.cache/rtlake
    opt: /opt/rtlake/opt
"""
RETURN = r"""
folders: {description: Folder of each component, type: dict, returned: always}
"""


def main() -> None:
    """Run."""
    module = AnsibleModule(
        argument_spec={
            "components": {"type": "list", "elements": "str", "required": True},
            "lock": {"type": "path", "required": True},
            "cache": {"type": "path", "required": True},
            "opt": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)  # the services' accounts read what is installed
    try:
        from airflow_provider_rtlake.exceptions import RtlakeError
        from airflow_provider_rtlake.kit import artifacts, fetch
    except ImportError:
        module.fail_json(msg="runs only in RTLake's environment: use ./rtlake", exception=traceback.format_exc())
    opt, cache = Path(module.params["opt"]), Path(module.params["cache"])
    try:
        lock = artifacts.load_lock(Path(module.params["lock"]))
        unknown = [c for c in module.params["components"] if c not in lock]
        if unknown:
            module.fail_json(msg=f"not in the lock: {', '.join(unknown)}; run 'rtlake lock'")
        wanted = [lock[c] for c in module.params["components"]]
        missing = [c for c in wanted if not artifacts.is_installed(c, opt)]
        if missing and not module.check_mode:
            fetch.ensure([a for c in missing for a in c.artifacts], cache)
            for component in missing:
                artifacts.install(component, cache, opt)
    except RtlakeError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(missing), folders={c.name: str(opt / c.folder) for c in wanted})


if __name__ == "__main__":
    main()
