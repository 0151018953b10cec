/* Thousands of cancellations by one line in one step: the twin of bursts.py, and the `cancel` that joins them. */

#include "compiled.h"

/* shard.<table>[key] += 1 */
int
count_one(State *state, ShardCell *shard, PyObject *table, PyObject *key)
{
    int status = -1;
    PyObject *counts = PyObject_GetAttr((PyObject *)shard, table), *sum = NULL;
    if (counts != NULL && PyDict_Check(counts)) {
        PyObject *before = PyDict_GetItemWithError(counts, key);
        if (before != NULL) {
            sum = PyNumber_Add(before, state->one);
        }
        else if (!PyErr_Occurred()) {
            sum = Py_NewRef(state->one);
        }
        status = sum == NULL ? -1 : PyDict_SetItem(counts, key, sum);
    }
    else if (counts != NULL) {
        PyErr_SetString(PyExc_TypeError, "what a shard counts by a key is a dict");
    }
    Py_XDECREF(sum);
    Py_XDECREF(counts);
    return status;
}

/* ---- one more joins ---- */

/* Whether who asks has made the task, as far as that matters: the twin of bursts._made. Negative on error. */
static int
is_made_by(BurstCell *burst, PyObject *record, int timed)
{
    if (is_none(burst->by) || !timed) {
        return 1;
    }
    PyObject *maker = ((TimedCell *)burst->by)->id, *creator = ((TimedCell *)record)->creator;
    return maker == creator || (maker != NULL && creator != NULL && PyObject_RichCompareBool(maker, creator, Py_EQ));
}

/* Whether the task that asks is still in the step in which it asked for the first, and is not dealing with an exception. */
static int
is_in_the_same_step(State *state, BurstCell *burst)
{
    if (is_none(burst->by)) {
        return 1;
    }
    PyObject *handled = PyErr_GetHandledException();
    int none = is_none(handled);
    Py_XDECREF(handled);
    return none && PyObject_TypeCheck(burst->by, state->timed_type) && ((TimedCell *)burst->by)->step_started == burst->started;
}

/* Whether the line that asks is the one that asked for the first. */
static int
is_the_same_line(BurstCell *burst)
{
    PyFrameObject *frame = PyEval_GetFrame();
    if (frame == NULL || PyFrame_GetLasti(frame) != burst->instruction) {
        return 0;
    }
    PyCodeObject *code = PyFrame_GetCode(frame);
    Py_DECREF(code); /* the frame holds it */
    return (PyObject *)code == burst->code;
}

/* Whether the task waits for what announces it at once, and calls nobody: a request that goes on to others is Python's.
   Negative on error. */
static int
is_alone(State *state, PyObject *task)
{
    PyObject *waiter = state->done == NULL ? NULL : PyObject_GetAttr(task, state->s_fut_waiter);
    if (waiter == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    int alone = waiter == Py_None || Py_IS_TYPE(waiter, PyDescr_TYPE(state->done));
    Py_DECREF(waiter);
    return alone;
}

static int
read_clock(State *state, BurstCell *burst, long long *now)
{
    Clock clock = {burst->now, NULL};
    return clock_find(state, burst->now, &clock.read) < 0 ? -1 : clock_now(&clock, now);
}

/* Whether one more task is asked as the first was: the twin of Burst.take. Negative on error. */
static int
is_alike(State *state, BurstCell *burst, LoopCell *cell, PyObject *record, PyObject *task, long long *now)
{
    int timed = is_timed(state, record);
    if ((cell->running != burst->by && !(is_none(cell->running) && is_none(burst->by))) || !is_none(cell->cancelling) ||
        PyThread_get_thread_ident() != burst->thread || !is_the_same_line(burst) || !is_in_the_same_step(state, burst)) {
        return 0;
    }
    if (timed ? !is_none(((TimedCell *)record)->cancellation) || ((TimedCell *)record)->cell.step != burst->plain ||
                    ((TimedCell *)record)->step_started != 0
              : record != cell->unrecorded) {
        return 0;
    }
    int alike = is_made_by(burst, record, timed);
    if (alike >= 0) {
        alike = alike == burst->made_by_it;
    }
    if (alike > 0) {
        alike = is_answer(PyObject_GetAttr(burst->guard, state->s_failed), Py_False);
    }
    if (alike > 0) {
        int done = task_is_done(state, task);
        alike = done < 0 ? -1 : !done;
    }
    if (alike > 0) {
        alike = is_alone(state, task);
    }
    if (alike > 0) {
        alike = read_clock(state, burst, now) < 0 ? -1 : *now < burst->until;
    }
    return alike;
}

/* New: what stands for the record of those that have none. */
static PyObject *
stand_in(State *state, BurstCell *burst, LoopCell *cell)
{
    PyObject *counted = cell->counted;
    if (counted != NULL && PyObject_TypeCheck(counted, state->counted_type) &&
        ((CountedCell *)counted)->cancellation == (PyObject *)burst) {
        return Py_NewRef(counted);
    }
    return PyObject_CallMethodOneArg((PyObject *)burst, state->s_stand_in, (PyObject *)cell);
}

/* shutdown.left.add(id(task)) */
static int
count_left(State *state, LoopCell *cell, PyObject *task)
{
    if (is_none(cell->shutdown) || !PyObject_TypeCheck(cell->shutdown, state->shutdown_type)) {
        return 0;
    }
    ShutdownCell *shutdown = (ShutdownCell *)cell->shutdown;
    PyObject *id = PyLong_FromVoidPtr(task);
    int status = id == NULL ? -1 : PySet_Add(shutdown->left, id);
    Py_XDECREF(id);
    shutdown->cancelled += status == 0;
    return status;
}

static int
take(State *state, BurstCell *burst, LoopCell *cell, PyObject *record, PyObject *task, long long now)
{
    if (is_timed(state, record)) {
        TimedCell *timed = (TimedCell *)record;
        timed->asked = now;
        Py_XSETREF(timed->cell.step, Py_XNewRef(burst->step));
        Py_XSETREF(timed->cancellation, Py_NewRef(burst));
    }
    else {
        PyObject *counted = stand_in(state, burst, cell);
        int status = counted == NULL ? -1 : PyObject_SetAttr(task, state->s_otel_asyncio, counted);
        Py_XDECREF(counted);
        if (status < 0) {
            return -1;
        }
    }
    return burst->ends_loop ? count_left(state, cell, task) : 0;
}

/* Whether a task that is about to be cancelled has joined the burst that goes on. Negative on error: it has not. */
static int
joins(State *state, PyObject *task)
{
    PyObject *record = record_of(state, task);
    PyObject *loop = record == NULL || is_timed(state, record) ? NULL : PyObject_CallMethodNoArgs(task, state->s_get_loop);
    LoopCell *cell = record == NULL || PyErr_Occurred() ? NULL : cell_of(state, record, loop);
    int joined = cell != NULL && !is_none(cell->burst) && PyObject_TypeCheck(cell->burst, state->burst_type);
    if (joined) {
        BurstCell *burst = (BurstCell *)Py_NewRef(cell->burst);
        long long now;
        joined = is_alike(state, burst, cell, record, task, &now);
        if (joined > 0) {
            joined = take(state, burst, cell, record, task, now) < 0 ? -1 : 1;
        }
        Py_DECREF(burst);
    }
    Py_XDECREF(cell);
    Py_XDECREF(loop);
    Py_XDECREF(record);
    return PyErr_Occurred() ? -1 : joined;
}

/* ---- one has ended ---- */

/* The twin of shutdown.end_one. */
static int
end_one(State *state, BurstCell *burst, PyObject *record, PyObject *task, LoopCell *loop)
{
    if (is_none(loop->shutdown) || !PyObject_TypeCheck(loop->shutdown, state->shutdown_type)) {
        return 0;
    }
    ShutdownCell *shutdown = (ShutdownCell *)Py_NewRef(loop->shutdown);
    PyObject *id = PyLong_FromVoidPtr(task);
    long long now;
    int found = id == NULL ? -1 : PySet_Discard(shutdown->left, id);
    Py_XDECREF(id);
    if (found > 0 && read_clock(state, burst, &now) < 0) {
        found = -1;
    }
    if (found > 0) {
        if (is_timed(state, record)) {
            Py_XSETREF(shutdown->slowest, Py_NewRef(record));
        }
        shutdown->slowest_time = now - shutdown->started;
        if (PySet_Size(shutdown->left) == 0) {
            PyObject *answer = PyObject_CallMethodOneArg((PyObject *)burst, state->s_shut_down, (PyObject *)loop);
            found = answer == NULL ? -1 : found;
            Py_XDECREF(answer);
        }
    }
    Py_DECREF(shutdown);
    return found < 0 ? -1 : 0;
}

/* One of a burst has ended cancelled, in its first step since: what Cancellations.ended does, and Burst.delivered. */
int
burst_ended(State *state, BurstCell *burst, PyObject *record, PyObject *task, LoopCell *loop, ShardCell *shard)
{
    if (end_one(state, burst, record, task, loop) < 0 || count_one(state, shard, state->s_cancellations, burst->fate) < 0) {
        return -1;
    }
    if (is_timed(state, record)) {
        Py_XSETREF(burst->last, Py_NewRef(record));
        if (++burst->count == 1) {
            PyObject *answer = PyObject_CallMethodOneArg((PyObject *)burst, state->s_tell, (PyObject *)loop);
            Py_XDECREF(answer);
            return answer == NULL ? -1 : 0;
        }
    }
    return 0;
}

/* ---- Canceller: the `cancel` of an observed class of tasks. It leaves no frame, so that Python sees who called it. ---- */

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    State *state;
    PyObject *dict;
    PyObject *plain; /* the one in Python, for all that does not join a burst */
    PyObject *base;  /* the one of the class of tasks */
} Canceller;

static PyObject *
canceller_vectorcall(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *keywords)
{
    Canceller *cancel = (Canceller *)self;
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    int joined = (nargs == 1 || nargs == 2) && keywords == NULL ? joins(cancel->state, args[0]) : 0;
    if (joined < 0) {
        PyErr_Clear(); /* Python comes to the same, behind its guard */
    }
    return PyObject_Vectorcall(joined > 0 ? cancel->base : cancel->plain, args, nargsf, keywords);
}

static PyObject *
canceller_get(PyObject *self, PyObject *object, PyObject *type)
{
    return object == NULL || object == Py_None ? Py_NewRef(self) : PyMethod_New(self, object);
}

static PyObject *
canceller_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"plain", "base", NULL};
    PyObject *plain, *base;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "OO:Canceller", names, &plain, &base)) {
        return NULL;
    }
    Canceller *cancel = (Canceller *)type->tp_alloc(type, 0);
    if (cancel != NULL) {
        cancel->vectorcall = canceller_vectorcall;
        cancel->state = state_of(type);
        cancel->plain = Py_NewRef(plain);
        cancel->base = Py_NewRef(base);
    }
    return (PyObject *)cancel;
}

static int
canceller_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((Canceller *)self)->dict);
    Py_VISIT(((Canceller *)self)->plain);
    Py_VISIT(((Canceller *)self)->base);
    return 0;
}

static int
canceller_clear(PyObject *self)
{
    Py_CLEAR(((Canceller *)self)->dict);
    Py_CLEAR(((Canceller *)self)->plain);
    Py_CLEAR(((Canceller *)self)->base);
    return 0;
}

DEALLOC(canceller)

static PyMemberDef canceller_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Canceller, vectorcall), READONLY, NULL},
    {"__dictoffset__", T_PYSSIZET, offsetof(Canceller, dict), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef canceller_getset[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot canceller_slots[] = {
    {Py_tp_new, canceller_new},           {Py_tp_call, PyVectorcall_Call}, {Py_tp_descr_get, canceller_get},
    {Py_tp_traverse, canceller_traverse}, {Py_tp_clear, canceller_clear},  {Py_tp_dealloc, canceller_dealloc},
    {Py_tp_members, canceller_members},   {Py_tp_getset, canceller_getset}, {0, NULL},
};

static PyType_Spec canceller_spec = {"otel_asyncio.observe._compiled.Canceller", sizeof(Canceller), 0,
                                     Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL |
                                         Py_TPFLAGS_METHOD_DESCRIPTOR | Py_TPFLAGS_IMMUTABLETYPE,
                                     canceller_slots};

int
bursts_add(PyObject *module, State *state)
{
    return add_type(module, &state->canceller_type, &canceller_spec, NULL);
}
