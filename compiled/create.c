/* What the `create_task` of an observed loop does in the usual case, the twin of create.make_create_task and
   tasks.make_recorded. */

#include "compiled.h"

/* ---- Maker: `loop.create_task(coro, *, name, context)`, or a task factory `(loop, coro, **keywords)` ----

   The usual case is a coroutine, no factory but that one, the stock task class. All else goes to the Python one before
   anything has happened here. */

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    State *state;
    PyObject *dict, *weakrefs;
    PyObject *own_code;           /* that of the same in Python */
    int exchanged;                /* whether somebody has given that another code, as ddtrace does: then it is what is called */
    PyObject *plain;              /* the same in Python */
    PyObject *observation, *sink; /* asked for `place` and for `unwanted` each time: both may become another */
    PyObject *surroundings;       /* what answers OpenTelemetry's context, and the variable where that is, or None */
    PyObject *variable;
    PyObject *tasks;              /* the module, whose Task is looked at each time: somebody may put another there */
    PyObject *task;               /* asyncio's task class */
    PyTypeObject *observed;       /* of it, the one with a slot for the record */
    Py_ssize_t slot;              /* where that is */
    PyObject *recorded, *glimpse, *hide; /* tasks.make_recorded, glimpses.glimpse, tasks.hidden */
    Recorder *recorder;
    PyObject *kind;               /* Kind.TASK */
    int stock;                    /* whether the loop's attributes are known; others are asked */
    int factory;                  /* whether it is a factory, which the loop has asked to make the task */
} Maker;

/* What `create_task` was given. Borrowed. */
typedef struct {
    PyObject *loop, *coro, *name, *context;
} Given;

/* The keywords that it was called with. `eager_start` is for Python, unless a factory is asked for what is usual. */
static int
read_keywords(Maker *maker, PyObject *const *args, PyObject *keywords, Given *given)
{
    State *state = maker->state;
    Py_ssize_t count = keywords == NULL ? 0 : PyTuple_GET_SIZE(keywords);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *keyword = PyTuple_GET_ITEM(keywords, i);
        if (keyword == state->s_name) {
            given->name = args[i];
        }
        else if (keyword == state->s_context) {
            given->context = args[i];
        }
        else if (!maker->factory || keyword != state->s_eager_start || (args[i] != Py_None && args[i] != Py_False)) {
            return 0; /* or one of them in a string of its own, which Python knows as well */
        }
    }
    return 1;
}

/* Whether that is a coroutine, and what the constructor does not refuse. */
static int
read_given(Maker *maker, PyObject *const *args, Py_ssize_t nargs, PyObject *keywords, Given *given)
{
    if (nargs != 2) {
        return 0;
    }
    *given = (Given){args[0], args[1], Py_None, Py_None};
    return read_keywords(maker, args + 2, keywords, given) && PyCoro_CheckExact(given->coro) &&
           (given->name == Py_None || PyUnicode_CheckExact(given->name)) &&
           (given->context == Py_None || PyContext_CheckExact(given->context));
}

/* Whether the loop has this as an attribute or, of a class that is not known, answers it when asked. Negative on error. */
static int
is_so(Maker *maker, PyObject *loop, PyObject *attribute, PyObject *method, PyObject *expected)
{
    return is_answer(maker->stock ? PyObject_GetAttr(loop, attribute) : PyObject_CallMethodNoArgs(loop, method), expected);
}

/* Whether the loop is as usual: open, and without a factory. Negative on error. */
static int
is_usual(Maker *maker, PyObject *loop)
{
    State *state = maker->state;
    int usual = is_so(maker, loop, state->s_task_factory, state->s_get_task_factory, Py_None);
    if (usual > 0) {
        usual = is_so(maker, loop, state->s_closed, state->s_is_closed, Py_False);
    }
    return usual;
}

/* New: the state of the loop; NULL, without an exception: it has none yet, or another installation goes first there. */
static LoopCell *
known_cell(Maker *maker, PyObject *loop)
{
    LoopCell *cell = cell_on(maker->state, loop);
    if (cell != NULL && (cell->unrecorded == NULL ||
                         (maker->factory && (cell->observation != maker->observation ||
                                             !is_none(cell->expected))))) {
        Py_CLEAR(cell);
    }
    return cell;
}

/* New: OpenTelemetry's context, here and now. */
static PyObject *
surroundings_of(Maker *maker)
{
    PyObject *found = NULL;
    if (PyContextVar_CheckExact(maker->variable) && (PyContextVar_Get(maker->variable, NULL, &found) < 0 || found != NULL)) {
        return found;
    }
    return PyObject_CallNoArgs(maker->surroundings);
}

/* Whether it is known at a glance that no task is recorded here. Negative on error. */
static int
is_unwanted(Maker *maker)
{
    PyObject *unwanted = PyObject_CallMethodNoArgs(maker->sink, maker->state->s_unwanted);
    int known = unwanted == NULL ? -1 : is_answer(surroundings_of(maker), unwanted);
    Py_XDECREF(unwanted);
    return known;
}

/* New: where the task would stand; None: it gets no span. A sink that fails is asked no more. */
static PyObject *
place_of(Maker *maker, LoopCell *cell, const Given *given)
{
    int unwanted = given->context == Py_None ? is_unwanted(maker) : 0;
    if (unwanted > 0) {
        return Py_NewRef(Py_None);
    }
    PyObject *place = unwanted == 0 ? ask_for_place(maker->recorder, given->context, cell->running) : NULL;
    if (place == NULL && tell_failure(maker->observation, maker->state->s_switch_off_creation) == 0) {
        place = Py_NewRef(Py_None);
    }
    return place;
}

/* ---- the task ---- */

/* In debug mode a task says where it was made, which is below Python of ours. Takes the reference. */
static PyObject *
hidden(Maker *maker, PyObject *task)
{
    State *state = maker->state;
    int known = task != NULL && Py_IS_TYPE(task, state->slotted) && state->slotted_in_c && state->get_traceback != NULL;
    PyObject *traceback = known          ? state->get_traceback(task, NULL)
                          : task == NULL ? NULL
                                         : PyObject_GetAttr(task, state->s_source_traceback);
    if (traceback == NULL) {
        Py_XDECREF(task);
        return NULL;
    }
    int none = traceback == Py_None;
    Py_DECREF(traceback);
    if (!none) {
        Py_SETREF(task, PyObject_CallOneArg(maker->hide, task));
    }
    return task;
}

/* New: a task without its constructor having run, and with this record. */
static PyObject *
blank_task(Maker *maker, PyObject *record)
{
    PyObject *task = maker->observed->tp_new(maker->observed, maker->state->nothing, NULL);
    if (task != NULL) {
        *(PyObject **)((char *)task + maker->slot) = Py_NewRef(record);
    }
    return task;
}

/* `task.__init__(coro, loop=loop, name=name, context=context)`, which announces the first step. */
static int
construct(State *state, PyObject *task, const Given *given)
{
    int status = -1;
    PyObject *args = PyTuple_New(1), *keywords = PyDict_New();
    if (args != NULL) {
        PyTuple_SET_ITEM(args, 0, Py_NewRef(given->coro));
    }
    if (args != NULL && keywords != NULL && PyDict_SetItem(keywords, state->s_loop, given->loop) == 0 &&
        (given->name == Py_None || PyDict_SetItem(keywords, state->s_name, given->name) == 0) &&
        (given->context == Py_None || PyDict_SetItem(keywords, state->s_context, given->context) == 0)) {
        status = Py_TYPE(task)->tp_init(task, args, keywords);
    }
    Py_XDECREF(args);
    Py_XDECREF(keywords);
    return status;
}

/* A task that gets no span, counted. */
static PyObject *
make_counted(Maker *maker, LoopCell *cell, ShardCell *shard, const Given *given)
{
    PyObject *task = blank_task(maker, cell->unrecorded);
    if (task != NULL && construct(maker->state, task, given) < 0) {
        Py_CLEAR(task);
    }
    shard->started += task != NULL;
    return task;
}

/* ---- its record ---- */

/* New: the place, if it is the right one. Nested by our own record: that must be the one of the task that really runs, or
   the place is asked for again. None: the task is not to be recorded. Takes the reference. */
static PyObject *
sure_of_place(Maker *maker, LoopCell *cell, PyObject *place, const Given *given)
{
    TimedCell *running = (TimedCell *)cell->running;
    if (is_none(cell->running)) {
        return place;
    }
    int nested = is_answer(PyObject_GetAttr(place, maker->state->s_parent), running->span == NULL ? Py_None : running->span);
    if (nested == 0) {
        return place;
    }
    PyObject *sure = nested < 0 ? NULL : make_sure_of_running(maker->recorder, cell, given->loop);
    if (sure != (PyObject *)running) {
        Py_SETREF(place, sure == NULL ? NULL : ask_for_place(maker->recorder, given->context, sure));
    }
    Py_XDECREF(sure);
    return place;
}

static PyObject *
make_with_record(Maker *maker, LoopCell *cell, TimedCell *record, const Given *given)
{
    State *state = maker->state;
    PyObject *task = blank_task(maker, (PyObject *)record);
    int timed = PyObject_TypeCheck(record, state->timed_type);
    if (task != NULL && ((timed && begin_record(maker->recorder, cell, record, task, given->loop) < 0) || construct(state, task, given) < 0)) {
        PyObject *raised = take_raised();
        if (timed && (record->outcome == NULL || record->outcome == Py_None)) {
            Py_XDECREF(PyObject_CallMethodNoArgs((PyObject *)record, state->s_abandon));
        }
        Py_CLEAR(task);
        raise_again(raised);
    }
    ShardCell *shard = shard_of(state, cell);
    if (task != NULL && shard != NULL) {
        shard->started++;
    }
    return task;
}

/* The making of records is switched off. New: what stands for the record of a task that gets no span. */
static PyObject *
give_up(Maker *maker, LoopCell *cell)
{
    int status = tell_failure(maker->observation, maker->state->s_switch_off_creation);
    return status < 0 ? NULL : Py_NewRef(cell->unrecorded);
}

/* New: the record of a task about to be made, or what stands for it; `*context` becomes the one to make it in. Takes the
   reference to the place. */
static PyObject *
admit(Maker *maker, LoopCell *cell, const Birth *birth, PyObject *place, const Given *given, PyObject **context)
{
    TimedCell *record = NULL;
    place = sure_of_place(maker, cell, place, given);
    if (place == Py_None) {
        *context = Py_NewRef(given->context);
        Py_DECREF(place);
        return Py_NewRef(cell->unrecorded);
    }
    if (place != NULL) {
        record = open_record(maker->recorder, cell, birth, place, given->coro, maker->kind, given->context, context);
        Py_DECREF(place);
    }
    if (record == NULL) {
        *context = Py_NewRef(given->context);
        return give_up(maker, cell);
    }
    if (is_none(record->span)) {
        Py_DECREF(record);
        return Py_NewRef(cell->unrecorded);
    }
    return (PyObject *)record;
}

/* A task with a record, the twin of tasks.make_recorded. Takes the reference to the place. */
static PyObject *
make_recorded(Maker *maker, LoopCell *cell, ShardCell *shard, const Birth *birth, PyObject *place, const Given *given)
{
    PyObject *context = NULL, *record = admit(maker, cell, birth, place, given, &context);
    if (record != NULL && PyObject_TypeCheck(record, maker->state->timed_type)) {
        shard->glimpse_at++; /* which is about the others */
    }
    else if (record != NULL && shard->started >= shard->glimpse_at) {
        PyObject *args[] = {(PyObject *)cell, given->coro};
        Py_SETREF(record, PyObject_Vectorcall(maker->glimpse, args, 2, NULL));
    }
    Given inside = *given;
    inside.context = context;
    PyObject *task = record == NULL ? NULL : make_with_record(maker, cell, (TimedCell *)record, &inside);
    Py_XDECREF(record);
    Py_XDECREF(context);
    return task;
}

/* A task of which there is to be a glimpse. */
static PyObject *
make_glimpsed(Maker *maker, LoopCell *cell, const Given *given)
{
    PyObject *args[] = {(PyObject *)cell, given->coro};
    PyObject *record = PyObject_Vectorcall(maker->glimpse, args, 2, NULL);
    PyObject *task = record == NULL ? NULL : make_with_record(maker, cell, (TimedCell *)record, given);
    Py_XDECREF(record);
    return task;
}

/* A task in whatever class it belongs. */
static PyObject *
make(Maker *maker, LoopCell *cell, ShardCell *shard, const Given *given)
{
    PyObject *place = place_of(maker, cell, given);
    if (place == NULL) {
        return NULL;
    }
    if (place == Py_None) {
        Py_DECREF(place);
        return shard->started < shard->glimpse_at ? make_counted(maker, cell, shard, given) : make_glimpsed(maker, cell, given);
    }
    PyObject *task = NULL;
    Birth birth = {NULL, NULL, 0};
    int usual = read_birth(maker->recorder, cell, given->coro, &birth);
    if (usual > 0) {
        task = make_recorded(maker, cell, shard, &birth, place, given);
    }
    else if (usual < 0) {
        PyObject *record = give_up(maker, cell);
        task = record == NULL ? NULL : make_counted(maker, cell, shard, given);
        Py_XDECREF(record);
        Py_DECREF(place);
    }
    else {
        PyObject *args[] = {(PyObject *)cell, place, given->loop, given->coro, given->name, given->context};
        task = PyObject_Vectorcall(maker->recorded, args, 6, NULL);
        Py_DECREF(place);
    }
    forget_birth(&birth);
    return task;
}

/* New: the class of tasks that asyncio has now; NULL with an exception. */
static PyObject *
task_class(Maker *maker)
{
    PyObject *found = PyModule_CheckExact(maker->tasks)
                          ? PyDict_GetItemWithError(PyModule_GetDict(maker->tasks), maker->state->s_task)
                          : NULL;
    return found != NULL ? Py_NewRef(found) : PyErr_Occurred() ? NULL : PyObject_GetAttr(maker->tasks, maker->state->s_task);
}

static PyObject *
maker_vectorcall(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *keywords)
{
    Maker *maker = (Maker *)self;
    State *state = maker->state;
    Given given;
    LoopCell *cell = NULL;
    if (!maker->exchanged && read_given(maker, args, PyVectorcall_NARGS(nargsf), keywords, &given)) {
        int usual = is_answer(task_class(maker), maker->task);
        if (usual > 0 && !maker->factory) {
            usual = is_usual(maker, given.loop);
        }
        if (usual < 0) {
            return NULL;
        }
        cell = usual ? known_cell(maker, given.loop) : NULL;
    }
    /* Both are held: the constructor announces the first step, and whoever hears of that may do as he likes. */
    ShardCell *shard = cell == NULL ? NULL : (ShardCell *)Py_XNewRef(shard_of(state, cell));
    PyObject *task = shard == NULL ? PyObject_Vectorcall(maker->plain, args, nargsf, keywords)
                                   : hidden(maker, make(maker, cell, shard, &given));
    Py_XDECREF(shard);
    Py_XDECREF(cell);
    return task;
}

#define EACH_OF_MAKER(DO)                                                                                      \
    DO(plain) DO(observation) DO(sink) DO(surroundings) DO(variable) DO(tasks) DO(task) DO(observed)                    \
    DO(recorded) DO(glimpse) DO(hide) DO(recorder) DO(kind)

static int
maker_traverse(PyObject *self, visitproc visit, void *arg)
{
    Maker *maker = (Maker *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(maker->dict);
#define VISIT_OF_MAKER(field) Py_VISIT(maker->field);
    EACH_OF_MAKER(VISIT_OF_MAKER)
    return 0;
}

static void
maker_dealloc(PyObject *self)
{
    Maker *maker = (Maker *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    PyObject_ClearWeakRefs(self);
    Py_CLEAR(maker->dict);
    Py_CLEAR(maker->own_code);
#define CLEAR_OF_MAKER(field) Py_CLEAR(maker->field);
    EACH_OF_MAKER(CLEAR_OF_MAKER)
    type->tp_free(self);
    Py_DECREF(type);
}

/* Takes all parts by name; those that are objects as they are. */
static PyObject *
maker_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    State *state = state_of(type);
    Maker *maker = (Maker *)type->tp_alloc(type, 0);
    if (maker == NULL) {
        return NULL;
    }
    maker->vectorcall = maker_vectorcall;
    maker->state = state;
#define NAME_OF_PART(field) #field,
    static char *names[] = {"stock", "factory", EACH_OF_MAKER(NAME_OF_PART) NULL};
    if (!PyArg_ParseTupleAndKeywords(
            args, keywords, "$ppOOOOOOOO!OOOO!O:Maker", names, &maker->stock, &maker->factory, &maker->plain, &maker->observation,
            &maker->sink, &maker->surroundings, &maker->variable, &maker->tasks, &maker->task, &PyType_Type, &maker->observed,
            &maker->recorded, &maker->glimpse, &maker->hide, state->recorder_type, &maker->recorder, &maker->kind)) {
        memset(&maker->plain, 0, sizeof(Maker) - offsetof(Maker, plain)); /* what was parsed is only borrowed */
        Py_DECREF(maker);
        return NULL;
    }
#define KEEP_PART(field) Py_INCREF(maker->field);
    EACH_OF_MAKER(KEEP_PART)
    if (offset_of(maker->observed, "_otel_asyncio", &maker->slot) == 0) {
        PyErr_SetString(PyExc_TypeError, "the observed class has a slot for the record");
        Py_CLEAR(maker);
    }
    else if ((maker->own_code = PyObject_GetAttrString(maker->plain, "__code__")) == NULL) {
        Py_CLEAR(maker);
    }
    return (PyObject *)maker;
}

static PyMemberDef maker_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Maker, vectorcall), READONLY, NULL},
    {"__dictoffset__", T_PYSSIZET, offsetof(Maker, dict), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Maker, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

/* It is a function to whoever exchanges the code of one (ddtrace): what is read and set is the one in Python. */
static PyObject *
part_of_plain(PyObject *self, void *name)
{
    return PyObject_GetAttrString(((Maker *)self)->plain, name);
}

static int
exchange_code(PyObject *self, PyObject *code, void *name)
{
    Maker *maker = (Maker *)self;
    if (PyObject_SetAttrString(maker->plain, name, code) < 0) {
        return -1;
    }
    maker->exchanged = code != maker->own_code;
    return 0;
}

static PyGetSetDef maker_getset[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {"__code__", part_of_plain, exchange_code, NULL, "__code__"},
    {"__globals__", part_of_plain, NULL, NULL, "__globals__"},
    {"__closure__", part_of_plain, NULL, NULL, "__closure__"},
    {"__defaults__", part_of_plain, NULL, NULL, "__defaults__"},
    {"__kwdefaults__", part_of_plain, NULL, NULL, "__kwdefaults__"},
    {NULL, NULL, NULL, NULL, NULL},
};

/* No tp_clear: whatever cycle it is part of goes through Python's objects, and it may be called until it is freed. */
static PyType_Slot maker_slots[] = {
    {Py_tp_new, maker_new},           {Py_tp_call, PyVectorcall_Call}, {Py_tp_descr_get, bind},
    {Py_tp_traverse, maker_traverse}, {Py_tp_dealloc, maker_dealloc},  {Py_tp_members, maker_members},
    {Py_tp_getset, maker_getset},     {0, NULL},
};

static PyType_Spec maker_spec = {"otel_asyncio.observe._compiled.Maker", sizeof(Maker), 0, METHOD, maker_slots};

int
create_add(PyObject *module, State *state)
{
    return add_type(module, &state->maker_type, &maker_spec, NULL);
}
