#!/usr/bin/python
"""Makes missing secrets and returns all of them."""

from __future__ import annotations

import base64
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
---
module: rtlake_secrets
short_description: Secrets in files that only their owner reads
description: >-
  Stores what is given, or generates it, for each secret that has no file yet. What is given must do in shells, URLs
  and settings files alike. Use with no_log, and show msg where it failed.
options:
  folder: {description: Folder of the secrets, type: path, required: true}
  names: {description: Kind (token or fernet) of each name, type: dict, required: true}
  given: {description: Values to begin with, such as from ansible-vault, type: dict, default: {}}
  irreplaceable: {description: Names that are never made anew where a folder holds their data, type: dict, default: {}}
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


# What every place takes as it is: environment files, shells, URLs, .properties and .ini files.
_FORMS = {
    "token": ("[A-Za-z0-9_-]{16,}", "at least 16 letters, digits, _ or -"),
    "fernet": ("[A-Za-z0-9_-]{43}=(,[A-Za-z0-9_-]{43}=)*", "a Fernet key, or several with commas between them"),
}


def taken(name: str, kind: str, given: object) -> str:
    """A given value.

    :raises ValueError: it is of another form; names the secret, not its value.
    """
    form, words = _FORMS[kind]
    value = "" if given is None else str(given)
    if not value:
        raise ValueError(f"rtlake_secrets_given: {name} is empty; leave it out to have one made")
    if not re.fullmatch(form, value):
        raise ValueError(f"rtlake_secrets_given: {name} is not {words}")
    return value


def store(path: Path, value: str) -> None:
    """Write a secret that is there as a whole or not at all, and that only its owner ever reads."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600
    with os.fdopen(handle, "w") as stream:
        stream.write(value + "\n")
    Path(temporary).replace(path)


def lost(folder: Path, given: dict[str, str], irreplaceable: dict[str, str]) -> Iterator[str]:
    """Secrets that are gone while what they protect is there."""
    for name, data in irreplaceable.items():
        if Path(data).exists() and name not in given and not (folder / name).exists():
            yield (
                f"{folder} lacks {name}, and what is in {data} cannot be read with a new one: bring it back from a "
                "backup (its secrets.tar), or give its value in rtlake_secrets_given"
            )


def main() -> None:
    """Run."""
    module = AnsibleModule(
        argument_spec={
            "folder": {"type": "path", "required": True},
            "names": {"type": "dict", "required": True},
            "given": {"type": "dict", "default": {}, "no_log": True},
            "irreplaceable": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    folder, given = Path(module.params["folder"]), module.params["given"]
    unknown = sorted(set(given) - set(module.params["names"]))
    if unknown:
        module.fail_json(msg=f"rtlake_secrets_given: no secret {', '.join(unknown)}")
    for problem in lost(folder, given, module.params["irreplaceable"]):
        module.fail_json(msg=problem)
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
        try:
            values[name] = taken(name, kind, given[name]) if name in given else make(kind)
        except ValueError as error:
            module.fail_json(msg=str(error))
        if not module.check_mode:
            store(path, values[name])
    empty = sorted(str(folder / name) for name, value in values.items() if not value)
    if empty:
        module.fail_json(msg=f"empty: {', '.join(empty)}; bring it back from a backup, or remove it to have one made")
    # Or the templates would get a placeholder in place of what was given. The task's no_log hides the whole answer.
    module.no_log_values.clear()
    module.exit_json(changed=bool(made), secrets=values)


if __name__ == "__main__":
    main()
