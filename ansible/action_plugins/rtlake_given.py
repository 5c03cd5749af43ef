"""Writes down what a run of the playbook was given: every variable of the project whose value is not its default."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase

# Settings of Ansible itself, and what lies in files of its own by now.
_LEFT_OUT = ("ansible_", "rtlake_secrets_given")


class ActionModule(ActionBase):  # type: ignore[misc]
    """Outside of a role its variables are known only where somebody gives them; others differ from their default."""

    def run(self, tmp: Any = None, task_vars: Any = None) -> Any:
        """Compare before templates are filled in, write what is left afterwards."""
        result = super().run(tmp, task_vars)
        known: dict[str, Any] = dict(task_vars or {})
        defaults = self._defaults(Path(known["playbook_dir"]))
        names = [n for n, default in defaults.items() if n in known and known[n] != default]
        given = {n: self._value(known[n]) for n in names if not n.startswith(_LEFT_OUT)}
        given["supervisor"] = self._value(known["rtlake_supervisor"])
        content = json.dumps(given, indent=1, sort_keys=True, default=str) + "\n"
        path = self._task.args["path"]
        arguments = {"files": [{"path": path, "mode": "0600"}], "contents": {path: content}}
        result.update(self._execute_module(module_name="rtlake_files", module_args=arguments, task_vars=task_vars))
        return result

    def _defaults(self, folder: Path) -> dict[str, Any]:
        files = [*(folder / "group_vars" / "all").glob("*.yml"), *(folder / "roles").glob("*/defaults/main.yml")]
        found: dict[str, Any] = {}
        for file in files:
            found.update(self._loader.load_from_file(str(file)) or {})
        return found

    def _value(self, value: Any) -> Any:
        """A value with its templates filled in; as it is where it names what only a role knows."""
        try:
            return _literal(self._templar.template(value))
        except AnsibleError:
            return value


def _literal(value: Any) -> Any:
    """A value that stays itself where it is given again, even if it looks like a template."""
    if isinstance(value, dict):
        return {str(key): _literal(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_literal(one) for one in value]
    if isinstance(value, str) and re.search(r"{[{%#]", value):
        return "{% raw %}" + value + "{% endraw %}"
    return value
