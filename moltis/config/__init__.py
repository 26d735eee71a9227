"""moltis.toml: read, checked, turned into a plan, and edited.

problem.py     what is wrong with a file, where
scan.py        the lines and positions of all keys; refuses what would be costly to parse
document.py    file -> text -> tables
model.py       the tables as written, checked key by key
expand.py      one server's entry -> ServerPlan: placeholders, defaults, rules
load.py        all of it -> Plan
plan.py        what is to run
splice.py      a key of the text changed, every other byte kept
edit.py        a server of the file changed, atomically
overrides.py   env.toml, the values that `moltis env set` keeps
keys.py        the one table of all keys: schema, example and README come from it
"""
