"""As much of W&B's server as the unmodified client needs, on loopback and in memory."""

import itertools
import json
import threading
from base64 import b64decode
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

KEY = "0123456789abcdef" * 2 + "01234567"
"""The only key it takes."""


@dataclass
class StoredRun:
    """What a client has sent of one run."""

    name: str
    sweep: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    exitcode: int | None = None
    begun: int = 0

    @property
    def values(self) -> dict[str, Any]:
        """The config as a user gave it."""
        return {key: entry["value"] for key, entry in self.config.items() if key != "_wandb"}


class Stub:
    """A server.

    Attributes:
        answers: `well`, `never` (it accepts and is silent) or `500`.
        stops: Whether runs are told to stop once they have logged, as early termination does.
        dies: Whether it falls silent once a run has begun.
    """

    def __init__(self, answers: str = "well", stops: bool = False, dies: bool = False) -> None:
        self.answers, self.stops, self.dies = answers, stops, dies
        self.runs: dict[str, StoredRun] = {}
        self.artifacts: list[str] = []
        self.sweeps: dict[str, dict[str, Any]] = {}
        self.waiting: dict[str, list[dict[str, Any]]] = {}
        self.views: list[dict[str, Any]] = []
        self.unknown: set[str] = set()
        self.projects: set[str] = set()
        self.closing = threading.Event()
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"stub": self}))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        """Die: no connection is taken or answered from now on."""
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()

    def run(self, name: str) -> StoredRun:
        return self.runs.setdefault(name, StoredRun(name))

    def again(self, name: str) -> None:
        """Hand a trial out once more, as to the next agent after one that died."""
        run = self.runs[name]
        self.waiting[run.sweep].insert(0, self._trial(run))

    def _trial(self, run: StoredRun) -> dict[str, Any]:
        arguments = {key: {"value": value} for key, value in run.about["arguments"].items()}
        return {"type": "run", "run_id": run.name, "program": self.sweeps[run.sweep]["program"], "args": arguments}

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        """The data of a GraphQL operation."""
        known = getattr(self, f"on_{operation}", None)
        if known is None:
            self.unknown.add(operation)
            return {}
        with self.lock:
            return known(given)

    def on_Viewer(self, given):
        teams = {"edges": [{"node": {"name": "team"}}]}
        viewer = {"id": "u", "entity": "team", "username": "me", "email": "", "flags": "{}", "teams": teams}
        return {"viewer": viewer}

    def on_ServerFeaturesQuery(self, given):
        return {"serverInfo": {"features": []}}

    def on_OrganizationCoreWeaveOrganizationID(self, given):
        return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}

    def on_RunResumeStatus(self, given):
        run = self.runs.get(given["name"])
        bucket = None
        if run is not None and run.begun:
            count = len(run.history)
            bucket = {
                "id": run.name,
                "name": run.name,
                "summaryMetrics": json.dumps(run.summary),
                "displayName": run.name,
                "logLineCount": 0,
                "historyLineCount": count,
                "eventsLineCount": 0,
                "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]),
                "eventsTail": "[]",
                "config": json.dumps(run.config),
                "tags": [],
                "notes": None,
                "wandbConfig": json.dumps({"t": 1}),
            }
        return {"model": {"id": "p", "name": "p", "entity": {"id": "e", "name": "team"}, "bucket": bucket}}

    def on_UpsertBucket(self, given):
        run = self.run(given["name"])
        self.projects.add(given.get("project"))
        inserted = run.begun == 0
        if given.get("config"):
            run.config |= json.loads(given["config"])
        if given.get("summaryMetrics"):
            run.summary |= json.loads(given["summaryMetrics"])
        run.about |= {key: given[key] for key in ("groupName", "jobType", "displayName", "tags") if given.get(key)}
        run.begun += bool(given.get("host"))
        project = {"id": "p", "name": given.get("project") or "cmu", "entity": {"id": "e", "name": "team"}}
        bucket = {"id": run.name, "name": run.name, "displayName": run.name, "description": "", "config": "{}"}
        bucket |= {"sweepName": run.sweep, "project": project, "historyLineCount": len(run.history)}
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def on_ArtifactType(self, given):
        return {"project": {"artifact": None}}

    def on_CreateArtifact(self, given):
        """It says that it has the files already, so none is sent."""
        self.artifacts.append(given["input"]["artifactCollectionName"])
        made = {"id": f"a{len(self.artifacts)}", "digest": given["input"]["digest"], "state": "COMMITTED"}
        return {"createArtifact": {"artifact": made | {"artifactSequence": {"id": "s", "latestArtifact": None}}}}

    def on_CreateRunFiles(self, given):
        files = [{"name": name, "uploadUrl": f"{self.url}/put/{given['run']}/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}

    def on_UpsertSweep(self, given):
        name = f"sweep{len(self.sweeps)}"
        config = yaml.safe_load(given["config"])
        self.sweeps[name] = config
        choices = {key: space.get("values", [space.get("value")]) for key, space in config["parameters"].items()}
        self.waiting[name] = []
        for number, point in enumerate(itertools.product(*choices.values())):
            run = self.run(f"{name}trial{number}")
            run.sweep, run.about["arguments"] = name, dict(zip(choices, point, strict=True))
            self.waiting[name].append(self._trial(run))
        project = {"id": "p", "name": given["projectName"], "entity": {"id": "e", "name": given["entityName"]}}
        return {
            "upsertSweep": {"sweep": {"id": name, "name": name, "project": project}, "configValidationWarnings": []}
        }

    def on_SweepWithRuns(self, given):
        config = yaml.safe_dump(self.sweeps[given["sweep"]])
        return {
            "project": {
                "sweep": {"id": given["sweep"], "name": given["sweep"], "config": config, "runs": {"edges": []}}
            }
        }

    def on_CreateAgent(self, given):
        return {"createAgent": {"agent": {"id": given["sweep"]}}}

    def on_Heartbeat(self, given):
        commands = []
        if not json.loads(given["runState"]):
            waiting = self.waiting[given["id"]]
            commands = [waiting.pop(0)] if waiting else [{"type": "exit"}]
        return {"agentHeartbeat": {"agent": {"id": given["id"]}, "commands": json.dumps(commands)}}

    def on_UpsertView2(self, given):
        return self._keep(given)

    def on_upsertView(self, given):
        return self._keep(given)

    def _keep(self, given):
        self.views.append(given)
        view = {
            "id": "v",
            "name": given.get("name") or "v",
            "displayName": "v",
            "type": given.get("type"),
            "spec": "{}",
        }
        return {"upsertView": {"view": view | {"project": {"id": "p", "name": "p"}}, "inserted": True}}

    def on_GetProjects(self, given):
        node = {"id": "p", "name": "cmu", "entityName": "team", "createdAt": "", "isBenchmark": False, "user": None}
        return {
            "models": {"edges": [{"cursor": "c", "node": node}], "pageInfo": {"hasNextPage": False, "endCursor": None}}
        }

    def stream(self, name: str, sent: dict[str, Any]) -> dict[str, Any]:
        """Take a part of a run's file stream."""
        with self.lock:
            run = self.run(name)
            for file, part in sent.get("files", {}).items():
                rows = [json.loads(line) for line in part["content"]] if file.endswith((".jsonl", ".json")) else []
                if file == "wandb-history.jsonl":
                    run.history += rows
                elif file == "wandb-summary.json":
                    run.summary |= rows[-1] if rows else {}
            if "exitcode" in sent:
                run.exitcode = sent["exitcode"]
            return {"stopped": True} if self.stops and run.history else {}


class Handler(BaseHTTPRequestHandler):
    stub: Stub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        """Nothing."""

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def reply(self, content: dict[str, Any], code: int = 200) -> None:
        text = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def refused(self) -> bool:
        """Whether the request got what a bad server or a wrong key give."""
        stub = self.stub
        if stub.closing.is_set() or stub.answers == "never":
            stub.closing.wait(300)
            self.close_connection = True
            return True
        if stub.answers == "500":
            self.reply({"error": "broken"}, 500)
            return True
        kind, _, credentials = self.headers.get("Authorization", "").partition(" ")
        key = b64decode(credentials).decode().partition(":")[2] if kind == "Basic" else credentials
        if not self.path.startswith("/put/") and key != KEY:
            self.reply({"errors": [{"message": "permission denied"}]}, 401)
            return True
        return False

    def do_POST(self) -> None:
        sent = json.loads(self.body() or b"{}")
        if self.refused():
            return
        if self.path.endswith("/file_stream"):
            self.reply(self.stub.stream(self.path.split("/")[-2], sent))
            return
        query = sent.get("query", "")
        operation = sent.get("operationName") or query.split("(")[0].split("{")[0].split()[-1]
        self.reply({"data": self.stub.answer(operation, sent.get("variables") or {})})
        if self.stub.dies and operation == "UpsertBucket":
            self.stub.closing.set()

    def do_PUT(self) -> None:
        content = self.body()
        if not self.refused():
            _, _, run, name = self.path.split("/", 3)
            self.stub.run(run).files[name] = content
            self.reply({})

    def do_GET(self) -> None:
        if not self.refused():
            self.reply({})
