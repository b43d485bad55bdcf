"""As much of W&B's server as the unmodified client needs, on loopback and in memory."""

import itertools
import json
import threading
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

Data = dict[str, Any]
"""What a request or an answer holds, as JSON."""
KEY = "0123456789abcdef" * 2 + "01234567"
"""The only key it takes."""


@dataclass
class StoredRun:
    """What a client has sent of one run."""

    name: str
    sweep: str = ""
    config: Data = field(default_factory=dict)
    summary: Data = field(default_factory=dict)
    about: Data = field(default_factory=dict)
    history: list[Data] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    exitcode: int | None = None
    begun: int = 0

    @property
    def values(self) -> Data:
        """The config as a user gave it."""
        return {key: entry["value"] for key, entry in self.config.items() if key != "_wandb"}


class Stub:
    """A server on a free port, which runs in a thread of its own from the start.

    Args:
        answers: `well`, `never` (it accepts and is silent), `500` or `nonsense`; it can be changed in mid-run.
        stops: Whether runs are told to stop after they have logged, as early termination does.
        dies: Whether it falls silent after a run has begun.

    Attributes:
        runs: Runs by name.
        artifacts: Names of the artifacts that were announced.
        sweeps: Configs of sweeps by name.
        waiting: Trials that no agent has taken, by the sweep's name.
        views: Workspaces and reports that were saved.
        unknown: Operations that it was asked for and does not know.
        projects: Names of projects that runs were sent to.
    """

    def __init__(self, answers: str = "well", stops: bool = False, dies: bool = False) -> None:
        self.answers, self.stops, self.dies = answers, stops, dies
        self.runs: dict[str, StoredRun] = {}
        self.artifacts: list[str] = []
        self.sweeps: dict[str, Data] = {}
        self.waiting: dict[str, list[Data]] = {}
        self.views: list[Data] = []
        self.unknown: set[str] = set()
        self.projects: set[str] = set()
        self.closing = threading.Event()
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"stub": self}))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        """Die: no connection is taken or answered from now on."""
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()

    def run(self, name: str) -> StoredRun:
        """Return the run of a name, which is made when it is first asked for."""
        return self.runs.setdefault(name, StoredRun(name))

    def again(self, name: str) -> None:
        """Hand a trial out once more, as to the next agent after one that died.

        Args:
            name: Name of its run.
        """
        run = self.runs[name]
        self.waiting[run.sweep].insert(0, self._trial(run))

    def _trial(self, run: StoredRun) -> Data:
        arguments = {key: {"value": value} for key, value in run.about["arguments"].items()}
        return {"type": "run", "run_id": run.name, "program": self.sweeps[run.sweep]["program"], "args": arguments}

    def answer(self, operation: str, given: Data) -> Data:
        """Return the data of a GraphQL operation.

        Args:
            operation: Its name.
            given: Its variables.
        """
        known: Callable[[Data], Data] | None = getattr(self, f"_on_{operation}", None)
        if known is None:
            self.unknown.add(operation)
            return {}
        with self.lock:
            return known(given)

    def _on_Viewer(self, given: Data) -> Data:
        teams = {"edges": [{"node": {"name": "team"}}]}
        viewer = {"id": "u", "entity": "team", "username": "me", "email": "", "flags": "{}", "teams": teams}
        return {"viewer": viewer}

    def _on_ServerFeaturesQuery(self, given: Data) -> Data:
        return {"serverInfo": {"features": []}}

    def _on_OrganizationCoreWeaveOrganizationID(self, given: Data) -> Data:
        return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}

    def _on_RunResumeStatus(self, given: Data) -> Data:
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

    def _on_UpsertBucket(self, given: Data) -> Data:
        run = self.run(given["name"])
        self.projects.add(given.get("project") or "")
        inserted = run.begun == 0
        if given.get("config"):
            run.config |= json.loads(given["config"])
        if given.get("summaryMetrics"):
            run.summary |= json.loads(given["summaryMetrics"])
        run.about |= {key: given[key] for key in ("groupName", "jobType", "displayName", "tags") if given.get(key)}
        run.begun += bool(given.get("host"))
        project = {"id": "p", "name": given.get("project") or "cmu", "entity": {"id": "e", "name": "team"}}
        bucket: Data = {"id": run.name, "name": run.name, "displayName": run.name, "description": "", "config": "{}"}
        bucket |= {"sweepName": run.sweep or None, "project": project, "historyLineCount": len(run.history)}
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _on_ArtifactType(self, given: Data) -> Data:
        return {"project": {"artifact": None}}

    def _on_CreateArtifact(self, given: Data) -> Data:
        """Say that the files are there already, so that none is sent."""
        self.artifacts.append(given["input"]["artifactCollectionName"])
        made = {"id": f"a{len(self.artifacts)}", "digest": given["input"]["digest"], "state": "COMMITTED"}
        return {"createArtifact": {"artifact": made | {"artifactSequence": {"id": "s", "latestArtifact": None}}}}

    def _on_CreateRunFiles(self, given: Data) -> Data:
        files = [{"name": name, "uploadUrl": f"{self.url}/put/{given['run']}/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}

    def _on_UpsertSweep(self, given: Data) -> Data:
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

    def _on_SweepWithRuns(self, given: Data) -> Data:
        config = yaml.safe_dump(self.sweeps[given["sweep"]])
        return {
            "project": {
                "sweep": {"id": given["sweep"], "name": given["sweep"], "config": config, "runs": {"edges": []}}
            }
        }

    def _on_CreateAgent(self, given: Data) -> Data:
        return {"createAgent": {"agent": {"id": given["sweep"]}}}

    def _on_Heartbeat(self, given: Data) -> Data:
        commands: list[Data] = []
        if not json.loads(given["runState"]):
            waiting = self.waiting[given["id"]]
            commands = [waiting.pop(0)] if waiting else [{"type": "exit"}]
        return {"agentHeartbeat": {"agent": {"id": given["id"]}, "commands": json.dumps(commands)}}

    def _on_UpsertView2(self, given: Data) -> Data:
        return self._keep(given)

    def _on_upsertView(self, given: Data) -> Data:
        return self._keep(given)

    def _keep(self, given: Data) -> Data:
        self.views.append(given)
        view = {
            "id": "v",
            "name": given.get("name") or "v",
            "displayName": "v",
            "type": given.get("type"),
            "spec": "{}",
        }
        return {"upsertView": {"view": view | {"project": {"id": "p", "name": "p"}}, "inserted": True}}

    def _on_GetProjects(self, given: Data) -> Data:
        node = {"id": "p", "name": "cmu", "entityName": "team", "createdAt": "", "isBenchmark": False, "user": None}
        return {
            "models": {"edges": [{"cursor": "c", "node": node}], "pageInfo": {"hasNextPage": False, "endCursor": None}}
        }

    def stream(self, name: str, sent: Data) -> Data:
        """Take a part of a run's file stream, and return whether the run has to stop.

        Args:
            name: Name of the run.
            sent: Lines by file, and the exit code at the end.
        """
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
    """The requests of one connection.

    Attributes:
        stub: The server that answers them.
    """

    stub: Stub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        """Print nothing."""

    def handle_one_request(self) -> None:
        """Close the connection when the client has gone."""
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def body(self) -> bytes:
        """Return what was sent."""
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def reply(self, content: Data, code: int = 200) -> None:
        """Send an answer.

        Args:
            content: JSON.
            code: Status.
        """
        text = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def refused(self) -> bool:
        """Return whether the request got what a bad server or a wrong key give."""
        stub = self.stub
        if stub.closing.is_set() or stub.answers == "never":
            stub.closing.wait(300)
            self.close_connection = True
            return True
        if stub.answers == "nonsense":
            self.send_response(200)
            self.send_header("Content-Length", "6")
            self.end_headers()
            self.wfile.write(b"<html>")
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
        """Answer a GraphQL operation or a part of a file stream."""
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
        """Keep a file of a run."""
        content = self.body()
        if not self.refused():
            _, _, run, name = self.path.split("/", 3)
            self.stub.run(run).files[name] = content
            self.reply({})

    def do_GET(self) -> None:
        """Answer with nothing."""
        if not self.refused():
            self.reply({})
