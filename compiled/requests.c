/* What a request's span learns from the task it was opened in, the twin of RequestSpans.on_start and RequestSpans.on_end. */

#include "compiled.h"

/* Of a moment in a short step one clock may say that it was just before, as in requests.py. */
#define CLOCKS_AGREE 1000000

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    State *state;
    PyObject *plain;       /* the method in Python */
    PyObject *requests;    /* whose it is: told of a failure */
    SpansCell *spans;      /* the way in which spans of tasks are made, whose tracer spans of ours come from */
    PyTypeObject *readable; /* of the span that processors are handed */
    PyObject *running;     /* who tells the record of the task that runs */
    PyObject *open;        /* a dict: by the id of a request's span, the Stretch of its task that it is */
    PyTypeObject *stretch; /* its class, which answers the attributes */
    PyObject *name;        /* names.task_span */
    PyObject *segments;    /* who makes a span where that is not as easily done */
    PyObject *split;       /* whether requests get a segment */
    Clock clock, wall;
} RequestCall;

/* The moment that the span's clock stamped in the step that runs, or now, as requests._moment finds it. Negative on error. */
static int
find_moment(RequestCall *call, TimedCell *record, PyObject *stamped, long long *moment)
{
    int far = 0; /* beyond what a clock of ours says */
    long long wall, now, began = record->step_started;
    PyObject *whole = PyNumber_Long(stamped); /* a program may stamp a fraction */
    long long stamp = whole == NULL ? -1 : PyLong_AsLongLongAndOverflow(whole, &far);
    Py_XDECREF(whole);
    if (whole == NULL || clock_now(&call->wall, &wall) < 0 || clock_now(&call->clock, &now) < 0) {
        return -1;
    }
    far = far || stamp < 0;
    long long then = far ? 0 : now - (wall - stamp);
    *moment = !far && began > 0 && began <= then + CLOCKS_AGREE && then <= now ? Py_MAX(then, began) : now;
    return 0;
}

/* How long a task has been busy by a moment of the step that runs. */
static long long
busy_by(TimedCell *record, long long moment)
{
    return record->busy + (record->step_started == 0 ? 0 : moment - record->step_started);
}

/* New: Stretch(record, clock, stamped) */
static PyObject *
new_stretch(RequestCall *call, TimedCell *record, PyObject *stamped)
{
    long long moment;
    StretchCell *stretch = find_moment(call, record, stamped, &moment) < 0
                               ? NULL
                               : (StretchCell *)call->stretch->tp_alloc(call->stretch, 0);
    if (stretch != NULL) {
        stretch->record = Py_NewRef(record);
        stretch->since = moment;
        stretch->busy = busy_by(record, moment);
        stretch->scheduled = record->scheduled;
        stretch->steps = record->steps;
    }
    return (PyObject *)stretch;
}

/* stretch.end(clock, stamped) */
static int
end_stretch(RequestCall *call, StretchCell *stretch, TimedCell *record, PyObject *stamped)
{
    if (find_moment(call, record, stamped, &stretch->until) < 0) {
        return -1;
    }
    stretch->busy = busy_by(record, stretch->until) - stretch->busy;
    stretch->scheduled = record->scheduled - stretch->scheduled;
    stretch->steps = record->steps - stretch->steps + 1;
    return 0;
}

/* New: the record of the task that runs, or NULL, without an exception perhaps: of none that is known. */
static TimedCell *
running_record(RequestCall *call)
{
    PyObject *record = PyObject_CallNoArgs(call->running);
    if (record != NULL && !PyObject_TypeCheck(record, call->state->timed_type)) {
        Py_CLEAR(record);
    }
    return (TimedCell *)record;
}

/* ---- on_start(span, parent_context) ---- */

/* Whether a span is the first of its trace in this process, and not one of ours. Negative: it is for Python to see. */
static int
begins_here(RequestCall *call, PyObject *span)
{
    State *state = call->state;
    PyObject *parent = PyObject_GetAttr(span, state->s_of_parent);
    int known = parent != NULL && (parent == Py_None || (Py_IS_TYPE(parent, call->spans->ids) && are_ids(parent)));
    int begins = !known ? -1 : parent == Py_None || PyTuple_GET_ITEM(parent, IS_REMOTE) == Py_True;
    Py_XDECREF(parent);
    if (begins <= 0) {
        return begins;
    }
    PyObject *scope = PyObject_GetAttr(call->spans->tracer, state->s_of_scope);
    int ours = scope == NULL ? -1 : is_answer(PyObject_GetAttr(span, state->s_of_scope), scope);
    Py_XDECREF(scope);
    return ours < 0 ? -1 : !ours;
}

/* Borrowed: the span of a root task whose facts may be left to requests; NULL: it has none. */
static PyObject *
root_span(RequestCall *call, TimedCell *record)
{
    SpansCell *spans = call->spans;
    PyObject *own = record->span;
    if (own == NULL || !Py_IS_TYPE(own, spans->span) || SLOT(own, spans->of_span.spans) != (PyObject *)spans) {
        return NULL;
    }
    PyObject *place = SLOT(own, spans->of_span.place);
    return place != NULL && Py_IS_TYPE(place, spans->place) && SLOT(place, spans->of_place.rooted) == Py_True ? own : NULL;
}

/* A stretch of the task's life begins whose facts go to this request. Negative: that is for Python to do. */
static int
note(RequestCall *call, TimedCell *record, PyObject *span)
{
    PyObject *ids = PyObject_GetAttr(span, call->state->s_of_context), *stamped = NULL, *stretch = NULL;
    int status = -1;
    if (ids != NULL && Py_IS_TYPE(ids, call->spans->ids) && are_ids(ids)) {
        stamped = PyObject_GetAttr(span, call->state->s_of_start);
        stretch = stamped == NULL ? NULL : new_stretch(call, record, stamped);
        status = stretch == NULL ? -1 : PyDict_SetItem(call->open, PyTuple_GET_ITEM(ids, SPAN_ID), stretch);
    }
    Py_XDECREF(stretch);
    Py_XDECREF(stamped);
    Py_XDECREF(ids);
    return status;
}

/* Tie a span to the task that it is opened in. Negative: that is for Python to do. */
static int
begin(RequestCall *call, PyObject *span)
{
    SpansCell *spans = call->spans;
    int begins = Py_IS_TYPE(span, spans->sdk_span) && spans->tracer != NULL ? begins_here(call, span) : -1;
    if (begins <= 0) {
        return begins;
    }
    TimedCell *record = running_record(call);
    PyObject *own = record == NULL ? NULL : root_span(call, record);
    int status = PyErr_Occurred() ? -1 : 0;
    if (own != NULL) {
        int yielded = SLOT(own, spans->of_span.yielded) == Py_True;
        int may = SLOT(own, spans->of_span.context) == Py_None && SLOT(own, spans->of_span.nested) == Py_False;
        status = call->split == Py_True && (yielded || may) ? note(call, record, span) : -1;
        if (status == 0 && !yielded) {
            Py_XSETREF(SLOT(own, spans->of_span.yielded), Py_NewRef(Py_True));
        }
    }
    Py_XDECREF(record);
    return status;
}

static PyObject *
on_start_vectorcall(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *keywords)
{
    RequestCall *call = (RequestCall *)self;
    if (PyVectorcall_NARGS(nargsf) == 1 && begin(call, args[0]) == 0) {
        Py_RETURN_NONE;
    }
    PyErr_Clear(); /* Python meets it again, and knows what to do */
    return PyObject_Vectorcall(call->plain, args, nargsf, keywords);
}

/* ---- on_end(span) ---- */

/* New: the stretch of a request that is over, which is kept no more; NULL, without an exception perhaps: it was not one. */
static PyObject *
take_stretch(RequestCall *call, PyObject *ids)
{
    PyObject *stretch = PyDict_GetItemWithError(call->open, PyTuple_GET_ITEM(ids, SPAN_ID));
    Py_XINCREF(stretch);
    if (stretch != NULL && PyDict_DelItem(call->open, PyTuple_GET_ITEM(ids, SPAN_ID)) < 0) {
        Py_CLEAR(stretch);
    }
    return stretch;
}

/* Make the span of the task's part of a request. */
static int
emit(RequestCall *call, StretchCell *stretch, TimedCell *record, PyObject *span, PyObject *ids)
{
    State *state = call->state;
    PyObject *start = PyObject_GetAttr(span, state->s_of_start), *end = NULL, *name = NULL;
    if (start != NULL && (end = PyObject_GetAttr(span, state->s_end_time)) != NULL &&
        end_stretch(call, stretch, record, end) == 0) {
        name = PyObject_CallOneArg(call->name, record->qualname);
    }
    int status = name == NULL ? -1 : give(state, call->spans, ids, name, start, end, (PyObject *)stretch);
    if (status == 0) {
        PyObject *args[] = {name, ids, start, end, (PyObject *)stretch};
        status = tell(call->segments, args, 5);
    }
    Py_XDECREF(name);
    Py_XDECREF(end);
    Py_XDECREF(start);
    return status < 0 ? -1 : 0;
}

/* A request is over: its part of the task's life becomes a child of it. Negative on error. */
static int
end_request(RequestCall *call, PyObject *span, PyObject *ids)
{
    PyObject *stretch = take_stretch(call, ids);
    TimedCell *record = stretch == NULL ? NULL : running_record(call);
    int status = PyErr_Occurred() ? -1 : 0;
    if (record != NULL && ((StretchCell *)stretch)->record == (PyObject *)record) {
        status = emit(call, (StretchCell *)stretch, record, span, ids);
    }
    Py_XDECREF(record);
    Py_XDECREF(stretch);
    return status;
}

static PyObject *
on_end_vectorcall(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *keywords)
{
    RequestCall *call = (RequestCall *)self;
    int usual = PyVectorcall_NARGS(nargsf) == 1 && keywords == NULL;
    if (usual && PyDict_GET_SIZE(call->open) == 0) {
        Py_RETURN_NONE;
    }
    PyObject *ids = NULL;
    if (usual && (Py_IS_TYPE(args[0], call->readable) || Py_IS_TYPE(args[0], call->spans->sdk_span))) {
        ids = PyObject_GetAttr(args[0], call->state->s_of_context);
    }
    if (ids == NULL || !Py_IS_TYPE(ids, call->spans->ids) || !are_ids(ids)) {
        Py_XDECREF(ids);
        PyErr_Clear();
        return PyObject_Vectorcall(call->plain, args, nargsf, keywords);
    }
    int status = end_request(call, args[0], ids);
    Py_DECREF(ids);
    if (status < 0 && tell_failure(call->requests, call->state->s_give_up) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* ---- StretchCell ---- */

static int
stretch_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((StretchCell *)self)->record);
    return 0;
}

static int
stretch_clear(PyObject *self)
{
    Py_CLEAR(((StretchCell *)self)->record);
    return 0;
}

DEALLOC(stretch)

static PyMemberDef stretch_members[] = {
    {"record", T_OBJECT, offsetof(StretchCell, record), 0, NULL},
    {"since", T_LONGLONG, offsetof(StretchCell, since), 0, NULL},
    {"until", T_LONGLONG, offsetof(StretchCell, until), 0, NULL},
    {"busy", T_LONGLONG, offsetof(StretchCell, busy), 0, NULL},
    {"scheduled", T_LONGLONG, offsetof(StretchCell, scheduled), 0, NULL},
    {"steps", T_LONGLONG, offsetof(StretchCell, steps), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot stretch_slots[] = {
    {Py_tp_traverse, stretch_traverse}, {Py_tp_clear, stretch_clear}, {Py_tp_dealloc, stretch_dealloc},
    {Py_tp_members, stretch_members},   {0, NULL},
};

static PyType_Spec stretch_spec = {"otel_asyncio.observe._compiled.StretchCell", sizeof(StretchCell), 0,
                                   Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, stretch_slots};

/* ---- the type ---- */

#define EACH_OF_REQUEST(DO) \
    DO(plain) DO(requests) DO(spans) DO(readable) DO(running) DO(open) DO(stretch) DO(name) DO(segments) DO(split)

static int
request_traverse(PyObject *self, visitproc visit, void *arg)
{
    RequestCall *call = (RequestCall *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(call->clock.ask);
    Py_VISIT(call->wall.ask);
#define VISIT_OF_REQUEST(field) Py_VISIT(call->field);
    EACH_OF_REQUEST(VISIT_OF_REQUEST)
    return 0;
}

static void
request_dealloc(PyObject *self)
{
    RequestCall *call = (RequestCall *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_CLEAR(call->clock.ask);
    Py_CLEAR(call->wall.ask);
#define CLEAR_OF_REQUEST(field) Py_CLEAR(call->field);
    EACH_OF_REQUEST(CLEAR_OF_REQUEST)
    type->tp_free(self);
    Py_DECREF(type);
}

/* RequestCall(name, *, …): one of the two methods; takes all parts by name. */
static PyObject *
request_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
#define NAME_OF_REQUEST(field) #field,
    static char *names[] = {"", "clock", "wall", EACH_OF_REQUEST(NAME_OF_REQUEST) NULL};
    State *state = state_of(type);
    const char *method;
    PyObject *clock, *wall, *plain, *requests, *spans, *readable, *running, *open, *stretch, *name, *segments, *split;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "s$OOOOO!O!OO!O!OOO!:RequestCall", names, &method, &clock, &wall, &plain,
                                     &requests, state->spans_type, &spans, &PyType_Type, &readable, &running, &PyDict_Type,
                                     &open, &PyType_Type, &stretch, &name, &segments, &PyBool_Type, &split)) {
        return NULL;
    }
    int ends = strcmp(method, "on_end") == 0;
    if (!ends && strcmp(method, "on_start") != 0) {
        return PyErr_Format(PyExc_ValueError, "RequestCall: %s is none of on_start, on_end", method);
    }
    if (((SpansCell *)spans)->span == NULL || !PyType_IsSubtype((PyTypeObject *)stretch, state->stretch_type)) {
        PyErr_SetString(PyExc_TypeError, "RequestCall takes spans that know their classes, and a class of stretches");
        return NULL;
    }
    RequestCall *call = (RequestCall *)type->tp_alloc(type, 0);
    if (call != NULL) {
        call->vectorcall = ends ? on_end_vectorcall : on_start_vectorcall;
        call->state = state;
#define KEEP_OF_REQUEST(field) call->field = (void *)Py_NewRef(field);
        EACH_OF_REQUEST(KEEP_OF_REQUEST)
        if (clock_set(state, &call->clock, clock) < 0 || clock_set(state, &call->wall, wall) < 0) {
            Py_CLEAR(call);
        }
    }
    return (PyObject *)call;
}

CALLABLE_SPEC(request, "RequestCall", RequestCall);

int
requests_add(PyObject *module, State *state)
{
    return add_type(module, &state->stretch_type, &stretch_spec, NULL) < 0 ||
                   add_type(module, &state->request_call_type, &request_spec, NULL) < 0
               ? -1
               : 0;
}
