"""A student of four steps comes near a teacher of many."""

import torch

from worldloom.generator.training.distill import Distiller, DistillSettings, energy_distance
from worldloom.generator.training.draws import SeededDraws
from worldloom.generator.training.flow import interpolate, target
from worldloom.generator.training.settings import OptimSettings
from worldloom.generator.video.lyra.distilled import distilled_sample


class Points(torch.nn.Module):
    """Velocity of points in the plane."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(4, 64), torch.nn.SiLU(), torch.nn.Linear(64, 64), torch.nn.SiLU(),
            torch.nn.Linear(64, 2),
        )  # fmt: skip

    def forward(self, x, t):
        u = (t / 1000)[:, None]
        return self.net(torch.cat([x, u, torch.log(u.clamp_min(1e-3))], 1))


def three_clouds(count, generator):
    centres = torch.tensor([[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]])
    which = torch.randint(3, (count,), generator=generator)
    return centres[which] + 0.25 * torch.randn(count, 2, generator=generator)


def trained_teacher(generator):
    torch.manual_seed(0)
    teacher, steps = Points(), 1500
    moves = torch.optim.AdamW(teacher.parameters(), lr=3e-3)
    for i in range(steps):
        moves.param_groups[0]["lr"] = 3e-3 * (1 - i / steps)
        x, noise = three_clouds(512, generator), torch.randn(512, 2, generator=generator)
        sigma = torch.rand(512, generator=generator)
        v = teacher(interpolate(x, noise, sigma), 1000 * sigma)
        (v - target(x, noise)).square().mean().backward()
        moves.step()
        moves.zero_grad()
    return teacher


@torch.no_grad()
def many_steps(network, count, generator, steps=100):
    x = torch.randn(count, 2, generator=generator)
    for i in range(steps):
        x = x - network(x, torch.full((count,), 1000 * (1 - i / steps))) / steps
    return x


@torch.no_grad()
def four_steps(network, count, generator):
    noise = torch.randn(5, count, 2, generator=generator)
    return distilled_sample(lambda x, t: network(x, t.expand(count)), noise[4], lambda i: noise[i])


def test_a_distilled_student_comes_near_its_teacher_in_four_steps():
    generator = torch.Generator().manual_seed(0)
    teacher = trained_teacher(generator)
    wanted = many_steps(teacher, 1500, generator)
    floor = energy_distance(many_steps(teacher, 1500, generator), wanted)
    before = energy_distance(four_steps(teacher, 1500, generator), wanted)
    student = OptimSettings(lr=5e-4, clip=1.0, betas=(0.0, 0.999))
    critic = OptimSettings(lr=1e-3, clip=1.0, betas=(0.0, 0.999))
    distiller = Distiller(teacher, DistillSettings(student, critic, critic_steps=5))
    draws = SeededDraws(1)
    for _ in range(250):
        distiller.train_step(lambda net, x, t: net(x, t), (256, 2), draws, like=wanted)
    after = energy_distance(four_steps(distiller.student, 1500, generator), wanted)
    assert floor < 0.01
    assert after < 0.4 * before
    assert not any(p.requires_grad for p in teacher.parameters())
