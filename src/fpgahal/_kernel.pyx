# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, binding=False, embedsignature=True
"""Kernel and Run: call an accelerator, watch one invocation of it."""
cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.list cimport PyList_GET_SIZE
from libc.stdlib cimport free, malloc, realloc

from fpgahal._session cimport RUN_ABORTED, RUN_COMPLETED, RUN_RUNNING, KernelSession, arg
from fpgahal._signature cimport MAX_ARGS, Signature
from fpgahal._wait cimport seconds_now

from fpgahal._csr import KernelCsr
from fpgahal._errors import (
    ArgumentError, ArgumentRangeError, ClosedError, DeviceBusyError, FpgaError, UnsupportedError,
)
from fpgahal._outcome import outcome
from fpgahal._types import RunState

cdef double SLICE = 0.05   # seconds between two looks for Ctrl-C
cdef int IN_FLIGHT = 16    # runs that map() keeps going where the driver sets no limit
cdef int CHUNK = 1024      # batches that map() converts at a time
cdef set abandoned = set()  # kernels with a run in flight whose Run object is gone

cdef object COMPLETED = RunState.COMPLETED
cdef tuple STATES = (RunState.RUNNING, COMPLETED, RunState.ERROR, RunState.ABORTED)


@cython.no_gc_clear  # __dealloc__ closes its session, also when the collector breaks a cycle
cdef class Kernel:
    """A function of the loaded image.  ``kernel(*args)`` runs it and waits; ``kernel.start(*args)`` does not wait.

    Made by :meth:`Device.kernel`.

    Attributes
    ----------
    info : KernelInfo
        Name, arguments, compute units.
    name : str
    closed : bool
    """
    cdef object __weakref__
    cdef KernelSession session
    cdef readonly object info
    cdef readonly bint closed
    cdef int n                   # of arguments
    cdef Signature signature
    cdef void **idle             # runs that may be started again
    cdef int idles, room
    cdef Py_ssize_t in_flight
    cdef void *first             # Runs in flight, linked (borrowed references: a Run unlinks itself)
    cdef list orphans            # runs whose Run object is gone, but which are not finished

    def __cinit__(self, KernelSession session not None):
        self.session, self.info = session, session.info
        self.orphans = []
        self.n = len(self.info.args)
        self.signature = Signature(session)

    @property
    def name(self):
        return self.info.name

    @property
    def turn(self):
        """What a thread holds from start to end of a run if others use the accelerator, too (context manager): a lock
        where it takes one run at a time, else something that never waits."""
        return self.session.turn

    @property
    def csr(self):
        """Registers of its compute unit (KernelCsr); the kernel must be opened with ``exclusive=True`` (XRT)."""
        if not self.session.csr_bytes:
            raise UnsupportedError(f"Kernel {self.name} was opened shared: its registers belong to the scheduler.",
                                   hint="dev.kernel(name, exclusive=True) gives them to you (XRT); "
                                        "on OPAE boards use dev.csr.")
        return KernelCsr(self.session, self)

    @property
    def _running(self):
        self.sweep()
        return self.in_flight

    def __repr__(self):
        args = ", ".join(f"{a.type or a.kind.value} {a.name}" for a in self.info.args)
        return f"<fpgahal.Kernel {self.name}({args}) on {self.session.session.info.address}>"

    # --- one run ------------------------------------------------------------------------------------------------
    def start(self, *args):
        """Start one run; returns at once.

        Parameters
        ----------
        *args
            One value for each of ``info.args``, in order: a Buffer of this device for a buffer, an int (or what
            has ``__index__``) or a float for a scalar, None for a stream.

        Returns
        -------
        Run

        Raises
        ------
        ArgumentError
            Wrong number or type (also a TypeError).
        ArgumentRangeError
            A value that does not fit its type, or a buffer in a bank that the argument is not connected to (also
            a ValueError).
        DeviceBusyError
            The accelerator runs one job at a time, and one is running.
        """
        return self.begin(args)

    def __call__(self, *args, timeout=None):
        """Run it and wait for the end; the same as ``start(*args).wait(timeout)``, but returns the Run."""
        cdef Run run = self.begin(args)
        run.join(timeout)
        return run

    cdef Run begin(self, tuple args):
        cdef arg values[MAX_ARGS]
        cdef Run run
        if self.closed:
            self.refuse()
        self.signature.convert(args, values)
        run = Run.__new__(Run)
        run.kernel = self
        run.handle = self.take()
        self.session.run_start(run.handle, values, self.n)  # if it fails, the Run gives its handle back unused
        run.args = args
        self.signature.hold(args)
        run.link()
        return run

    # --- many runs ----------------------------------------------------------------------------------------------
    def map(self, batches, *, timeout=None):
        """Run it once for each tuple of arguments in `batches`, several at a time, without the GIL.

        Parameters
        ----------
        batches : iterable of tuple
            Arguments as for :meth:`start`.
        timeout : float, optional
            Seconds that one run may take.

        Returns
        -------
        int
            How many were run.

        Raises
        ------
        RunError, RunTimeoutError
            A run failed; the message says which.  Those started before it have ended, later ones were not started.
        ArgumentError, ArgumentRangeError
            As for :meth:`start`.  Nothing of that chunk (1,024 batches) was started.
        """
        cdef Py_ssize_t done = 0
        cdef double limit = -1.0 if timeout is None else float(timeout)
        cdef list chunk
        if isinstance(batches, (list, tuple)) and len(batches) <= CHUNK:
            self.batch(batches, 0, limit)
            return len(batches)
        chunk = []
        for item in batches:
            chunk.append(item)
            if len(chunk) == CHUNK:
                self.batch(chunk, done, limit)
                done += CHUNK
                chunk = []
        self.batch(chunk, done, limit)
        return done + len(chunk)

    cdef int batch(self, items, Py_ssize_t first, double limit) except -1:
        cdef Py_ssize_t count = len(items), i, started = 0, finished = 0
        cdef int depth = self.session.max_in_flight or IN_FLIGHT, at
        cdef arg *values
        cdef void *runs[64]
        cdef int opened = 0
        cdef int state = RUN_COMPLETED
        cdef double now
        if self.closed:
            self.refuse()
        if count == 0:
            return 0
        depth = <int>min(depth, count, 64)
        items = [item if type(item) is tuple else tuple(item) for item in items]
        values = <arg *>malloc(count * max(self.n, 1) * sizeof(arg))
        if values == NULL:
            raise MemoryError()
        try:
            for i in range(count):
                try:
                    self.signature.convert(items[i], values + i * self.n)
                except (ArgumentError, ArgumentRangeError) as error:
                    error.message = f"Batch {first + i}: {error.message}"
                    raise
            while opened < depth:
                runs[opened] = self.take()
                opened += 1
            self.in_flight += 1
            try:
                for item in items:
                    self.signature.hold(item)
                try:
                    with nogil:
                        while finished < count:
                            while started < count and started - finished < depth:
                                self.session.run_start(runs[started % depth], values + started * self.n, self.n)
                                started += 1
                            state = self.session.run_poll(runs[finished % depth])
                            if state == RUN_RUNNING:
                                now = seconds_now()
                                while True:
                                    state = self.session.run_wait(runs[finished % depth], SLICE)
                                    if state != RUN_RUNNING or 0 <= limit < seconds_now() - now:
                                        break
                                    with gil:
                                        PyErr_CheckSignals()
                            if state != RUN_COMPLETED:
                                break
                            finished += 1
                except BaseException:
                    opened = 0
                    self.settle(runs, depth, finished, started, items, 0.05)  # perhaps Ctrl-C: be quick
                    raise
                if state != RUN_COMPLETED:
                    what = f"batch {first + finished} of {self.name}"
                    error = self.session.failure(runs[finished % depth])
                    if error is None:
                        error = outcome(self.session.session, what, STATES[state], limit)
                    else:
                        error.message = f"{what}: {error.message}"
                    opened = 0
                    self.settle(runs, depth, finished, started, items, 1.0)
                    raise error
            finally:
                self.in_flight -= 1
                for item in items:
                    self.signature.release(item)
        finally:
            for at in range(opened):
                self.give(runs[at])
            free(values)
        return 0

    cdef int settle(self, void **runs, int depth, Py_ssize_t finished, Py_ssize_t started, items,
                    double patience) except -1:
        """After an error: give back what has ended, keep the rest (and its buffers) until it ends."""
        cdef int at, state
        cdef double end = seconds_now() + patience
        busy = {i % depth: items[i] for i in range(finished, started)}
        for at in range(depth):
            state = RUN_ABORTED
            if at in busy and not self.session.session.closed:
                try:
                    with nogil:
                        state = self.session.run_wait(runs[at], max(0.0, end - seconds_now()))
                except FpgaError:  # the device is closed or gone meanwhile, and the run with it
                    pass
            if state == RUN_RUNNING:
                self.signature.hold(busy[at])
                self.adopt(runs[at], busy[at])
            else:
                self.give(runs[at])
        return 0

    cdef int adopt(self, void *handle, tuple args) except -1:
        """Keep a run that nobody will wait for: the hardware still uses its buffers."""
        cdef Run run = Run.__new__(Run)
        run.kernel, run.handle, run.args = self, handle, args
        run.link()
        self.orphans.append(run)
        abandoned.add(self)
        return self.look_at([run])

    # --- runs that can be used again ----------------------------------------------------------------------------
    cdef void *take(self) except NULL:
        if PyList_GET_SIZE(self.orphans):
            self.sweep()
        if self.idles:
            self.idles -= 1
            return self.idle[self.idles]
        return self.session.run_open()

    cdef int give(self, void *handle) except -1:
        cdef void **more
        if self.closed:
            self.session.run_close(handle)
            return 0
        if self.idles == self.room:
            more = <void **>realloc(self.idle, (self.room + 16) * sizeof(void *))
            if more == NULL:
                self.session.run_close(handle)
                return 0
            self.idle, self.room = more, self.room + 16
        self.idle[self.idles] = handle
        self.idles += 1
        return 0

    cdef int sweep(self) except -1:
        """Look at every run in flight, so that those that have ended give everything back."""
        cdef void *at = self.first
        cdef list runs = []  # a look may let other threads in, and they may unlink some
        while at != NULL:
            runs.append(<Run>at)
            at = (<Run>at).next
        return self.look_at(runs)

    cdef int look_at(self, list runs) except -1:
        for run in runs:
            if (<Run>run).look() != RUN_RUNNING and run in self.orphans:
                self.orphans.remove(run)
        if not self.orphans:
            abandoned.discard(self)
        return 0

    def close(self):
        """Give the compute units back.  Closing twice is fine.

        Raises
        ------
        DeviceBusyError
            A run is in flight: the hardware may still write its buffers.
        """
        if self.closed:
            return
        self.sweep()
        if self.in_flight and not self.session.session.closed:
            raise DeviceBusyError(f"{self.name} on {self.session.session.info.address} has {self.in_flight} "
                                  f"run{'s' if self.in_flight > 1 else ''} in flight.",
                                  hint="Wait for them, or stop them with dev.reset().")
        self.closed = True
        while self.idles:
            self.idles -= 1
            self.session.run_close(self.idle[self.idles])
        self.session.close()

    def __enter__(self):
        if self.closed:
            self.refuse()
        return self

    def __exit__(self, type, value, traceback):
        if type is None or not self.in_flight:
            self.close()

    def __dealloc__(self):
        # Runs keep their kernel alive, so none is in flight here.
        if self.session is not None and not self.closed:
            while self.idles:
                self.idles -= 1
                self.session.run_close(self.idle[self.idles])
            self.session.close()
        free(self.idle)

    cdef int refuse(self) except -1:
        self.session.session.check()
        raise ClosedError(f"Kernel {self.name} is closed.", hint="Open it again: dev.kernel(name).")


@cython.freelist(64)
@cython.no_gc_clear  # __dealloc__ needs its kernel
cdef class Run:
    """One invocation of a kernel.  Keeps its buffers alive until it has ended.

    Awaitable: ``await run`` is ``run.wait()`` without blocking the event loop.
    """
    cdef object __weakref__
    cdef readonly Kernel kernel
    cdef void *handle
    cdef tuple args              # None until it has started
    cdef int last
    cdef object error            # why it ended badly, if the driver knows
    cdef void *prev
    cdef void *next

    def __init__(self):
        raise TypeError("Runs are made by Kernel.start().")

    def __repr__(self):
        return f"<fpgahal.Run of {self.kernel.name} {self.state.value}>"

    @property
    def state(self):
        """RunState: where it stands now."""
        return STATES[self.look()]

    @property
    def done(self):
        """bool: whether it has ended, well or not."""
        return self.look() != RUN_RUNNING

    def wait(self, timeout=None):
        """Wait for the end.

        Parameters
        ----------
        timeout : float, optional
            Seconds; None waits until Ctrl-C.

        Returns
        -------
        RunState
            COMPLETED.

        Raises
        ------
        RunTimeoutError
            It did not end in time; it is still pending.
        RunError
            It ended in an error state, or was aborted.
        """
        self.join(timeout)
        return COMPLETED

    cdef int join(self, timeout) except -1:
        """Wait until it has completed; anything else is an exception."""
        cdef int state = self.look()
        if state == RUN_RUNNING:
            state = self.wait_longer(-1.0 if timeout is None else float(timeout))
        if state != RUN_COMPLETED:
            raise self.error or outcome(self.kernel.session.session, self.kernel.name, STATES[state],
                                        -1.0 if timeout is None else timeout)
        return 0

    cdef int look(self) except -1:
        """The state; the first look after the end gives everything back."""
        cdef int state
        if self.handle == NULL:
            return self.last
        if self.kernel.session.session.closed:
            state = RUN_ABORTED
        else:
            state = self.kernel.session.run_poll(self.handle)
        if state != RUN_RUNNING and self.handle != NULL:  # else another thread was faster
            self.finish(state)
        return state

    cdef int wait_longer(self, double limit) except -1:
        cdef double start = seconds_now(), left = SLICE
        cdef void *handle
        cdef int state
        self.kernel.in_flight += 1  # two threads may wait for one run: the handle must outlast both
        try:
            while self.handle != NULL:
                if limit >= 0:
                    left = min(SLICE, start + limit - seconds_now())
                    if left <= 0:
                        return RUN_RUNNING
                handle = self.handle  # another thread may take it away as soon as the GIL is free
                with nogil:
                    state = self.kernel.session.run_wait(handle, left)
                if state != RUN_RUNNING:
                    break
                PyErr_CheckSignals()
        finally:
            self.kernel.in_flight -= 1
        return self.look()

    cdef void link(self) noexcept:
        self.prev, self.next = NULL, self.kernel.first
        if self.next != NULL:
            (<Run>self.next).prev = <void *>self
        self.kernel.first = <void *>self
        self.kernel.in_flight += 1

    cdef void unlink(self) noexcept:
        if self.prev != NULL:
            (<Run>self.prev).next = self.next
        else:
            self.kernel.first = self.next
        if self.next != NULL:
            (<Run>self.next).prev = self.prev
        self.kernel.in_flight -= 1

    cdef int finish(self, int state) except -1:
        cdef void *handle = self.handle
        error = None if state == RUN_COMPLETED else self.kernel.session.failure(handle)
        if self.handle == NULL:
            return 0
        self.last, self.error = state, error
        self.handle = NULL
        self.unlink()
        self.kernel.signature.release(self.args)
        self.args = ()
        self.kernel.give(handle)
        return 0

    def __await__(self):
        return self._finished().__await__()

    async def _finished(self):
        """The same as ``await run``: waits on a thread, 50 ms at a time, so that cancelling takes effect soon."""
        from asyncio import get_running_loop  # 20 ms that only those who await need to pay

        loop = get_running_loop()
        while self.look() == RUN_RUNNING:
            await loop.run_in_executor(None, self._wait_slice)
        return self.wait(0)

    def _wait_slice(self):
        self.wait_longer(SLICE)

    def __dealloc__(self):
        if self.handle == NULL or self.kernel is None:
            return
        try:
            if self.args is None:  # it was never started
                self.kernel.give(self.handle)
            else:
                self.unlink()  # first: nobody may find it any more
                self.kernel.adopt(self.handle, self.args)
        except Exception:
            pass  # a destructor has nobody to tell
