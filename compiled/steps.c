/* The step of a task, and the callback that is announced in place of asyncio's own. */

#include "compiled.h"

/* Of how many steps of a task one goes into the histogram of delays, as in steps.py. */
#define DELAY_EVERY 16

/* ---- an exception that waits while something else is done ---- */

/* New: the exception that was raised, with its traceback; NULL: none was. */
PyObject *
take_raised(void)
{
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (type == NULL) {
        return NULL;
    }
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL) {
        PyException_SetTraceback(value, traceback);
    }
    Py_DECREF(type);
    Py_XDECREF(traceback);
    return value;
#endif
}

/* Raise it again; takes the reference. */
void
raise_again(PyObject *raised)
{
#if PY_VERSION_HEX >= 0x030C0000
    PyErr_SetRaisedException(raised);
#else
    if (raised != NULL) {
        PyErr_Restore(Py_NewRef(Py_TYPE(raised)), raised, PyException_GetTraceback(raised));
    }
#endif
}

/* A failure of ours is logged, and switches off what failed: `owner.method(exception)`. Negative: it is not ours to catch. */
int
tell_failure(PyObject *owner, PyObject *method)
{
    if (!PyErr_ExceptionMatches(PyExc_Exception)) {
        return -1;
    }
    PyObject *raised = take_raised(), *answer = PyObject_CallMethodOneArg(owner, method, raised);
    Py_DECREF(raised);
    Py_XDECREF(answer);
    return answer == NULL ? -1 : 0;
}

/* ---- what an observer is told; its own failures are the program's only where Python's would be ---- */

/* Call, for what it does. Negative on error. */
int
tell(PyObject *callee, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *answer = PyObject_Vectorcall(callee, args, nargs, NULL);
    Py_XDECREF(answer);
    return answer == NULL ? -1 : 0;
}

static int
tell_wait(Step *step, TimedCell *record, PyObject *task, PyObject *future, long long ready, long long started)
{
    int status = -1;
    PyObject *times[2] = {PyLong_FromLongLong(ready), PyLong_FromLongLong(started)};
    if (times[0] != NULL && times[1] != NULL) {
        PyObject *args[] = {(PyObject *)record, task, future == NULL ? Py_None : future, times[0], times[1]};
        status = tell(step->waited, args, 5);
    }
    Py_XDECREF(times[0]);
    Py_XDECREF(times[1]);
    return status;
}

static int
tell_hold(Step *step, TimedCell *record, PyObject *task, long long started, long long ended)
{
    int status = -1;
    PyObject *times[2] = {PyLong_FromLongLong(started), PyLong_FromLongLong(ended)};
    if (times[0] != NULL && times[1] != NULL) {
        PyObject *args[] = {(PyObject *)record, task, times[0], times[1]};
        status = tell(step->held, args, 4);
    }
    Py_XDECREF(times[0]);
    Py_XDECREF(times[1]);
    return status;
}

/* loop.shard.<samples>.offer(value); takes the reference to the value. */
static int
offer(State *state, LoopCell *loop, PyObject *samples, PyObject *value)
{
    PyObject *shard = value == NULL ? NULL : Py_XNewRef(loop->shard), *answer = NULL;
    PyObject *kept = shard == NULL ? NULL : PyObject_GetAttr(shard, samples);
    if (kept != NULL) {
        PyObject *args[] = {kept, value};
        answer = PyObject_VectorcallMethod(state->s_offer, args, 2, NULL);
    }
    int status = answer == NULL && PyErr_Occurred() ? -1 : 0;
    Py_XDECREF(answer);
    Py_XDECREF(kept);
    Py_XDECREF(shard);
    Py_XDECREF(value);
    return status;
}

/* callback(*args): asyncio's. Its plain step takes none, and can be called in the old way only, which is the shorter one here. */
static inline Py_ALWAYS_INLINE int
call_back(State *state, PyObject *callback, PyObject *const *args, Py_ssize_t nargs)
{
    PyTypeObject *type = Py_TYPE(callback);
    if (nargs > 0 || type->tp_call == NULL || PyType_HasFeature(type, Py_TPFLAGS_HAVE_VECTORCALL)) {
        return tell(callback, args, nargs);
    }
    PyObject *answer = type->tp_call(callback, state->nothing, NULL);
    Py_XDECREF(answer);
    return answer == NULL ? -1 : 0;
}

/* Whether the task is done: asked as Python would ask, without the look-up where the answer is asyncio's C code. */
static inline Py_ALWAYS_INLINE int
is_done(State *state, PyObject *task)
{
    PyObject *answer;
    int known = Py_IS_TYPE(task, state->slotted) && state->slotted_in_c;
    if (known || (state->call_done != NULL && PyObject_TypeCheck(task, PyDescr_TYPE(state->done)))) {
        answer = state->call_done(task, NULL);
    }
    else {
        answer = PyObject_CallMethodNoArgs(task, state->s_done);
    }
    if (answer == NULL) {
        return -1;
    }
    int done = answer == Py_False ? 0 : PyObject_IsTrue(answer);
    Py_DECREF(answer);
    return done;
}

int
task_is_done(State *state, PyObject *task)
{
    return is_done(state, task);
}

/* ---- one step ---- */

/* Whether nothing is left to be told when a task ends. Negative on error. */
static int
is_all_told(PyObject *untold)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(untold); i++) {
        Py_ssize_t size = PyObject_Size(PyTuple_GET_ITEM(untold, i));
        if (size != 0) {
            return size < 0 ? -1 : 0;
        }
    }
    return 1;
}

/* Whether this is the state of a task, where asyncio's C code can be asked. Negative on error. */
static int
is_in_state(State *state, PyObject *task, PyObject *name)
{
    int known = state->get_state != NULL && state->get_exception != NULL && PyObject_TypeCheck(task, PyDescr_TYPE(state->done));
    return known > 0 ? is_answer(state->get_state(task, NULL), name) : 0;
}

/* Whether a task that is done has returned. Negative on error. */
static int
has_returned(State *state, PyObject *task)
{
    int returned = is_in_state(state, task, state->s_finished);
    if (returned > 0) {
        returned = is_answer(state->get_exception(task, NULL), Py_None);
    }
    return returned;
}

/* The end of a task that gets no span: counted, here where it has returned and that is all. */
static int
finish_counted(State *state, Step *step, PyObject *record, PyObject *task, PyObject *future, LoopCell *cell)
{
    ShardCell *shard = cell == NULL ? NULL : shard_of(state, cell);
    int plain = shard != NULL && record == cell->unrecorded && step->untold != NULL;
    if (plain > 0) {
        plain = is_all_told(step->untold);
    }
    if (plain > 0) {
        plain = has_returned(state, task);
    }
    if (plain > 0) { /* and has not been given a record of its own */
        plain = has_record(state, task, record);
    }
    if (plain > 0) {
        shard->succeeded++;
    }
    if (plain != 0) {
        return plain < 0 ? -1 : 0;
    }
    PyObject *finished[] = {task, future};
    return tell(step->finish, finished, 2);
}

/* Whether there is nothing to be told of the end of a recorded task but its span. Negative on error. */
static int
is_only_a_span(State *state, Step *step, TimedCell *record, LoopCell *loop)
{
    int only = step->closed != NULL && is_none(record->outcome) && loop->alive != NULL && PySet_CheckExact(loop->alive);
    if (only > 0) {
        only = is_all_told(step->untold);
    }
    if (only > 0) {
        only = is_answer(PyObject_GetAttr(step->ending, state->s_failed), Py_False);
    }
    return only;
}

/* Whether the end of a recorded task is the usual one: it has returned, and nobody has asked for anything else.
   Negative on error. */
static int
ends_as_usual(State *state, Step *step, TimedCell *record, PyObject *task, LoopCell *loop)
{
    int usual = is_none(record->cancellation) && is_none(loop->shutdown);
    if (usual > 0) {
        usual = is_only_a_span(state, step, record, loop);
    }
    return usual > 0 ? has_returned(state, task) : usual;
}

/* The last transition of a record, and its span: the twin of finishing.make_finish, but for what is told of a cancellation. */
static int
end_record(State *state, Step *step, TimedCell *record, PyObject *task, LoopCell *loop, ShardCell *shard,
           PyObject *outcome)
{
    int known = Py_IS_TYPE(task, state->slotted) && state->call_get_name != NULL;
    PyObject *name = known ? state->call_get_name(task, NULL) : PyObject_CallMethodNoArgs(task, state->s_get_name);
    if (name == NULL) {
        return -1;
    }
    Py_XSETREF(record->name, name);
    Py_XSETREF(record->outcome, Py_NewRef(outcome));
    record->ended = record->suspended;
    Py_CLEAR(record->task);
    if (PySet_Discard(loop->alive, (PyObject *)record) < 0) {
        return -1;
    }
    if (outcome == step->success) {
        shard->succeeded++;
    }
    else if (count_one(state, shard, state->s_ended, outcome) < 0) {
        return -1;
    }
    shard->recorded++;
    shard->steps += record->steps;
    PyObject *closed[] = {(PyObject *)record, Py_None};
    if (tell(step->closed, closed, 2) < 0) {
        return -1;
    }
    return loop->metered ? offer(state, loop, state->s_durations, Py_NewRef(record)) : 0;
}

/* The end of a recorded task; in Python, where it is not the usual one. */
static int
finish_recorded(State *state, Step *step, TimedCell *record, PyObject *task, PyObject *future)
{
    LoopCell *loop = (LoopCell *)record->loop;
    ShardCell *shard = shard_of(state, loop);
    int usual = shard == NULL ? 0 : ends_as_usual(state, step, record, task, loop);
    if (usual < 0) {
        return -1;
    }
    if (!usual) {
        PyObject *finished[] = {(PyObject *)record, task, future == NULL ? Py_None : future};
        return tell(step->finish, finished, 3);
    }
    Py_INCREF(loop);
    Py_INCREF(shard);
    int status = end_record(state, step, record, task, loop, shard, step->success);
    Py_DECREF(shard);
    Py_DECREF(loop);
    return status < 0 ? tell_failure(step->ending, state->s_fail) : 0;
}

/* ---- a task that belongs to a burst of cancellations ---- */

/* Borrowed: the burst that a record belongs to, or NULL. */
static BurstCell *
burst_of(State *state, PyObject *record)
{
    PyObject *cancellation = NULL;
    if (is_timed(state, record)) {
        cancellation = ((TimedCell *)record)->cancellation;
    }
    else if (PyObject_TypeCheck(record, state->counted_type)) {
        cancellation = ((CountedCell *)record)->cancellation;
    }
    return cancellation != NULL && PyObject_TypeCheck(cancellation, state->burst_type) ? (BurstCell *)cancellation : NULL;
}

/* Whether the task has not been asked again since its step was announced, and was not looked at on its own. */
static int
is_still_in_burst(State *state, PyObject *record, PyObject *task)
{
    if (burst_of(state, record) == NULL) {
        return 0;
    }
    int same = has_record(state, task, record);
    if (same < 0) {
        PyErr_Clear();
    }
    return same > 0;
}

/* Whether one of a burst has ended as nearly all do: cancelled. Negative on error. */
static int
ends_with_the_burst(State *state, Step *step, BurstCell *burst, PyObject *record, PyObject *task, LoopCell *loop)
{
    int usual = is_in_state(state, task, state->s_cancelled);
    if (usual > 0) {
        usual = is_answer(PyObject_GetAttr(burst->guard, state->s_failed), Py_False);
    }
    if (usual > 0) {
        usual = is_timed(state, record) ? is_only_a_span(state, step, (TimedCell *)record, loop)
                                        : is_all_told(step->untold);
    }
    return usual;
}

/* The end of one of a burst. Whether it was dealt with; else it is for Python. Negative on error. */
static int
finish_in_burst(State *state, Step *step, PyObject *record, PyObject *task, LoopCell *loop)
{
    ShardCell *shard = loop == NULL ? NULL : shard_of(state, loop);
    BurstCell *burst = shard == NULL || step->untold == NULL ? NULL : burst_of(state, record);
    int usual = burst == NULL ? 0 : ends_with_the_burst(state, step, burst, record, task, loop);
    if (usual <= 0) {
        return usual;
    }
    int timed = is_timed(state, record), status;
    PyObject *guard = Py_NewRef(timed ? step->ending : burst->guard);
    Py_INCREF(loop);
    Py_INCREF(shard);
    Py_INCREF(burst);
    if (timed) {
        status = end_record(state, step, (TimedCell *)record, task, loop, shard, step->cancelled);
    }
    else {
        status = count_one(state, shard, state->s_ended, step->cancelled);
    }
    if (status == 0 && (status = burst_ended(state, burst, record, task, loop, shard)) < 0) {
        Py_SETREF(guard, Py_NewRef(burst->guard));
    }
    if (status < 0) {
        status = tell_failure(guard, state->s_fail);
    }
    Py_DECREF(burst);
    Py_DECREF(shard);
    Py_DECREF(loop);
    Py_DECREF(guard);
    return status < 0 ? -1 : 1;
}

/* ---- both halves of a step ---- */

/* The step is over: whether the task is done, and what is to be told of it then. */
static inline Py_ALWAYS_INLINE int
after_step(State *state, Step *step, PyObject *record, PyObject *task, PyObject *future, LoopCell *loop)
{
    int done = is_done(state, task), dealt_with = 0;
    if (step->goes_on != NULL) {
        if (done == 0) {
            return tell(step->goes_on, &task, 1);
        }
        if (done > 0) {
            dealt_with = finish_in_burst(state, step, record, task, loop);
        }
    }
    if (done <= 0 || dealt_with != 0) {
        return done < 0 || dealt_with < 0 ? -1 : 0;
    }
    return step->clock.ask == NULL ? finish_counted(state, step, record, task, future == NULL ? Py_None : future, loop)
                                   : finish_recorded(state, step, (TimedCell *)record, task, future);
}

static inline Py_ALWAYS_INLINE int
run_counted(State *state, Step *step, PyObject *record, PyObject *task, PyObject *callback, PyObject *const *args,
            Py_ssize_t nargs, LoopCell *cell)
{
    int status = call_back(state, callback, args, nargs);
    PyObject *raised = status < 0 ? take_raised() : NULL;
    if (after_step(state, step, record, task, nargs > 0 ? args[0] : NULL, cell) < 0) {
        Py_XDECREF(raised);
        return -1;
    }
    if (raised != NULL) {
        raise_again(raised);
    }
    return status;
}

/* The first half: the wait is over. */
static int
begin(State *state, Step *step, TimedCell *record, PyObject *task, PyObject *future)
{
    LoopCell *loop = (LoopCell *)record->loop;
    long long started, ready = record->ready, suspended = record->suspended;
    if (clock_now(&step->clock, &started) < 0) {
        return -1;
    }
    record->step_started = started;
    record->ready = NOT_READY;
    if (record->steps == 0) {
        record->first_step = started;
        if (record->kind != step->adopted) {
            ready = suspended; /* it was ready when it was created */
        }
    }
    /* A task that yields announces its next step from inside this one: ready is never before suspended. */
    if (ready <= suspended) {
        ready = suspended;
    }
    else if (ready - suspended > record->max_idle) {
        record->max_idle = ready - suspended;
    }
    record->scheduled += started - ready;
    if (loop->metered && record->steps % DELAY_EVERY == 0 && offer(state, loop, state->s_delays, Py_BuildValue("LO", started - ready, record)) < 0) {
        return -1;
    }
    if (started - suspended >= step->longest_wait && record->steps != 0) {
        return tell_wait(step, record, task, future, ready, started);
    }
    return 0;
}

/* The second half: the task has let go of the loop. */
static int
end(State *state, Step *step, TimedCell *record, PyObject *task, PyObject *future)
{
    long long ended, started = record->step_started;
    if (clock_now(&step->clock, &ended) < 0) {
        return -1;
    }
    record->suspended = ended;
    record->step_started = 0;
    record->steps++;
    long long took = ended - started;
    record->busy += took;
    if (took > record->max_step) {
        record->max_step = took;
    }
    if (took >= step->longest_step && tell_hold(step, record, task, started, ended) < 0) {
        return -1;
    }
    return after_step(state, step, (PyObject *)record, task, future, (LoopCell *)record->loop);
}

static int
run_timed(State *state, Step *step, TimedCell *record, PyObject *task, PyObject *callback, PyObject *const *args,
          Py_ssize_t nargs)
{
    if (record->loop == NULL || !PyObject_TypeCheck(record->loop, state->loop_type)) {
        PyErr_SetString(PyExc_TypeError, "a record's loop is a LoopCell");
        return -1;
    }
    LoopCell *loop = (LoopCell *)Py_NewRef(record->loop);
    PyObject *outer = loop->running;
    loop->running = Py_NewRef(record);
    PyObject *future = nargs > 0 ? args[0] : NULL;
    int status = begin(state, step, record, task, future);
    if (status == 0) {
        status = call_back(state, callback, args, nargs);
        PyObject *raised = status < 0 ? take_raised() : NULL;
        Py_XSETREF(loop->running, outer);
        if (end(state, step, record, task, future) < 0) {
            Py_XDECREF(raised);
            status = -1;
        }
        else if (raised != NULL) {
            raise_again(raised);
        }
    }
    else {
        Py_XSETREF(loop->running, outer);
    }
    Py_DECREF(loop);
    return status;
}

static int
run(State *state, Step *step, PyObject *record, PyObject *task, PyObject *callback, PyObject *const *args,
    Py_ssize_t nargs, LoopCell *cell)
{
    if (step->clock.ask == NULL) {
        return run_counted(state, step, record, task, callback, args, nargs, cell);
    }
    if (!is_timed(state, record)) {
        PyErr_Format(PyExc_TypeError, "a timed step needs a TimedCell, not %.100s", Py_TYPE(record)->tp_name);
        return -1;
    }
    return run_timed(state, step, (TimedCell *)record, task, callback, args, nargs);
}

/* Run asyncio's own `callback(*args)` as a step of the task. It leaves no frame; the loop's cell says that it runs. */
int
step_run(State *state, Step *step, PyObject *record, PyObject *task, PyObject *callback, PyObject *const *args,
         Py_ssize_t nargs, PyObject *loop)
{
    if (step->goes_on != NULL && !is_still_in_burst(state, record, task)) {
        PyObject *all[] = {task, callback, nargs > 0 ? args[0] : NULL};
        return tell(step->plain, all, nargs > 0 ? 3 : 2);
    }
    LoopCell *cell = cell_of(state, record, loop);
    if (cell == NULL) {
        return run(state, step, record, task, callback, args, nargs, NULL);
    }
    PyObject *outer = cell->innermost;
    long long turn = cell->turn;
    cell->innermost = Py_NewRef(record);
    cell->turn = ++cell->turns;
    cell->frameless++;
    int status = run(state, step, record, task, callback, args, nargs, cell);
    cell->frameless--;
    cell->turn = turn;
    Py_XSETREF(cell->innermost, outer);
    Py_DECREF(cell);
    return status;
}

/* ---- Step: `step(task, callback)`, `step(task, callback, future)`, which is the one in Python ---- */

#define EACH_OF_STEP(DO)                                                                        \
    DO(plain) DO(finish) DO(waited) DO(held) DO(adopted) DO(untold) DO(closed) DO(ending) DO(success) \
    DO(goes_on) DO(cancelled)

static PyObject *
step_vectorcall(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *keywords)
{
    PyObject *plain = Py_NewRef(((Step *)self)->plain), *answer = PyObject_Vectorcall(plain, args, nargsf, keywords);
    Py_DECREF(plain);
    return answer;
}

static PyObject *
step_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"plain", "finish", "untold", "clock", "waited", "held", "limits", "adopted", "closed", "ending", "success", NULL};
    PyObject *plain, *finish, *clock = NULL, *waited = NULL, *held = NULL, *adopted = NULL, *untold = NULL;
    PyObject *closed = NULL, *ending = NULL, *success = NULL;
    long long wait = 0, hold = 0;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "OO|$O!OOO(LL)OOOO:Step", names, &plain, &finish, &PyTuple_Type, &untold,
                                     &clock, &waited, &held, &wait, &hold, &adopted, &closed, &ending, &success)) {
        return NULL;
    }
    if ((closed == NULL) != (ending == NULL) || (closed == NULL) != (success == NULL) ||
        (closed != NULL && (untold == NULL || clock == NULL))) {
        PyErr_SetString(PyExc_TypeError, "a timed step ends in C with all of untold, closed, ending, success, or not");
        return NULL;
    }
    if ((clock == NULL) != (waited == NULL) || (clock == NULL) != (held == NULL) ||
        (clock == NULL) != (adopted == NULL)) {
        PyErr_SetString(PyExc_TypeError, "a step is timed with all of clock, waited, held, limits, adopted, or not");
        return NULL;
    }
    Step *step = (Step *)type->tp_alloc(type, 0);
    if (step == NULL) {
        return NULL;
    }
    step->vectorcall = step_vectorcall;
    step->plain = Py_NewRef(plain);
    step->finish = Py_NewRef(finish);
    step->waited = Py_XNewRef(waited);
    step->held = Py_XNewRef(held);
    step->adopted = Py_XNewRef(adopted);
    step->untold = Py_XNewRef(untold);
    step->closed = Py_XNewRef(closed);
    step->ending = Py_XNewRef(ending);
    step->success = Py_XNewRef(success);
    step->longest_wait = wait;
    step->longest_step = hold;
    if (clock != NULL && clock_set(state_of(type), &step->clock, clock) < 0) {
        Py_DECREF(step);
        return NULL;
    }
    return (PyObject *)step;
}

/* `step.brief(plain, goes_on, cancelled)`: the same for a task that belongs to a burst. */
static PyObject *
step_brief(PyObject *self, PyObject *args)
{
    PyObject *plain, *goes_on, *cancelled;
    if (!PyArg_ParseTuple(args, "OOO:brief", &plain, &goes_on, &cancelled)) {
        return NULL;
    }
    Step *like = (Step *)self, *step = (Step *)Py_TYPE(self)->tp_alloc(Py_TYPE(self), 0);
    if (step == NULL) {
        return NULL;
    }
    step->vectorcall = step_vectorcall;
#define SAME(field) step->field = Py_XNewRef(like->field);
    EACH_OF_STEP(SAME)
    step->clock = like->clock;
    Py_XINCREF(step->clock.ask);
    step->longest_wait = like->longest_wait;
    step->longest_step = like->longest_step;
    Py_XSETREF(step->plain, Py_NewRef(plain));
    Py_XSETREF(step->goes_on, Py_NewRef(goes_on));
    Py_XSETREF(step->cancelled, Py_NewRef(cancelled));
    return (PyObject *)step;
}

/* Bound to a task, as a function would be. */
static PyObject *
step_get(PyObject *self, PyObject *object, PyObject *type)
{
    return object == NULL || object == Py_None ? Py_NewRef(self) : PyMethod_New(self, object);
}

static int
step_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
#define VISIT_OF_STEP(field) Py_VISIT(((Step *)self)->field);
    EACH_OF_STEP(VISIT_OF_STEP)
    Py_VISIT(((Step *)self)->clock.ask);
    return 0;
}

static int
step_clear(PyObject *self)
{
#define CLEAR_OF_STEP(field) Py_CLEAR(((Step *)self)->field);
    EACH_OF_STEP(CLEAR_OF_STEP)
    Py_CLEAR(((Step *)self)->clock.ask);
    return 0;
}

DEALLOC(step)

static PyMemberDef step_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Step, vectorcall), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef step_methods[] = {{"brief", step_brief, METH_VARARGS, NULL}, {NULL, NULL, 0, NULL}};

static PyType_Slot step_slots[] = {
    {Py_tp_methods, step_methods},

    {Py_tp_new, step_new},           {Py_tp_call, PyVectorcall_Call}, {Py_tp_descr_get, step_get},
    {Py_tp_traverse, step_traverse}, {Py_tp_clear, step_clear},       {Py_tp_dealloc, step_dealloc},
    {Py_tp_members, step_members},   {0, NULL},
};

#define CALLABLE (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL)

static PyType_Spec step_spec = {"otel_asyncio.observe._compiled.Step", sizeof(Step), 0, CALLABLE, step_slots};

/* ---- BoundStep: stands in for asyncio's callback, and looks like it ---- */

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    State *state;
    PyObject *step, *record, *task, *callback, *loop;
    PyObject *raised; /* it has run, and this is what left it: called again, it only raises */
} BoundStep;

static PyObject *
bound_vectorcall(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *keywords)
{
    BoundStep *bound = (BoundStep *)self;
    if (keywords != NULL && PyTuple_GET_SIZE(keywords) > 0) {
        return PyObject_Vectorcall(bound->callback, args, nargsf, keywords); /* which refuses them */
    }
    if (bound->raised != NULL) {
        PyObject *raised = bound->raised;
        bound->raised = NULL;
        raise_again(raised);
        return NULL;
    }
    Py_INCREF(self); /* whoever calls may let go of it meanwhile */
    int status = step_run(bound->state, (Step *)bound->step, bound->record, bound->task, bound->callback, args,
                          PyVectorcall_NARGS(nargsf), bound->loop);
    Py_DECREF(self);
    return status < 0 ? NULL : Py_NewRef(Py_None);
}

/* Takes the references to step and record, whatever comes of it. */
PyObject *
step_bind(State *state, Step *step, PyObject *record, PyObject *task, PyObject *callback, PyObject *loop,
          PyObject *raised)
{
    BoundStep *bound = NULL;
    if (state->bound_type == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the interpreter is shutting down");
    }
    else if ((bound = (BoundStep *)spare_take(&state->spare_bound, state->bound_type)) == NULL) {
        bound = PyObject_GC_New(BoundStep, state->bound_type);
    }
    if (bound == NULL) {
        Py_DECREF(step);
        Py_DECREF(record);
        return NULL;
    }
    bound->vectorcall = bound_vectorcall;
    bound->state = state;
    bound->step = (PyObject *)step;
    bound->record = record;
    bound->task = Py_NewRef(task);
    bound->callback = Py_NewRef(callback);
    bound->loop = Py_XNewRef(loop);
    bound->raised = Py_XNewRef(raised);
    PyObject_GC_Track(bound);
    return (PyObject *)bound;
}

static PyObject *
bound_getattr(PyObject *self, PyObject *name)
{
    return PyObject_GetAttr(((BoundStep *)self)->callback, name);
}

static PyObject *
bound_repr(PyObject *self)
{
    return PyObject_Repr(((BoundStep *)self)->callback);
}

static int
bound_traverse(PyObject *self, visitproc visit, void *arg)
{
    BoundStep *bound = (BoundStep *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(bound->step);
    Py_VISIT(bound->record);
    Py_VISIT(bound->task);
    Py_VISIT(bound->callback);
    Py_VISIT(bound->loop);
    Py_VISIT(bound->raised);
    return 0;
}

static void
bound_dealloc(PyObject *self)
{
    BoundStep *bound = (BoundStep *)self;
    PyObject_GC_UnTrack(self);
    Py_DECREF(bound->step);
    Py_DECREF(bound->record);
    Py_DECREF(bound->task);
    Py_DECREF(bound->callback);
    Py_XDECREF(bound->loop);
    Py_XDECREF(bound->raised);
    spare_keep(&bound->state->spare_bound, self);
}

static PyMemberDef bound_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(BoundStep, vectorcall), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

/* No tp_clear: whatever cycle it is part of goes through a task, which has one. */
static PyType_Slot bound_slots[] = {
    {Py_tp_call, PyVectorcall_Call}, {Py_tp_getattro, bound_getattr}, {Py_tp_repr, bound_repr},
    {Py_tp_traverse, bound_traverse}, {Py_tp_dealloc, bound_dealloc}, {Py_tp_members, bound_members},
    {0, NULL},
};

static PyType_Spec bound_spec = {
    "otel_asyncio.observe._compiled.BoundStep", sizeof(BoundStep), 0,
    CALLABLE | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE, bound_slots};

int
steps_add(PyObject *module, State *state)
{
    state->step_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &step_spec, NULL);
    state->bound_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &bound_spec, NULL);
    if (state->step_type == NULL || state->bound_type == NULL) {
        return -1;
    }
    return PyModule_AddType(module, state->step_type);
}
