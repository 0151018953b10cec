/* The compiled hot path: the twin of otel_asyncio/observe/steps.py and create.py, which are the reference.

   Documented API only, but for the object that a weak reference refers to, and for three things that are tested for before
   they are used: where `asyncio.Handle` has its slots, the C functions behind `deque.append`, `done`, `_state` and
   `_exception` of a future, and what the clocks behind `time.perf_counter_ns` and `time.time_ns` are. */

#ifndef OTEL_ASYNCIO_COMPILED_H
#define OTEL_ASYNCIO_COMPILED_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stddef.h>
#include <stdint.h>
#include <structmember.h>

#ifdef Py_GIL_DISABLED
#error "The compiled step hook relies on the GIL; free-threaded builds of Python run the Python flavour."
#endif

/* Changed with every change of what Python and C expect of each other; otel_asyncio/observe/flavour.py has it too. */
#define INTERFACE 9

#define NOT_READY (-1)

/* What stands for a task: `step` is what is called for each of its steps. */
typedef struct {
    PyObject_HEAD
    PyObject *step;
} Cell;

/* A TaskRecord, but for what few tasks have. */
typedef struct {
    Cell cell;
    PyObject *loop; /* LoopCell */
    PyObject *kind, *code, *qualname, *made_code, *outcome, *span, *task, *problem, *cancellation, *name, *waits;
    PyObject *id, *creator;
    long long made_instruction, created, wall, ended, ready, suspended, first_step, step_started;
    long long busy, scheduled, max_step, max_idle, steps, asked;
} TimedCell;

/* What stands for tasks without a record of their own while they are being cancelled. */
typedef struct {
    Cell cell;
    PyObject *cancellation;
    long long ready;
} CountedCell;

/* A loop's end that cancels what is left. */
typedef struct {
    PyObject_HEAD
    PyObject *left, *slowest;
    long long started, cancelled, slowest_time;
} ShutdownCell;

/* The cancellations of a storm that one line asks for in one step. */
typedef struct {
    PyObject_HEAD
    PyObject *guard, *by, *code, *now, *plain, *step, *fate, *last;
    long long started, until, count, instruction;
    unsigned long thread;
    char made_by_it, ends_loop;
} BurstCell;

/* The hot part of a Shard: what one loop has counted. */
typedef struct {
    PyObject_HEAD
    long long started, succeeded, recorded, steps, glimpse_at;
} ShardCell;

struct State;

/* The hot part of a LoopState. */
typedef struct {
    PyObject_HEAD
    PyObject *shard;      /* ShardCell */
    PyObject *unrecorded; /* Cell: of all its tasks that get no span */
    PyObject *running;    /* TimedCell, or None */
    PyObject *step;       /* of its recorded tasks */
    PyObject *alive;      /* the set of their records */
    PyObject *watch, *shutdown; /* the watchdog's view of it, what is known of its end; or None */
    PyObject *observation;
    PyObject *expected;         /* the record of a task that somebody's factory makes now, or None */
    PyObject *burst, *cancelling, *counted; /* a storm of cancellations, the request made now, a stand-in; or None */
    char metered;
    char let_go; /* nothing of the loop is followed any more */
    char dozes;  /* nothing has run for long, and the watchdog wants to know of what comes first; written by its thread, too */
    struct State *seen_in; /* where it may be remembered as the one met last, or NULL */
    /* Of the steps that run in C, without a frame of Python: the watchdog asks here for what it cannot see. */
    PyObject *innermost;             /* Cell: of the one that was begun last, or None */
    long long turn, turns, frameless; /* its number, and of how many that is the last; how many run now, one in another */
} LoopCell;

/* A clock: read natively where it is the system's own, else asked (`read` is NULL). */
typedef int (*ClockRead)(long long *now);
typedef struct {
    PyObject *ask;
    ClockRead read;
} Clock;

/* How the step of a task is run; without a clock it is not timed. */
typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyObject *plain; /* the step in Python: where somebody else than a loop calls, or a frame will be looked for */
    PyObject *finish, *waited, *held, *adopted;
    Clock clock;
    long long longest_wait, longest_step;
    PyObject *untold; /* a tuple of what must be empty for an end to be dealt with in C */
    PyObject *closed, *ending, *success; /* of a timed one: the sink's, the guard around it, Outcome.SUCCESS */
    PyObject *goes_on, *cancelled; /* of one in a burst: who is told that it has not ended, Outcome.CANCELLATION; or NULL */
} Step;

/* Where an object of `asyncio.Handle` keeps what. */
typedef struct {
    Py_ssize_t callback, args, cancelled, loop, source_traceback, repr, context;
} HandleSlots;

/* Objects of one type that were let go of and are used again: what a step needs is made and let go of all the time. */
#define SPARE 64
typedef struct {
    PyObject *objects[SPARE];
    int count, limit;
} Spare;

/* What answers an attribute of the objects of one class, where that is a function in C. */
typedef struct {
    PyTypeObject *type; /* the class met last, or NULL */
    getter get;
    void *closure;
} Answer;

/* Where CodeInfo has what. */
enum { INFO_INTERNAL = 4, INFO_WRAPPED = 5, INFO_HOUSEKEEPING = 6, INFO_ENTRY_POINT = 7, INFO_SIZE = 8 };

/* What makes the records of tasks. */
typedef struct {
    PyObject_HEAD
    struct State *state;
    PyObject *observation;
    PyTypeObject *record_type;    /* TaskRecord */
    PyObject *lost;               /* its method */
    PyObject *next_id;            /* what numbers records */
    PyObject *opened;             /* the sink's */
    PyObject *infos, *passed, *find_point; /* code.infos, code.passed, code.creation_point */
    PyObject *get_running_loop;
    PyObject *current_task;
    PyObject *eager_tasks;        /* those in a first step that nobody announced, or something where none can be seen */
    Clock clock, wall;
} Recorder;

/* What is known of a task before its record is made: its code and the line that makes it, as TaskRecord has them. */
typedef struct {
    PyObject *code, *made_code; /* the latter None: the loop made it itself */
    long long made_instruction;
} Birth;

/* What every span of a task, and of what happens in one, asks of SdkSpans. */
typedef struct {
    PyObject_HEAD
    PyObject *tracer;      /* the SDK's */
    PyObject *pattern;     /* a span that has nothing of its own, of which others are copies */
    PyObject *configured;  /* whose `_tracer_config.is_enabled` is looked at each time */
    PyObject *listed;      /* whose `_span_processors` must still be these */
    PyObject *processors;
    PyObject *takers;      /* a list of who takes a span that has ended */
    PyObject *new_span_id;
    PyObject *is_recording; /* what answers that of the SDK's spans by whether `_end_time` is None; or None */
    PyTypeObject *span, *sdk_span, *place, *ids, *given; /* its classes: of spans, ours and the SDK's, of where a task
                                                            stands, of ids, of spans that are over when they are made */
    char silent;               /* whether no processor wants to know of a start */
    char children_are_sampled; /* whether a sampled local parent means a sampled child with nothing added */
    char as_is;                /* whether an ended span is handed over as it is */
    struct {
        Py_ssize_t context, above, decision, dropped, extra, nested, parent_ids, place, record, spans, touched, yielded;
    } of_span; /* where objects of those classes have what */
    struct {
        Py_ssize_t parent, around, rooted, telemetry, spawner;
    } of_place;
    struct {
        Py_ssize_t context, facts;
    } of_given;
} SpansCell;

/* A part of a task's life; until it is over, what the task was busy and scheduled, and its steps, when it began. */
typedef struct {
    PyObject_HEAD
    PyObject *record;
    long long since, until, busy, scheduled, steps;
} StretchCell;

/* The slot of an object that lies there. */
#define SLOT(object, at) (*(PyObject **)((char *)(object) + (at)))

/* Everything of one interpreter. */
typedef struct State {
    Spare spare_bound, spare_handles;
    PyTypeObject *cell_type, *timed_type, *loop_type, *shard_type, *step_type, *bound_type, *announcer_type;
    PyTypeObject *maker_type, *register_type, *vigil_type, *notice_type, *set_attribute_type;
    PyTypeObject *counted_type, *shutdown_type, *burst_type, *canceller_type, *spans_type, *sink_call_type;
    PyTypeObject *recorder_type, *running_type, *request_call_type, *stretch_type, *taker_type;
    PyTypeObject *handle_base, *handle_type; /* NULL where asyncio.Handle is not the one we know */
    HandleSlots slots;
    PyObject *base_run; /* Handle._run */
    PyObject *perf_counter_ns, *time_ns;
    int native_clock; /* whether what is read natively is the former */
    PyObject *done; /* the method `done` of the C future */
    PyCFunction call_done;
    getter get_state, get_exception, get_traceback; /* of its attributes */
    PyTypeObject *slotted;   /* a class of tasks with a slot for the record, and where that is */
    PyTypeObject *unslotted; /* one without */
    Py_ssize_t slot;
    int slotted_in_c;        /* whether its tasks are C futures */
    PyCFunction call_get_name; /* what answers their `get_name`, or NULL */
    PyObject *seen_loop;     /* a weak reference to the loop met last, and what is kept of it, borrowed */
    LoopCell *seen_cell;
    Answer handle_traceback, coro_code; /* `_source_traceback`, `cr_code` */
    PyObject *append; /* the method `append` of a deque */
    PyTypeObject *deque_type;
    PyCFunction call_append, call_append_left;
    PyObject *s_otel_asyncio, *s_done, *s_self, *s_ready, *s_debug, *s_closed, *s_context;
    PyObject *s_delays, *s_offer, *s_append, *s_source_traceback, *s_finished;
    PyObject *s_name, *s_loop, *s_task, *s_place, *s_unwanted, *s_switch_off_creation;
    PyObject *s_task_factory, *s_get_task_factory, *s_is_closed, *s_cr_code, *s_qualname, *s_parent;
    PyObject *s_make_sure_of_running, *s_stir, *s_abandon, *s_failed, *s_fail, *s_get_name, *s_durations, *s_eager_start;
    PyObject *s_cancelled, *s_ended, *s_cancellations, *s_fut_waiter, *s_get_loop, *s_stand_in, *s_shut_down, *s_tell;
    PyObject *s_spans, *s_is_recording, *s_tracer_config, *s_is_enabled, *s_span_processors, *s_of_context, *s_end_time;
    PyObject *s_locked, *s_waiters;
    PyObject *s_cr_frame, *s_cr_running, *s_get_coro, *s_cancel, *s_uncancel, *s_cancelling, *s_asked;
    PyObject *s_of_parent, *s_of_scope, *s_of_start, *s_give_up, *s_shutdown, *s_queue;
    PyObject *getframe, *one; /* sys._getframe, and 1 */
    PyObject *nothing;        /* () */
    PyObject *context_keyword; /* ("context",) */
} State;

extern struct PyModuleDef compiled_module;

State *state_of(PyTypeObject *type);

static inline int
is_none(PyObject *object)
{
    return object == NULL || object == Py_None;
}

/* Whether an answer is `expected`; takes the reference. Negative where there is none, but an exception. */
static inline int
is_answer(PyObject *answer, PyObject *expected)
{
    Py_XDECREF(answer);
    return answer == NULL ? -1 : answer == expected;
}

/* A new object out of the spare ones, not yet tracked by the garbage collector; NULL, without exception: none left. */
static inline PyObject *
spare_take(Spare *spare, PyTypeObject *type)
{
    return spare->count == 0 ? NULL : PyObject_Init(spare->objects[--spare->count], type);
}

/* The last act of a tp_dealloc: keep the memory, or give it back. */
static inline void
spare_keep(Spare *spare, PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    if (spare->count < spare->limit) {
        spare->objects[spare->count++] = object;
    }
    else {
        type->tp_free(object);
    }
    Py_DECREF(type);
}

/* Give all of it back, while the type is still there, and keep no more. */
static inline void
spare_drop(Spare *spare)
{
    spare->limit = 0;
    while (spare->count > 0) {
        PyObject_GC_Del(spare->objects[--spare->count]);
    }
}

/* clock.c */
int clock_is_native(State *state);
int clock_find(State *state, PyObject *ask, ClockRead *read);
int clock_set(State *state, Clock *clock, PyObject *ask);
int clock_ask(Clock *clock, long long *now);
int clock_read(long long *now);
static inline int
clock_now(Clock *clock, long long *now)
{
    return clock->read != NULL ? clock->read(now) : clock_ask(clock, now);
}

/* The tp_dealloc of a type that the garbage collector knows and that has a tp_clear. */
#define DEALLOC(name)                          \
    static void name##_dealloc(PyObject *self) \
    {                                          \
        PyTypeObject *type = Py_TYPE(self);    \
        PyObject_GC_UnTrack(self);             \
        name##_clear(self);                    \
        type->tp_free(self);                   \
        Py_DECREF(type);                       \
    }

/* name_spec, of the type of a callable with name_new, name_traverse and name_dealloc. No tp_clear: whatever cycle it is part
   of goes through Python's objects, and it may be called until it is freed. */
#define CALLABLE_SPEC(name, title, type)                                                                    \
    static PyMemberDef name##_members[] = {                                                                 \
        {"__vectorcalloffset__", T_PYSSIZET, offsetof(type, vectorcall), READONLY, NULL},                   \
        {NULL, 0, 0, 0, NULL},                                                                              \
    };                                                                                                      \
    static PyType_Slot name##_slots[] = {                                                                   \
        {Py_tp_new, name##_new},         {Py_tp_call, PyVectorcall_Call}, {Py_tp_traverse, name##_traverse}, \
        {Py_tp_dealloc, name##_dealloc}, {Py_tp_members, name##_members}, {0, NULL},                        \
    };                                                                                                      \
    static PyType_Spec name##_spec = {"otel_asyncio.observe._compiled." title, sizeof(type), 0,             \
                                      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL | \
                                          Py_TPFLAGS_IMMUTABLETYPE,                                         \
                                      name##_slots}

/* Of the type of a callable that stands for a method of the loop: `loop.call_soon(…)` need not make a bound method. */
#define METHOD                                                                                                    \
    (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR |          \
     Py_TPFLAGS_IMMUTABLETYPE)

/* Its tp_descr_get. */
static inline PyObject *
bind(PyObject *callable, PyObject *object, PyObject *type)
{
    return object == NULL || object == Py_None ? Py_NewRef(callable) : PyMethod_New(callable, object);
}

/* One more type of the module, kept at `place`. */
static inline int
add_type(PyObject *module, PyTypeObject **place, PyType_Spec *spec, PyTypeObject *base)
{
    *place = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, (PyObject *)base);
    return *place == NULL ? -1 : PyModule_AddType(module, *place);
}

/* cells.c */
int cells_add(PyObject *module, State *state);
static inline ShardCell *
shard_of(State *state, LoopCell *loop)
{
    return loop->shard != NULL && PyObject_TypeCheck(loop->shard, state->shard_type) ? (ShardCell *)loop->shard : NULL;
}

/* Whether what stands for a task is a TimedCell, or a Cell at all: the usual ones derive from the one or the other. */
static inline int
is_timed(State *state, PyObject *record)
{
    PyTypeObject *type = Py_TYPE(record);
    return type->tp_base == state->timed_type ||
           ((type->tp_base != state->cell_type || type == state->timed_type) && PyObject_TypeCheck(record, state->timed_type));
}
static inline int
is_cell(State *state, PyObject *record)
{
    PyTypeObject *base = Py_TYPE(record)->tp_base;
    return base == state->timed_type || base == state->cell_type || PyObject_TypeCheck(record, state->cell_type);
}

/* lookups.c */
PyObject *record_of(State *state, PyObject *task);
int has_record(State *state, PyObject *task, PyObject *record);
LoopCell *cell_on(State *state, PyObject *loop);
PyObject *answer_of(Answer *answer, PyObject *object, PyObject *name);
PyObject *known_info(PyObject *infos, PyObject *key);
PyObject *point_of(PyCodeObject *code, PyFrameObject *frame);
/* Borrowed: the record in the slot of a task; NULL: it has no slot that is known, or nothing is in it. */
static inline PyObject *
kept_record(State *state, PyObject *task)
{
    return Py_IS_TYPE(task, state->slotted) ? *(PyObject **)((char *)task + state->slot) : NULL;
}

/* New: what is kept of the loop of a task with this record, or NULL without an exception: it is followed no longer. */
static inline LoopCell *
cell_of(State *state, PyObject *record, PyObject *loop)
{
    if (!is_timed(state, record)) {
        return loop == NULL ? NULL : cell_on(state, loop);
    }
    PyObject *found = ((TimedCell *)record)->loop;
    return found != NULL && PyObject_TypeCheck(found, state->loop_type) ? (LoopCell *)Py_NewRef(found) : NULL;
}

/* steps.c */
int steps_add(PyObject *module, State *state);
int step_run(State *state, Step *step, PyObject *record, PyObject *task, PyObject *callback, PyObject *const *args,
             Py_ssize_t nargs, PyObject *loop);
PyObject *step_bind(State *state, Step *step, PyObject *record, PyObject *task, PyObject *callback, PyObject *loop,
                    PyObject *raised);
PyObject *take_raised(void);
void raise_again(PyObject *raised);
int tell(PyObject *callee, PyObject *const *args, Py_ssize_t nargs);
int tell_failure(PyObject *owner, PyObject *method);

int task_is_done(State *state, PyObject *task);

/* bursts.c */
int bursts_add(PyObject *module, State *state);
int burst_ended(State *state, BurstCell *burst, PyObject *record, PyObject *task, LoopCell *loop, ShardCell *shard);
int count_one(State *state, ShardCell *shard, PyObject *table, PyObject *key);

/* handles.c */
int offset_of(PyTypeObject *type, const char *name, Py_ssize_t *offset);
PyObject *use_handles(PyObject *module, PyObject *handle);
PyObject *handle_for_step(State *state, Step *step, PyObject *record, PyObject *task, PyObject *callback,
                          PyObject *arg, PyObject *loop, PyObject *context);
PyObject *handle_plain(State *state, PyObject *callback, PyObject *const *args, Py_ssize_t nargs, PyObject *loop,
                       PyObject *context);

/* announce.c */
int announce_add(PyObject *module, State *state);

/* records.c */
int records_add(PyObject *module, State *state);
int read_birth(Recorder *recorder, LoopCell *cell, PyObject *coro, Birth *birth);
int read_birth_of_running(Recorder *recorder, LoopCell *cell, PyObject *coro, Birth *birth);
void forget_birth(Birth *birth);
TimedCell *open_record(Recorder *recorder, LoopCell *cell, const Birth *birth, PyObject *place, PyObject *coro,
                       PyObject *kind, PyObject *given, PyObject **context);
int begin_record(Recorder *recorder, LoopCell *cell, TimedCell *record, PyObject *task, PyObject *loop);
PyObject *make_sure_of_running(Recorder *recorder, LoopCell *cell, PyObject *loop);
PyObject *ask_for_place(Recorder *recorder, PyObject *context, PyObject *running);

/* running.c */
int running_add(PyObject *module, State *state);

/* create.c */
int create_add(PyObject *module, State *state);

/* notices.c */
int notices_add(PyObject *module, State *state);

/* register.c */
int register_add(PyObject *module, State *state);

/* spans.c */
PyObject *copy_slots(PyObject *module, PyObject *object);
PyObject *context_with(PyObject *module, PyObject *const *args, Py_ssize_t nargs);
PyObject *child_ids(PyObject *module, PyObject *const *args, Py_ssize_t nargs);
PyObject *make_context_with(PyObject *variable, PyTypeObject *class, PyObject *key, PyObject *span, PyObject *telemetry);
PyObject *make_child_ids(PyTypeObject *class, PyObject *parent, PyObject *new_span_id);
/* Where a SpanContext has what is read here. */
enum { SPAN_ID = 1, IS_REMOTE = 2, TRACE_FLAGS = 3, IS_VALID = 5, PARTS_OF_IDS = 6 };
static inline int
are_ids(PyObject *object)
{
    return PyTuple_Check(object) && PyTuple_GET_SIZE(object) == PARTS_OF_IDS;
}


/* spanscell.c */
int spanscell_add(PyObject *module, State *state);
int starts_silently(State *state, SpansCell *spans);
int hand_over(PyObject *takers, PyObject *span);
int give(State *state, SpansCell *spans, PyObject *parent, PyObject *name, PyObject *start, PyObject *end,
         PyObject *attributes);

/* sink.c */
int sink_add(PyObject *module, State *state);

/* queue.c */
int queue_add(PyObject *module, State *state);

/* requests.c */
int requests_add(PyObject *module, State *state);

/* vigil.c */
int vigil_add(PyObject *module, State *state);

#endif
