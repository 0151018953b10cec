/* The watchdog's wait, without the GIL: it looks from time to time whether a loop may hold something that nobody has seen
   begin, and wakes Python only then. On 64-bit Linux; elsewhere the watchdog waits in Python (otel_asyncio/observe/bell.py).

   For a thread of Python to wake up it has to get the GIL, which a busy loop lets go of for a microsecond at a time. */

#include "compiled.h"

#if defined(__linux__) && defined(__LP64__)

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define LATE 20000000 /* as in pauses.py */
#define REFRESH 32    /* as in bell.py */
#define KEPT 16       /* as in starvation.py */

/* ---- what the kernel counts ---- */

/* Processor time of a thread of this process, in nanoseconds, as in meter.py; negative: there is no such thread. */
static long long
processor_time(long thread)
{
    struct timespec used;
    clockid_t clock = (clockid_t)((~(unsigned int)thread << 3) | 6);
    return clock_gettime(clock, &used) < 0 ? -1 : (long long)used.tv_sec * 1000000000 + used.tv_nsec;
}

/* The beginning of a file as a string; 0: it cannot be read. */
static int
read_text(const char *path, char *text, size_t room)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) {
        return 0;
    }
    ssize_t size = read(file, text, room - 1);
    close(file);
    if (size <= 0) {
        return 0;
    }
    text[size] = '\0';
    return 1;
}

/* How long a thread has waited for a processor, as in runqueue.py; negative: nobody can tell. */
static long long
run_queue_time(long thread)
{
    char path[64], text[129], *rest;
    snprintf(path, sizeof(path), "/proc/self/task/%ld/schedstat", thread);
    if (!read_text(path, text, sizeof(text))) {
        return -1;
    }
    strtoull(text, &rest, 10);
    return *rest == ' ' ? (long long)strtoull(rest, NULL, 10) : -1;
}

/* How long anybody has waited for one, as in runqueue.py; negative: nobody can tell. */
static long long
anybodys_run_queue_time(void)
{
    char text[129];
    if (!read_text("/proc/pressure/cpu", text, sizeof(text))) {
        return -1;
    }
    const char *total = strstr(text, " total=");
    return total == NULL ? -1 : (long long)strtoull(total + 7, NULL, 10) * 1000;
}

/* How often the calling thread has gone to sleep. */
static long
switches(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_THREAD, &usage) < 0 ? 0 : usage.ru_nvcsw;
}

/* ---- Vigil ---- */

/* The thread of a loop, looked at without the GIL. All but the readings belongs to the watchdog's thread. */
typedef struct {
    PyObject_HEAD
    LoopCell *loop;
    long thread;                       /* the kernel's number of it */
    long long limit, drowsy;           /* from how long on something is a block; after how long idle it is left alone */
    long long pace;                    /* nanoseconds from one look without the GIL to the next */
    long long cpu, turns, used;        /* as they were at the last of these looks; what it used since the one before */
    long long looked, ran_at, noted;   /* when Python looked last, the thread last ran, a reading was made */
    long long base, based;             /* a reading of its processor time, and when it was made, or earlier */
    char ran, idle, dozes;             /* it ran since Python looked; Python saw it idle; it is left alone */
    char turned, lost;                 /* a step has begun since the last look without the GIL; the thread is gone */
    pthread_mutex_t lock;
    struct {
        long long waited, crowd, by;
    } readings[KEPT];
    long long kept; /* how many readings there have been */
} Vigil;

static void
vigil_note(Vigil *vigil)
{
    long long now, waited = run_queue_time(vigil->thread), crowd = anybodys_run_queue_time();
    if (waited < 0 || clock_read(&now) < 0) {
        return;
    }
    pthread_mutex_lock(&vigil->lock);
    vigil->readings[vigil->kept % KEPT].waited = waited;
    vigil->readings[vigil->kept % KEPT].crowd = crowd;
    vigil->readings[vigil->kept % KEPT].by = now;
    vigil->kept++;
    pthread_mutex_unlock(&vigil->lock);
    vigil->noted = now;
}

/* What takes long after this has not begun, or hardly. `now`: read before `cpu` was. */
static void
vigil_set_base(Vigil *vigil, long long cpu, long long now)
{
    pthread_mutex_lock(&vigil->lock);
    vigil->base = cpu;
    vigil->based = now;
    pthread_mutex_unlock(&vigil->lock);
}

/* Whether Python has to look. Nothing on the loop's stack is older than the last step that began: `turns` counts them. */
static int
vigil_wants_a_look(Vigil *vigil, long long now)
{
    long long cpu = processor_time(vigil->thread), turns = __atomic_load_n(&vigil->loop->turns, __ATOMIC_RELAXED);
    int ran = cpu != vigil->cpu, turned = turns != vigil->turns;
    vigil->cpu = cpu;
    vigil->turns = turns;
    if (cpu < 0 || (turned && !ran)) {
        return 1; /* another thread runs the loop now */
    }
    if (turned || !ran) {
        vigil_set_base(vigil, cpu, now);
    }
    if (ran) {
        vigil->ran = 1;
        vigil->ran_at = now;
        vigil->idle = 0;
        if (now - vigil->noted >= vigil->limit) {
            vigil_note(vigil);
        }
    }
    if (turned) {
        return vigil->dozes;
    }
    if (vigil->idle) {
        return !vigil->dozes && now - vigil->ran_at >= vigil->drowsy;
    }
    return now - vigil->looked >= vigil->limit / 3;
}

static PyObject *
vigil_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"loop", "thread", "limit", "drowsy", NULL};
    PyObject *loop;
    long thread;
    long long limit, drowsy;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O!l$LL:Vigil", names, state_of(type)->loop_type, &loop, &thread,
                                     &limit, &drowsy)) {
        return NULL;
    }
    Vigil *vigil = (Vigil *)type->tp_alloc(type, 0);
    if (vigil == NULL) {
        return NULL;
    }
    pthread_mutex_init(&vigil->lock, NULL);
    vigil->loop = (LoopCell *)Py_NewRef(loop);
    vigil->thread = thread;
    vigil->limit = limit;
    vigil->drowsy = drowsy;
    vigil->pace = limit / 6;
    return (PyObject *)vigil;
}

/* Whether the thread has run since this was asked last; true where nobody can tell. As in meter.py. */
static PyObject *
vigil_ran(PyObject *self, PyObject *unused)
{
    Vigil *vigil = (Vigil *)self;
    long long cpu = processor_time(vigil->thread);
    vigil->used = vigil->cpu > 0 && cpu > 0 ? cpu - vigil->cpu : 0;
    vigil->lost = cpu < 0;
    vigil->turned = vigil->turns != vigil->loop->turns;
    if (cpu != vigil->cpu || vigil->lost) {
        vigil->ran = 1;
        if (clock_read(&vigil->ran_at) < 0) {
            return NULL;
        }
    }
    vigil->cpu = cpu;
    PyObject *answer = PyBool_FromLong(vigil->ran);
    vigil->ran = 0;
    return answer;
}

/* As in meter.py. */
static PyObject *
vigil_begin(PyObject *self, PyObject *argument)
{
    Vigil *vigil = (Vigil *)self;
    long long now = PyLong_AsLongLong(argument);
    if (now == -1 && PyErr_Occurred()) {
        return NULL;
    }
    vigil_set_base(vigil, processor_time(vigil->thread), now);
    Py_RETURN_NONE;
}

/* As in meter.py. */
static PyObject *
vigil_used_since(PyObject *self, PyObject *argument)
{
    Vigil *vigil = (Vigil *)self;
    long long start = PyLong_AsLongLong(argument);
    if (start == -1 && PyErr_Occurred()) {
        return NULL;
    }
    pthread_mutex_lock(&vigil->lock);
    long long base = vigil->base, based = vigil->based;
    pthread_mutex_unlock(&vigil->lock);
    long long used = processor_time(vigil->thread) - base - (start > based ? start - based : 0);
    return PyLong_FromLongLong(base > 0 && used > 0 ? used : 0);
}

/* ((count, when it had been read), …), of the thread's own time in the run queue or of anybody's. */
static PyObject *
vigil_counts(Vigil *vigil, int anybodys)
{
    long long waited[KEPT], by[KEPT];
    Py_ssize_t count = 0;
    pthread_mutex_lock(&vigil->lock);
    for (long long i = 0; i < KEPT && i < vigil->kept; i++) {
        waited[count] = anybodys ? vigil->readings[i].crowd : vigil->readings[i].waited;
        by[count] = vigil->readings[i].by;
        count += waited[count] >= 0;
    }
    pthread_mutex_unlock(&vigil->lock);
    PyObject *readings = PyTuple_New(count);
    for (Py_ssize_t i = 0; readings != NULL && i < count; i++) {
        PyObject *reading = Py_BuildValue("LL", waited[i], by[i]);
        if (reading == NULL) {
            Py_CLEAR(readings);
        }
        else {
            PyTuple_SET_ITEM(readings, i, reading);
        }
    }
    return readings;
}

static PyObject *
vigil_readings(PyObject *self, PyObject *unused)
{
    return vigil_counts((Vigil *)self, 0);
}

static PyObject *
vigil_crowd(PyObject *self, PyObject *unused)
{
    return vigil_counts((Vigil *)self, 1);
}

static int
vigil_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((Vigil *)self)->loop);
    return 0;
}

/* No tp_clear: while the watchdog waits, it reads the loop's cell without the GIL. */
static void
vigil_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    pthread_mutex_destroy(&((Vigil *)self)->lock);
    Py_XDECREF(((Vigil *)self)->loop);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef vigil_methods[] = {
    {"ran", vigil_ran, METH_NOARGS, NULL},
    {"begin", vigil_begin, METH_O, NULL},
    {"used_since", vigil_used_since, METH_O, NULL},
    {"readings", vigil_readings, METH_NOARGS, NULL},
    {"crowd", vigil_crowd, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef vigil_members[] = {
    {"pace", T_LONGLONG, offsetof(Vigil, pace), 0, NULL},
    {"used", T_LONGLONG, offsetof(Vigil, used), READONLY, NULL},
    {"ran_at", T_LONGLONG, offsetof(Vigil, ran_at), READONLY, NULL},
    {"based", T_LONGLONG, offsetof(Vigil, based), READONLY, NULL},
    {"turned", T_BOOL, offsetof(Vigil, turned), READONLY, NULL},
    {"lost", T_BOOL, offsetof(Vigil, lost), READONLY, NULL},
    {"idle", T_BOOL, offsetof(Vigil, idle), 0, NULL},
    {"dozes", T_BOOL, offsetof(Vigil, dozes), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot vigil_slots[] = {
    {Py_tp_new, vigil_new},         {Py_tp_traverse, vigil_traverse}, {Py_tp_dealloc, vigil_dealloc},
    {Py_tp_methods, vigil_methods}, {Py_tp_members, vigil_members},   {0, NULL},
};

static PyType_Spec vigil_spec = {"otel_asyncio.observe._compiled.Vigil", sizeof(Vigil), 0,
                                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, vigil_slots};

/* ---- Bell ---- */

/* What the watchdog waits for; rung from any thread. */
typedef struct {
    PyObject_HEAD
    PyThread_type_lock lock; /* held, but for the time between a ring and whoever hears it */
    long long due, waited;   /* when the wait ends that goes on now; the watchdog's own time in the run queue */
    long long looks;
} Bell;

/* Wait until it is rung, `end` has come, or a vigil wants a look. Returns when the thread woke up. Without the GIL. */
static long long
bell_sleep(Bell *bell, PyObject *vigils, long long now, long long end)
{
    Py_ssize_t count = PyTuple_GET_SIZE(vigils);
    for (;;) {
        long long due = end;
        for (Py_ssize_t i = 0; i < count; i++) {
            long long next = now + ((Vigil *)PyTuple_GET_ITEM(vigils, i))->pace;
            due = next < due ? next : due;
        }
        __atomic_store_n(&bell->due, due, __ATOMIC_RELAXED);
        long long left = due > now ? (due - now + 999) / 1000 : 0;
        int look = PyThread_acquire_lock_timed(bell->lock, left, 0) == PY_LOCK_ACQUIRED;
        if (clock_read(&now) < 0) {
            return due;
        }
        look |= now >= end || now - due >= LATE;
        for (Py_ssize_t i = 0; i < count; i++) {
            look |= vigil_wants_a_look((Vigil *)PyTuple_GET_ITEM(vigils, i), now);
        }
        if (look) {
            return now;
        }
    }
}

/* ((due, woke, asked), …): for how long the thread was late, and how often it asked for the GIL meanwhile. */
static PyObject *
bell_wait(PyObject *self, PyObject *args)
{
    Bell *bell = (Bell *)self;
    PyObject *vigils;
    long long nanoseconds, now, woke, got;
    if (!PyArg_ParseTuple(args, "LO!:wait", &nanoseconds, &PyTuple_Type, &vigils)) {
        return NULL;
    }
    PyTypeObject *vigil_type = state_of(Py_TYPE(self))->vigil_type;
    if (clock_read(&now) < 0) {
        return NULL;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(vigils); i++) {
        Vigil *vigil = (Vigil *)PyTuple_GET_ITEM(vigils, i);
        if (!Py_IS_TYPE(vigil, vigil_type)) {
            PyErr_Format(PyExc_TypeError, "a vigil is wanted, not %.100s", Py_TYPE(vigil)->tp_name);
            return NULL;
        }
        vigil->looked = now;
        vigil->turns = vigil->loop->turns;
    }
    long before;
    Py_INCREF(vigils);
    Py_BEGIN_ALLOW_THREADS
    if (bell->looks++ % REFRESH == 0) {
        bell->waited = run_queue_time((long)PyThread_get_thread_native_id());
    }
    woke = bell_sleep(bell, vigils, now, now + nanoseconds);
    before = switches();
    Py_END_ALLOW_THREADS
    long asked = switches() - before;
    Py_DECREF(vigils);
    if (clock_read(&got) < 0) {
        return NULL;
    }
    return Py_BuildValue("((LLl)(LLl))", bell->due, woke, 0L, woke, got, asked);
}

/* With the GIL, so that no other thread rings meanwhile. */
static PyObject *
bell_ring(PyObject *self, PyObject *unused)
{
    Bell *bell = (Bell *)self;
    PyThread_acquire_lock(bell->lock, NOWAIT_LOCK); /* it rings already, or is held anyhow */
    PyThread_release_lock(bell->lock);
    Py_RETURN_NONE;
}

static PyObject *
bell_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    Bell *bell = (Bell *)type->tp_alloc(type, 0);
    if (bell == NULL) {
        return NULL;
    }
    if ((bell->lock = PyThread_allocate_lock()) == NULL) {
        Py_DECREF(bell);
        return PyErr_NoMemory();
    }
    PyThread_acquire_lock(bell->lock, WAIT_LOCK);
    if (clock_read(&bell->due) < 0) {
        Py_DECREF(bell);
        return NULL;
    }
    return (PyObject *)bell;
}

static void
bell_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Bell *bell = (Bell *)self;
    if (bell->lock != NULL) {
        PyThread_acquire_lock(bell->lock, NOWAIT_LOCK);
        PyThread_release_lock(bell->lock);
        PyThread_free_lock(bell->lock);
    }
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef bell_methods[] = {
    {"wait", bell_wait, METH_VARARGS, NULL},
    {"ring", bell_ring, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef bell_members[] = {
    {"due", T_LONGLONG, offsetof(Bell, due), READONLY, NULL},
    {"waited", T_LONGLONG, offsetof(Bell, waited), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot bell_slots[] = {
    {Py_tp_new, bell_new},         {Py_tp_dealloc, bell_dealloc}, {Py_tp_methods, bell_methods},
    {Py_tp_members, bell_members}, {0, NULL},
};

static PyType_Spec bell_spec = {"otel_asyncio.observe._compiled.Bell", sizeof(Bell), 0, Py_TPFLAGS_DEFAULT, bell_slots};

int
vigil_add(PyObject *module, State *state)
{
    int native = clock_is_native(state);
    if (native <= 0) {
        return native; /* on another clock than the loop's steps it would be blind */
    }
    if (add_type(module, &state->vigil_type, &vigil_spec, NULL) < 0) {
        return -1;
    }
    PyObject *bell = PyType_FromModuleAndSpec(module, &bell_spec, NULL);
    int status = bell == NULL ? -1 : PyModule_AddType(module, (PyTypeObject *)bell);
    Py_XDECREF(bell);
    return status;
}

#else

int
vigil_add(PyObject *module, State *state)
{
    return 0;
}

#endif
