# SPDX-License-Identifier: Apache-2.0
"""Threads: whatever is closed under whoever uses it, the answer is an exception of fpgahal, never a crash.

Each scenario runs in a process of its own, so that a crash would be seen as one.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from targets import EMULATED

from fpgahal import emu

sys.path.insert(0, str(Path(__file__).parent))

from processes import run

PARALLEL = """
import random
failures = []
def parallel(*jobs, seconds=1.0):
    stop = time.monotonic() + seconds
    counts = [0] * len(jobs)
    def loop(number, job):
        random.seed(number)
        try:
            while time.monotonic() < stop:
                try:
                    job(number)
                    counts[number] += 1
                except fpgahal.FpgaError as error:
                    refused.setdefault(type(error).__name__, str(error))
        except BaseException as error:
            failures.append(error)
            raise
    refused = {}
    threads = [threading.Thread(target=loop, args=pair) for pair in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread hangs"
    assert not failures, failures
    return counts, refused
"""


def in_a_process(name: str, text: str) -> None:
    with emu.rack(EMULATED[name][0]):
        run(PARALLEL + text, timeout=120)


each_binding = pytest.mark.parametrize("name", EMULATED)


@each_binding
def test_open_and_close(name: str) -> None:
    in_a_process(
        name,
        """
def shared(number):
    with first(shared=True) as dev:
        dev.afu_id
def alone(number):
    with first() as dev:
        dev.afu_id
def load(number):
    with first(shared=True) as dev:
        dev.program(picture, timeout=5)
picture = image("nlb0" if fpgahal.devices()[0].driver == "opae" else "demo")
counts, refused = parallel(*[shared] * 8)
assert all(counts) and not refused, (counts, refused)
counts, refused = parallel(*[alone] * 4, *[shared] * 4)
assert sum(counts) and set(refused) == {"DeviceBusyError"}, (counts, refused)
counts, refused = parallel(*[load] * 8)
assert sum(counts) and set(refused) <= {"DeviceBusyError"}, (counts, refused)
""",
    )


@each_binding
def test_allocate_run_and_free(name: str) -> None:
    in_a_process(
        name,
        """
dev = loaded()
k = kernel(dev)
def job(number):
    nbytes = 64 * random.randint(1, 2000)
    src, dst, amount = arguments(dev, nbytes)
    np.asarray(src)[:] = number
    src.sync_to_device()
    for _ in range(50):
        try:
            k(src, dst, amount, timeout=30)
            break
        except fpgahal.DeviceBusyError:
            time.sleep(0.001)
    else:
        return
    dst.sync_from_device()
    assert (np.asarray(dst) == number).all()
    src.close()
    dst.close()
counts, refused = parallel(*[job] * 8, seconds=2)
assert all(counts) and not refused, (counts, refused)
dev.close()
""",
    )


@each_binding
def test_buffers_closed_under_their_users(name: str) -> None:
    in_a_process(
        name,
        """
dev = loaded()
k = kernel(dev)
box = [arguments(dev, 1 << 16)]
def renew(number):
    old, box[0] = box[0], arguments(dev, 1 << 16)
    for buffer in old[:2]:
        buffer.close()
def start(number):
    k(*box[0], timeout=30)
def several(number):
    k.map([box[0]] * 5, timeout=30)
def sync(number):
    box[0][0].sync_to_device()
    box[0][1].sync_from_device()
def poll(number):
    box[0][0].poll32(0, 1, 2, timeout=0.002)
def view(number):
    np.asarray(box[0][0])[:] = 3
counts, refused = parallel(renew, renew, start, several, sync, sync, poll, view, seconds=3)
assert set(refused) <= {"ClosedError", "BufferInUseError", "DeviceBusyError", "PollTimeoutError"}, refused
assert counts[0] + counts[1] and counts[4], counts
dev.close()
""",
    )


@each_binding
def test_kernels_closed_under_their_users(name: str) -> None:
    in_a_process(
        name,
        """
dev = loaded()
args = arguments(dev, 1 << 12)
box = [kernel(dev)]
def renew(number):
    old, box[0] = box[0], kernel(dev)
    old.close()
def start(number):
    run = box[0].start(*args)
    run.wait(30)
def several(number):
    box[0].map([args] * 20, timeout=30)
def look(number):
    run = box[0].start(*args)
    while not run.done:
        run.state
counts, refused = parallel(renew, renew, start, start, several, several, look, look, seconds=3)
assert set(refused) <= {"ClosedError", "DeviceBusyError", "RunError"}, refused
dev.close()
""",
    )


@each_binding
def test_a_device_closed_under_its_users(name: str) -> None:
    in_a_process(
        name,
        """
box = [loaded()]
def renew(number):
    time.sleep(0.02)
    old, box[0] = box[0], None
    while old is not None and not old.closed:  # None: a view that came late put off the last close
        try:
            old.close()
        except (fpgahal.DeviceBusyError, fpgahal.BufferInUseError) as error:  # others are still using it
            refused.setdefault(type(error).__name__, str(error))
            time.sleep(0.001)
    box[0] = loaded()
refused = {}
def use(number):
    dev = box[0]
    if dev is None:
        time.sleep(0.001)
        return
    k, args = kernel(dev), arguments(dev, 1 << 12)
    k.map([args] * 20, timeout=30)
    k.start(*args).wait(30)
    np.asarray(args[0])[0] = 1
    args[1].sync_from_device()
def registers(number):
    dev = box[0]
    if dev is None:
        time.sleep(0.001)
    elif dev.info.driver == "opae":
        dev.csr.read64(8)
        dev.csr.poll(8, 1, 2, timeout=0.002)
    else:
        dev.afu_id
counts, refused = parallel(renew, *[use] * 5, *[registers] * 2, seconds=4)
assert counts[0] and sum(counts[1:6]), counts
assert set(refused) <= {"ClosedError", "DeviceBusyError", "BufferInUseError", "RunError", "PollTimeoutError"}, refused
""",
    )


@each_binding
def test_reset_and_close_wake_those_who_wait(name: str) -> None:
    with emu.rack(EMULATED[name][0]) as rack:
        rack.fault(0, "hang")
        run("""
for how in ("reset", "close"):
    dev = loaded()
    k = kernel(dev)
    run = k.start(*arguments(dev))
    seen = []
    def wait():
        try:
            run.wait(30)
        except fpgahal.FpgaError as error:
            seen.append(type(error).__name__)
    threads = [threading.Thread(target=wait) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    started = time.monotonic()
    getattr(dev, how)()
    for thread in threads:
        thread.join(10)
    assert time.monotonic() - started < 5, "they waited too long"
    assert len(seen) == 4 and set(seen) <= {"RunError", "ClosedError"}, seen
    dev.close()
""")


@each_binding
def test_a_device_closed_while_a_failed_batch_settles(name: str) -> None:
    """Runs that time out are waited for a little longer; each goes back once, whatever happens meanwhile."""
    with emu.rack(EMULATED[name][0]) as rack:
        rack.fault(0, "hang")
        run("""
dev = loaded()
k, args = kernel(dev), arguments(dev)
seen = []
def several():
    try:
        k.map([args] * 4, timeout=0.2)
    except fpgahal.FpgaError as error:
        seen.append(type(error).__name__)
thread = threading.Thread(target=several)
thread.start()
time.sleep(0.6)
dev._session.close()
thread.join(20)
assert seen == ["RunTimeoutError"], seen
k.close()
""")


@each_binding
def test_one_run_watched_by_many(name: str) -> None:
    in_a_process(
        name,
        """
dev = loaded()
k, args = kernel(dev), arguments(dev, 1 << 16)
for _ in range(300):
    run = k.start(*args)
    def watch():
        try:
            assert run.wait(30) is fpgahal.RunState.COMPLETED and run.done
        except BaseException as error:
            failures.append(error)
    threads = [threading.Thread(target=watch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
assert not failures, failures
dev.close()
""",
    )


@each_binding
def test_a_view_taken_while_the_device_closes(name: str) -> None:
    """Its memory stays as long as it does: Device.close looks for views, but one may come after that look."""
    in_a_process(
        name,
        """
for _ in range(20):
    dev = loaded()
    buffer = dev.allocate(1 << 20)
    view = np.asarray(buffer)
    dev._session.close()
    assert dev.closed
    view[:] = 5
    assert (view == 5).all()
    try:
        memoryview(buffer)
    except fpgahal.ClosedError:
        pass
    else:
        raise SystemExit("another view of a closed device")
    del view, buffer
""",
    )
