"""Moves messages 2 to 4 with Python's own imaplib: imaplib_move.py PORT SOURCE TARGET [starttls|implicit CA]"""

import imaplib
import ssl
import sys


def connect(port, tls="off", ca=None):
    if tls == "off":
        return imaplib.IMAP4("127.0.0.1", port, timeout=30)
    context = ssl.create_default_context(cafile=ca)
    if tls == "implicit":
        return imaplib.IMAP4_SSL("127.0.0.1", port, ssl_context=context, timeout=30)
    client = imaplib.IMAP4("127.0.0.1", port, timeout=30)
    client.starttls(context)
    return client


port, source, target, *tls = sys.argv[1:]
with connect(int(port), *tls) as client:
    client.login("alice", "wonderland")
    assert "MOVE" in client.capabilities, client.capabilities
    client.select(source)
    status, data = client.uid("MOVE", "2,4", target)
    assert status == "OK", data
    code, proof = client.response("COPYUID")
    assert proof and proof[0] and proof[0].split()[1] == b"2,4", proof
    code, removed = client.response("EXPUNGE")
    assert len(removed) == 2, removed
    status, data = client.uid("MOVE", "3", target)
    assert status == "OK", data
    status, data = client.uid("SEARCH", "ALL")
    assert (status, data) == ("OK", [b"1 5 6"]), data
    status, data = client.uid("MOVE", "1", target + "-missing")
    assert status == "NO" and b"[TRYCREATE]" in data[0], (status, data)
