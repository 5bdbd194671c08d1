"""Pushing to the Hugging Face hub and pulling from it, with the hub's own client against a hub on 127.0.0.1."""

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from rlab import api
from rlab.cli.main import main
from rlab.errors import RlabError, UsageError
from rlab.networks.policy import Policy
from rlab.runs.folder import RunFolder
from rlab.runs.observed import load_observed
from rlab.runs.policies import load_policy, save_policy
from rlab.runs.registry import add_version, names_in, pinned, resolve

yaml: Any = pytest.importorskip("yaml")
pytest.importorskip("huggingface_hub")

from rlab.runs.hub import push  # noqa: E402  which needs them

# The hub's client hands its own transport content in a way that it deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
TOKEN = "hf_of_a_test"
Files = dict[str, bytes]


class Repository:
    def __init__(self, private: bool) -> None:
        self.private = private
        self.commits: dict[str, Files] = {}  # by hash, in order
        self.listed: list[str] = []  # names that are listed and cannot be read

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    def commit(self, files: Files, message: str) -> str:
        content = sorted((name, hashlib.sha1(data).hexdigest()) for name, data in files.items())
        sha = hashlib.sha1(json.dumps([len(self.commits), message, content]).encode()).hexdigest()
        self.commits[sha] = files
        return sha


class FakeHub(ThreadingHTTPServer):
    """The part of the hub's interface that its client needs to push and pull a model: `with FakeHub() as hub:
    hub.endpoint`; what was asked for is in `requests`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}  # by SHA-256, as git-lfs keeps them
        self.requests: list[str] = []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __exit__(self, *error: Any) -> None:
        self.shutdown()
        super().__exit__(*error)


class Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *words: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = self._parts()
        if parts[:2] == ["api", "models"]:
            self._about_model(parts[2:])
        elif len(parts) >= 5 and parts[2] == "resolve":
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self._answer(404, {"error": "not found"})

    def do_PUT(self) -> None:
        self.server.large[self._parts()[-1]] = self._body()
        self._answer(200, {})

    def do_POST(self) -> None:
        parts, body = self._parts(), self._body()
        if parts == ["api", "validate-yaml"]:
            return self._validate(json.loads(body)["content"])
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer(401, {"error": "Invalid username or password."})
        if parts == ["api", "repos", "create"]:
            return self._create(json.loads(body))
        if parts[-1] == "batch":
            upload = lambda oid: {"upload": {"href": f"{self.server.endpoint}/large/{oid}", "header": {}}}  # noqa: E731
            objects = [{**each, "actions": upload(each["oid"])} for each in json.loads(body)["objects"]]
            return self._answer(200, {"transfer": "basic", "objects": objects})
        repository = self.server.repositories["/".join(parts[2:4])]
        if parts[4] == "preupload":
            mode = lambda path: "lfs" if path.endswith(".safetensors") else "regular"  # noqa: E731
            paths = [each["path"] for each in json.loads(body)["files"]]
            files = [{"path": path, "uploadMode": mode(path), "shouldIgnore": False} for path in paths]
            return self._answer(200, {"files": files})
        sha = self._commit(repository, [json.loads(line) for line in body.splitlines()])
        url = f"{self.server.endpoint}/{'/'.join(parts[2:4])}/commit/{sha}"
        return self._answer(200, {"commitUrl": url, "commitOid": sha, "success": True, "hookOutput": ""})

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        url = f"{self.server.endpoint}/{name}"
        if name in self.server.repositories:
            return self._answer(409, {"error": "You already created this model repo", "url": url})
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.server.repositories[name] = Repository(private)
        self.server.repositories[name].commit({".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
        return self._answer(200, {"url": url})

    def _validate(self, content: str) -> None:
        try:
            found = yaml.safe_load(content.split("---")[1])
            errors = [] if isinstance(found, dict) else [{"message": "metadata must be an object"}]
        except (yaml.YAMLError, IndexError) as error:
            errors = [{"message": str(error)}]
        self._answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def _commit(self, repository: Repository, lines: list[dict[str, Any]]) -> str:
        files, message = dict(repository.commits[repository.head]), ""
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
                assert hashlib.sha256(files[value["path"]]).hexdigest() == value["oid"]
            else:
                assert line["key"] == "deletedFile", line
                del files[value["path"]]
        return repository.commit(files, message)

    def _about_model(self, parts: list[str]) -> None:
        name = "/".join(parts[:2])
        found = self._at(name, parts[3] if len(parts) > 3 else "main")
        if found is None:
            return
        sha, files = found
        if parts[2:3] == ["tree"]:
            rows = [{"type": "file", "path": path, "size": len(data), "oid": sha} for path, data in files.items()]
            self._answer(200, rows)
            return
        siblings = [{"rfilename": path, "size": len(data)} for path, data in files.items()]
        siblings += [{"rfilename": path, "size": 1} for path in self.server.repositories[name].listed]
        private = self.server.repositories[name].private
        about = {"_id": "1", "id": name, "modelId": name, "sha": sha, "private": private, "tags": [], "downloads": 0}
        self._answer(200, {**about, "siblings": siblings})

    def _file(self, name: str, revision: str, path: str) -> None:
        found = self._at(name, revision)
        if found is None:
            return
        sha, files = found
        if path in files:
            etag = hashlib.sha256(files[path]).hexdigest()
            self._answer(200, files[path], {"X-Repo-Commit": sha, "ETag": f'"{etag}"'})
        else:
            self._answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})

    def _at(self, name: str, revision: str) -> tuple[str, Files] | None:
        """The files of a repository at a revision; None where the answer was that there is none."""
        repository = self.server.repositories.get(name)
        asker = self.headers.get("Authorization")
        if repository is None or (repository.private and asker != f"Bearer {TOKEN}"):
            status = 404 if asker else 401
            self._answer(status, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return None
        sha = repository.head if revision == "main" else revision
        if sha not in repository.commits:
            self._answer(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
            return None
        return sha, repository.commits[sha]

    def _parts(self) -> list[str]:
        path = urlsplit(self.path).path
        self.server.requests.append(f"{self.command} {path}")
        return [unquote(part) for part in path.strip("/").split("/")]

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/octet-stream" if content is data else "application/json")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """A hub where the client looks for one, and a token that may write; the working folder is an empty one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # a protocol of the hub's own storage
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", True)
    with FakeHub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


@pytest.fixture
def version(tmp_path: Path, make_policy: Callable[..., Policy]) -> Callable[[float], Path]:
    """Makes a policy folder with a manifest and a card, every parameter being of one value."""

    def make(value: float) -> Path:
        save_policy(tmp_path / f"saved-{value}", make_policy(value), {"agent": "dqn"})
        contents = {path.name: path.read_bytes() for path in (tmp_path / f"saved-{value}").iterdir()}
        card = b"---\nlibrary_name: rlab\n---\n\n# pole\n"
        number = add_version(tmp_path / "local", "pole", lambda number: {**contents, "README.md": card})
        return tmp_path / "local/pole" / str(number)

    return make


def contents_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_pulled_is_what_was_pushed_byte_for_byte(hub: FakeHub, version: Callable[[float], Path]) -> None:
    folder = version(0.5)
    commit = push(folder, "me/pole", "pole, version 1", private=False)
    pulled = resolve("hf:me/pole")
    assert pulled == Path("models/.hub/me/pole") / commit
    assert contents_of(pulled) == contents_of(folder)
    assert pinned("hf:me/pole") == f"hf:me/pole@{commit}"
    assert load_policy(pulled).policy.seeds == (3, 4)
    assert names_in(Path("models")) == []  # what was pulled is not a model of one's own


def test_a_version_replaces_the_one_before_and_leaves_what_is_not_of_rlab(
    hub: FakeHub, version: Callable[[float], Path]
) -> None:
    first = push(version(0.5), "me/pole", "1", private=False)
    hub.repositories["me/pole"].commit({**hub.repositories["me/pole"].commits[first], "notes.json": b"{}"}, "by hand")
    second = push(version(0.25), "me/pole", "2", private=False)
    there = hub.repositories["me/pole"].commits[second]
    assert sum(name.endswith(".safetensors") for name in there) == 1
    assert there["notes.json"] == b"{}"
    assert contents_of(resolve("hf:me/pole")) == contents_of(Path("local/pole/2"))
    assert contents_of(resolve(f"hf:me/pole@{first}")) == contents_of(Path("local/pole/1"))


def test_only_files_of_a_policy_are_pulled_whatever_a_repository_holds(hub: FakeHub) -> None:
    hub.repositories["you/x"] = Repository(private=False)
    weights = {"weights-0123abcd.safetensors": b"w", "weights-0123abcd.bin": b"pickle", "model.pt": b"pickle"}
    strange = {
        "../policy.json": b"x",
        "a/policy.json": b"x",
        "policy.json.py": b"x",
        ".rlab-trust": b"evil",
        "setup.py": b"",
    }
    hub.repositories["you/x"].commit({"policy.json": b"{}", **weights, **strange}, "c")
    assert sorted(contents_of(resolve("hf:you/x"))) == ["policy.json", "weights-0123abcd.safetensors"]


def test_a_commit_that_is_here_needs_no_hub_and_a_branch_says_which_commits_are(
    hub: FakeHub, version: Callable[[float], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = push(version(0.5), "me/pole", "1", private=False)
    resolve("hf:me/pole")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    assert resolve(f"hf:me/pole@{commit}").is_dir()
    with pytest.raises(RlabError, match=rf"cannot be used .*Without the hub: hf:me/pole@{commit}, which is here"):
        resolve("hf:me/pole")


def test_pulling_again_asks_for_the_commit_alone(hub: FakeHub, version: Callable[[float], Path]) -> None:
    push(version(0.5), "me/pole", "1", private=False)
    resolve("hf:me/pole")
    hub.requests.clear()
    resolve("hf:me/pole")
    assert hub.requests == ["GET /api/models/me/pole"]


def test_a_pull_that_is_cut_off_leaves_nothing_behind(
    hub: FakeHub, version: Callable[[float], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = push(version(0.5), "me/pole", "1", private=False)
    weights = next(name for name in hub.repositories["me/pole"].commits[commit] if name.startswith("weights"))
    del hub.repositories["me/pole"].commits[commit][weights]
    hub.repositories["me/pole"].listed = [weights]
    with pytest.raises(RlabError, match="cannot be used"):
        resolve("hf:me/pole")
    assert list(Path("models/.hub/me/pole").iterdir()) == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hf:me/none", "there is no such repository on the hub"),
        ("hf:me/pole@v9", "the repository has no such revision"),
        ("hf:me/empty", "holds no policy of rlab: it has no policy.json"),
        ("hf:pole", "does not name a policy on the hub: hf:USER/NAME"),
        ("hf:me/pole@", "does not name a policy on the hub"),
        ("hf:../../etc", "does not name a policy on the hub"),
        ("hf:me/pole@../../x", "does not name a policy on the hub"),
    ],
)
def test_what_cannot_be_pulled_is_one_line(
    hub: FakeHub, version: Callable[[float], Path], source: str, message: str
) -> None:
    push(version(0.5), "me/pole", "1", private=False)
    hub.repositories["me/empty"] = Repository(private=False)
    hub.repositories["me/empty"].commit({"README.md": b"# nothing"}, "c")
    with pytest.raises(RlabError, match=message) as error:
        resolve(source)
    assert "\n" not in str(error.value)


def test_a_private_repository_is_for_those_who_log_in(
    hub: FakeHub, version: Callable[[float], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    push(version(0.5), "me/secret", "1", private=True)
    assert hub.repositories["me/secret"].private
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "nowhere")
    for attempt in (lambda: resolve("hf:me/secret"), lambda: push(version(0.5), "me/other", "1", private=False)):
        with pytest.raises(UsageError, match="hf auth login"):
            attempt()


def test_a_damaged_download_is_found_by_the_manifest(hub: FakeHub, version: Callable[[float], Path]) -> None:
    commit = push(version(0.5), "me/pole", "1", private=False)
    files = hub.repositories["me/pole"].commits[commit]
    files["policy.json"] = files["policy.json"].replace(b"dqn", b"ppo")
    with pytest.raises(RlabError, match=r"has a different SHA-256 than .*manifest\.json records"):
        load_policy(resolve("hf:me/pole"))


def test_a_version_is_published_to_the_hub_and_used_from_there_with_all_that_is_known_of_it(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"env_steps": 32, "num_envs": 2, "rollout_steps": 16, "minibatches": 1, "hidden": (4,)}
    settings |= {"eval_every": 10**6, "eval_episodes": 1, "final_eval_episodes": 6, "experiment": "none"}
    api.train("ppo", "CartPole-v1", out="run", **settings)
    assert main(["publish", "run", "pole", "--to", "hf:me/pole", "--private", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["hub"] == f"hf:me/pole@{hub.repositories['me/pole'].head}"
    assert hub.repositories["me/pole"].private
    assert main(["eval", "hf:me/pole", "--episodes", "2"]) == 0
    assert "ppo on CartPole-v1: models/.hub/me/pole/" in capsys.readouterr().out
    mine = api.publish("hf:me/pole", "mine").version
    assert mine.source == done["hub"]
    assert json.loads(json.dumps(mine.to_json()))["lineage"] == done["version"]["lineage"]
    assert load_observed(resolve("mine")).keys() == {0}
    del settings["hidden"]  # the network is there
    api.finetune("hf:me/pole", out="tuned", **settings)
    assert RunFolder.open("tuned").config["start"]["run"] == done["hub"]
    monkeypatch.setenv("HF_TOKEN", "wrong")
    with pytest.raises(UsageError, match=r"mine@1 is published here all the same; push it again: rlab publish mine@1"):
        api.publish("mine", to="hf:me/mine")
