"""Runs an image's root as a container would, in front of a real Dovecot, and looks at what it is and does.

    prove.py ROOT IMAGE.json       (as `buildah mount` and `buildah inspect --type image` give them)
"""

import http.client
import imaplib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DOVECOT = Path(__file__).parents[1] / "servers" / "dovecot.sh"
USER = 65532
MESSAGE = b"Subject: moved\r\n\r\nby the image\r\n"
# The root read-only, and over it the one folder that a volume would be. No shell of the image's is needed: it has none.
CONTAINER = """
mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && mount --bind "$2" "$1/var/lib/imapmove"
root=$1 user=$3; shift 3
exec chroot --userspec="$user" "$root" "$@"
"""
PATIENCE = 60


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def until_it_accepts(port, process):
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), 5).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                sys.exit(f"nobody listens on port {port}; {process.args[:2]} ended with {process.poll()}")
            time.sleep(0.1)


def start_dovecot(folder):
    port = free_port()
    process = subprocess.Popen([DOVECOT, folder, str(port), "legacy"])
    until_it_accepts(port, process)
    until_it_knows_its_users(port)
    return process, port


def until_it_knows_its_users(port):
    """A Dovecot that has just begun, on a busy machine, answers a LOGIN with NO [UNAVAILABLE]."""
    end = time.monotonic() + PATIENCE
    while True:
        client = imaplib.IMAP4("127.0.0.1", port, timeout=PATIENCE)
        try:
            return client.login("alice", "wonderland")
        except imaplib.IMAP4.error as refused:
            if "UNAVAILABLE" not in str(refused) or time.monotonic() > end:
                raise
            time.sleep(0.1)
        finally:
            client.shutdown()


def container(root, image, volume, *arguments):
    """The command that a container of the image would run."""
    config = image["OCIv1"]["config"]
    program = [*config["Entrypoint"], *arguments]
    return ["unshare", "--mount", "sh", "-euc", CONTAINER, "sh", root, volume, config["User"], *program]


def probe(root, image, volume, upstream):
    """Before anything is changed: will it work with that server?"""
    password = volume / "password"
    password.write_text("wonderland\n")
    os.chown(password, USER, USER)
    url = f"imap://alice@127.0.0.1:{upstream}"
    command = container(root, image, volume, "probe", "--try", "--password-file", "/var/lib/imapmove/password", url)
    output = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    password.unlink()
    assert output.returncode == 0 and "\nMOVE will work.\n" in output.stdout, output
    print("probed a real Dovecot from the image: MOVE will work.")


def start_image(root, image, journal, upstream):
    """As its own settings say, but for ports that are free here."""
    config = image["OCIv1"]["config"]
    assert config["User"] == f"{USER}:{USER}", config
    assert config["Entrypoint"] == ["/imapmove"], config
    env = dict(pair.split("=", 1) for pair in config["Env"])
    assert env["IMAPMOVE_LISTEN"] == "0.0.0.0:1143" and env["IMAPMOVE_ADMIN"] == "0.0.0.0:9143", env
    ports = free_port(), free_port()
    env |= {"IMAPMOVE_UPSTREAM": f"127.0.0.1:{upstream}", "IMAPMOVE_JOURNAL": "/var/lib/imapmove"}
    env |= {"IMAPMOVE_LISTEN": f"0.0.0.0:{ports[0]}", "IMAPMOVE_ADMIN": f"0.0.0.0:{ports[1]}"}
    env |= {"PATH": os.environ["PATH"], "IMAPMOVE_DRAIN_GRACE": "1s"}
    process = subprocess.Popen(container(root, image, journal), env=env)
    until_it_accepts(ports[0], process)
    return process, *ports


def look_at(process):
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    assert status["Uid"].split() == [str(USER)] * 4, status["Uid"]
    assert status["Gid"].split() == [str(USER)] * 4, status["Gid"]
    assert int(status["CapEff"], 16) == 0, status["CapEff"]
    mounts = [line.split() for line in Path(f"/proc/{process.pid}/mountinfo").read_text().splitlines()]
    root = [mount for mount in mounts if mount[4] == "/"]
    assert root and "ro" in root[-1][5].split(","), mounts
    print(f"uid {USER}, no capability, root read-only")


def answer(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("GET", path)
    return connection.getresponse().status


def contents(client, mailbox):
    client.select(mailbox)
    numbers = client.search(None, "ALL")[1][0].split()
    return [client.fetch(number, "(BODY.PEEK[])")[1][0][1] for number in numbers]


def move(port):
    client = imaplib.IMAP4("127.0.0.1", port, timeout=PATIENCE)
    client.login("alice", "wonderland")
    client.create("Archive")
    client.append("INBOX", None, None, MESSAGE)
    assert contents(client, "INBOX") == [MESSAGE]
    assert "MOVE" in client.capability()[1][0].decode().split()
    kind, reply = client._simple_command("MOVE", "1", "Archive")
    assert kind == "OK", reply
    assert contents(client, "INBOX") == [] and contents(client, "Archive") == [MESSAGE]
    print("moved a message on a real Dovecot:", reply[0].decode())
    return client


def drain(process, client, admin):
    """An idle session gets BYE, and nothing is cut."""
    process.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    while answer(admin, "/readyz") != 503:  # it may not have noticed yet
        assert time.monotonic() - begun < PATIENCE
    farewell = client.file.readline()
    assert farewell.startswith(b"* BYE"), farewell
    code = process.wait(PATIENCE)
    assert code == 0, code
    print("drained on SIGTERM:", farewell.decode().strip(), "and exit code 0")


def size(root):
    octets = sum(file.lstat().st_size for file in Path(root).rglob("*"))
    program = (Path(root) / "imapmove").stat().st_size
    print(f"size: {octets / 1e6:.1f} MB, of which the program {program / 1e6:.1f} MB")


def main(root, image):
    image = json.loads(Path(image).read_text())
    started = []
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        journal = Path(folder) / "journal"
        journal.mkdir(0o700)
        os.chown(journal, USER, USER)
        try:
            dovecot, upstream = start_dovecot(Path(folder) / "dovecot")
            started.append(dovecot)
            probe(root, image, journal, upstream)
            gateway, port, admin = start_image(root, image, journal, upstream)
            started.append(gateway)
            look_at(gateway)
            assert answer(admin, "/livez") == 200 and answer(admin, "/readyz") == 200
            drain(gateway, move(port), admin)
            assert list(journal.iterdir()) == [], "a clean end leaves no journal"
        finally:
            for process in started:
                process.terminate()
                process.wait(PATIENCE)
    size(root)


main(*sys.argv[1:])
