"""A server with a grandchild, both of which are hard to end: `tree_server.py MODE KIND MARK`.

MODE is how the leader takes the end of its stdin: eof (exits), noeof (goes on), ignterm (goes on, and ignores SIGTERM,
as the grandchild then does). KIND is how the grandchild lives: group (same process group), setsid, daemon (forked twice
with its own session). The leader writes "up LEADER GRANDCHILD" on its stdout; the grandchild keeps all pipes open.
"""

import os
import signal
import sys
import time

mode, kind = sys.argv[1:3]
told, tell = os.pipe()
if mode == "ignterm":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if child == 0:
    if kind != "group":
        os.setsid()
    if kind != "daemon" or os.fork() == 0:
        os.write(tell, b"%d" % os.getpid())
        while True:
            time.sleep(60)
    os._exit(0)
grandchild = os.read(told, 20).decode()
if kind == "daemon":
    os.waitpid(child, 0)
os.write(1, f"up {os.getpid()} {grandchild}\n".encode())
while os.read(0, 4096):
    pass
while mode != "eof":
    time.sleep(60)
