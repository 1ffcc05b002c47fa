"""`brewhouse config-schema`: every key of a run config, for people and for editors."""

from __future__ import annotations

from launch.console import print_json


def config_schema_command() -> None:
    """Print the JSON schema of a run config: every key with its type, bounds and meaning.

    An editor completes and checks a config whose first line names a file with this schema:
    `# yaml-language-server: $schema=brewhouse.schema.json`
    """
    from train.config import config_schema

    print_json(config_schema())
