"""Answers Courier's questions about users in place of authdaemond: courier_authdaemond.py DIR UID GID

It listens on DIR/auth.sock. A question is an optional TCPREMOTEIP line, then "AUTH length" and as many octets
(service, kind, user and password, a line each). The answer is a line per attribute and a dot, or FAIL.
"""

import os
import socketserver
import sys

FOLDER, UID, GID = sys.argv[1:4]
PASSWORDS = {"alice": "wonderland", "bob": "builder"}


def attributes(user):
    home = f"{FOLDER}/home/{user}"
    return f"UID={UID}\nGID={GID}\nHOME={home}\nADDRESS={user}\nMAILDIR={home}/Maildir\n.\n"


class Question(socketserver.StreamRequestHandler):
    def handle(self):
        line = self.rfile.readline().decode()
        while line.startswith("TCPREMOTEIP="):
            line = self.rfile.readline().decode()
        verb, _, rest = line.strip().partition(" ")
        answer = "FAIL\n"
        if verb == "AUTH":
            fields = self.rfile.read(int(rest)).decode().split("\n") + [""] * 4
            _service, kind, user, password = fields[:4]
            if kind == "login" and user in PASSWORDS and PASSWORDS[user] == password:
                answer = attributes(user)
        self.wfile.write(answer.encode())


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64


os.chdir(FOLDER)
with Server("auth.sock", Question) as server:
    os.chmod("auth.sock", 0o666)
    server.serve_forever()
