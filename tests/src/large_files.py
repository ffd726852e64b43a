#!/usr/bin/python3
"""A server of git-lfs as CGI: docs/api/batch.md and docs/api/basic-transfers.md, for download alone."""
import json
import os
import sys

path = os.environ.get("PATH_INFO", "")


def answer(status, kind, body):
    sys.stdout.buffer.write(f"Status: {status}\r\nContent-Type: {kind}\r\n\r\n".encode() + body)
    sys.exit()


if path == "/objects/batch":
    asked = json.load(sys.stdin)
    assert asked["operation"] == "download" and asked["transfers"] == ["basic"], asked
    base = f"https://{os.environ['HTTP_HOST']}{os.environ['REQUEST_URI'].split('/objects/batch')[0]}"
    objects = []
    for each in asked["objects"]:
        oid = each["oid"]
        if os.path.exists(f"@LARGE@/{oid}"):
            action = {"href": f"{base}/get/{oid}", "header": {"X-Link": "@LINK@"}}
        elif os.path.exists(f"@LARGE@/{oid}.moved"):
            action = {"href": f"{base}/moved/{oid}", "header": {"X-Link": "@LINK@"}}
        elif os.path.exists(f"@LARGE@/{oid}.elsewhere"):
            action = {"href": f"@ELSEWHERE@/{oid}", "header": {"X-Link": "@LINK@"}}
        else:
            objects.append({**each, "error": {"code": 404, "message": "not here"}})
            continue
        objects.append({**each, "actions": {"download": action}})
    answer(200, "application/vnd.git-lfs+json", json.dumps({"objects": objects}).encode())
if path.startswith("/moved/"):
    with open(f"@LARGE@/{os.path.basename(path)}.moved") as file:
        print(f"Status: 302\r\nLocation: {file.read()}\r\n\r\n", end="")
    sys.exit()
if path.startswith("/get/") and os.environ.get("HTTP_X_LINK") == "@LINK@":
    name = os.path.basename(path)
    with open(next(at for at in (f"@LARGE@/{name}", f"@LARGE@/{name}.kept") if os.path.exists(at)), "rb") as file:
        answer(200, "application/octet-stream", file.read())
answer(403, "text/plain", b"no\n")
