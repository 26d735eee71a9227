"""moltis.toml: read, checked, turned into a plan, and edited. In reading order:

- `problem.py`: what is wrong with a file, and where
- `scan.py`: the lines and positions of all keys; refuses what would be costly to parse
- `document.py`: file -> text -> tables
- `surroundings.py`: variables for proxies and certificates, and what a server without them says
- `foreign.py`: sections, keys and syntax of other hosts' files
- `model.py`: the tables as written, checked key by key
- `plugins.py`: keeps pydantic's away
- `expand.py`: one server's entry -> `ServerPlan`: placeholders, defaults, rules between keys
- `credentials.py`: what a credential looks like
- `sensitive.py`: which values are secrets
- `near_misses.py`: what people write who know another host's files
- `environment.py`: keys that variables set
- `origins.py`: where each value comes from
- `load.py`: all of it -> `Plan`
- `plan.py`: what is to run
- `splice.py`: a key of the text changed, every other byte kept
- `files.py`: files that are replaced whole or not at all, and records made of them
- `edit.py`: a server of the file changed
- `overrides.py`: env.toml, the values that `moltis env set` keeps
- `keys.py`: the one table of all keys, from which schema, example and docs are made
"""
