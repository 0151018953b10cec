/* The `call_soon` that announces steps: the twin of steps.make_call_soon. */

#include "compiled.h"

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    State *state;
    PyObject *dict, *weakrefs;
    PyObject *original, *adopt, *hide;
    vectorcallfunc call_original; /* NULL: ask the original each time */
    PyObject *keywords;       /* the tuple ("context",) that was met last */
    int frameless;            /* whether the loop runs its handles in C, so that no frame tells one from another */
    PyObject *direct;         /* the set of loop classes whose call_soon may be done in place, or NULL */
    PyTypeObject *in_place;   /* the last of them that was met */
    PyTypeObject *step_type;  /* of the C task's step */
    getter self_of_step;      /* what answers its `__self__` */
    PyObject *py_step, *py_wakeup; /* the functions of the Python task */
    PyObject *loop_ref;       /* a weak reference to the loop, for the hook of one loop; else NULL */
    PyMethodDef *wakeup;      /* of the C task's wake-up, once met */
    Clock clock;
} Announcer;

/* Borrowed: the task whose step this callback is, or NULL without an exception. */
static PyObject *
task_of(Announcer *hook, PyObject *callback)
{
    PyTypeObject *type = Py_TYPE(callback);
    if (type == hook->step_type) {
        PyObject *task = hook->self_of_step(callback, NULL);
        if (task == NULL) {
            PyErr_Clear();
            return NULL;
        }
        Py_DECREF(task); /* the callback holds it */
        return task;
    }
    if (type == &PyCFunction_Type) {
        PyMethodDef *definition = ((PyCFunctionObject *)callback)->m_ml;
        if (definition == hook->wakeup) {
            return PyCFunction_GET_SELF(callback);
        }
        if (strcmp(definition->ml_name, "task_wakeup") == 0) {
            hook->wakeup = definition;
            return PyCFunction_GET_SELF(callback);
        }
        return NULL;
    }
    if (type == &PyMethod_Type) {
        PyObject *function = PyMethod_GET_FUNCTION(callback);
        if (function == hook->py_step || function == hook->py_wakeup) {
            return PyMethod_GET_SELF(callback);
        }
    }
    return NULL;
}

/* Negative on error; whether this attribute of the loop is true. */
static int
is_set(PyObject *loop, PyObject *name)
{
    PyObject *value = PyObject_GetAttr(loop, name);
    if (value == NULL) {
        return -1;
    }
    int answer = value == Py_False ? 0 : PyObject_IsTrue(value);
    Py_DECREF(value);
    return answer;
}

/* Whether call_soon may be done in place on this loop now: asyncio's own, open, and not in debug mode. */
static int
is_direct(Announcer *hook, PyObject *loop)
{
    State *state = hook->state;
    PyTypeObject *type = Py_TYPE(loop);
    if (state->handle_type == NULL) {
        return 0;
    }
    if (type != hook->in_place) {
        int known = PySet_Contains(hook->direct, (PyObject *)type);
        if (known <= 0) {
            return known;
        }
        Py_XSETREF(hook->in_place, (PyTypeObject *)Py_NewRef(type));
    }
    int debug = is_set(loop, state->s_debug);
    if (debug != 0) {
        return debug < 0 ? -1 : 0;
    }
    int closed = is_set(loop, state->s_closed);
    return closed < 0 ? -1 : !closed;
}

/* loop._ready.append(handle) */
static int
enqueue(State *state, PyObject *loop, PyObject *handle)
{
    PyObject *ready = PyObject_GetAttr(loop, state->s_ready);
    if (ready == NULL) {
        return -1;
    }
    PyObject *answer;
    if (state->call_append != NULL && Py_IS_TYPE(ready, state->deque_type)) {
        answer = state->call_append(ready, handle);
    }
    else {
        answer = PyObject_CallMethodOneArg(ready, state->s_append, handle);
    }
    Py_DECREF(ready);
    Py_XDECREF(answer);
    return answer == NULL ? -1 : 0;
}

/* In debug mode a handle says where it was made, which is below Python of ours where a task is made. */
static int
hide_own_frames(Announcer *hook, PyObject *handle)
{
    PyObject *traceback = answer_of(&hook->state->handle_traceback, handle, hook->state->s_source_traceback);
    if (traceback == NULL) {
        PyErr_Clear(); /* somebody's own handle, or none */
        return 0;
    }
    int none = traceback == Py_None;
    Py_DECREF(traceback);
    if (none) {
        return 0;
    }
    PyObject *answer = PyObject_CallOneArg(hook->hide, handle);
    Py_XDECREF(answer);
    return answer == NULL ? -1 : 0;
}

/* original(*args, context=…); `args` has room for one more in front. */
static inline PyObject *
call_original(Announcer *hook, PyObject *const *args, Py_ssize_t nargs)
{
    size_t flags = nargs | PY_VECTORCALL_ARGUMENTS_OFFSET;
    PyObject *keywords = hook->state->context_keyword;
    return hook->call_original != NULL ? hook->call_original(hook->original, args, flags, keywords)
                                       : PyObject_Vectorcall(hook->original, args, flags, keywords);
}

#define FEW 8

/* original(loop, callback, *args, context=context) */
static PyObject *
pass_on(Announcer *hook, PyObject *loop, PyObject *callback, PyObject *const *args, Py_ssize_t nargs, PyObject *context)
{
    PyObject *few[FEW + 4], **all = few;
    if (nargs > FEW && (all = PyMem_New(PyObject *, nargs + 4)) == NULL) {
        return PyErr_NoMemory();
    }
    all[1] = loop; /* the first one is the callee's, to use as it likes */
    all[2] = callback;
    for (Py_ssize_t i = 0; i < nargs; i++) {
        all[3 + i] = args[i];
    }
    all[3 + nargs] = context == NULL ? Py_None : context;
    PyObject *handle = call_original(hook, all + 1, nargs + 2);
    if (all != few) {
        PyMem_Free(all);
    }
    if (handle != NULL && hide_own_frames(hook, handle) < 0) {
        Py_CLEAR(handle);
    }
    return handle;
}

/* New: the record of a task that announces a step; a task that was made past us is taken in. */
static PyObject *
record_of_step(Announcer *hook, PyObject *loop, PyObject *task, PyObject *context)
{
    PyObject *record = record_of(hook->state, task);
    if (record == NULL && !PyErr_Occurred()) {
        PyObject *args[] = {loop, task, context == NULL ? Py_None : context};
        record = PyObject_Vectorcall(hook->adopt, args, 3, NULL);
    }
    return record;
}

/* Since when its step is announced, where somebody asks: not of what only counts. */
static inline int
note_ready(Announcer *hook, PyObject *record)
{
    if (is_timed(hook->state, record)) {
        return clock_now(&hook->clock, &((TimedCell *)record)->ready);
    }
    if (Py_TYPE(record)->tp_base == hook->state->counted_type) {
        return clock_now(&hook->clock, &((CountedCell *)record)->ready);
    }
    return 0;
}

static inline Py_ALWAYS_INLINE PyObject *
announce_step(Announcer *hook, PyObject *loop, PyObject *task, PyObject *callback, PyObject *arg, PyObject *context)
{
    State *state = hook->state;
    PyObject *handle = NULL, *record = Py_XNewRef(kept_record(state, task)), *step = NULL, *bound = NULL;
    if (record == NULL) {
        record = record_of_step(hook, loop, task, context);
    }
    if (record == NULL || note_ready(hook, record) < 0) {
        goto done;
    }
    if (!is_cell(state, record) || (step = Py_XNewRef(((Cell *)record)->step)) == NULL) {
        PyErr_Format(PyExc_TypeError, "a task's record is a Cell with a step, not %.100s", Py_TYPE(record)->tp_name);
        goto done;
    }
    int ours = Py_IS_TYPE(step, state->step_type), direct = hook->direct == NULL ? 0 : is_direct(hook, loop);
    if (direct < 0) {
        goto done;
    }
    if (ours && direct && (context == NULL || PyContext_CheckExact(context))) {
        handle = handle_for_step(state, (Step *)step, record, task, callback, arg, loop, context);
        if (handle != NULL && enqueue(state, loop, handle) < 0) {
            Py_CLEAR(handle);
        }
        goto done;
    }
    if (ours && hook->frameless) {
        bound = step_bind(state, (Step *)step, record, task, callback, loop, NULL);
        step = record = NULL;
        handle = bound == NULL ? NULL : pass_on(hook, loop, bound, &arg, arg != NULL, context);
    }
    else {
        PyObject *args[] = {callback, arg};
        bound = PyMethod_New(ours ? ((Step *)step)->plain : step, task);
        handle = bound == NULL ? NULL : pass_on(hook, loop, bound, args, arg == NULL ? 1 : 2, context);
    }
done:
    Py_XDECREF(record);
    Py_XDECREF(step);
    Py_XDECREF(bound);
    return handle;
}

static PyObject *
announce(Announcer *hook, PyObject *loop, PyObject *callback, PyObject *const *args, Py_ssize_t nargs,
         PyObject *context)
{
    State *state = hook->state;
    PyObject *task = task_of(hook, callback);
    if (task != NULL) {
        return announce_step(hook, loop, task, callback, nargs > 0 ? args[0] : NULL, context);
    }
    int direct = hook->direct == NULL ? 0 : is_direct(hook, loop);
    if (direct < 0) {
        return NULL;
    }
    if (!direct) {
        return pass_on(hook, loop, callback, args, nargs, context);
    }
    PyObject *handle = handle_plain(state, callback, args, nargs, loop, context);
    if (handle != NULL && enqueue(state, loop, handle) < 0) {
        Py_CLEAR(handle);
    }
    return handle;
}

/* Called in a way that asyncio has no use for: the loop's own call_soon finds the words. */
static PyObject *
as_called(Announcer *hook, PyObject *loop, PyObject *const *args, Py_ssize_t nargs, PyObject *keywords)
{
    Py_ssize_t all = nargs + (keywords == NULL ? 0 : PyTuple_GET_SIZE(keywords));
    PyObject **stack = PyMem_New(PyObject *, all + 1);
    if (stack == NULL) {
        return PyErr_NoMemory();
    }
    Py_ssize_t first = 0;
    if (loop != NULL) {
        stack[first++] = loop;
    }
    memcpy(stack + first, args, all * sizeof(PyObject *));
    PyObject *handle = PyObject_Vectorcall(hook->original, stack, first + nargs, keywords);
    PyMem_Free(stack);
    return handle;
}

/* New: the loop that the hook of one loop is for; it calls itself, so it lives. */
static PyObject *
loop_of(Announcer *hook)
{
    PyObject *loop = PyObject_CallNoArgs(hook->loop_ref);
    if (loop == Py_None) {
        Py_DECREF(loop);
        PyErr_SetString(PyExc_ReferenceError, "the loop is gone");
        return NULL;
    }
    return loop;
}

/* Whether the one keyword is `context`: asyncio has a tuple for it, but in it a string of its own. */
static int
is_context(Announcer *hook, PyObject *keywords)
{
    PyObject *name = PyTuple_GET_ITEM(keywords, 0), *expected = hook->state->s_context;
    if (name != expected && PyUnicode_Compare(name, expected) != 0) {
        return 0;
    }
    Py_XSETREF(hook->keywords, Py_NewRef(keywords));
    return 1;
}

static PyObject *
announcer_vectorcall(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *keywords)
{
    Announcer *hook = (Announcer *)self;
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf), given = keywords == NULL ? 0 : PyTuple_GET_SIZE(keywords);
    PyObject *bound = NULL, *handle, *context = NULL;
    if (hook->loop_ref != NULL && (bound = loop_of(hook)) == NULL) {
        return NULL;
    }
    int plain = given == 0;
    if (given == 1) {
        plain = keywords == hook->keywords || is_context(hook, keywords);
        context = args[nargs] == Py_None ? NULL : args[nargs];
    }
    if (!plain || nargs < (bound == NULL ? 2 : 1)) {
        handle = as_called(hook, bound, args, nargs, keywords);
    }
    else if (bound != NULL) {
        handle = announce(hook, bound, args[0], args + 1, nargs - 1, context);
    }
    else {
        handle = announce(hook, args[0], args[1], args + 2, nargs - 2, context);
    }
    Py_XDECREF(bound);
    return handle;
}

static PyObject *
announcer_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"original", "clock", "adopt", "hide", "step_type", "py_step", "py_wakeup", "direct",
                            "loop", "frameless", NULL};
    PyObject *original, *clock, *adopt, *hide, *py_step, *py_wakeup, *direct = NULL, *loop = NULL;
    PyTypeObject *step_type;
    int frameless = 0;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "OOOOO!OO|$O!Op:Announcer", names, &original, &clock, &adopt,
                                     &hide, &PyType_Type, &step_type, &py_step, &py_wakeup, &PySet_Type, &direct, &loop,
                                     &frameless)) {
        return NULL;
    }
    Announcer *hook = (Announcer *)type->tp_alloc(type, 0);
    if (hook == NULL) {
        return NULL;
    }
    hook->vectorcall = announcer_vectorcall;
    hook->state = state_of(type);
    hook->original = Py_NewRef(original);
    /* A function of Python's may be given another way to be called. */
    hook->call_original = PyFunction_Check(original) ? NULL : PyVectorcall_Function(original);
    hook->adopt = Py_NewRef(adopt);
    hook->hide = Py_NewRef(hide);
    hook->step_type = (PyTypeObject *)Py_NewRef(step_type);
    hook->py_step = Py_NewRef(py_step);
    hook->py_wakeup = Py_NewRef(py_wakeup);
    hook->direct = Py_XNewRef(direct);
    hook->frameless = frameless;
    PyObject *self = PyObject_GetAttr((PyObject *)step_type, hook->state->s_self);
    if (self == NULL || !Py_IS_TYPE(self, &PyGetSetDescr_Type)) {
        PyErr_Format(PyExc_TypeError, "%.100s has no __self__ that is known", step_type->tp_name);
        Py_XDECREF(self);
        Py_DECREF(hook);
        return NULL;
    }
    hook->self_of_step = ((PyGetSetDescrObject *)self)->d_getset->get;
    Py_DECREF(self);
    if (clock_set(hook->state, &hook->clock, clock) < 0) {
        Py_DECREF(hook);
        return NULL;
    }
    if (loop != NULL && loop != Py_None && (hook->loop_ref = PyWeakref_NewRef(loop, NULL)) == NULL) {
        Py_DECREF(hook);
        return NULL;
    }
    return (PyObject *)hook;
}

static int
announcer_traverse(PyObject *self, visitproc visit, void *arg)
{
    Announcer *hook = (Announcer *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(hook->dict);
    Py_VISIT(hook->original);
    Py_VISIT(hook->keywords);
    Py_VISIT(hook->adopt);
    Py_VISIT(hook->hide);
    Py_VISIT(hook->direct);
    Py_VISIT(hook->in_place);
    Py_VISIT(hook->step_type);
    Py_VISIT(hook->py_step);
    Py_VISIT(hook->py_wakeup);
    Py_VISIT(hook->loop_ref);
    Py_VISIT(hook->clock.ask);
    return 0;
}

static int
announcer_clear(PyObject *self)
{
    Announcer *hook = (Announcer *)self;
    Py_CLEAR(hook->dict);
    Py_CLEAR(hook->original);
    Py_CLEAR(hook->adopt);
    Py_CLEAR(hook->hide);
    Py_CLEAR(hook->direct);
    Py_CLEAR(hook->in_place);
    Py_CLEAR(hook->step_type);
    Py_CLEAR(hook->keywords);
    Py_CLEAR(hook->py_step);
    Py_CLEAR(hook->py_wakeup);
    Py_CLEAR(hook->loop_ref);
    Py_CLEAR(hook->clock.ask);
    return 0;
}

static void
announcer_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    PyObject_ClearWeakRefs(self);
    announcer_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef announcer_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Announcer, vectorcall), READONLY, NULL},
    {"__dictoffset__", T_PYSSIZET, offsetof(Announcer, dict), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Announcer, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef announcer_getset[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot announcer_slots[] = {
    {Py_tp_new, announcer_new},           {Py_tp_call, PyVectorcall_Call}, {Py_tp_descr_get, bind},
    {Py_tp_traverse, announcer_traverse}, {Py_tp_clear, announcer_clear},  {Py_tp_dealloc, announcer_dealloc},
    {Py_tp_members, announcer_members},   {Py_tp_getset, announcer_getset}, {0, NULL},
};

static PyType_Spec announcer_spec = {
    "otel_asyncio.observe._compiled.Announcer", sizeof(Announcer), 0, METHOD, announcer_slots};

int
announce_add(PyObject *module, State *state)
{
    return add_type(module, &state->announcer_type, &announcer_spec, NULL);
}
