# SPDX-License-Identifier: Apache-2.0
"""Nothing is left behind: memory, file descriptors, locks; whatever was forgotten, and at the interpreter's end."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest
from targets import EMULATED, Target

import fpgahal
from fpgahal import emu

sys.path.insert(0, str(Path(__file__).parent))

from processes import Script, run

METERS = """
import gc
def rss():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4  # KiB
def fds():
    return len(os.listdir("/proc/self/fd"))
"""


def measured(text: str) -> None:
    """Run a script that calls `cycle` often, and see that it grows neither memory nor file descriptors."""
    run(METERS + text)


CYCLES = """
info = fpgahal.devices()[0]
picture = Bitstream.parse(image("nlb0" if info.driver == "opae" else "demo"))
def cycle():
    with fpgahal.open(info) as dev:
        dev.program(picture)
        src, dst = dev.allocate(4096), dev.allocate(4096)
        k = kernel(dev)
        k.start(src, dst, 64 if info.driver == "opae" else 4096).wait(30)
        src.close()
for _ in range(1000):
    cycle()
memory, files = rss(), fds()
for _ in range(9000):
    cycle()
grown = rss() - memory
assert grown < 4096, f"{grown} KiB more after 9,000 cycles"
assert fds() == files, (files, fds())
"""


@pytest.mark.parametrize("name", EMULATED)
def test_ten_thousand_cycles(name: str) -> None:
    with emu.rack(EMULATED[name][0]):
        measured(CYCLES)


DROPPED = """
dev = loaded()
def many(do, n=1000):
    for _ in range(200):
        do()
    memory, files = rss(), fds()
    for _ in range(n):
        do()
    grown = rss() - memory
    assert grown < 4096, f"{do.__name__}: {grown} KiB more"
    assert fds() == files, (do.__name__, files, fds())

def buffers():
    dev.allocate(1 << 20)
def touched_buffers():
    np.asarray(dev.allocate(1 << 20))[:] = 1
def cyclic_buffers():
    class Ring: pass
    ring = Ring()
    ring.self, ring.buffer, ring.view = ring, dev.allocate(64 << 10), None
    ring.view = np.asarray(ring.buffer)
def kernels():
    kernel(dev)
def runs():
    kernel(dev).start(*arguments(dev))
def cyclic_runs():
    class Ring: pass
    ring = Ring()
    ring.self, ring.run = ring, kernel(dev).start(*arguments(dev, 64))
def raising():
    try:
        kernel(dev).start(1)
    except TypeError:
        pass

for do in (buffers, touched_buffers, cyclic_buffers, kernels, runs, cyclic_runs, raising):
    many(do)
dev.close()

def devices():
    loaded()
def cyclic_devices():
    class Ring: pass
    ring = Ring()
    ring.self, ring.dev = ring, loaded()
    ring.buffer = ring.dev.allocate(64)
    del ring
    gc.collect()  # an exclusive device is free when it is collected
many(devices, 300)
many(cyclic_devices, 100)
with first():
    pass
"""


@pytest.mark.parametrize("name", EMULATED)
def test_what_is_dropped_is_freed(name: str) -> None:
    with emu.rack(EMULATED[name][0]):
        measured(DROPPED)


def test_a_dropped_run_in_flight_is_freed_with_its_device(target: Target) -> None:
    target.need_rack().fault(target.info, "hang")
    measured("""
files = fds()
for _ in range(50):
    dev = loaded()
    kernel(dev).start(*arguments(dev))
    dev.close()
gc.collect()
assert fds() - files < 10, (files, fds())
""")


BACKGROUND = """
def background(job):
    threading.Thread(target=job, daemon=True).start()
    time.sleep(0.2)
"""

EXITS = {
    "everything open": "",
    "a run in flight": "run = k.start(*args)",
    "views": "view = np.asarray(args[0]); part = view[5:]; mem = memoryview(args[1])",
    "in a cycle": "class Ring: pass\nring = Ring(); ring.all = (ring, dev, k, args, np.asarray(args[0]))",
    "an exception with frames": "try:\n    k.start()\nexcept TypeError as caught:\n    kept = caught",
    "an unhandled exit": "sys.exit(0)",
    "a thread that waits": "background(lambda: k.start(*args).wait())",
    "a thread that maps": "background(lambda: k.map([args] * 10**6))",
    "a thread that polls": "background(lambda: args[1].poll32(0, 1, 2))",
    "programming": "args = view = None; dev.close(); dev = first()\n"
    "background(lambda: dev.program(image('nlb3' if dev.info.driver == 'opae' else 'vadd'), timeout=None))",
    "the rack closed first": "import fpgahal.emu; emu.rack(dir=os.environ['FPGAHAL_EMU_RACK']).__enter__().close()",
    "a module global": "sys.modules['builtins'].kept = (dev, k, args, np.asarray(args[0]))",
}


@pytest.mark.parametrize("how", EXITS)
@pytest.mark.parametrize("name", EMULATED)
def test_the_interpreter_ends_quietly(name: str, how: str) -> None:
    with emu.rack(EMULATED[name][0], program_ms=1000 if how == "programming" else None) as rack:
        if "in flight" in how or "waits" in how:
            rack.fault(0, "hang")
        with Script(f"{BACKGROUND}\ndev = loaded()\nk, args = kernel(dev), arguments(dev)\n{EXITS[how]}\n") as script:
            out, err, code = script.finish(60)
        assert (code, out) == (0, ""), err
        # A daemon thread may be told, and say, that its device was closed under it.
        assert err == "" or ("a thread" in how and err.startswith("Exception in thread")), err
        if how == "programming":
            return
        rack.clear()
        with fpgahal.open(rack.devices()[0]) as dev:
            assert dev.afu_id is not None


def test_ten_thousand_errors(target: Target, dev: fpgahal.Device) -> None:
    """Exceptions hold no device: keeping them keeps nothing."""
    kept = []
    kernel = dev.kernel(target.kernel)
    for _ in range(1000):
        with pytest.raises(fpgahal.ArgumentError) as caught:
            kernel.start(1)
        kept.append(caught.value.with_traceback(None))
    dev.close()
    assert len(kept) == 1000


@pytest.mark.parametrize("cls", [getattr(fpgahal, name) for name in fpgahal._errors.__all__])
def test_exceptions_travel(cls: type[fpgahal.FpgaError]) -> None:
    error = cls("what happened", hint="what to do", code=5)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is cls
    assert (copy.message, copy.hint, copy.code) == ("what happened", "what to do", 5)
    assert str(copy) == "what happened\n  what to do"
    assert isinstance(copy, fpgahal.FpgaError)
