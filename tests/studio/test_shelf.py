"""What the window knows and does, without a window."""

import gc
import threading
import weakref

import pytest
from pxr import Usd

from worldloom.studio.attach import prepare_world
from worldloom.studio.local_port import LocalPort
from worldloom.studio.shelf import Shelf, find_worlds


def settle(port, shelf):
    """Let the background check end and the main loop take it over."""
    for _ in range(1000):
        port.tick()
        if not shelf.busy:
            return
        threading.Event().wait(0.005)
    pytest.fail("the background check never ended")


@pytest.fixture
def port(tmp_path):
    return LocalPort(stage=Usd.Stage.CreateInMemory(), folder=str(tmp_path))


def test_an_empty_start_says_what_to_do(tmp_path):
    assert "Choose the folder" in Shelf(LocalPort()).message
    assert "worldloom demo" in Shelf(LocalPort(folder=str(tmp_path))).message


def test_worlds_are_found_a_little_below_the_folder(tmp_path, make_world):
    make_world(tmp_path / "b")
    make_world(tmp_path / "demo" / "world")
    make_world(tmp_path / "too" / "far" / "below")
    make_world(tmp_path / ".store" / "hidden")
    assert [world.name for world in find_worlds(tmp_path)] == ["b", "demo"]
    # The folder of a world itself serves as well.
    assert [world.name for world in find_worlds(tmp_path / "b")] == ["b"]
    assert find_worlds(tmp_path / "nowhere") == ()


def test_a_world_is_described_in_one_line(tmp_path, make_world):
    make_world(tmp_path / "a", notices=("Research only.",))
    make_world(tmp_path / "b", complete=False)
    first, second = find_worlds(tmp_path)
    assert first.summary == "preview, 81 frames, 1k splats, 1k triangles, scale estimated"
    assert first.notice == "Research only."
    assert second.summary.endswith("not complete")


def test_a_damaged_world_is_listed_with_its_fault_and_cannot_be_added(tmp_path, make_world, port):
    (make_world(tmp_path / "a") / "manifest.json").write_text("{")
    shelf = Shelf(port)
    assert not shelf.worlds[0].usable
    assert "manifest.json cannot be read" in shelf.worlds[0].summary
    shelf.add(shelf.worlds[0])
    assert not shelf.busy


def test_a_world_is_checked_in_the_background_and_attached_on_the_main_thread(
    tmp_path, make_world, port, monkeypatch
):
    threads = []

    def watched(folder):
        threads.append(threading.current_thread())
        return prepare_world(folder)

    monkeypatch.setattr("worldloom.studio.shelf.prepare_world", watched)
    make_world(tmp_path / "garage", notices=("Research only.",))
    shelf = Shelf(port)
    changes = []
    shelf.changed = lambda: changes.append((shelf.busy, threading.current_thread()))
    shelf.add(shelf.worlds[0])
    assert shelf.busy
    assert "Checking garage" in shelf.message
    settle(port, shelf)
    assert port.stage().GetPrimAtPath("/World/garage/Collision/tile_0000")
    assert port.shown == ["/World/garage"]
    assert port.notices == [("Added /World/garage. Research only.", False)]
    assert threads[0] is not threading.main_thread()
    assert {thread for _, thread in changes} == {threading.main_thread()}
    assert [busy for busy, _ in changes] == [True, False]


def test_a_hostile_world_ends_as_a_warning_and_leaves_the_stage_alone(
    tmp_path, make_world, port, hostile
):
    make_world(tmp_path / "evil", spoil=hostile)
    shelf = Shelf(port)
    shelf.add(shelf.worlds[0])
    settle(port, shelf)
    text, warning = port.notices[0]
    assert warning
    assert "OmniGraphNode" in text
    assert not list(port.stage().TraverseAll())


def test_a_failure_nobody_foresaw_does_not_leave_the_window_waiting(
    tmp_path, make_world, port, monkeypatch
):
    def broken(folder):
        raise RuntimeError("disk on fire")

    monkeypatch.setattr("worldloom.studio.shelf.prepare_world", broken)
    make_world(tmp_path / "a")
    shelf = Shelf(port)
    shelf.add(shelf.worlds[0])
    settle(port, shelf)
    assert "disk on fire" in shelf.message


def test_without_a_stage_nothing_starts(tmp_path, make_world):
    make_world(tmp_path / "a")
    port = LocalPort(folder=str(tmp_path))
    shelf = Shelf(port)
    shelf.add(shelf.worlds[0])
    assert not shelf.busy
    assert port.notices == [("Open or make a stage first.", True)]


def test_a_second_click_while_busy_does_nothing(tmp_path, make_world, port):
    make_world(tmp_path / "a")
    shelf = Shelf(port)
    shelf.add(shelf.worlds[0])
    shelf.add(shelf.worlds[0])
    settle(port, shelf)
    assert port.shown == ["/World/a"]


def test_a_chosen_folder_is_remembered(tmp_path, make_world):
    make_world(tmp_path / "a")
    port = LocalPort()
    shelf = Shelf(port)
    port.folder_to_pick = f" {tmp_path} "
    shelf.browse()
    assert [world.name for world in shelf.worlds] == ["a"]
    assert port.setting("worlds_folder") == str(tmp_path)


def test_closing_leaves_nothing_behind_fifty_times(tmp_path, make_world, port):
    make_world(tmp_path / "a")
    before = threading.active_count()
    alive = []
    for _ in range(50):
        shelf = Shelf(port)
        alive.append(weakref.ref(shelf))
        shelf.add(shelf.worlds[0])
        shelf.close()
        del shelf
    gc.collect()
    assert port.updates == []
    assert threading.active_count() == before
    assert [reference for reference in alive if reference() is not None] == []
