#!/usr/bin/python
"""Makes missing secrets and returns all of them."""

from __future__ import annotations

import base64
import os
import secrets
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
---
module: rtlake_secrets
short_description: Secrets in files that only their owner reads
description: Stores what is given, or generates it, for each secret that has no file yet. Use with no_log.
options:
  folder: {description: Folder of the secrets, type: path, required: true}
  names: {description: Kind (token or fernet) of each name, type: dict, required: true}
  given: {description: Values to begin with, such as from ansible-vault, type: dict, default: {}}
author: [RTLake]
"""
EXAMPLES = r"""
- name: Secrets
  rtlake_secrets:
    folder: /opt/rtlake/secrets
    names: {postgres: token}
  no_log: true
"""
RETURN = r"""
secrets: {description: Value of each name, type: dict, returned: always}
"""


def make(kind: str) -> str:
    """A new secret of 256 bits."""
    if kind == "fernet":
        return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    return secrets.token_hex(32)


def main() -> None:
    """Run."""
    module = AnsibleModule(
        argument_spec={
            "folder": {"type": "path", "required": True},
            "names": {"type": "dict", "required": True},
            "given": {"type": "dict", "default": {}, "no_log": True},
        },
        supports_check_mode=True,
    )
    folder = Path(module.params["folder"])
    unknown = sorted(set(module.params["given"]) - set(module.params["names"]))
    if unknown:
        module.fail_json(msg=f"rtlake_secrets_given: no secret {', '.join(unknown)}")
    values, made = {}, []
    for name, kind in module.params["names"].items():
        path = folder / name
        if path.exists():
            values[name] = path.read_text().strip()
            if path.stat().st_mode & 0o077:
                made.append(name)
                if not module.check_mode:
                    path.chmod(0o600)
            continue
        made.append(name)
        values[name] = str(module.params["given"].get(name) or make(kind))
        if not module.check_mode:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as stream:
                stream.write(values[name] + "\n")
    module.exit_json(changed=bool(made), secrets=values)


if __name__ == "__main__":
    main()
