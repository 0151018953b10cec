/* What the spans of tasks are made with: leaves of the emitter, each of which has its twin in Python where it is used. */

#include "compiled.h"

/* copy_slots(object): a new object of the same class, whose own slots hold the same; nothing else of it is copied. */
PyObject *
copy_slots(PyObject *module, PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    if (!PyType_HasFeature(type, Py_TPFLAGS_HEAPTYPE) || type->tp_members == NULL) {
        return PyErr_Format(PyExc_TypeError, "%.100s has no slots of its own", type->tp_name);
    }
    PyObject *copy = type->tp_alloc(type, 0);
    if (copy == NULL) {
        return NULL;
    }
    for (const PyMemberDef *member = type->tp_members; member->name != NULL; member++) {
        if (member->type == T_OBJECT_EX) {
            *(PyObject **)((char *)copy + member->offset) = Py_XNewRef(*(PyObject **)((char *)object + member->offset));
        }
    }
    return copy;
}

/* New: OpenTelemetry's context, an instance of `class`, a dict that lets nobody set anything: `span` on top of what
   `telemetry` has. */
static PyObject *
on_top_of(PyTypeObject *class, PyObject *key, PyObject *span, PyObject *telemetry)
{
    PyObject *nothing = PyTuple_New(0);
    PyObject *made = nothing == NULL ? NULL : class->tp_new(class, nothing, NULL);
    Py_XDECREF(nothing);
    /* In the usual case there is nothing but another span there, or nothing at all. */
    Py_ssize_t size = PyObject_Size(telemetry);
    int more = size == 1 && PyDict_Check(telemetry) ? !PyDict_Contains(telemetry, key) : size > 0;
    if (made != NULL && (size < 0 || (more && PyDict_Update(made, telemetry) < 0) || PyErr_Occurred() ||
                         PyDict_SetItem(made, key, span) < 0)) {
        Py_CLEAR(made);
    }
    return made;
}

/* New: a copy of the current context in which the variable is set to a `class`, a dict, of what `telemetry` has, and `span`
   under `key`. No token is taken. */
PyObject *
make_context_with(PyObject *variable, PyTypeObject *class, PyObject *key, PyObject *span, PyObject *telemetry)
{
    PyObject *value = on_top_of(class, key, span, telemetry);
    PyObject *context = value == NULL ? NULL : PyContext_CopyCurrent();
    if (context != NULL && PyContext_Enter(context) == 0) {
        PyObject *token = PyContextVar_Set(variable, value);
        if (PyContext_Exit(context) < 0 || token == NULL) {
            Py_CLEAR(context);
        }
        Py_XDECREF(token);
    }
    else {
        Py_CLEAR(context);
    }
    Py_XDECREF(value);
    return context;
}

/* context_with(variable, class, key, span, telemetry) */
PyObject *
context_with(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 5 || !PyContextVar_CheckExact(args[0]) || !PyType_Check(args[1]) ||
        !PyType_IsSubtype((PyTypeObject *)args[1], &PyDict_Type)) {
        PyErr_SetString(PyExc_TypeError, "context_with takes a context variable, a class of dicts, key, span, telemetry");
        return NULL;
    }
    return make_context_with(args[0], (PyTypeObject *)args[1], args[2], args[3], args[4]);
}

/* New: the SpanContext of a child that is sampled because this local parent is; None: it is not, or not local. */
PyObject *
make_child_ids(PyTypeObject *class, PyObject *parent, PyObject *new_span_id)
{
    long flags = PyLong_AsLong(PyTuple_GET_ITEM(parent, TRACE_FLAGS));
    if (flags == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (!(flags & 1) || PyTuple_GET_ITEM(parent, IS_REMOTE) != Py_False || PyTuple_GET_ITEM(parent, IS_VALID) != Py_True) {
        Py_RETURN_NONE;
    }
    PyObject *number = PyObject_CallNoArgs(new_span_id);
    int none = number == NULL ? 0 : PyObject_Not(number);
    if (none != 0) { /* nothing but zeros is no id */
        Py_SETREF(number, none < 0 ? NULL : PyObject_CallNoArgs(new_span_id));
    }
    PyObject *ids = number == NULL ? NULL : class->tp_alloc(class, PARTS_OF_IDS);
    if (ids == NULL) {
        Py_XDECREF(number);
        return NULL;
    }
    for (Py_ssize_t part = 0; part < PARTS_OF_IDS; part++) {
        PyTuple_SET_ITEM(ids, part, part == SPAN_ID ? number : Py_NewRef(PyTuple_GET_ITEM(parent, part)));
    }
    PyObject_GC_UnTrack(ids); /* which lead nowhere, and outlive many a collection in a queue */
    return ids;
}

/* child_ids(class, parent, new_span_id). The class is a tuple as the SDK makes it, which the caller has looked at. */
PyObject *
child_ids(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    PyTypeObject *class = nargs == 3 && PyType_Check(args[0]) ? (PyTypeObject *)args[0] : NULL;
    if (class == NULL || !PyType_IsSubtype(class, &PyTuple_Type) || !are_ids(args[1]) ||
        !PyLong_Check(PyTuple_GET_ITEM(args[1], TRACE_FLAGS))) {
        PyErr_SetString(PyExc_TypeError, "child_ids takes a class of tuples, a SpanContext and what makes the id of a span");
        return NULL;
    }
    return make_child_ids(class, args[1], args[2]);
}
