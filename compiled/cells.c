/* The fields that every task and step touches, as the bases of TaskRecord, Unrecorded, Shard and LoopState; and those that
   thousands of cancellations touch, of Counted, Burst and Shutdown. */

#include "compiled.h"

#define OBJECT(type, field) {#field, T_OBJECT, offsetof(type, field), 0, NULL}
#define NUMBER(type, field) {#field, T_LONGLONG, offsetof(type, field), 0, NULL}

#define EACH_IN_CYCLES_OF_TIMED(DO) DO(loop) DO(span) DO(task) DO(cancellation) DO(waits)
#define EACH_OF_TIMED(DO)                                                                       \
    EACH_IN_CYCLES_OF_TIMED(DO) DO(kind) DO(code) DO(qualname) DO(made_code) DO(outcome)        \
    DO(problem) DO(name) DO(id) DO(creator)

#define EACH_OF_LOOP(DO) \
    DO(shard) DO(unrecorded) DO(running) DO(innermost) DO(step) DO(alive) DO(watch) DO(shutdown) \
    DO(observation) DO(expected) DO(burst) DO(cancelling) DO(counted)

#define EACH_OF_BURST(DO) DO(guard) DO(by) DO(code) DO(now) DO(plain) DO(step) DO(fate) DO(last)

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

/* Strings, numbers, code and what the module of records has for all of them lead to no record, so nobody need look there: a
   record is gone through as often as it lives. */
static int
timed_traverse(PyObject *self, visitproc visit, void *arg)
{
#define VISIT_OF_TIMED(field) Py_VISIT(((TimedCell *)self)->field);
    EACH_IN_CYCLES_OF_TIMED(VISIT_OF_TIMED)
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

static int
counted_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(((CountedCell *)self)->cancellation);
    return cell_traverse(self, visit, arg);
}

static int
counted_clear(PyObject *self)
{
    Py_CLEAR(((CountedCell *)self)->cancellation);
    return cell_clear(self);
}

static int
shutdown_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((ShutdownCell *)self)->left);
    Py_VISIT(((ShutdownCell *)self)->slowest);
    return 0;
}

static int
shutdown_clear(PyObject *self)
{
    Py_CLEAR(((ShutdownCell *)self)->left);
    Py_CLEAR(((ShutdownCell *)self)->slowest);
    return 0;
}

static int
burst_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
#define VISIT_OF_BURST(field) Py_VISIT(((BurstCell *)self)->field);
    EACH_OF_BURST(VISIT_OF_BURST)
    return 0;
}

static int
burst_clear(PyObject *self)
{
#define CLEAR_OF_BURST(field) Py_CLEAR(((BurstCell *)self)->field);
    EACH_OF_BURST(CLEAR_OF_BURST)
    return 0;
}

DEALLOC(cell)
DEALLOC(timed)
DEALLOC(loop)
DEALLOC(counted)
DEALLOC(shutdown)
DEALLOC(burst)

static PyMemberDef cell_members[] = {OBJECT(Cell, step), {NULL, 0, 0, 0, NULL}};

static PyMemberDef timed_members[] = {
    OBJECT(TimedCell, loop),
    OBJECT(TimedCell, kind),
    OBJECT(TimedCell, code),
    OBJECT(TimedCell, qualname),
    OBJECT(TimedCell, made_code),
    OBJECT(TimedCell, outcome),
    OBJECT(TimedCell, span),
    OBJECT(TimedCell, task),
    OBJECT(TimedCell, problem),
    OBJECT(TimedCell, cancellation),
    OBJECT(TimedCell, name),
    OBJECT(TimedCell, waits),
    OBJECT(TimedCell, id),
    OBJECT(TimedCell, creator),
    NUMBER(TimedCell, made_instruction),
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
    NUMBER(TimedCell, asked),
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
    OBJECT(LoopCell, burst),
    OBJECT(LoopCell, cancelling),
    OBJECT(LoopCell, counted),
    {"metered", T_BOOL, offsetof(LoopCell, metered), 0, NULL},
    {"let_go", T_BOOL, offsetof(LoopCell, let_go), 0, NULL},
    {"dozes", T_BOOL, offsetof(LoopCell, dozes), 0, NULL},
    {"innermost", T_OBJECT, offsetof(LoopCell, innermost), READONLY, NULL},
    {"turn", T_LONGLONG, offsetof(LoopCell, turn), READONLY, NULL},
    {"frameless", T_LONGLONG, offsetof(LoopCell, frameless), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMemberDef counted_members[] = {
    OBJECT(CountedCell, cancellation),
    NUMBER(CountedCell, ready),
    {NULL, 0, 0, 0, NULL},
};

static PyMemberDef shutdown_members[] = {
    OBJECT(ShutdownCell, left),
    OBJECT(ShutdownCell, slowest),
    NUMBER(ShutdownCell, started),
    NUMBER(ShutdownCell, cancelled),
    NUMBER(ShutdownCell, slowest_time),
    {NULL, 0, 0, 0, NULL},
};

static PyMemberDef burst_members[] = {
    OBJECT(BurstCell, guard),
    OBJECT(BurstCell, by),
    OBJECT(BurstCell, code),
    OBJECT(BurstCell, now),
    OBJECT(BurstCell, plain),
    OBJECT(BurstCell, step),
    OBJECT(BurstCell, fate),
    OBJECT(BurstCell, last),
    NUMBER(BurstCell, started),
    NUMBER(BurstCell, until),
    NUMBER(BurstCell, count),
    NUMBER(BurstCell, instruction),
    {"thread", T_ULONG, offsetof(BurstCell, thread), 0, NULL},
    {"made_by_it", T_BOOL, offsetof(BurstCell, made_by_it), 0, NULL},
    {"ends_loop", T_BOOL, offsetof(BurstCell, ends_loop), 0, NULL},
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
CELL_SLOTS(counted);
CELL_SLOTS(shutdown);
CELL_SLOTS(burst);

static PyType_Slot shard_slots[] = {{Py_tp_members, shard_members}, {0, NULL}};

#define BASE (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE)
#define SPEC(name, title, type, flags) \
    static PyType_Spec name##_spec = {"otel_asyncio.observe._compiled." title, sizeof(type), 0, flags, name##_slots}

SPEC(cell, "Cell", Cell, BASE | Py_TPFLAGS_HAVE_GC);
SPEC(timed, "TimedCell", TimedCell, BASE | Py_TPFLAGS_HAVE_GC);
SPEC(loop, "LoopCell", LoopCell, BASE | Py_TPFLAGS_HAVE_GC);
SPEC(shard, "ShardCell", ShardCell, BASE);
SPEC(counted, "CountedCell", CountedCell, BASE | Py_TPFLAGS_HAVE_GC);
SPEC(shutdown, "ShutdownCell", ShutdownCell, BASE | Py_TPFLAGS_HAVE_GC);
SPEC(burst, "BurstCell", BurstCell, BASE | Py_TPFLAGS_HAVE_GC);

int
cells_add(PyObject *module, State *state)
{
    return add_type(module, &state->cell_type, &cell_spec, NULL) < 0 ||
                   add_type(module, &state->timed_type, &timed_spec, state->cell_type) < 0 ||
                   add_type(module, &state->counted_type, &counted_spec, state->cell_type) < 0 ||
                   add_type(module, &state->loop_type, &loop_spec, NULL) < 0 ||
                   add_type(module, &state->shard_type, &shard_spec, NULL) < 0 ||
                   add_type(module, &state->shutdown_type, &shutdown_spec, NULL) < 0 ||
                   add_type(module, &state->burst_type, &burst_spec, NULL) < 0
               ? -1
               : 0;
}
