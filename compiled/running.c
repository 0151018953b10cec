/* Which task runs now, the twin of Observation.running_record and Observation.make_sure_of_running: one that was started
   past us is taken in, as LoopState.admit_unknown, LoopState.take and overrides.watch_foreign do. */

#include "compiled.h"

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    State *state;
    PyObject *plain; /* the method in Python */
    Recorder *recorder;
    PyObject *kind;       /* of a task that is taken in in the middle of its first step */
    PyObject *stock;      /* asyncio's task class */
    PyObject *watched;    /* overrides.OfTheInstance: what sees the cancellations of one of its tasks */
    PyObject *first_step; /* eager.take_in_first_step, where the end of such a step is not told; or None */
} Running;

/* ---- a task that is taken in ---- */

/* New: the coroutine of a task that runs right now, if both are as usual; NULL, without an exception perhaps: not so. */
static PyObject *
running_coro(Running *running, PyObject *task)
{
    State *state = running->state;
    PyObject *coro = (PyObject *)Py_TYPE(task) == running->stock ? PyObject_CallMethodNoArgs(task, state->s_get_coro) : NULL;
    if (coro != NULL && (!PyCoro_CheckExact(coro) || is_answer(PyObject_GetAttr(coro, state->s_cr_running), Py_True) <= 0)) {
        Py_CLEAR(coro);
    }
    return coro;
}

/* New: the record of a task at this place, or what stands for it; NULL, without an exception perhaps: it is for Python. */
static PyObject *
new_record_at(Running *running, LoopCell *cell, PyObject *place, PyObject *coro)
{
    Birth birth = {NULL, NULL, 0};
    TimedCell *record = NULL;
    PyObject *context = NULL;
    if (read_birth_of_running(running->recorder, cell, coro, &birth) > 0) {
        /* That it is given a context means that no span becomes current in it: it has its own by now. */
        record = open_record(running->recorder, cell, &birth, place, coro, running->kind, running->state->nothing, &context);
    }
    forget_birth(&birth);
    Py_XDECREF(context);
    if (record != NULL && is_none(record->span)) {
        Py_SETREF(record, (TimedCell *)Py_NewRef(cell->unrecorded));
    }
    return (PyObject *)record;
}

/* New: the record of a task of this coroutine, or what stands for it; NULL, without an exception: it is for Python. */
static PyObject *
admit_running(Running *running, LoopCell *cell, PyObject *coro)
{
    PyObject *place = ask_for_place(running->recorder, Py_None, cell->running);
    PyObject *record = place == NULL      ? NULL
                       : place == Py_None ? Py_NewRef(cell->unrecorded)
                                          : new_record_at(running, cell, place, coro);
    Py_XDECREF(place);
    if (record == NULL && PyErr_Occurred() &&
        tell_failure(running->recorder->observation, running->state->s_switch_off_creation) == 0) {
        record = Py_NewRef(cell->unrecorded);
    }
    return record;
}

/* See the cancellations of a task by attributes of its own. */
static int
watch(Running *running, PyObject *task)
{
    State *state = running->state;
    PyObject *calls = PyObject_CallOneArg(running->watched, task);
    PyObject *asked = calls == NULL ? NULL : PyObject_CallMethodNoArgs(task, state->s_cancelling);
    int status = asked == NULL ? -1 : PyObject_SetAttr(calls, state->s_asked, asked);
    PyObject *names[] = {state->s_cancel, state->s_uncancel};
    for (int i = 0; status == 0 && i < 2; i++) {
        PyObject *call = PyObject_GetAttr(calls, names[i]);
        status = call == NULL ? -1 : PyObject_SetAttr(task, names[i], call);
        Py_XDECREF(call);
    }
    Py_XDECREF(asked);
    Py_XDECREF(calls);
    return status;
}

/* The task has this record from now on, and is in its first step. */
static int
take(Running *running, LoopCell *cell, PyObject *loop, PyObject *task, PyObject *record)
{
    State *state = running->state;
    int timed = is_timed(state, record);
    if (PyObject_SetAttr(task, state->s_otel_asyncio, record) < 0 ||
        (timed && begin_record(running->recorder, cell, (TimedCell *)record, task, loop) < 0) || watch(running, task) < 0) {
        return -1;
    }
    ShardCell *shard = shard_of(state, cell);
    if (shard != NULL) {
        shard->started++;
    }
    if (!is_none(running->first_step)) {
        PyObject *args[] = {record, cell->running == NULL ? Py_None : cell->running};
        return tell(running->first_step, args, 2);
    }
    if (timed) {
        ((TimedCell *)record)->step_started = ((TimedCell *)record)->created;
        ((TimedCell *)record)->ready = NOT_READY;
    }
    return 0;
}

/* New: the record of the task that runs now, which has none yet; NULL, without an exception perhaps: it is for Python. */
static PyObject *
take_in(Running *running, LoopCell *cell, PyObject *loop, PyObject *task)
{
    PyObject *coro = cell->unrecorded == NULL ? NULL : running_coro(running, task);
    PyObject *record = coro == NULL ? NULL : admit_running(running, cell, coro);
    Py_XDECREF(coro);
    if (record != NULL && take(running, cell, loop, task, record) < 0) {
        Py_CLEAR(record);
    }
    return record;
}

/* ---- the calls ---- */

/* New: the record of the current task of this loop, or None; NULL, without an exception perhaps: it is for Python. */
static PyObject *
current_record(Running *running, LoopCell *cell, PyObject *loop)
{
    PyObject *task = PyObject_CallOneArg(running->recorder->current_task, loop);
    if (task == NULL || task == Py_None) {
        return task;
    }
    PyObject *record = record_of(running->state, task);
    if (record == NULL && !PyErr_Occurred()) {
        record = take_in(running, cell, loop, task);
    }
    Py_DECREF(task);
    if (record != NULL && !PyObject_TypeCheck(record, running->recorder->record_type)) {
        Py_SETREF(record, Py_NewRef(Py_None));
    }
    return record;
}

/* running_record() */
static PyObject *
running_record_vectorcall(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *keywords)
{
    Running *running = (Running *)self;
    PyObject *loop = PyObject_CallNoArgs(running->recorder->get_running_loop);
    if (loop == NULL || loop == Py_None) {
        return loop;
    }
    LoopCell *cell = cell_on(running->state, loop);
    PyObject *record = Py_None;
    if (cell != NULL && cell->observation == running->recorder->observation) {
        record = current_record(running, cell, loop);
    }
    else {
        Py_INCREF(record);
    }
    Py_XDECREF(cell);
    Py_DECREF(loop);
    return record != NULL || PyErr_Occurred() ? record : PyObject_Vectorcall(running->plain, args, nargsf, keywords);
}

/* make_sure_of_running(state) */
static PyObject *
make_sure_vectorcall(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *keywords)
{
    Running *running = (Running *)self;
    PyObject *record = NULL;
    if (PyVectorcall_NARGS(nargsf) == 1 && keywords == NULL && PyObject_TypeCheck(args[0], running->state->loop_type)) {
        PyObject *loop = PyObject_CallMethodNoArgs(args[0], running->state->s_loop); /* a weak reference */
        record = loop == NULL ? NULL : current_record(running, (LoopCell *)args[0], loop);
        Py_XDECREF(loop);
    }
    return record != NULL || PyErr_Occurred() ? record : PyObject_Vectorcall(running->plain, args, nargsf, keywords);
}

/* ---- the type ---- */

#define EACH_OF_RUNNING(DO) DO(plain) DO(recorder) DO(kind) DO(stock) DO(watched) DO(first_step)

static int
running_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
#define VISIT_OF_RUNNING(field) Py_VISIT(((Running *)self)->field);
    EACH_OF_RUNNING(VISIT_OF_RUNNING)
    return 0;
}

static void
running_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
#define CLEAR_OF_RUNNING(field) Py_CLEAR(((Running *)self)->field);
    EACH_OF_RUNNING(CLEAR_OF_RUNNING)
    type->tp_free(self);
    Py_DECREF(type);
}

/* Running(name, *, …): one of the two methods; takes all parts by name. */
static PyObject *
running_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
#define NAME_OF_RUNNING(field) #field,
    static char *names[] = {"name", EACH_OF_RUNNING(NAME_OF_RUNNING) NULL};
    State *state = state_of(type);
    const char *name;
    PyObject *plain, *recorder, *kind, *stock, *watched, *first_step;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "s$OO!OOOO:Running", names, &name, &plain, state->recorder_type, &recorder,
                                     &kind, &stock, &watched, &first_step)) {
        return NULL;
    }
    int sure = strcmp(name, "make_sure_of_running") == 0;
    if (!sure && strcmp(name, "running_record") != 0) {
        return PyErr_Format(PyExc_ValueError, "Running: %s is none of running_record, make_sure_of_running", name);
    }
    Running *running = (Running *)type->tp_alloc(type, 0);
    if (running != NULL) {
        running->vectorcall = sure ? make_sure_vectorcall : running_record_vectorcall;
        running->state = state;
#define KEEP_OF_RUNNING(field) running->field = (void *)Py_NewRef(field);
        EACH_OF_RUNNING(KEEP_OF_RUNNING)
    }
    return (PyObject *)running;
}

CALLABLE_SPEC(running, "Running", Running);

int
running_add(PyObject *module, State *state)
{
    return add_type(module, &state->running_type, &running_spec, NULL);
}
