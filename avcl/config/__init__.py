"""From YAML files and ``--set`` to objects."""
