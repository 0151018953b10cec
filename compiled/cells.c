/* The fields that every step touches, as the bases of TaskRecord, Unrecorded and LoopState. */

#include "compiled.h"

#define OBJECT(type, field) {#field, T_OBJECT, offsetof(type, field), 0, NULL}
#define NUMBER(field) {#field, T_LONGLONG, offsetof(TimedCell, field), 0, NULL}

static int
cell_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((Cell *)self)->step);
    return 0;
}

static int
cell_clear(PyObject *self)
{
    Py_CLEAR(((Cell *)self)->step);
    return 0;
}

static int
timed_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(((TimedCell *)self)->loop);
    Py_VISIT(((TimedCell *)self)->kind);
    return cell_traverse(self, visit, arg);
}

static int
timed_clear(PyObject *self)
{
    Py_CLEAR(((TimedCell *)self)->loop);
    Py_CLEAR(((TimedCell *)self)->kind);
    return cell_clear(self);
}

static int
loop_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((LoopCell *)self)->running);
    Py_VISIT(((LoopCell *)self)->innermost);
    return 0;
}

static int
loop_clear(PyObject *self)
{
    Py_CLEAR(((LoopCell *)self)->running);
    Py_CLEAR(((LoopCell *)self)->innermost);
    return 0;
}

static void
cell_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    cell_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static void
timed_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    timed_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static void
loop_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    loop_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef cell_members[] = {OBJECT(Cell, step), {NULL, 0, 0, 0, NULL}};

static PyMemberDef timed_members[] = {
    OBJECT(TimedCell, loop),
    OBJECT(TimedCell, kind),
    NUMBER(created),
    NUMBER(wall),
    NUMBER(ended),
    NUMBER(ready),
    NUMBER(suspended),
    NUMBER(first_step),
    NUMBER(step_started),
    NUMBER(busy),
    NUMBER(scheduled),
    NUMBER(max_step),
    NUMBER(max_idle),
    NUMBER(steps),
    {NULL, 0, 0, 0, NULL},
};

static PyMemberDef loop_members[] = {
    OBJECT(LoopCell, running),
    {"metered", T_BOOL, offsetof(LoopCell, metered), 0, NULL},
    {"innermost", T_OBJECT, offsetof(LoopCell, innermost), READONLY, NULL},
    {"turn", T_LONGLONG, offsetof(LoopCell, turn), READONLY, NULL},
    {"frameless", T_LONGLONG, offsetof(LoopCell, frameless), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

#define CELL_SLOTS(name)                      \
    static PyType_Slot name##_slots[] = {     \
        {Py_tp_traverse, name##_traverse},    \
        {Py_tp_clear, name##_clear},          \
        {Py_tp_dealloc, name##_dealloc},      \
        {Py_tp_members, name##_members},      \
        {0, NULL},                            \
    }

CELL_SLOTS(cell);
CELL_SLOTS(timed);
CELL_SLOTS(loop);

#define CELL_FLAGS (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC)
#define SPEC(name, title, type) \
    static PyType_Spec name##_spec = {"otel_asyncio.observe._compiled." title, sizeof(type), 0, CELL_FLAGS, name##_slots}

SPEC(cell, "Cell", Cell);
SPEC(timed, "TimedCell", TimedCell);
SPEC(loop, "LoopCell", LoopCell);

int
cells_add(PyObject *module, State *state)
{
    state->cell_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &cell_spec, NULL);
    if (state->cell_type == NULL) {
        return -1;
    }
    state->timed_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &timed_spec, (PyObject *)state->cell_type);
    state->loop_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &loop_spec, NULL);
    if (state->timed_type == NULL || state->loop_type == NULL) {
        return -1;
    }
    return PyModule_AddType(module, state->cell_type) || PyModule_AddType(module, state->timed_type) ||
                   PyModule_AddType(module, state->loop_type)
               ? -1
               : 0;
}
