/* `add` of the weak set that asyncio keeps its tasks in, the twin of create.make_register. */

#include "compiled.h"

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    State *state;
    PyObject *plain;    /* the one in Python */
    PyObject *members;  /* the set of weak references */
    PyObject *removals; /* a list of those that are to go when nobody goes through the set any more */
    PyObject *remove;   /* the callback of each */
} Register;

/* The first step of a task is over that was taken in during it, the twin of Observation.registered and
   TaskRecord.end_first_step. Whether it was done: not without the clock of its loop's steps. Negative on error. */
static int
end_first_step(State *state, TimedCell *record)
{
    LoopCell *loop = cell_of(state, (PyObject *)record, NULL);
    int known = loop != NULL && !loop->let_go && loop->step != NULL && Py_IS_TYPE(loop->step, state->step_type);
    if (known && loop->running != (PyObject *)record && record->steps == 0) {
        long long now;
        known = clock_now(&((Step *)loop->step)->clock, &now) < 0 ? -1 : 1;
        if (known > 0) {
            record->first_step = record->step_started;
            record->suspended = now;
            record->busy = record->max_step = now - record->step_started;
            record->steps = 1;
            record->step_started = 0;
        }
    }
    Py_XDECREF(loop);
    return known;
}

/* Whether nothing is to be told of this task: it was made by us, and its first step is still to come, or it is known by
   now. Negative on error. */
static int
is_expected(State *state, PyObject *task)
{
    int expected = 0;
    PyObject *record = record_of(state, task);
    if (record == NULL) {
        PyErr_Clear();
    }
    else if (is_timed(state, record)) {
        expected = ((TimedCell *)record)->step_started == 0 ? 1 : end_first_step(state, (TimedCell *)record);
    }
    else {
        expected = is_cell(state, record);
    }
    Py_XDECREF(record);
    return expected;
}

static PyObject *
register_vectorcall(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *keywords)
{
    Register *reg = (Register *)self;
    int usual = PyVectorcall_NARGS(nargsf) == 1 && keywords == NULL && PyList_GET_SIZE(reg->removals) == 0;
    int expected = usual ? is_expected(reg->state, args[0]) : 0;
    if (expected <= 0) {
        return expected < 0 ? NULL : PyObject_Vectorcall(reg->plain, args, nargsf, keywords);
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

#define VISIT(field) Py_VISIT(field);
#define CLEAR(field) Py_CLEAR(field);
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

CALLABLE_SPEC(register, "Register", Register);

int
register_add(PyObject *module, State *state)
{
    return add_type(module, &state->register_type, &register_spec, NULL);
}
