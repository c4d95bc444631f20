"""A1111's blocking calls while their job runs or waits: progress, interrupt, hanging up, a spooler that dies."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from a1111 import INFO, LONG, SMALL, STATE, House, Web, beside, house, opened, served, web
from house import wait_for, wait_running

__all__ = ["house", "served"]


def test_progress_then_interrupt_answers_200_with_what_is_finished(house: House) -> None:
    spool, served = house.spool, house.served
    idle = served.get("/sdapi/v1/progress")
    assert list(idle["state"]) == STATE.split() and (idle["progress"], idle["state"]["job_count"]) == (0, 0)
    with beside(lambda: served.txt2img(**LONG, force_task_id="task(abc)")) as answer:
        wait_running(spool, "task-abc")
        shown = wait_for(
            lambda: told if (told := served.get("/sdapi/v1/progress"))["state"]["job_no"] and told["current_image"] else None,
            "the second picture's preview",
        )
        assert list(shown) == ["progress", "eta_relative", "state", "current_image", "textinfo"]
        state = shown["state"]
        within = state["sampling_step"] / state["sampling_steps"]
        assert list(state) == STATE.split() and state["job_count"] == 9 and state["sampling_steps"] == 80
        assert shown["progress"] == pytest.approx(0.01 + state["job_no"] / 9 + within / 9, abs=1e-3)
        assert opened(shown["current_image"]).width > 0 and shown["eta_relative"] > 0
        assert served.get("/sdapi/v1/progress?skip_current_image=true")["current_image"] is None
        task = served.post("/internal/progress", {"id_task": "task(abc)", "id_live_preview": -1}).json()
        assert (task["active"], task["queued"], task["completed"]) == (True, False, False) and 0 < task["progress"] < 1
        assert task["live_preview"].startswith("data:image/jpeg;base64,") and task["id_live_preview"] > 0
        assert served.post("/sdapi/v1/skip").json()["detail"] == "Cannot skip", "one of several is not left out"
        assert served.post("/sdapi/v1/interrupt").json() == {}
        told = answer.result()
    info = json.loads(told["info"])
    assert 1 <= len(told["images"]) < 9 and list(info) == INFO.split() and len(info["all_seeds"]) == 9
    assert [opened(each).info["parameters"] for each in told["images"]] == info["infotexts"]
    assert served.post("/internal/progress", {"id_task": "task(abc)"}).json()["completed"] is True
    assert wait_for(lambda: served.get("/sdapi/v1/progress")["state"]["job_count"] == 0, "it to be idle")


def test_interrupt_leaves_what_waits_alone_and_a_task_sees_its_place_in_the_queue(house: House) -> None:
    spool, served = house.spool, house.served
    with beside(lambda: served.txt2img(**LONG, force_task_id="first")) as first:
        wait_running(spool, "first")
        with beside(lambda: served.txt2img(steps=2, force_task_id="second")) as second:
            wait_for(lambda: served.get("/internal/pending-tasks") == {"size": 1, "tasks": ["second"]}, "the second to wait")
            task = served.post("/internal/progress", {"id_task": "second"}).json()
            assert task["queued"] and task["textinfo"] == "In queue: 1/1" and task["progress"] is None
            served.post("/sdapi/v1/interrupt")
            assert len(second.result()["images"]) == 1
        assert list(json.loads(first.result()["info"])) == INFO.split()
    nobody = served.post("/internal/progress", {"id_task": "nobody"}).json()
    assert (nobody["active"], nobody["queued"], nobody["completed"]) == (False, False, False)
    # A1111's clients use a task's id again: the job is another, and the task is the last of them.
    served.txt2img(steps=1, force_task_id="second")
    assert spool.find("second-2") and served.post("/internal/progress", {"id_task": "second"}).json()["completed"]


def test_s12_two_that_wait_and_twenty_that_poll_do_not_block_each_other_and_a_third_has_no_seat(
    house: House,
) -> None:
    spool = house.spool
    with web(spool, "--web-threads=4") as narrow, ThreadPoolExecutor(22) as pool:
        waiting = [pool.submit(narrow.txt2img, **LONG, force_task_id=f"wait{number}") for number in range(2)]
        wait_for(lambda: spool.find("wait0") and spool.find("wait1"), "both jobs")
        polls = [pool.submit(narrow.get, "/sdapi/v1/progress") for _ in range(20)]
        assert all(list(each.result()["state"]) == STATE.split() for each in polls)
        assert not any(each.done() for each in waiting)
        refused = narrow.post("/sdapi/v1/txt2img", SMALL)
        assert refused.status_code == 503 and refused.headers["Retry-After"] and "As many" in refused.json()["detail"]
        for number in range(2):
            spool.cancel(f"wait{number}")
        assert all(list(json.loads(each.result()["info"])) == INFO.split() for each in waiting)


def hang_up(served: Web, given: dict[str, Any]) -> socket.socket:
    """A client that sends a txt2img; close it to hang up."""
    data = json.dumps(given).encode()
    sent = socket.create_connection(("127.0.0.1", served.port), 60)
    sent.sendall(f"POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
    return sent


def test_a_job_is_cancelled_when_its_caller_hangs_up_if_so_set(house: House) -> None:
    spool, served = house.spool, house.served
    with web(spool, "--cancel-abandoned=on", "--web-threads=2") as strict:
        sent = hang_up(strict, LONG | {"force_task_id": "gone"})
        wait_running(spool, "gone")
        sent.close()
        wait_for(lambda: (place := spool.find("gone")) and place.state == "cancelled", "it to be cancelled")
        # Its seat, the only one, is free again.
        wait_for(lambda: strict.post("/sdapi/v1/txt2img", SMALL | {"steps": 1}).status_code == 200, "the seat")
    sent = hang_up(served, SMALL | {"force_task_id": "stays"})
    wait_for(lambda: spool.find("stays"), "the job")
    sent.close()
    wait_for(lambda: (place := spool.find("stays")) and place.state == "done", "it to be done all the same")


def test_p6_a_spooler_that_is_killed_and_restarted_in_mid_wait_is_waited_for(house: House) -> None:
    spool, served = house.spool, house.served
    with beside(lambda: served.txt2img(**SMALL | {"steps": 60, "n_iter": 2}, force_task_id="survives")) as answer:
        wait_running(spool, "survives")
        house.spooler.kill()
        house.start()
        told = answer.result()
    assert len(told["images"]) == 2 and json.loads(told["info"])["all_seeds"] == [5, 6]
