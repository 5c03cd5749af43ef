#!/usr/bin/python
"""Waits until every service has answered a real request."""

from __future__ import annotations

import traceback
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
---
module: rtlake_ready
short_description: Waits until services answer real requests
description: >-
  Asks all services side by side until each has answered; fails with the last log lines of those that did not.
options:
  home: {description: RTLAKE_HOME, type: path, required: true}
  seconds: {description: Longest wait, type: int, required: true}
author: [RTLake]
"""
EXAMPLES = r"""
- name: Ready
  rtlake_ready: {home: /opt/rtlake, seconds: 240}
"""
RETURN = r"""
services: {description: Seconds until each was healthy, type: dict, returned: success}
"""


def main() -> None:
    """Run."""
    module = AnsibleModule(
        argument_spec={
            "home": {"type": "path", "required": True},
            "seconds": {"type": "int", "required": True},
        },
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=False, skipped=True)
    try:
        from airflow_provider_rtlake.exceptions import RtlakeError
        from airflow_provider_rtlake.kit import health, stack
    except ImportError:
        module.fail_json(msg="runs only in RTLake's environment: use ./rtlake", exception=traceback.format_exc())
    try:
        seconds = health.wait_all(stack.Stack.load(Path(module.params["home"])), module.params["seconds"])
    except RtlakeError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, services=seconds)


if __name__ == "__main__":
    main()
