"""Keeps pydantic from looking for plugins; imported before it."""

from __future__ import annotations

import os
import sys
from types import ModuleType

# Whatever plugin of pydantic happens to be installed would be shown every value, secrets too; looking for them also
# takes 20 ms of a start. Even where none is wanted, pydantic/plugin/_loader.py imports importlib.metadata and with it
# email and zipfile, which nothing else here needs: 40 modules, 1.3 MB. It is asked for nothing but `get_plugins`.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
_no_plugins = ModuleType("pydantic.plugin._loader")
_no_plugins.__dict__["get_plugins"] = tuple
sys.modules.setdefault(_no_plugins.__name__, _no_plugins)
