/* The fields that every task and step touches, as the bases of TaskRecord, Unrecorded, Shard and LoopState. */

#include "compiled.h"

#define OBJECT(type, field) {#field, T_OBJECT, offsetof(type, field), 0, NULL}
#define NUMBER(type, field) {#field, T_LONGLONG, offsetof(type, field), 0, NULL}

#define EACH_OF_TIMED(DO)                                                                       \
    DO(loop) DO(kind) DO(code) DO(qualname) DO(made_at) DO(outcome) DO(span) DO(task)          \
    DO(problem) DO(cancellation) DO(name) DO(waits) DO(id) DO(creator)

#define EACH_OF_LOOP(DO) \
    DO(shard) DO(unrecorded) DO(running) DO(innermost) DO(step) DO(alive) DO(watch) DO(shutdown) \
    DO(observation) DO(expected)

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
#define VISIT_OF_TIMED(field) Py_VISIT(((TimedCell *)self)->field);
    EACH_OF_TIMED(VISIT_OF_TIMED)
    return cell_traverse(self, visit, arg);
}

static int
timed_clear(PyObject *self)
{
#define CLEAR_OF_TIMED(field) Py_CLEAR(((TimedCell *)self)->field);
    EACH_OF_TIMED(CLEAR_OF_TIMED)
    return cell_clear(self);
}

static int
loop_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
#define VISIT_OF_LOOP(field) Py_VISIT(((LoopCell *)self)->field);
    EACH_OF_LOOP(VISIT_OF_LOOP)
    return 0;
}

static int
loop_clear(PyObject *self)
{
    LoopCell *cell = (LoopCell *)self;
    if (cell->seen_in != NULL && cell->seen_in->seen_cell == cell) {
        cell->seen_in->seen_cell = NULL;
    }
#define CLEAR_OF_LOOP(field) Py_CLEAR(((LoopCell *)self)->field);
    EACH_OF_LOOP(CLEAR_OF_LOOP)
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
    OBJECT(TimedCell, code),
    OBJECT(TimedCell, qualname),
    {"_made_at", T_OBJECT, offsetof(TimedCell, made_at), 0, NULL},
    OBJECT(TimedCell, outcome),
    OBJECT(TimedCell, span),
    OBJECT(TimedCell, task),
    OBJECT(TimedCell, problem),
    OBJECT(TimedCell, cancellation),
    OBJECT(TimedCell, name),
    OBJECT(TimedCell, waits),
    OBJECT(TimedCell, id),
    OBJECT(TimedCell, creator),
    NUMBER(TimedCell, created),
    NUMBER(TimedCell, wall),
    NUMBER(TimedCell, ended),
    NUMBER(TimedCell, ready),
    NUMBER(TimedCell, suspended),
    NUMBER(TimedCell, first_step),
    NUMBER(TimedCell, step_started),
    NUMBER(TimedCell, busy),
    NUMBER(TimedCell, scheduled),
    NUMBER(TimedCell, max_step),
    NUMBER(TimedCell, max_idle),
    NUMBER(TimedCell, steps),
    {NULL, 0, 0, 0, NULL},
};

static PyMemberDef shard_members[] = {
    NUMBER(ShardCell, started),
    NUMBER(ShardCell, succeeded),
    NUMBER(ShardCell, recorded),
    NUMBER(ShardCell, steps),
    NUMBER(ShardCell, glimpse_at),
    {NULL, 0, 0, 0, NULL},
};

static PyMemberDef loop_members[] = {
    OBJECT(LoopCell, shard),
    OBJECT(LoopCell, unrecorded),
    OBJECT(LoopCell, running),
    OBJECT(LoopCell, step),
    OBJECT(LoopCell, alive),
    OBJECT(LoopCell, watch),
    OBJECT(LoopCell, shutdown),
    OBJECT(LoopCell, observation),
    OBJECT(LoopCell, expected),
    {"metered", T_BOOL, offsetof(LoopCell, metered), 0, NULL},
    {"let_go", T_BOOL, offsetof(LoopCell, let_go), 0, NULL},
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

static PyType_Slot shard_slots[] = {{Py_tp_members, shard_members}, {0, NULL}};

#define BASE (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE)
#define SPEC(name, title, type, flags) \
    static PyType_Spec name##_spec = {"otel_asyncio.observe._compiled." title, sizeof(type), 0, flags, name##_slots}

SPEC(cell, "Cell", Cell, BASE | Py_TPFLAGS_HAVE_GC);
SPEC(timed, "TimedCell", TimedCell, BASE | Py_TPFLAGS_HAVE_GC);
SPEC(loop, "LoopCell", LoopCell, BASE | Py_TPFLAGS_HAVE_GC);
SPEC(shard, "ShardCell", ShardCell, BASE);

int
cells_add(PyObject *module, State *state)
{
    state->cell_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &cell_spec, NULL);
    if (state->cell_type == NULL) {
        return -1;
    }
    state->timed_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &timed_spec, (PyObject *)state->cell_type);
    state->loop_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &loop_spec, NULL);
    state->shard_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &shard_spec, NULL);
    if (state->timed_type == NULL || state->loop_type == NULL || state->shard_type == NULL) {
        return -1;
    }
    return PyModule_AddType(module, state->cell_type) || PyModule_AddType(module, state->timed_type) ||
                   PyModule_AddType(module, state->loop_type) || PyModule_AddType(module, state->shard_type)
               ? -1
               : 0;
}
