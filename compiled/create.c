/* The `create_task` of an observed loop, the twin of create.make_create_task, and the list that asyncio keeps of tasks. */

#include "compiled.h"

/* ---- Creator: `create_task` ----

   The first branch is written out here, as it is there: a coroutine, no factory, no keyword but name and context. Whatever
   else there may be is for the one in Python; so is the making of a task that gets a record. In debug mode there is nothing
   to hide: no frame of ours is among those of whoever made the task. */

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    State *state;
    PyObject *dict, *weakrefs;
    PyObject *plain;              /* the one in Python */
    PyObject *recorded;           /* make_recorded */
    PyObject *observation, *sink; /* asked for `place` and for `unwanted` each time: both may become another */
    PyObject *surroundings;
    PyObject *tasks;              /* the module, whose Task is looked at each time: somebody may put another there */
    PyObject *task, *plain_task;  /* asyncio's, and of it the class whose tasks get no span */
    int stock;                    /* whether the loop's attributes are known; others are asked */
} Creator;

/* What `create_task` was given. Borrowed. */
typedef struct {
    PyObject *loop, *coro, *name, *context;
} Given;

/* Whether that is a coroutine, a name and a context perhaps, and no more. */
static int
read_given(State *state, PyObject *const *args, Py_ssize_t nargs, PyObject *keywords, Given *given)
{
    if (nargs != 2 || !PyCoro_CheckExact(args[1])) {
        return 0;
    }
    *given = (Given){args[0], args[1], Py_None, Py_None};
    Py_ssize_t count = keywords == NULL ? 0 : PyTuple_GET_SIZE(keywords);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *keyword = PyTuple_GET_ITEM(keywords, i);
        if (keyword == state->s_name) {
            given->name = args[nargs + i];
        }
        else if (keyword == state->s_context) {
            given->context = args[nargs + i];
        }
        else {
            return 0; /* or one of the two in a string of its own, which the one in Python knows as well */
        }
    }
    /* What the constructor may refuse, it refuses below the frame of the one in Python. */
    return (given->name == Py_None || PyUnicode_CheckExact(given->name)) &&
           (given->context == Py_None || PyContext_CheckExact(given->context));
}

/* Whether the loop has this as an attribute or, of a class that is not known, answers it when asked. Negative on error. */
static int
is_so(Creator *creator, PyObject *loop, PyObject *attribute, PyObject *method, PyObject *expected)
{
    return is_answer(creator->stock ? PyObject_GetAttr(loop, attribute) : PyObject_CallMethodNoArgs(loop, method), expected);
}

/* Whether the loop is as usual: open, and without a factory. Negative on error. */
static int
is_usual(Creator *creator, PyObject *loop)
{
    State *state = creator->state;
    int usual = is_so(creator, loop, state->s_task_factory, state->s_get_task_factory, Py_None);
    if (usual > 0) {
        usual = is_so(creator, loop, state->s_closed, state->s_is_closed, Py_False);
    }
    return usual;
}

/* New: the state of the loop, or NULL without an exception: it has none yet. */
static LoopCell *
known_cell(State *state, PyObject *loop)
{
    PyObject *cell = PyObject_GetAttr(loop, state->s_otel_asyncio);
    if (cell == NULL) {
        PyErr_Clear();
    }
    else if (!PyObject_TypeCheck(cell, state->loop_type)) {
        Py_CLEAR(cell);
    }
    return (LoopCell *)cell;
}

/* Whether it is known at a glance that no task is recorded here. Negative on error. */
static int
is_unwanted(Creator *creator)
{
    PyObject *unwanted = PyObject_CallMethodNoArgs(creator->sink, creator->state->s_unwanted);
    int known = unwanted == NULL ? -1 : is_answer(PyObject_CallNoArgs(creator->surroundings), unwanted);
    Py_XDECREF(unwanted);
    return known;
}

/* New: where the task would stand; None: it gets no span. A sink that fails is asked no more. */
static PyObject *
place_of(Creator *creator, LoopCell *cell, const Given *given)
{
    State *state = creator->state;
    int unwanted = given->context == Py_None ? is_unwanted(creator) : 0;
    if (unwanted > 0) {
        return Py_NewRef(Py_None);
    }
    PyObject *place = NULL;
    if (unwanted == 0) {
        PyObject *running = Py_NewRef(cell->running == NULL ? Py_None : cell->running);
        PyObject *args[] = {creator->observation, given->context, running};
        place = PyObject_VectorcallMethod(state->s_place, args, 3, NULL);
        Py_DECREF(running);
    }
    if (place == NULL && PyErr_ExceptionMatches(PyExc_Exception)) {
        PyObject *raised = take_raised();
        place = PyObject_CallMethodOneArg(creator->observation, state->s_switch_off_creation, raised);
        Py_DECREF(raised);
    }
    return place;
}

/* A task that gets no span: `Task(coro, loop=loop, name=name, context=context)`, counted. */
static PyObject *
make_counted(Creator *creator, ShardCell *shard, const Given *given)
{
    PyObject *args[] = {NULL, given->coro, given->loop, given->name, given->context};
    PyObject *task = PyObject_Vectorcall(creator->plain_task, args + 1, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET,
                                         creator->state->task_keywords);
    shard->started += task != NULL;
    return task;
}

/* A task in whatever class it belongs. */
static PyObject *
make(Creator *creator, LoopCell *cell, const Given *given)
{
    PyObject *place = place_of(creator, cell, given);
    if (place == NULL) {
        return NULL;
    }
    PyObject *task;
    ShardCell *shard = shard_of(creator->state, cell);
    if (place == Py_None && shard != NULL && shard->started < shard->glimpse_at) {
        Py_INCREF(shard); /* the constructor announces the first step, and whoever hears of that may do as he likes */
        task = make_counted(creator, shard, given);
        Py_DECREF(shard);
    }
    else {
        PyObject *args[] = {NULL, (PyObject *)cell, place, given->loop, given->coro, given->name, given->context};
        task = PyObject_Vectorcall(creator->recorded, args + 1, 6 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    }
    Py_DECREF(place);
    return task;
}

static PyObject *
creator_vectorcall(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *keywords)
{
    Creator *creator = (Creator *)self;
    Given given;
    LoopCell *cell = NULL;
    if (read_given(creator->state, args, PyVectorcall_NARGS(nargsf), keywords, &given)) {
        int usual = is_answer(PyObject_GetAttr(creator->tasks, creator->state->s_task), creator->task);
        if (usual > 0) {
            usual = is_usual(creator, given.loop);
        }
        if (usual < 0) {
            return NULL;
        }
        cell = usual ? known_cell(creator->state, given.loop) : NULL;
    }
    if (cell == NULL) {
        return PyObject_Vectorcall(creator->plain, args, nargsf, keywords);
    }
    PyObject *task = make(creator, cell, &given);
    Py_DECREF(cell);
    return task;
}

/* Bound to a loop, as a function would be. */
static PyObject *
creator_get(PyObject *self, PyObject *object, PyObject *type)
{
    return object == NULL || object == Py_None ? Py_NewRef(self) : PyMethod_New(self, object);
}

static PyObject *
creator_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"plain", "recorded", "observation", "sink", "surroundings", "tasks", "task", "plain_task", "stock", NULL};
    PyObject *plain, *recorded, *observation, *sink, *surroundings, *tasks, *task, *plain_task;
    int stock;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "OOOOOOOOp:Creator", names, &plain, &recorded, &observation, &sink,
                                     &surroundings, &tasks, &task, &plain_task, &stock)) {
        return NULL;
    }
    Creator *creator = (Creator *)type->tp_alloc(type, 0);
    if (creator == NULL) {
        return NULL;
    }
    creator->vectorcall = creator_vectorcall;
    creator->state = state_of(type);
    creator->plain = Py_NewRef(plain);
    creator->recorded = Py_NewRef(recorded);
    creator->observation = Py_NewRef(observation);
    creator->sink = Py_NewRef(sink);
    creator->surroundings = Py_NewRef(surroundings);
    creator->tasks = Py_NewRef(tasks);
    creator->task = Py_NewRef(task);
    creator->plain_task = Py_NewRef(plain_task);
    creator->stock = stock;
    return (PyObject *)creator;
}

#define EACH_OF_CREATOR(DO)                                                                              \
    DO(creator->dict) DO(creator->plain) DO(creator->recorded) DO(creator->observation) DO(creator->sink) \
    DO(creator->surroundings) DO(creator->tasks) DO(creator->task) DO(creator->plain_task)

#define VISIT(field) Py_VISIT(field);
#define CLEAR(field) Py_CLEAR(field);

static int
creator_traverse(PyObject *self, visitproc visit, void *arg)
{
    Creator *creator = (Creator *)self;
    Py_VISIT(Py_TYPE(self));
    EACH_OF_CREATOR(VISIT)
    return 0;
}

static void
creator_dealloc(PyObject *self)
{
    Creator *creator = (Creator *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    PyObject_ClearWeakRefs(self);
    EACH_OF_CREATOR(CLEAR)
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef creator_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Creator, vectorcall), READONLY, NULL},
    {"__dictoffset__", T_PYSSIZET, offsetof(Creator, dict), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Creator, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef creator_getset[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

/* No tp_clear: whatever cycle it is part of goes through Python's objects, and it may be called until it is freed. */
static PyType_Slot creator_slots[] = {
    {Py_tp_new, creator_new},           {Py_tp_call, PyVectorcall_Call}, {Py_tp_descr_get, creator_get},
    {Py_tp_traverse, creator_traverse}, {Py_tp_dealloc, creator_dealloc}, {Py_tp_members, creator_members},
    {Py_tp_getset, creator_getset},     {0, NULL},
};

#define CALLABLE (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_IMMUTABLETYPE)

/* A method descriptor to the interpreter: `loop.create_task(…)` need not make a bound method. */
static PyType_Spec creator_spec = {"otel_asyncio.observe._compiled.Creator", sizeof(Creator), 0,
                                   CALLABLE | Py_TPFLAGS_METHOD_DESCRIPTOR, creator_slots};

/* ---- Register: `add` of the weak set that asyncio keeps its tasks in, the twin of create.make_register ---- */

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    State *state;
    PyObject *plain;    /* the one in Python */
    PyObject *members;  /* the set of weak references */
    PyObject *removals; /* a list of those that are to go when nobody goes through the set any more */
    PyObject *remove;   /* the callback of each */
} Register;

/* Whether it is no news that there is this task: it was made by us, and its first step is still to come. */
static int
is_expected(State *state, PyObject *task)
{
    int expected = 0;
    PyObject *record = PyObject_GetAttr(task, state->s_otel_asyncio);
    if (record == NULL) {
        PyErr_Clear();
    }
    else if (PyObject_TypeCheck(record, state->timed_type)) {
        expected = ((TimedCell *)record)->step_started == 0;
    }
    else {
        expected = PyObject_TypeCheck(record, state->cell_type);
    }
    Py_XDECREF(record);
    return expected;
}

static PyObject *
register_vectorcall(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *keywords)
{
    Register *reg = (Register *)self;
    if (PyVectorcall_NARGS(nargsf) != 1 || keywords != NULL || PyList_GET_SIZE(reg->removals) > 0 ||
        !is_expected(reg->state, args[0])) {
        return PyObject_Vectorcall(reg->plain, args, nargsf, keywords);
    }
    PyObject *ref = PyWeakref_NewRef(args[0], reg->remove);
    int status = ref == NULL ? -1 : PySet_Add(reg->members, ref);
    Py_XDECREF(ref);
    return status < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
register_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"plain", "members", "removals", "remove", NULL};
    PyObject *plain, *members, *removals, *remove;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "OO!O!O:Register", names, &plain, &PySet_Type, &members,
                                     &PyList_Type, &removals, &remove)) {
        return NULL;
    }
    Register *reg = (Register *)type->tp_alloc(type, 0);
    if (reg == NULL) {
        return NULL;
    }
    reg->vectorcall = register_vectorcall;
    reg->state = state_of(type);
    reg->plain = Py_NewRef(plain);
    reg->members = Py_NewRef(members);
    reg->removals = Py_NewRef(removals);
    reg->remove = Py_NewRef(remove);
    return (PyObject *)reg;
}

#define EACH_OF_REGISTER(DO) DO(reg->plain) DO(reg->members) DO(reg->removals) DO(reg->remove)

static int
register_traverse(PyObject *self, visitproc visit, void *arg)
{
    Register *reg = (Register *)self;
    Py_VISIT(Py_TYPE(self));
    EACH_OF_REGISTER(VISIT)
    return 0;
}

static void
register_dealloc(PyObject *self)
{
    Register *reg = (Register *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    EACH_OF_REGISTER(CLEAR)
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef register_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Register, vectorcall), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

/* No tp_clear, as above. */
static PyType_Slot register_slots[] = {
    {Py_tp_new, register_new},         {Py_tp_call, PyVectorcall_Call},   {Py_tp_traverse, register_traverse},
    {Py_tp_dealloc, register_dealloc}, {Py_tp_members, register_members}, {0, NULL},
};

static PyType_Spec register_spec = {"otel_asyncio.observe._compiled.Register", sizeof(Register), 0, CALLABLE, register_slots};

int
create_add(PyObject *module, State *state)
{
    state->creator_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &creator_spec, NULL);
    state->register_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &register_spec, NULL);
    if (state->creator_type == NULL || state->register_type == NULL) {
        return -1;
    }
    return PyModule_AddType(module, state->creator_type) || PyModule_AddType(module, state->register_type) ? -1 : 0;
}
