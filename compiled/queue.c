/* The way of a span that has ended into the queue of the SDK's batch processor, the twin of its `emit`. */

#include "compiled.h"

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    State *state;
    PyObject *plain;     /* `emit` itself: where the queue is full enough for somebody to be woken or told */
    PyObject *processor; /* whose `_shutdown` and `_queue` are looked at each time */
    Py_ssize_t most;     /* of so many the queue is full enough */
} Taker;

/* Borrow the queue, as a reference of its own, if a span goes into it and that is all. */
static PyObject *
open_queue(Taker *taker)
{
    State *state = taker->state;
    if (state->call_append_left == NULL || is_answer(PyObject_GetAttr(taker->processor, state->s_shutdown), Py_False) <= 0) {
        return NULL;
    }
    PyObject *queue = PyObject_GetAttr(taker->processor, state->s_queue);
    if (queue != NULL && (!Py_IS_TYPE(queue, state->deque_type) || PyObject_Size(queue) + 1 >= taker->most)) {
        Py_CLEAR(queue);
    }
    return queue;
}

static PyObject *
taker_vectorcall(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *keywords)
{
    Taker *taker = (Taker *)self;
    PyObject *queue = PyVectorcall_NARGS(nargsf) == 1 && keywords == NULL ? open_queue(taker) : NULL;
    if (queue == NULL) {
        PyErr_Clear(); /* Python meets it again */
        return PyObject_Vectorcall(taker->plain, args, nargsf, keywords);
    }
    PyObject *answer = taker->state->call_append_left(queue, args[0]);
    Py_DECREF(queue);
    return answer;
}

static int
taker_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((Taker *)self)->plain);
    Py_VISIT(((Taker *)self)->processor);
    return 0;
}

static void
taker_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_CLEAR(((Taker *)self)->plain);
    Py_CLEAR(((Taker *)self)->processor);
    type->tp_free(self);
    Py_DECREF(type);
}

/* Taker(plain, processor, most) */
static PyObject *
taker_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    PyObject *plain, *processor;
    Py_ssize_t most;
    if (!PyArg_ParseTuple(args, "OOn:Taker", &plain, &processor, &most)) {
        return NULL;
    }
    Taker *taker = (Taker *)type->tp_alloc(type, 0);
    if (taker != NULL) {
        taker->vectorcall = taker_vectorcall;
        taker->state = state_of(type);
        taker->plain = Py_NewRef(plain);
        taker->processor = Py_NewRef(processor);
        taker->most = most;
    }
    return (PyObject *)taker;
}

CALLABLE_SPEC(taker, "Taker", Taker);

int
queue_add(PyObject *module, State *state)
{
    return add_type(module, &state->taker_type, &taker_spec, NULL);
}
