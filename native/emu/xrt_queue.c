/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xrt_queue.c: runs in flight on a device: one worker thread that takes them in order, and the runs that
 * an injected fault made hang.  Each run here has a reference, so that closing its handle is safe.
 */
#define _GNU_SOURCE 1
#include "xrt_private.h"

#include <errno.h>
#include <signal.h>
#include <time.h>

#define STOP_NS 5000000000ull

int xrt_queue_init(struct xrt_device *d)
{
    pthread_condattr_t attr;
    TAILQ_INIT(&d->queue.waiting);
    TAILQ_INIT(&d->queue.hung);
    pthread_mutex_init(&d->queue.lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&d->queue.changed, &attr);
    pthread_condattr_destroy(&attr);
    return 0;
}

static void *work(void *argument)
{
    struct xrt_device *d = argument;
    pthread_mutex_lock(&d->queue.lock);
    for (;;) {
        struct xrt_run *r = TAILQ_FIRST(&d->queue.waiting);
        if (!r) {
            if (d->queue.stop)
                break;
            pthread_cond_wait(&d->queue.changed, &d->queue.lock);
            continue;
        }
        TAILQ_REMOVE(&d->queue.waiting, r, link);
        r->place = XRT_EXECUTING;
        d->queue.current = r;
        pthread_mutex_unlock(&d->queue.lock);
        xrt_run_execute(r, false);
        pthread_mutex_lock(&d->queue.lock);
        d->queue.current = NULL;
        pthread_cond_broadcast(&d->queue.changed);
        pthread_mutex_unlock(&d->queue.lock);
        xrt_leave(r); /* perhaps the last reference */
        pthread_mutex_lock(&d->queue.lock);
    }
    pthread_mutex_unlock(&d->queue.lock);
    xrt_leave(d);
    return NULL;
}

/* Signals stay with the program's own threads: Python wants them in its main thread. */
static int start_worker(struct xrt_device *d)
{
    sigset_t all, before;
    sigfillset(&all);
    xrt_retain(&d->object);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&d->queue.thread, NULL, work, d);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc == 0) {
        pthread_setname_np(d->queue.thread, "emu-xrt");
        d->queue.threaded = true;
    } else {
        xrt_leave(d);
    }
    return rc;
}

int xrt_queue_push(struct xrt_run *r)
{
    struct xrt_device *d = r->object.device;
    pthread_mutex_lock(&d->queue.lock);
    int rc = d->queue.stop ? ENODEV : d->queue.threaded ? 0 : start_worker(d);
    if (rc == 0) {
        xrt_retain(&r->object);
        /* The run before may still be on its way out of the worker: same run, started again by a callback. */
        r->place = XRT_WAITING;
        TAILQ_INSERT_TAIL(&d->queue.waiting, r, link);
        pthread_cond_broadcast(&d->queue.changed);
    }
    pthread_mutex_unlock(&d->queue.lock);
    return rc;
}

void xrt_queue_hang(struct xrt_run *r)
{
    struct xrt_device *d = r->object.device;
    pthread_mutex_lock(&d->queue.lock);
    bool stop = d->queue.stop || atomic_load(&r->orphan);
    if (!stop) {
        xrt_retain(&r->object);
        r->place = XRT_HUNG;
        TAILQ_INSERT_TAIL(&d->queue.hung, r, link);
    }
    pthread_mutex_unlock(&d->queue.lock);
    if (stop)
        xrt_run_finish(r, ERT_CMD_STATE_ABORT);
}

void xrt_queue_cancel(struct xrt_run *r)
{
    struct xrt_device *d = r->object.device;
    bool mine = false;
    pthread_mutex_lock(&d->queue.lock);
    atomic_store(&r->cancel, 1);
    if (r->place == XRT_WAITING || r->place == XRT_HUNG) {
        TAILQ_REMOVE(r->place == XRT_HUNG ? &d->queue.hung : &d->queue.waiting, r, link);
        r->place = XRT_NOWHERE;
        mine = true;
    }
    pthread_mutex_unlock(&d->queue.lock);
    if (mine) {
        xrt_run_finish(r, ERT_CMD_STATE_ABORT);
        xrt_leave(r);
    }
}

void xrt_queue_forget(struct xrt_run *r)
{
    pthread_mutex_lock(&r->object.device->queue.lock);
    atomic_store(&r->orphan, true);
    pthread_mutex_unlock(&r->object.device->queue.lock);
    xrt_queue_cancel(r);
}

static void abort_all(struct xrt_runs *runs)
{
    struct xrt_run *r;
    while ((r = TAILQ_FIRST(runs))) {
        TAILQ_REMOVE(runs, r, link);
        xrt_run_finish(r, ERT_CMD_STATE_ABORT);
        xrt_leave(r);
    }
}

int xrt_queue_abort(struct xrt_device *d)
{
    struct xrt_runs runs = TAILQ_HEAD_INITIALIZER(runs);
    struct xrt_run *r;
    int rc = 0;
    pthread_mutex_lock(&d->queue.lock);
    TAILQ_CONCAT(&runs, &d->queue.waiting, link);
    TAILQ_CONCAT(&runs, &d->queue.hung, link);
    TAILQ_FOREACH(r, &runs, link)
        r->place = XRT_NOWHERE;
    r = d->queue.current;
    if (r && !pthread_equal(d->queue.thread, pthread_self())) { /* else: asked by its own callback */
        uint64_t end = emu_now_ns() + STOP_NS;
        struct timespec until = { (time_t)(end / 1000000000u), (long)(end % 1000000000u) };
        atomic_store(&r->cancel, 1);
        while (rc == 0 && d->queue.current == r)
            rc = pthread_cond_timedwait(&d->queue.changed, &d->queue.lock, &until);
    }
    pthread_mutex_unlock(&d->queue.lock);
    abort_all(&runs);
    return rc;
}

void xrt_queue_close(struct xrt_device *d)
{
    pthread_mutex_lock(&d->queue.lock);
    atomic_store(&d->closed, true);
    d->queue.stop = true;
    bool threaded = d->queue.threaded;
    pthread_t thread = d->queue.thread;
    pthread_cond_broadcast(&d->queue.changed);
    pthread_mutex_unlock(&d->queue.lock);
    xrt_queue_abort(d);
    if (threaded && pthread_equal(thread, pthread_self()))
        pthread_detach(thread); /* closed by a callback: the worker ends after it */
    else if (threaded)
        pthread_join(thread, NULL);
}
