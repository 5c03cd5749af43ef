#!/usr/bin/python
"""Starts services, and restarts those that would read something else now."""

from __future__ import annotations

import traceback
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
---
module: rtlake_services
short_description: Services under supervisord or systemd
description: >-
  Starts what is not running and restarts what was started with other files than are there now.
  Does not wait for readiness.
options:
  supervisor: {description: Who runs the services, type: str, choices: [supervisord, systemd], required: true}
  home: {description: RTLAKE_HOME, type: path, required: true}
  component: {description: Folder of their files below etc and var, type: str, required: true}
  names: {description: The services, type: list, elements: str, required: true}
author: [RTLake]
"""
EXAMPLES = r"""
- name: Kafka
  rtlake_services: {supervisor: supervisord, home: /opt/rtlake, component: kafka, names: [kafka]}
"""
RETURN = r"""
started: {description: Services that were started or restarted, type: list, returned: always}
"""


def main() -> None:
    """Run."""
    module = AnsibleModule(
        argument_spec={
            "supervisor": {"type": "str", "choices": ["supervisord", "systemd"], "required": True},
            "home": {"type": "path", "required": True},
            "component": {"type": "str", "required": True},
            "names": {"type": "list", "elements": "str", "required": True},
        },
        supports_check_mode=True,
    )
    try:
        from airflow_provider_rtlake.exceptions import RtlakeError
        from airflow_provider_rtlake.kit import supervise
    except ImportError:
        module.fail_json(msg="runs only in RTLake's environment: use ./rtlake", exception=traceback.format_exc())
    p = module.params
    try:
        started = supervise.converge(
            Path(p["home"]), p["supervisor"], p["component"], p["names"], check=module.check_mode
        )
    except RtlakeError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(started), started=started)


if __name__ == "__main__":
    main()
