"""A server answers or there is a sentence; nothing of it outlives its owner. The last test runs a real vLLM server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tasks.config import ModelRole, Sampling, Serve
from tasks.errors import UserError
from tasks.llm import servers
from tasks.llm.chat import ChatModel, ChatRequest, Completion
from tasks.llm.engine_log import last_complaint, last_step
from tasks.llm.model_folder import model_folder
from tasks.llm.servers import server_command, serving
from tasks.llm.tokenizer import load_tokenizer
from tasks.llm.vllm_options import engine_environment
from tasks.processes.machine import available_cores
from tests.scripted_server import running
from tests.tiny_model import CHAT_TEMPLATE, write_tiny_model

PROJECT = Path(__file__).resolve().parents[2]

STUBBORN_FAMILY = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
loner = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"
middle = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {loner!r}], start_new_session=True)"
subprocess.run([sys.executable, "-c", middle])  # leaves an orphan in a session of its own
print("ready", flush=True)
time.sleep(300)
"""

HEALTHY = """
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("content-length", "0"); self.end_headers()
    def do_POST(self):  # a probe: what it gets depends on its seed alone
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        logprobs = {"tokens": ["a"] * asked["max_tokens"], "token_logprobs": [-1.0 - asked["seed"]] * asked["max_tokens"]}
        body = json.dumps({"choices": [{"logprobs": logprobs}]}).encode()
        self.send_response(200); self.send_header("content-length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def served(*, health_timeout_s: float = 150.0, port: int | None = None) -> ModelRole:
    serve = Serve(kv_cache_gib=1, max_num_seqs=8, health_timeout_s=health_timeout_s, port=port)
    return ModelRole(model="tiny", serve=serve)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project folder with a model folder `tiny` that is only good for finding."""
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text("{}")
    return tmp_path


def in_place_of_vllm(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr(
        servers, "server_command", lambda *_, port, **__: [sys.executable, "-c", script, str(port)]
    )


def gone_within(processes: Sequence[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those of `processes` that still live after at most `seconds`."""
    deadline = time.monotonic() + seconds
    alive = list(processes)
    while alive and time.monotonic() < deadline:
        time.sleep(0.1)
        alive = [process for process in alive if _lives(process)]
    return alive


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# --- the supervisor ----------------------------------------------------------------------------------------------


# The command line of the supervisor, with one second instead of five between SIGTERM and SIGKILL.
SUPERVISOR = """
import sys
from tasks.processes import supervisor
supervisor.GRACE_S = 1.0
sys.exit(supervisor.main(sys.argv[1:]))
"""


def supervise(script: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", SUPERVISOR, "--", sys.executable, "-c", script]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=PROJECT)


def descendants_when_ready(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    assert process.stdout is not None and process.stdout.readline().strip() == b"ready"
    deadline = time.monotonic() + 5
    while (
        len(found := psutil.Process(process.pid).children(recursive=True)) < 2 and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    return found


@pytest.mark.parametrize("end", ["close the pipe", "SIGTERM"])
def test_the_supervisor_ends_even_orphans_in_other_sessions_that_ignore_sigterm(end: str) -> None:
    with supervise(STUBBORN_FAMILY) as process:
        family = descendants_when_ready(process)
        assert len(family) == 2
        if end == "SIGTERM":
            process.send_signal(signal.SIGTERM)
        else:
            assert process.stdin is not None
            process.stdin.close()
        assert gone_within(family, 10.0) == []
        assert process.wait(5) == 128 + signal.SIGKILL


def test_the_supervisor_passes_the_exit_status_on() -> None:
    with supervise("import sys; sys.exit(7)") as process:
        assert process.wait(10) == 7


def test_the_supervisor_survives_ctrl_c_which_is_its_owners_business() -> None:
    with supervise("print('ready', flush=True); import time; time.sleep(1)") as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


NESTING = """
import os, subprocess, sys
from tasks.processes.supervisor import PATIENCE
inner = [sys.executable, "-m", "tasks.processes.supervisor", "--", sys.executable, "-c", {inner!r}]
subprocess.Popen(
    inner, stdin=subprocess.PIPE, start_new_session=True, env=os.environ | {{PATIENCE: "300"}}
).wait()
"""
SAVING = """
import signal, subprocess, sys, time
helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
def save(*_):
    print("asked", flush=True)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep({seconds})
    print("saved with its helper" if helper.poll() is None else "saved without its helper", flush=True)
    sys.exit()
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
signal.pause()
"""


@pytest.mark.parametrize("end", ["close the pipe", "SIGTERM", "kill the owner in between"])
def test_a_supervisor_leaves_a_patient_one_below_it_its_time_and_waits_for_it(end: str) -> None:
    with supervise(NESTING.format(inner=SAVING.format(seconds=2.5))) as outer:
        family = descendants_when_ready(outer)
        if end == "SIGTERM":
            outer.send_signal(signal.SIGTERM)
        elif end == "close the pipe":
            assert outer.stdin is not None
            outer.stdin.close()
        else:
            psutil.Process(outer.pid).children()[0].kill()
        assert outer.stdout is not None
        assert outer.stdout.read() == b"asked\nsaved with its helper\n"
        outer.wait(10)
        assert gone_within(family, 1.0) == []


def test_haste_reaches_a_patient_supervisor_through_the_one_above_it() -> None:
    with supervise(NESTING.format(inner=SAVING.format(seconds=300))) as outer:
        family = descendants_when_ready(outer)
        outer.send_signal(signal.SIGTERM)
        assert outer.stdout is not None and outer.stdout.readline() == b"asked\n"
        outer.send_signal(signal.SIGQUIT)
        outer.wait(10)
        assert gone_within(family, 1.0) == []


GUARDED = """
import subprocess, sys, time
import psutil
from tasks.processes.supervisor import Guard
guard = Guard()
stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(300)"
stray = subprocess.Popen([sys.executable, "-c", stubborn], start_new_session=True, stdout=subprocess.PIPE)
stray.stdout.readline()
guard.watch([psutil.Process(stray.pid)])
print(stray.pid, flush=True)
{then}
"""


@contextmanager
def guarding(then: str) -> Iterator[tuple[subprocess.Popen[bytes], list[psutil.Process]]]:
    """Yield a process with a guard that does `then`, and the guarded process with the guard."""
    with subprocess.Popen(
        [sys.executable, "-c", GUARDED.format(then=then)], stdout=subprocess.PIPE, cwd=PROJECT
    ) as owner:
        assert owner.stdout is not None
        stray = psutil.Process(int(owner.stdout.readline()))
        yield owner, [stray, *psutil.Process(owner.pid).children()]


def test_a_guard_ends_what_its_owner_started_by_other_means() -> None:
    with guarding("time.sleep(300)") as (killed, its), guarding("guard.close()") as (closing, others):
        killed.kill()
        assert closing.wait(12) == 0
        assert gone_within([*its, *others], 10.0) == []


# --- a server that already runs ----------------------------------------------------------------------------------


def test_an_endpoint_that_answers_is_used_as_it_is(tmp_path: Path) -> None:
    with running(models=["other", "big"], owner="vllm") as server:
        role = ModelRole(model="big", base_url=server.base_url + "/")
        with serving(role, root=tmp_path, log=tmp_path / "log") as handle:
            assert (handle.base_urls, handle.model_name, handle.offer.is_vllm) == (
                (server.base_url,),
                "big",
                True,
            )


def test_an_endpoint_without_the_model_names_those_it_has(tmp_path: Path) -> None:
    with running(models=["other", "big"]) as server:
        role = ModelRole(model="small", base_url=server.base_url)
        with (
            pytest.raises(UserError, match="does not offer 'small': set `model` to one of big, other"),
            serving(role, root=tmp_path, log=tmp_path / "log"),
        ):
            pass


def test_a_silent_endpoint_is_named_with_the_remedy(tmp_path: Path) -> None:
    with running() as server:
        url = server.base_url
    with (
        pytest.raises(UserError, match=rf"{url}/models does not answer .* correct `base_url`"),
        serving(ModelRole(model="m", base_url=url), root=tmp_path, log=tmp_path / "log"),
    ):
        pass


# --- a server of our own, vLLM replaced by small scripts ---------------------------------------------------------


def test_a_missing_model_folder_is_named_before_anything_starts(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_place_of_vllm(monkeypatch, "raise SystemExit('must not start')")
    for model in ("tiny/teacher", str(root / "nowhere"), "./nowhere"):
        role = served().model_copy(update={"model": model})
        with (
            pytest.raises(UserError, match=r"model folder .* does not exist: correct `model`"),
            serving(role, root=root, log=root / "log"),
        ):
            pass
    assert not (root / "log").exists()


def test_hub_ids_are_distinguished_from_folders(root: Path) -> None:
    assert model_folder("Qwen/Qwen3-1.7B", root) is None
    assert model_folder("tiny", root) == root / "tiny"
    (root / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no config\.json"):
        model_folder("empty", root)


def test_a_port_in_use_is_named_before_anything_starts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_place_of_vllm(monkeypatch, "raise SystemExit('must not start')")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(UserError, match=rf"port {port} of 127.0.0.1 cannot be used .* set `serve.port`"),
            serving(served(port=port), root=root, log=root / "log"),
        ):
            pass
    assert not (root / "log").exists()


def test_a_server_that_dies_early_gives_its_last_error_and_the_log(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_place_of_vllm(monkeypatch, "raise ValueError('the weights are cursed')")
    with (
        pytest.raises(
            UserError, match=r"ended while starting: ValueError: the weights are cursed \(log: .*log\)"
        ),
        serving(served(), root=root, log=root / "log"),
    ):
        pass


def test_a_server_demands_no_key_of_the_environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "sk-secret")
    in_place_of_vllm(monkeypatch, "import os; raise ValueError(f'key {os.environ.get(\"VLLM_API_KEY\")}')")
    with (
        pytest.raises(UserError, match="ValueError: key None"),
        serving(served(), root=root, log=root / "log"),
    ):
        pass


def test_a_server_that_never_becomes_healthy_is_ended(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_place_of_vllm(
        monkeypatch, "import time; print('Loading weights for ever', flush=True); time.sleep(300)"
    )
    before = set(psutil.Process().children(recursive=True))
    with (
        pytest.raises(UserError, match=r"was not healthy after 1 s.*: read .*log"),
        serving(served(health_timeout_s=1.0), root=root, log=root / "log"),
    ):
        pass
    assert set(psutil.Process().children(recursive=True)) <= before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, None])
def test_a_server_ends_with_its_block(
    root: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException] | None
) -> None:
    in_place_of_vllm(monkeypatch, HEALTHY)
    before = set(psutil.Process().children(recursive=True))
    try:
        with serving(served(), root=root, log=root / "log") as handle:
            assert handle.base_urls[0].startswith("http://127.0.0.1:")
            assert handle.invariance is not None and handle.invariance.verified
            assert len(set(psutil.Process().children(recursive=True)) - before) == 2
            if error is not None:
                raise error
    except (RuntimeError, KeyboardInterrupt):
        pass
    assert set(psutil.Process().children(recursive=True)) <= before


def test_waiting_is_reported(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "WAIT_NOTICE_S", 0.2)
    in_place_of_vllm(
        monkeypatch,
        "import time; print('Loading weights took 3 s\\nnoise of the engine', flush=True); time.sleep(1.5)\n"
        + HEALTHY,
    )
    seen: list[str] = []
    with serving(served(), root=root, log=root / "log", on_wait=lambda _waited, line: seen.append(line)):
        pass
    assert "Loading weights took 3 s" in seen and set(seen) <= {"", "Loading weights took 3 s"}


def test_the_step_of_a_start_is_shortened_at_a_word_and_noise_is_left_out(tmp_path: Path) -> None:
    log = tmp_path / "log"
    long = (
        "Loading safetensors checkpoint shards: 10%\rLoading safetensors checkpoint shards: 50% "
        + "word " * 40
    )
    log.write_text(f"(EngineCore pid=7) INFO 11-21 09:00:00 [core.py:12] {long}\nWARNING: Using Gloo\n")
    step = last_step(log)
    assert step.startswith("Loading safetensors checkpoint shards: 50% word") and step.endswith("word ...")
    assert len(step) <= 100 and last_step(tmp_path / "absent") == ""


def test_the_log_line_that_matters_is_found(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "(EngineCore pid=7) ERROR 11-21 09:00:00 [core.py:12] Traceback (most recent call last):\n"
        "(EngineCore pid=7) ERROR 11-21 09:00:00 [core.py:12] ValueError: too little memory for the cache\n"
        "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.\n"
    )
    assert last_complaint(log) == "ValueError: too little memory for the cache"


def test_the_command_and_environment_hold_what_a_cpu_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    role = served()
    assert role.serve is not None
    command = server_command(role, role.serve, model="/m", port=5, on_cpu=True)
    assert {"--enforce-eager", "--no-enable-chunked-prefill"} <= set(command)
    assert int(command[command.index("--max-num-batched-tokens") + 1]) >= role.max_model_len
    assert "--gpu-memory-utilization" in server_command(role, role.serve, model="/m", port=5, on_cpu=False)
    assert "--chat-template" not in command
    dated = server_command(role, role.serve, model="/m", port=5, on_cpu=True, template=Path("/t.jinja"))
    assert dated[dated.index("--chat-template") + 1] == "/t.jinja"
    environment = engine_environment(role.serve, local=True, on_cpu=True, engines=available_cores())
    assert (environment["OMP_NUM_THREADS"], environment["VLLM_CPU_KVCACHE_SPACE"]) == ("1", "1")
    assert (environment["HF_HUB_OFFLINE"], environment["VLLM_CPU_ATTN_SPLIT_KV"]) == ("1", "0")
    assert (environment["VLLM_ENABLE_V1_MULTIPROCESSING"], environment["TORCH_COMPILE_DISABLE"]) == ("0", "1")
    on_gpu = engine_environment(role.serve, local=False, on_cpu=False)
    assert not {"HF_HUB_OFFLINE", "TORCH_COMPILE_DISABLE"} & on_gpu.keys()


def test_batch_invariant_kernels_are_asked_for_on_gpus_only() -> None:
    serve = Serve(batch_invariant=True)
    assert engine_environment(serve, local=True, on_cpu=False)["VLLM_BATCH_INVARIANT"] == "1"
    assert "VLLM_BATCH_INVARIANT" not in engine_environment(serve, local=True, on_cpu=True)
    assert "VLLM_BATCH_INVARIANT" not in engine_environment(Serve(), local=True, on_cpu=False)


def test_a_server_that_cannot_complete_a_probe_is_named_with_its_log(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_place_of_vllm(monkeypatch, HEALTHY.replace("do_POST", "do_PUT"))
    refused = pytest.raises(
        UserError, match=r"the server of tiny does not complete a test prompt .*501.*: read .*log"
    )
    with refused, serving(served(), root=root, log=root / "log"):
        pass


# --- the real thing ----------------------------------------------------------------------------------------------

OWNER = """
import sys, time
from pathlib import Path
from tasks.config import ModelRole, Serve
from tasks.llm.servers import serving
folder = Path(sys.argv[1])
role = ModelRole(
    model="tiny", dtype="float32", max_model_len=256, chat_template="given.jinja", template_date="2026-02-03",
    serve=Serve(kv_cache_gib=1, max_num_seqs=8, health_timeout_s=200.0),
)
with serving(role, root=folder, log=folder / "server.log") as handle:
    print(handle.base_urls[0], handle.invariance.different, flush=True)
    time.sleep(300)
"""
SCHEMA = {
    "type": "object",
    "properties": {"sound": {"type": "boolean"}, "tier": {"enum": ["easy", "hard"]}},
    "required": ["sound", "tier"],
    "additionalProperties": False,
}


def dated_prompt(folder: Path) -> list[int]:
    """Return the tokens of the prompt below, with the date of 3 February 2026 written out."""
    tokenizer = load_tokenizer(str(folder))
    turns = "<|im_start|>user\nJudge: 3 plus 4<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    return tokenizer.encode("Solve 03 February 2026" + turns, add_special_tokens=False)


@pytest.mark.slow
def test_a_real_server_follows_a_schema_and_dies_with_its_owner(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    (model / "chat_template.jinja").unlink()
    (tmp_path / "given.jinja").write_text("{{ strftime_now('Solve %d %B %Y') }}" + CHAT_TEMPLATE)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, cwd=PROJECT, env=environment
    )
    with owner:
        try:
            assert owner.stdout is not None
            base_url, dependent = owner.stdout.readline().decode().split()
            assert dependent == "0", "no probe depends on the batch in float32"
            model = ChatModel(served().model_copy(update={"max_model_len": 256}), base_url, "tiny", "tiny@0")
            sampling = Sampling(temperature=1.0, max_tokens=40)
            outcomes = model.complete_all(
                ChatRequest(
                    key=str(seed),
                    messages=[{"role": "user", "content": "Judge: 3 plus 4"}],
                    sampling=sampling,
                    prompt="p",
                    seed=seed % 4,
                    schema=SCHEMA if seed < 8 else None,
                    logprobs=True,
                )
                for seed in (0, 1, 2, 3, 10, 11)
            )
            for outcome in outcomes[:4]:
                assert isinstance(outcome, Completion) and outcome.finish_reason == "stop", outcome
                assert set(json.loads(outcome.text)) == {"sound", "tier"}
                assert " " not in outcome.text and "\n" not in outcome.text
            for outcome in outcomes:
                assert isinstance(outcome, Completion) and outcome.logprob_count == outcome.completion_tokens
                assert outcome.prompt_tokens == len(dated_prompt(tmp_path / "tiny"))
            family = psutil.Process(owner.pid).children(recursive=True)
            assert len(family) >= 3
        finally:
            owner.kill()
        assert gone_within(family, 10.0) == []
