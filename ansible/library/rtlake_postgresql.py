#!/usr/bin/python
"""Roles and databases of a PostgreSQL that has no client programs beside it."""

from __future__ import annotations

import traceback

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
---
module: rtlake_postgresql
short_description: PostgreSQL roles and databases
description: >-
  Waits for the server, then brings roles, their passwords and memberships, databases and their owners about.
  Use with no_log.
options:
  host: {description: Address, type: str, required: true}
  port: {description: Port, type: int, required: true}
  password: {description: Password of the superuser postgres, type: str, required: true}
  log: {description: Log file named when it does not answer, type: path, required: true}
  roles:
    description: Each with name, password, attributes and member_of.
    type: list
    elements: dict
    required: true
  databases: {description: Each with name, owner and connect, type: list, elements: dict, required: true}
author: [RTLake]
"""
EXAMPLES = r"""
- name: Roles and databases
  rtlake_postgresql:
    host: 127.0.0.1
    port: 5432
    password: "{{ rtlake_secrets.postgres }}"
    log: /opt/rtlake/log/postgresql.log
    roles: [{name: nessie, password: "{{ rtlake_secrets.nessie }}"}]
    databases: [{name: nessie, owner: nessie}]
  no_log: true
"""
RETURN = r"""
changes: {description: What was done, without secrets, type: list, returned: always}
"""


def main() -> None:
    """Run."""
    module = AnsibleModule(
        argument_spec={
            "host": {"type": "str", "required": True},
            "port": {"type": "int", "required": True},
            "password": {"type": "str", "required": True, "no_log": True},
            "log": {"type": "path", "required": True},
            "roles": {"type": "list", "elements": "dict", "required": True},
            "databases": {"type": "list", "elements": "dict", "required": True},
        },
        supports_check_mode=True,
    )
    try:
        from airflow_provider_rtlake.exceptions import RtlakeError
        from airflow_provider_rtlake.kit import postgres
    except ImportError:
        module.fail_json(msg="runs only in RTLake's environment: use ./rtlake", exception=traceback.format_exc())
    p = module.params
    server = postgres.Server(p["host"], p["port"], p["password"], p["log"])
    try:
        changes = postgres.converge(server, p["roles"], p["databases"], check=module.check_mode)
    except RtlakeError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(changes), changes=changes)


if __name__ == "__main__":
    main()
