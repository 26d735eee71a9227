"""A server that ends only when it is killed."""

import signal
import sys
import time

signal.signal(signal.SIGTERM, signal.SIG_IGN)
for line in sys.stdin.buffer:
    if b'"initialize"' in line:
        said = b'{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25","capabilities":{},'
        sys.stdout.buffer.write(said + b'"serverInfo":{"name":"slow","version":"1"}}}\n')
        sys.stdout.buffer.flush()
while True:
    time.sleep(1)
