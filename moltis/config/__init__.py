"""moltis.toml: read, checked, turned into a plan, and edited. In reading order:

- `problem.py`: what is wrong with a file, and where
- `scan.py`: the lines and positions of all keys; refuses what would be costly to parse
- `document.py`: file -> text -> tables
- `surroundings.py`: variables for proxies and certificates, and what a server without them says
- `foreign.py`: sections, keys and syntax of other hosts' files
- `model.py`: the tables as written, checked key by key
- `expand.py`: one server's entry -> `ServerPlan`: placeholders, defaults, rules between keys
- `credentials.py`: what a credential looks like
- `sensitive.py`: which values are secrets
- `near_misses.py`: what people write who know another host's files
- `environment.py`: keys that variables set
- `origins.py`: where each value comes from
- `load.py`: all of it -> `Plan`
- `plan.py`: what is to run
- `splice.py`: a key of the text changed, every other byte kept
- `atomic.py`: a file replaced whole or not at all
- `edit.py`: a server of the file changed
- `overrides.py`: env.toml, the values that `moltis env set` keeps
- `keys.py`: the one table of all keys, from which schema, example and docs are made
"""

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
