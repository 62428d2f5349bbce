"""Writes reports. The standard library only: Formic says by PORT where to listen, and that is all it has to know."""

import json
import os
import platform
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

BY = f"python {platform.python_version()}"
INSTANCE = os.environ.get("FORMIC_INSTANCE", "alone")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        url = urlsplit(self.path)
        if url.path == "/healthz":
            return self.answer(200, {"ok": True})
        if url.path == "/reports/today":
            return self.answer(200, {"title": "today", "by": BY, "instance": INSTANCE})
        if url.path == "/reports/line":
            query = parse_qs(url.query)
            try:
                item, count, cents = query["item"][0], int(query["count"][0]), int(query["cents"][0])
            except (KeyError, ValueError):
                return self.answer(400, {"error": "item, count and cents are needed"})
            line = f"{count} x {item}: {count * cents / 100:.2f} EUR"
            return self.answer(200, {"line": line, "by": BY, "instance": INSTANCE})
        return self.answer(404, {"error": "no such report"})

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        if not self.path.startswith("/healthz"):
            print(f"{self.command} {self.path} {args[1]}", flush=True)


class Server(ThreadingHTTPServer):
    # What is being answered is answered to its end.
    daemon_threads = False
    block_on_close = True


server = Server(("127.0.0.1", int(os.environ["PORT"])), Handler)
# `shutdown` waits for the loop, which is what the signal has interrupted.
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
print(f"listening on {server.server_port}", flush=True)
server.serve_forever()
server.server_close()
sys.exit(0)
