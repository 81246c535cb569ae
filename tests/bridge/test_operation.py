"""What a server tells those who run it: metrics, logs, health, debug services, units, itself."""

import json
import logging
import re
import shutil
import subprocess
import urllib.request
from argparse import Namespace
from types import SimpleNamespace

import grpc
import pytest

from worldloom.bridge.joblogs import JsonLines, OneLine, about_job
from worldloom.bridge.metrics import Meter
from worldloom.bridge.rates import Bucket
from worldloom.bridge.v1 import bridge_pb2 as pb
from worldloom.bridge.v1 import bridge_pb2_grpc as rpc
from worldloom.cli.main import main
from worldloom.scene.errors import InvalidRequest, ServerBusy, ServerRefused

SECRET_PROMPT = "a castle that nobody may hear of"


def read_metrics(server):
    url = json.loads((server.store / "server.json").read_text())["metrics"]
    with urllib.request.urlopen(url, timeout=10) as page:
        return page.read().decode()


def value(page, name):
    found = re.search(rf"^{re.escape(name)} (\S+)$", page, re.MULTILINE)
    assert found, f"{name} is not on the page"
    return float(found[1])


def test_metrics_count_jobs_calls_and_bytes_without_names(start, photo, world_request, tools):
    server = start(extra=("--metrics", "0", "--workers", "1"))
    with server.client() as client:
        done = client.submit(world_request(chunks=1), {"photo": photo})
        tools.end_of(client, done.name)
        slow = client.submit(world_request(faults={"slow": 60}), {"photo": photo})
        waits = client.submit(
            world_request(faults={"slow": 61, "note": SECRET_PROMPT}), {"photo": photo}
        )
        tools.worker_of(client, slow.name)
        page = read_metrics(server)
        assert value(page, "nim_request_queue_depth") == 1
        assert value(page, "nim_requests_running") == 1
        assert value(page, 'nim_requests_total{code="OK",method="CreateJob"}') == 3
        assert value(page, 'worldloom_jobs_total{state="done"}') == 1
        assert value(page, "nim_request_queue_time_seconds_count") == 2
        assert value(page, 'worldloom_blob_bytes_total{direction="up"}') == 2_560_000
        assert value(page, "worldloom_workers_usable") == 1
        assert value(page, "worldloom_store_free_bytes") > 0
        for secret in (SECRET_PROMPT, done.name, waits.name, "toy", str(server.store)):
            assert secret not in page
        for job in (slow, waits):
            client.cancel(job.name)


def test_metrics_are_served_on_loopback_and_only_when_asked(start):
    server = start()
    assert "metrics" not in json.loads((server.store / "server.json").read_text())
    told = start("other", extra=("--metrics", "0"))
    url = json.loads((told.store / "server.json").read_text())["metrics"]
    assert url.startswith("http://127.0.0.1:")


def test_methods_that_are_not_ours_share_one_label():
    meter = Meter()
    for method in ("/worldloom.bridge.v1.Worlds/GetJob", "/evil/" + "x" * 1000, "\n# HELP"):
        meter.call(method, "OK", 0.01)
    labels = {sample.labels["method"] for f in meter.families() if f.name == "nim_requests"
              for sample in f.samples}  # fmt: skip
    assert labels == {"GetJob", "other"}


def test_logs_are_json_lines_with_the_job(start, photo, world_request, tools):
    server = start(extra=("--log-json",))
    with server.client() as client:
        job = client.submit(world_request(faults={"die_at": 1, "die_once": 1}), {"photo": photo})
        assert tools.end_of(client, job.name).state == "done"
    code, _, err = server.end()
    assert code == 0
    lines = [json.loads(line) for line in err.splitlines()]
    assert all(set(line) >= {"at", "level", "logger", "text"} for line in lines)
    lost = [line for line in lines if "lost its worker" in line["text"]]
    assert [line["job"] for line in lost] == [job.name]
    assert SECRET_PROMPT not in err


@pytest.mark.parametrize("formatter", [JsonLines(), OneLine("%(levelname)s %(message)s")])
def test_no_client_can_forge_a_line_of_the_log(formatter):
    evil = 'x\n{"level": "info", "text": "all is well"}\r\n'
    record = logging.LogRecord("worldloom", logging.ERROR, "", 0, "job %s", (evil,), None)
    assert len(formatter.format(record).splitlines()) == 1


def test_a_log_line_names_its_job_and_keeps_its_traceback():
    about_job("j" * 200)
    try:
        raise ValueError("broken")
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
    record = logging.LogRecord("worldloom", logging.ERROR, "", 0, "failed", (), info)
    line = json.loads(JsonLines().format(record))
    about_job("")
    assert line["job"] == "j" * 80
    assert "ValueError: broken" in line["traceback"]


def services(address):
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    with grpc.insecure_channel(address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        reply = next(stub.ServerReflectionInfo(iter([question])))
        return {service.name for service in reply.list_services_response.service}


def test_reflection_and_channelz_are_offered_with_debug_only(start):
    from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc

    ask = channelz_pb2.GetServersRequest()
    with grpc.insecure_channel(start().address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channelz_pb2_grpc.ChannelzStub(channel).GetServers(ask)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(grpc.RpcError) as caught:
            services(start("third").address)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    debug = start("debug", extra=("--debug",))
    assert "worldloom.bridge.v1.Worlds" in services(debug.address)
    with grpc.insecure_channel(debug.address) as channel:
        assert channelz_pb2_grpc.ChannelzStub(channel).GetServers(ask).server


def test_debug_services_need_a_token_too(start, tmp_path):
    from worldloom.bridge.tokens import add_token

    add_token(tmp_path / "tokens", "ann")
    server = start(extra=("--debug", "--tokens", str(tmp_path / "tokens")))
    with pytest.raises(grpc.RpcError) as caught:
        services(server.address)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("told", ["2-3", "0-0", "x", "1", "1-", "-1-1", "9" * 5000])
def test_a_caller_of_another_protocol_is_told_both_ranges(server, told):
    with grpc.insecure_channel(server.address) as channel:
        stub = rpc.WorldsStub(channel)
        for call in (stub.GetServer, stub.ListJobs):
            kind = pb.GetServerRequest if call is stub.GetServer else pb.ListJobsRequest
            with pytest.raises(grpc.RpcError) as caught:
                call(kind(), metadata=(("worldloom-protocol", told),))
            assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
            assert "speaks protocol 1 to 1" in caught.value.details()
            assert repr(told[:40]) in caught.value.details()


@pytest.mark.parametrize("told", ["1-1", "0-1", "1-7", ""])
def test_a_caller_whose_range_meets_ours_is_served(server, told):
    with grpc.insecure_channel(server.address) as channel:
        found = rpc.WorldsStub(channel).GetServer(
            pb.GetServerRequest(), metadata=(("worldloom-protocol", told),)
        )
    assert (found.protocol_min, found.protocol_max) == (1, 1)


def test_our_client_says_its_protocol(server, client, monkeypatch):
    from worldloom.bridge import channel as channels

    monkeypatch.setattr(channels, "PROTOCOL", 2)
    with pytest.raises(ServerRefused, match="speaks protocol 1 to 1, the caller '2-2'"):
        client.jobs()


def test_the_server_tells_its_queue_and_features(start, photo, world_request, tools, capsys):
    server = start(extra=("--workers", "1"))
    with server.client() as client:
        slow = client.submit(world_request(faults={"slow": 60}), {"photo": photo})
        waits = client.submit(world_request(faults={"slow": 61}), {"photo": photo})
        tools.worker_of(client, slow.name)
        info = client.server_info()
        assert (info.queued, info.running) == (1, 1)
        assert {"link", "resume"} <= set(info.features)
        assert info.licences == {"toy": {"toy weights": "MIT"}}
        main(["doctor", "--server", server.address])
        said = capsys.readouterr().out
        assert "1 jobs wait, 1 run" in said
        assert "weights of toy: toy weights (MIT)" in said
        for job in (slow, waits):
            client.cancel(job.name)


def test_health_tells_when_no_worker_can_be_started(start, tmp_path, monkeypatch):
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    states = health_pb2.HealthCheckResponse
    server = start(options={"problem_file": str(tmp_path / "problem")})
    with grpc.insecure_channel(server.address) as channel:
        ask = health_pb2.HealthCheckRequest(service="worldloom.bridge.v1.Worlds")
        seen = (reply.status for reply in health_pb2_grpc.HealthStub(channel).Watch(ask))
        assert next(seen) == states.SERVING
        (tmp_path / "problem").write_text("all workers are gone")
        assert next(seen) == states.NOT_SERVING
        (tmp_path / "problem").unlink()
        assert next(seen) == states.SERVING
        server.process.terminate()
        assert next(seen) == states.NOT_SERVING
    code, _, err = server.end()
    assert code == 0
    assert "not serving: all workers are gone" in err


def test_jobs_above_the_rate_are_refused_with_a_time(start, photo, world_request):
    server = start(options={"limits": {"jobs_per_minute": 3, "queue_per_owner": 100}})
    with server.client() as client:
        jobs = [client.submit(world_request(), {"photo": photo}) for _ in range(3)]
        with pytest.raises(ServerBusy, match="more jobs a minute") as caught:
            client.submit(world_request(), {"photo": photo})
        assert 10_000 < caught.value.retry_after_ms < 25_000
        assert len(client.jobs()) == len(jobs)


def test_streams_above_the_rate_are_slowed_down(start, photo, world_request, tmp_path):
    mebibyte = 1 << 20
    server = start(options={"limits": {"bytes_per_minute": 60 * mebibyte}})
    from worldloom.bridge.v1.bridge_pb2 import Part

    with grpc.insecure_channel(server.address) as channel:
        stub = rpc.WorldsStub(channel)

        def parts(count):
            import hashlib
            import zlib

            data = bytes(mebibyte)
            digest = hashlib.sha256(data * count).hexdigest()
            for k in range(count):
                yield Part(sha256=digest, offset=k * mebibyte, data=data, crc32=zlib.crc32(data),
                           total=count * mebibyte)  # fmt: skip

        import time

        began = time.monotonic()
        assert stub.WriteBlob(parts(59)).committed
        quick = time.monotonic() - began
        began = time.monotonic()
        assert stub.WriteBlob(parts(4)).committed
        slow = time.monotonic() - began
    assert slow > 1.0 > quick / 59


def test_a_bucket_fills_evenly_and_holds_a_minute():
    clock = SimpleNamespace(now=0.0)
    bucket = Bucket(60, clock=lambda: clock.now)
    assert [bucket.take(1) for _ in range(60)] == [0.0] * 60
    assert bucket.take(1) == pytest.approx(1.0)
    clock.now = 1.0
    assert bucket.take(1) == 0.0
    assert bucket.take(1) > 0
    clock.now = 1000.0
    assert bucket.take(100) == 0.0  # More than is there: the next one waits for it.
    assert bucket.take(1) == pytest.approx(41.0)
    assert Bucket(0).take(1e12) == 0.0


def test_the_unit_names_all_files_and_hides_what_it_can(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["serve", "--print-systemd", "--bind", "0.0.0.0:50051", "--metrics", "9090",
               "--tls-cert", "a b/100%.pem", "--tls-key", "k$y", "--tokens", "t",
               "--quota", "20", "--limit", "queue_total=9"]  # fmt: skip
    assert main(command) == 0
    unit = capsys.readouterr().out
    line = next(line for line in unit.splitlines() if line.startswith("ExecStart="))
    assert f'--tls-cert "{tmp_path}/a b/100%%.pem"' in line
    assert f"--tls-key {tmp_path}/k$$y" in line
    assert "--bind 0.0.0.0:50051" in line
    assert "--metrics 9090 --quota 20 --limit queue_total=9" in line
    assert "--store %S/worldloom/store" in line
    for wanted in ("NoNewPrivileges=yes", "ProtectSystem=strict", "User=worldloom", "UMask=0077"):
        assert wanted in unit.splitlines()
    assert not (tmp_path / "worldloom-store").exists()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_the_unit_is_one_that_systemd_understands_and_calls_safe(tmp_path, capsys):
    assert main(["serve", "--print-systemd", "--tls-cert", str(tmp_path / "a $b%.pem")]) == 0
    unit = tmp_path / "worldloom.service"
    unit.write_text(capsys.readouterr().out)
    judge = ["systemd-analyze", "security", "--offline=true", "--threshold=30", str(unit)]
    for command in (["systemd-analyze", "verify", str(unit)], judge):
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stdout[-300:] + done.stderr


def test_limits_of_the_command_are_those_of_the_server(start, tmp_path, capsys):
    server = start(extra=("--quota", "1.5", "--limit", "queue_per_owner=3", "--limit",
                          "path_turn_deg=2.5"))  # fmt: skip
    with server.client() as client:
        limits = client.server_info().limits
    assert (limits.owner_bytes, limits.queue_per_owner) == (1_500_000_000, 3)
    assert limits.path_turn_deg == 2.5
    for wrong, said in (("queue=3", "there is no limit 'queue'"), ("queue_per_owner=x", "is 'x'"),
                        ("queue_per_owner=-1", "from 0 on"), ("path_turn_deg=nan", "is 'nan'"),
                        ("queue_per_owner", "is ''")):  # fmt: skip
        assert main(["serve", "--store", str(tmp_path / "s"), "--limit", wrong]) == 2
        assert said in capsys.readouterr().err


def test_certificates_of_the_environment_are_for_servers_that_speak_tls(
    server, tmp_path, monkeypatch
):
    from worldloom.bridge.channel import TLS_CA, TOKEN_FILE, Access
    from worldloom.cli.connection import access_of

    monkeypatch.setenv(TLS_CA, str(tmp_path / "ca.pem"))
    monkeypatch.setenv(TOKEN_FILE, str(tmp_path / "token"))
    # A server that the command starts itself, one on a store of this host, and one by address.
    assert access_of(Namespace(server=None)) == Access()
    own = access_of(Namespace(server=None, store=server.store))
    assert own == Access(token_file=tmp_path / "token")
    (tmp_path / "server.json").write_text('{"address": "127.0.0.1:1", "tls": true}')
    for args in ({"server": None, "store": tmp_path}, {"server": "a.example:1", "store": None}):
        assert access_of(Namespace(**args)).tls_ca == tmp_path / "ca.pem"
    monkeypatch.delenv(TOKEN_FILE)
    assert main(["jobs", "--store", str(server.store)]) == 0


def test_a_new_token_needs_a_file_and_a_plain_name(tmp_path, capsys):
    assert main(["serve", "--new-token", "ann"]) == 2
    assert "--tokens FILE" in capsys.readouterr().err
    for name in ("", "a b", "../x", "a" * 65, "x\n"):
        assert main(["serve", "--new-token", name, "--tokens", str(tmp_path / "t")]) == 2
    assert not (tmp_path / "t").exists()


def test_two_options_that_contradict_are_said_to(tmp_path):
    from worldloom.bridge.tls import Safety, check_safety

    with pytest.raises(InvalidRequest, match="belong together"):
        check_safety("127.0.0.1:0", Safety(tls_cert=tmp_path))
