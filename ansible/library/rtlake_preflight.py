#!/usr/bin/python
"""Checks a machine before anything is changed on it."""

from __future__ import annotations

import traceback
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
---
module: rtlake_preflight
short_description: System, memory, disk, Java and ports
description: Fails with every problem at once, each with what to do. Returns facts for the roles.
options:
  home: {description: RTLAKE_HOME, type: path, required: true}
  supervisor: {description: Who runs the services, type: str, required: true}
  components: {description: What will run, type: list, elements: str, required: true}
  ports: {description: Port of each name, type: dict, required: true}
  component_ports: {description: Port names of each component, type: dict, required: true}
  component_memory: {description: MB of each component, type: dict, required: true}
  disk_mb: {description: MB that must be free for a first installation, type: int, required: true}
  listen: {description: Address on which services listen, type: str, default: 127.0.0.1}
  any_system: {description: Whether releases never tried are no problem, type: bool, default: false}
author: [RTLake]
"""
EXAMPLES = r"""
- name: Preflight
  rtlake_preflight:
    home: /opt/rtlake
    supervisor: systemd
    components: [kafka]
    ports: {kafka: 9092}
    component_ports: {kafka: [kafka]}
    component_memory: {kafka: 350}
    disk_mb: 12000
"""
RETURN = r"""
java17: {description: Home of Java 17, type: str, returned: success}
distribution: {description: Distribution and release, such as debian-12, type: str, returned: success}
"""


def main() -> None:
    """Run."""
    module = AnsibleModule(
        argument_spec={
            "home": {"type": "path", "required": True},
            "supervisor": {"type": "str", "required": True},
            "components": {"type": "list", "elements": "str", "required": True},
            "ports": {"type": "dict", "required": True},
            "component_ports": {"type": "dict", "required": True},
            "component_memory": {"type": "dict", "required": True},
            "disk_mb": {"type": "int", "required": True},
            "listen": {"type": "str", "default": "127.0.0.1"},
            "any_system": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    try:
        from airflow_provider_rtlake.kit import preflight
    except ImportError:
        module.fail_json(msg="runs only in RTLake's environment: use ./rtlake", exception=traceback.format_exc())
    p = module.params
    wanted = preflight.Wanted(
        home=Path(p["home"]),
        supervisor=p["supervisor"],
        ports={f"{c}: {n}": int(p["ports"][n]) for c in p["components"] for n in p["component_ports"].get(c, [])},
        memory_mb=sum(int(p["component_memory"].get(c, 0)) for c in p["components"]),
        disk_mb=p["disk_mb"],
        listen=p["listen"],
        any_system=p["any_system"],
    )
    facts, problems = preflight.check(wanted)
    if problems:
        module.fail_json(msg="Preflight found:\n" + "\n".join(f"- {problem}" for problem in problems))
    module.exit_json(changed=False, **facts)


if __name__ == "__main__":
    main()
