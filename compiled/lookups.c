/* What every step has to look up, found once and remembered: where a task has its record, what is kept of a loop, what
   answers an attribute, what is known of a code object, where a frame stands. Each is a short way to what the look-up by name would find. */

#include "compiled.h"

/* The C function that a class answers this method with, which takes nothing; NULL: there is none, or it is Python's. */
static PyCFunction
function_of(PyTypeObject *type, PyObject *name)
{
    PyObject *found = PyObject_GetAttr((PyObject *)type, name);
    int known = found != NULL && Py_IS_TYPE(found, &PyMethodDescr_Type) &&
                ((PyMethodDescrObject *)found)->d_method->ml_flags == METH_NOARGS;
    PyCFunction function = known ? ((PyMethodDescrObject *)found)->d_method->ml_meth : NULL;
    PyErr_Clear();
    Py_XDECREF(found);
    return function;
}

/* Look where the records of this class of tasks are kept. The class is one of ours, which nobody changes. */
static void
find_slot(State *state, PyTypeObject *type)
{
    Py_ssize_t slot;
    if (offset_of(type, "_otel_asyncio", &slot)) {
        Py_XSETREF(state->slotted, (PyTypeObject *)Py_NewRef(type));
        state->slot = slot;
        state->call_get_name = function_of(type, state->s_get_name);
        state->slotted_in_c = state->call_done != NULL && PyType_IsSubtype(type, PyDescr_TYPE(state->done));
    }
    else {
        Py_XSETREF(state->unslotted, (PyTypeObject *)Py_NewRef(type));
    }
}

/* `getattr(object, name, None)`, but NULL for None. Most of what is asked for is there: only 3.13 has a way that
   makes no exception of it where it is not. */
static PyObject *
attribute_or_null(PyObject *object, PyObject *name)
{
    PyObject *found = NULL;
#if PY_VERSION_HEX >= 0x030D0000
    PyObject_GetOptionalAttr(object, name, &found);
#else
    found = PyObject_GetAttr(object, name);
    if (found == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
    }
#endif
    return found;
}

/* New: the record of a task; NULL, without an exception perhaps: it has none. */
PyObject *
record_of(State *state, PyObject *task)
{
    PyObject *kept = kept_record(state, task);
    if (kept != NULL) {
        return Py_NewRef(kept);
    }
    if (Py_TYPE(task) != state->slotted && Py_TYPE(task) != state->unslotted) {
        find_slot(state, Py_TYPE(task));
    }
    return attribute_or_null(task, state->s_otel_asyncio);
}

/* Whether this is the task's record. Negative on error. */
int
has_record(State *state, PyObject *task, PyObject *record)
{
    PyObject *found = record_of(state, task);
    Py_XDECREF(found);
    return found == NULL && PyErr_Occurred() ? -1 : found == record;
}

/* New: what is kept of the loop; NULL, without an exception: it is followed no longer, or not yet. */
LoopCell *
cell_on(State *state, PyObject *loop)
{
    /* Referred to weakly, or a loop that is gone might be taken for its successor at the same address. */
    LoopCell *cell = state->seen_cell;
    if (cell != NULL && ((PyWeakReference *)state->seen_loop)->wr_object == loop && !cell->let_go) {
        return (LoopCell *)Py_NewRef(cell);
    }
    cell = (LoopCell *)attribute_or_null(loop, state->s_otel_asyncio);
    PyObject *ref = NULL;
    if (cell != NULL && !PyObject_TypeCheck(cell, state->loop_type)) {
        Py_CLEAR(cell);
    }
    else if (cell != NULL && !cell->let_go && (ref = PyWeakref_NewRef(loop, NULL)) != NULL) {
        Py_XSETREF(state->seen_loop, ref);
        state->seen_cell = cell; /* until it is freed */
        cell->seen_in = state;
    }
    PyErr_Clear();
    return cell;
}

/* Borrowed: what is known of a code object; NULL, without an exception perhaps: nothing is yet. */
PyObject *
known_info(PyObject *infos, PyObject *key)
{
    PyObject *info = PyDict_GetItemWithError(infos, key);
    return info != NULL && PyTuple_Check(info) && PyTuple_GET_SIZE(info) == INFO_SIZE ? info : NULL;
}

/* New: where a frame stands, as code and instruction. */
PyObject *
point_of(PyCodeObject *code, PyFrameObject *frame)
{
    PyObject *instruction = PyLong_FromLong(PyFrame_GetLasti(frame));
    PyObject *point = instruction == NULL ? NULL : PyTuple_Pack(2, code, instruction);
    Py_XDECREF(instruction);
    return point;
}

/* New: the attribute of an object of a class that is remembered; of another one, if C answers it there. */
PyObject *
answer_of(Answer *answer, PyObject *object, PyObject *name)
{
    PyTypeObject *type = Py_TYPE(object);
    if (type == answer->type) {
        return answer->get(object, answer->closure);
    }
    /* Neither the class may become another one nor the look-up be somebody's own. */
    if (PyType_HasFeature(type, Py_TPFLAGS_IMMUTABLETYPE) && type->tp_getattro == PyObject_GenericGetAttr) {
        PyObject *found = PyObject_GetAttr((PyObject *)type, name);
        if (found != NULL && Py_IS_TYPE(found, &PyGetSetDescr_Type) && ((PyGetSetDescrObject *)found)->d_getset->get != NULL) {
            answer->get = ((PyGetSetDescrObject *)found)->d_getset->get;
            answer->closure = ((PyGetSetDescrObject *)found)->d_getset->closure;
            Py_XSETREF(answer->type, (PyTypeObject *)Py_NewRef(type));
        }
        PyErr_Clear();
        Py_XDECREF(found);
    }
    return PyObject_GetAttr(object, name);
}
