"""Training on truth scenes end to end, resuming, its parts, and every bad setting."""

import json

import numba
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from worldloom.generator.training import checkpoints, command
from worldloom.generator.training.codec import LinearCodec
from worldloom.generator.training.distill import Distiller, DistillSettings
from worldloom.generator.training.draws import SeededDraws, step_draws
from worldloom.generator.training.flow import TrainingFlow, clean_from, interpolate, target
from worldloom.generator.training.memory import MemoryDraw, candidates, drop_frames
from worldloom.generator.training.optim import PowerAverage, learning_factor, power_exponent
from worldloom.generator.training.settings import OptimSettings, preset_names, read_settings
from worldloom.generator.training.train import SELF_AUGMENTED, Trainer, choose_mode
from worldloom.generator.training.walks import TruthClips
from worldloom.scene.errors import (
    Conflict,
    CorruptData,
    EngineFailed,
    InvalidRequest,
    NotFound,
)

SMALL = [
    "data.limit=2", "data.frames=25", "data.height=32", "data.width=48",
    "data.scenes=[room]", "model.dim=24", "model.num_layers=1",
    "model.num_heads=2", "model.ffn_dim=32", "run.checkpoint_every=3", "optim.warmup=2",
    "optim.lr=0.003",
]  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny matrices: threads cost more than they give."""
    torch_threads, numba_threads = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    yield
    torch.set_num_threads(torch_threads)
    numba.set_num_threads(numba_threads)


def trainer(out, *more, resume=False):
    settings = read_settings("train_toy", SMALL + list(more))
    return Trainer.make(settings, out, resume=resume, cpu=True)


def weights(folder):
    return load_file(folder / "model.safetensors")


# ---- the whole thing ------------------------------------------------------------------------


def test_a_short_training_beats_the_untrained_network_on_the_same_draws(tmp_path):
    more = ["run.checkpoint_every=100", "run.steps=60", "optim.warmup=0", "model.dim=96"]
    path = trainer(tmp_path / "run", *more).run()
    trainer(tmp_path / "still", *more, "optim.lr=1e-12").run()

    def lines(name):
        text = (tmp_path / name / "log.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    run, still = lines("run"), lines("still")
    assert [line["step"] for line in run] == list(range(60))
    assert {line["mode"] for line in run} == {"plain", "first chunk", "self-augmented"}
    assert [line["timestep"] for line in run] == [line["timestep"] for line in still]
    after, before = (np.mean([line["raw_loss"] for line in row[-20:]]) for row in (run, still))
    assert after < 0.9 * before
    assert path.name == "step_00000060"


def test_a_resumed_run_makes_the_same_weights_as_one_that_never_stopped(tmp_path):
    whole = trainer(tmp_path / "whole", "optim.ema=0.1").run(5)
    trainer(tmp_path / "two", "optim.ema=0.1").run(3)
    again = trainer(tmp_path / "two", "optim.ema=0.1", resume=True)
    assert again.step == 3
    parts = again.run(5)
    for name in ("model", "optimizer", "average"):
        want = load_file(whole / f"{name}.safetensors")
        have = load_file(parts / f"{name}.safetensors")
        assert want.keys() == have.keys()
        assert all(torch.equal(want[key], have[key]) for key in want), name


def test_bfloat16_keeps_float32_masters_and_changes_by_less_than_its_own_step(tmp_path):
    more = ["optim.lr=1e-5", "optim.warmup=0"]
    path = trainer(tmp_path / "low", "run.precision=bf16", *more).run(4)
    start = trainer(tmp_path / "start", *more).network.state_dict()
    moved = weights(path)
    assert all(value.dtype == torch.float32 for value in moved.values())
    name = "blocks.0.self_attn.q.weight"
    change = (moved[name] - start[name]).abs()
    large = start[name].abs() > 0.1
    # In bfloat16 itself a change this small to a weight this large would have been lost.
    assert (change[large] > 0).any()
    assert change[large].max() < 0.1 * 2**-8


def test_only_the_newest_checkpoints_are_kept_and_none_is_half_written(tmp_path):
    run = trainer(tmp_path / "run", "run.checkpoint_every=1", "run.keep=2")
    run.run(4)
    assert checkpoints.steps_saved(tmp_path / "run") == [3, 4]
    assert not list((tmp_path / "run").glob(".*.part"))


def test_the_command_trains_and_resumes(tmp_path):
    out = str(tmp_path / "run")
    assert command.main(["--out", out, "--steps", "1", "--cpu", *SMALL]) == 0
    assert command.main(["--out", out, "--steps", "2", "--cpu", *SMALL]) == 2
    assert command.main(["--out", out, "--steps", "2", "--cpu", "--resume", *SMALL]) == 0
    assert checkpoints.steps_saved(tmp_path / "run") == [1, 2]


# ---- what cannot go on ----------------------------------------------------------------------


def test_a_second_run_into_the_same_folder_is_refused(tmp_path):
    trainer(tmp_path / "run").run(1)
    with pytest.raises(Conflict, match="holds a run of 1 steps; continue it with --resume"):
        trainer(tmp_path / "run")
    with pytest.raises(NotFound, match="start without --resume"):
        trainer(tmp_path / "empty", resume=True)


def test_a_damaged_or_foreign_checkpoint_is_named(tmp_path):
    path = trainer(tmp_path / "run").run(1)
    with pytest.raises(CorruptData, match="delete it to resume from the one before"):
        trainer(tmp_path / "run", "model.dim=32", resume=True)
    (path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CorruptData, match="step_00000001 cannot be read"):
        trainer(tmp_path / "run", resume=True)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    run = trainer(tmp_path / "run")
    with torch.no_grad():
        run.network.head.head.bias.fill_(float("nan"))
    with pytest.raises(EngineFailed, match=r"the loss of step 0 is nan.*lower optim.lr"):
        run.run(1)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optim.lr=fast", "lr"),
        ("optim.rate=1", "rate"),
        ("data.kind=web", "use one of: folder, truth"),
        ("data.height=33", "multiples of 16"),
        ("data.frames=9", "two chunks of this layout need 17"),
        ("run.precision=fp8", "use one of: fp32, bf16"),
        ("run.steps=0", "above 0"),
        ("layout=f1q1_g2", "not a FramePack layout"),
        ("schema=other/2", "worldloom.training/1"),
    ],
)
def test_bad_settings_name_field_and_remedy(override, words):
    with pytest.raises(InvalidRequest, match=words):
        read_settings("train_toy", [override])


def test_presets_are_complete_or_say_what_is_missing(tmp_path):
    assert preset_names() == ["train_lyra2_fsdp", "train_toy"]
    with pytest.raises(InvalidRequest, match=r"data\.root|Missing"):
        read_settings("train_lyra2_fsdp")
    full = read_settings("train_lyra2_fsdp", ["data.root=d", "run.init=w.safetensors"])
    assert full.shard.enabled
    assert full.network().buffer_in_dim == 1280
    assert full.sample.text_dropout == 0.2
    with pytest.raises(NotFound, match="presets: train_lyra2_fsdp, train_toy"):
        read_settings("nothing")


def test_a_vae_without_weights_is_refused(tmp_path):
    with pytest.raises(InvalidRequest, match=r"codec.kind=linear"):
        trainer(tmp_path, "codec.kind=vae")
    with pytest.raises(NotFound, match="convert the weights first"):
        trainer(tmp_path, "run.init=absent.safetensors")


# ---- the parts ------------------------------------------------------------------------------


def test_the_flow_starts_at_noise_and_its_weights_average_one():
    flow = TrainingFlow.make()
    ends = flow.timestep(torch.tensor([0.0, 0.9999])).tolist()
    assert ends == [1000, pytest.approx(4.98, 1e-3)]
    assert float(flow.weights.mean()) == pytest.approx(1, abs=1e-5)
    milder = flow.milder(flow.timestep(torch.rand(100)))
    assert float(milder.max()) <= 501
    x, noise, sigma = torch.rand(3, 2), torch.randn(3, 2), torch.rand(3)
    noisy = interpolate(x, noise, sigma)
    assert torch.allclose(clean_from(noisy, target(x, noise), sigma), x, atol=1e-6)
    with pytest.raises(InvalidRequest, match="logitnormal"):
        TrainingFlow.make(distribution="normal")


def test_the_kinds_of_samples_come_as_often_as_released():
    settings = read_settings("train_toy")
    modes = [choose_mode(step, settings) for step in range(4000)]
    share = {mode: modes.count(mode) / len(modes) for mode in set(modes)}
    assert share["plain"] == 0.5
    assert share["first chunk"] == pytest.approx(0.15, abs=0.02)
    off = read_settings("train_toy", ["sample.self_augment=false"])
    assert all(choose_mode(step, off) != SELF_AUGMENTED for step in range(100))


def test_memory_candidates_lie_before_and_after_but_not_near_the_target():
    draw = MemoryDraw(stride=8, skip_recent=16)
    found = candidates(401, 161, 240, draw)
    assert found[0] == 8
    assert 0 not in found
    assert max(t for t in found if t < 161) == 144
    assert min(t for t in found if t > 240) == 264
    dropped = [drop_frames([8, 16, 24], MemoryDraw(drop_rate=1), SeededDraws(i)) for i in range(50)]
    assert all(len(kept) < 3 and kept == sorted(kept) for kept in dropped)
    assert {len(kept) for kept in dropped} == {0, 1, 2}


def test_draws_depend_on_seed_step_and_process_alone():
    first = step_draws(1, 2, 0).normal((4,), "noise")
    assert torch.equal(first, step_draws(1, 2, 0).normal((4,), "noise"))
    for other in ((2, 2, 0), (1, 3, 0), (1, 2, 1)):
        assert not torch.equal(first, step_draws(*other).normal((4,), "noise"))


def test_the_learning_rate_rises_and_falls_and_never_fails():
    o = OptimSettings()
    factors = [learning_factor(step, o) for step in (0, 50, 100, 400_000, 500_000)]
    assert factors == pytest.approx([1e-6, 0.495, 0.99, 0.4, 0.4], abs=1e-3)


def test_the_power_average_of_a_line_lags_behind_by_its_width():
    layer = torch.nn.Linear(1, 1, bias=False)
    average = PowerAverage(layer, 0.1)
    for step in range(1000):
        with torch.no_grad():
            layer.weight.fill_(step)
        average.update(layer, step)
    exponent = power_exponent(0.1)
    expected = 1000 * (exponent + 1) / (exponent + 2)
    assert float(average.values["weight"]) == pytest.approx(expected, rel=0.01)


def test_the_linear_codec_streams_as_it_encodes_whole_clips():
    clip = TruthClips(17, (48, 32), 4, scenes=("room",)).clip(0)
    codec = LinearCodec.fit([clip.video])
    whole = codec.encode(clip.video)
    head, state = codec.encode_stream(clip.video[:, :, :9], None)
    tail, _ = codec.encode_stream(clip.video[:, :, 9:], state)
    assert torch.allclose(torch.cat([head, tail], 2), whole)
    assert (codec.decode(whole) - clip.video).square().mean() < 0.01
    assert whole.shape == (1, 16, 5, 4, 6)
    with pytest.raises(EngineFailed, match="groups of 4"):
        codec.encode(clip.video[:, :, :7])


def test_truth_clips_are_the_same_for_the_same_number_and_differ_otherwise():
    make = TruthClips(9, (48, 32), 4, seed=3)
    one, same, other = make.clip(5), make.clip(5), make.clip(6)
    assert torch.equal(one.video, same.video)
    assert one.name == same.name
    assert not torch.equal(one.video, other.video)
    assert (one.depth > 0).mean() > 0.5


def test_the_video_network_is_distilled_by_the_same_code(tmp_path):
    run = trainer(tmp_path / "run")
    sample, _ = run.sample(0, "plain", SeededDraws(0))
    rates = OptimSettings(lr=1e-3)
    distiller = Distiller(run.network, DistillSettings(rates, rates))

    def velocity(net, x, t):
        return sample.velocity(net, x, t)

    shape = tuple(sample.clean.shape)
    losses = distiller.train_step(velocity, shape, SeededDraws(2), like=sample.clean)
    assert set(losses) == {"student", "critic"}
    assert all(np.isfinite(value) for value in losses.values())
    assert distiller.step == 1


def distilled(tmp_path, out, *more):
    arguments = ["--cpu", "--distill", str(tmp_path / "teacher"), "--out", str(out), *more, *SMALL]
    return command.main(arguments)


def test_a_distillation_that_is_resumed_makes_the_same_student(tmp_path) -> None:
    assert command.main(["--cpu", "--steps", "3", "--out", str(tmp_path / "teacher"), *SMALL]) == 0
    assert distilled(tmp_path, tmp_path / "whole", "--steps", "6") == 0
    assert distilled(tmp_path, tmp_path / "parts", "--steps", "3") == 0
    assert distilled(tmp_path, tmp_path / "parts", "--steps", "6") == Conflict.exit_code
    assert distilled(tmp_path, tmp_path / "parts", "--steps", "6", "--resume") == 0
    files = [
        checkpoints.folder_of(tmp_path / out / "student", 6) / "model.safetensors"
        for out in ("whole", "parts")
    ]
    assert files[0].read_bytes() == files[1].read_bytes()
    teacher = checkpoints.folder_of(tmp_path / "teacher", 3) / "model.safetensors"
    assert files[0].read_bytes() != teacher.read_bytes()


def test_a_distillation_needs_a_teacher(tmp_path) -> None:
    assert distilled(tmp_path, tmp_path / "student", "--steps", "1") == NotFound.exit_code
