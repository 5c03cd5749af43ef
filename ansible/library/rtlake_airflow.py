#!/usr/bin/python
"""Airflow's database schema, connections and pools."""

from __future__ import annotations

import traceback
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
---
module: rtlake_airflow
short_description: Airflow's database schema, connections and pools
description: Migrates the database where needed; stores connections and pools that differ.
options:
  home: {description: RTLAKE_HOME, type: path, required: true}
  pools: {description: Slots of each pool, type: dict, default: {}}
author: [RTLake]
"""
EXAMPLES = r"""
- name: Database and connections
  rtlake_airflow: {home: /opt/rtlake}
"""
RETURN = r"""
changes: {description: What was changed, type: list, returned: always}
"""


def main() -> None:
    """Run."""
    module = AnsibleModule(
        argument_spec={
            "home": {"type": "path", "required": True},
            "pools": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    try:
        from airflow_provider_rtlake.exceptions import RtlakeError
        from airflow_provider_rtlake.kit import airflow
        from airflow_provider_rtlake.kit.stack import Stack
    except ImportError:
        module.fail_json(msg="runs only in RTLake's environment: use ./rtlake", exception=traceback.format_exc())
    pools = {name: int(slots) for name, slots in module.params["pools"].items()}
    if module.check_mode and not (Path(module.params["home"]) / "etc" / "stack.json").exists():
        module.exit_json(changed=True, changes=["database"])  # the first installation
    try:
        changes = airflow.converge(Stack.load(module.params["home"]), pools, check=module.check_mode)
    except RtlakeError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(changes), changes=changes)


if __name__ == "__main__":
    main()
