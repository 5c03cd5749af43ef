#!/usr/bin/python
"""Builds a program from a pinned Go module."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
---
module: rtlake_go_build
short_description: A program built from a pinned Go module with a pinned toolchain
description: Builds once into the cache, compares what the binary was made of with a digest, installs it.
options:
  name: {description: The program's file name, type: str, required: true}
  module: {description: Path of its main package, type: str, required: true}
  version: {description: Version of the module, type: str, required: true}
  go: {description: The go command of the toolchain, type: path, required: true}
  digest: {description: sha256 over toolchain and modules, type: str, required: true}
  cache: {description: Download cache, type: path, required: true}
  opt: {description: Folder of all components, type: path, required: true}
author: [RTLake]
"""
EXAMPLES = r"""
- name: MinIO
  rtlake_go_build:
    name: minio
    module: github.com/minio/minio
    version: v0.0.0-20260212201848-7aac2a2c5b7c
    go: /opt/rtlake/opt/go-1.26.6/bin/go
    digest: "{{ minio_digest }}"
    cache: ~/.cache/rtlake
    opt: /opt/rtlake/opt
"""
RETURN = r"""
folder: {description: Where it is, type: str, returned: always}
"""
_TEXTS = ("name", "module", "version", "digest")


def main() -> None:
    """Run."""
    module = AnsibleModule(
        argument_spec={
            **{name: {"type": "str", "required": True} for name in _TEXTS},
            "go": {"type": "path", "required": True},
            "cache": {"type": "path", "required": True},
            "opt": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)  # the services' accounts read what is installed
    try:
        from airflow_provider_rtlake.exceptions import RtlakeError
        from airflow_provider_rtlake.kit import gobuild
    except ImportError:
        module.fail_json(msg="runs only in RTLake's environment: use ./rtlake", exception=traceback.format_exc())
    program = gobuild.Program(**{name: module.params[name] for name in _TEXTS})
    opt = Path(module.params["opt"])
    there = gobuild.is_installed(program, opt)
    try:
        if not there and not module.check_mode:
            gobuild.install(program, Path(module.params["go"]), Path(module.params["cache"]), opt)
    except RtlakeError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=not there, folder=str(opt / program.folder))


if __name__ == "__main__":
    main()
