/* What every recorded task asks of the sink in the usual case: where it stands, its span, its end. The twins of
   SpanSink.place, SpanSink.opened and SpanSink.closed with SdkSpans.open and SdkSpans.close. */

#include "compiled.h"

/* ---- SinkCall: `call(…)`, which does the usual case and leaves all else to the method in Python ---- */

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    State *state;
    PyObject *plain;   /* the method in Python */
    PyObject *tracing; /* asked for `spans` each time: there may be none yet, or none any more */
    PyObject *kept;    /* a dict of what waits for the end of a task; empty as a rule */
    PyObject *root;    /* the place of a task with no span above it, or None where such are not recorded */
    PyObject *success; /* Outcome.SUCCESS */
    PyObject *variable, *key; /* where OpenTelemetry has its context, and in that the current span */
    PyTypeObject *telemetry;  /* its class of contexts */
} SinkCall;

/* New: how spans are made; NULL, without an exception perhaps: there is no way that is known here. */
static SpansCell *
spans_of(SinkCall *call)
{
    PyObject *spans = PyObject_GetAttr(call->tracing, call->state->s_spans);
    if (spans != NULL && (!PyObject_TypeCheck(spans, call->state->spans_type) || ((SpansCell *)spans)->span == NULL)) {
        Py_CLEAR(spans);
    }
    return (SpansCell *)spans;
}

/* ---- place(context, running) ---- */

/* New: where a task stands that is made under this span. */
static PyObject *
new_place(SpansCell *spans, PyObject *parent, PyObject *span, PyObject *rooted, PyObject *telemetry)
{
    PyObject *place = spans->place->tp_alloc(spans->place, 0);
    if (place != NULL) {
        SLOT(place, spans->of_place.parent) = Py_NewRef(parent);
        SLOT(place, spans->of_place.around) = Py_NewRef(span);
        SLOT(place, spans->of_place.rooted) = Py_NewRef(rooted);
        SLOT(place, spans->of_place.telemetry) = Py_NewRef(telemetry);
        SLOT(place, spans->of_place.spawner) = Py_NewRef(Py_None);
    }
    return place;
}

/* Whether a span of ours, or of the SDK's own class, has not ended. Negative on error. */
static int
is_open(State *state, SpansCell *spans, PyObject *span)
{
    if (!Py_IS_TYPE(span, spans->span)) {
        int known = is_none(spans->is_recording)
                        ? 0
                        : is_answer(PyObject_GetAttr((PyObject *)Py_TYPE(span), state->s_is_recording), spans->is_recording);
        return known < 0 ? -1
               : known   ? is_answer(PyObject_GetAttr(span, state->s_end_time), Py_None)
                         : is_answer(PyObject_CallMethodNoArgs(span, state->s_is_recording), Py_True);
    }
    PyObject *record = SLOT(span, spans->of_span.record);
    return SLOT(span, spans->of_span.dropped) == Py_False && record != NULL &&
           PyObject_TypeCheck(record, state->timed_type) && is_none(((TimedCell *)record)->outcome);
}

/* New: where a task stands that is made while `running` runs and this span, or None, is current; NULL, without an exception
   perhaps: it is for Python to say. */
static PyObject *
usual_place(SinkCall *call, SpansCell *spans, PyObject *running, PyObject *span, PyObject *telemetry)
{
    if (running != Py_None) {
        PyObject *own = PyObject_TypeCheck(running, call->state->timed_type) ? ((TimedCell *)running)->span : NULL;
        PyObject *place = own != NULL && Py_IS_TYPE(own, spans->span) ? SLOT(own, spans->of_span.place) : NULL;
        if (place == NULL || !Py_IS_TYPE(place, spans->place)) {
            return NULL;
        }
        if (SLOT(place, spans->of_place.around) == span && SLOT(own, spans->of_span.yielded) == Py_False) {
            Py_XSETREF(SLOT(own, spans->of_span.nested), Py_NewRef(Py_True));
            return new_place(spans, own, span, SLOT(place, spans->of_place.rooted), telemetry);
        }
    }
    if (span == Py_None) {
        return Py_NewRef(call->root);
    }
    return is_open(call->state, spans, span) > 0 ? new_place(spans, span, span, Py_False, telemetry) : NULL;
}

/* New: the span that is current where OpenTelemetry's context is this one, or None; NULL, without an exception perhaps:
   more is to be looked at. */
static PyObject *
current_in(SinkCall *call, PyObject *telemetry)
{
    if (!Py_IS_TYPE(telemetry, call->telemetry) || PyDict_GET_SIZE(telemetry) > 1) {
        return NULL;
    }
    return PyDict_GET_SIZE(telemetry) == 0 ? Py_NewRef(Py_None) : Py_XNewRef(PyDict_GetItemWithError(telemetry, call->key));
}

static PyObject *
place_vectorcall(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *keywords)
{
    SinkCall *call = (SinkCall *)self;
    PyObject *place = NULL, *telemetry = NULL, *span = NULL;
    if (PyVectorcall_NARGS(nargsf) == 2 && keywords == NULL && args[0] == Py_None &&
        PyContextVar_Get(call->variable, NULL, &telemetry) == 0 && telemetry != NULL) {
        span = current_in(call, telemetry);
    }
    SpansCell *spans = span == NULL ? NULL : spans_of(call);
    if (spans != NULL && (span == Py_None || Py_IS_TYPE(span, spans->span) || Py_IS_TYPE(span, spans->sdk_span))) {
        place = usual_place(call, spans, args[1], span, telemetry);
    }
    Py_XDECREF(spans);
    Py_XDECREF(span);
    Py_XDECREF(telemetry);
    return place != NULL || PyErr_Occurred() ? place : PyObject_Vectorcall(call->plain, args, nargsf, keywords);
}

/* ---- opened(record, place, context) ---- */

/* Whether a span is opened there without anybody being asked or told. Negative on error. */
static int
opens_silently(State *state, SpansCell *spans, PyObject *place)
{
    if ((!spans->children_are_sampled && SLOT(place, spans->of_place.rooted) != Py_True) || spans->pattern == NULL ||
        !Py_IS_TYPE(spans->pattern, spans->span)) {
        return 0;
    }
    return starts_silently(state, spans);
}

/* Give a record its span. */
static int
open_span(SpansCell *spans, TimedCell *record, PyObject *place)
{
    PyObject *span = copy_slots(NULL, spans->pattern);
    if (span == NULL) {
        return -1;
    }
    Py_XSETREF(SLOT(span, spans->of_span.record), Py_NewRef(record));
    Py_XSETREF(SLOT(span, spans->of_span.place), Py_NewRef(place));
    Py_XSETREF(SLOT(span, spans->of_span.above), Py_NewRef(SLOT(place, spans->of_place.parent)));
    Py_XSETREF(record->span, span);
    return 0;
}

/* New: the context to make the task in. */
static PyObject *
context_of(SinkCall *call, SpansCell *spans, TimedCell *record, PyObject *place, PyObject *given)
{
    if (given != Py_None || SLOT(place, spans->of_place.rooted) == Py_True) {
        return Py_NewRef(given);
    }
    PyObject *telemetry = SLOT(place, spans->of_place.telemetry);
    return make_context_with(call->variable, call->telemetry, call->key, record->span,
                             telemetry == Py_None ? call->state->nothing : telemetry);
}

static PyObject *
opened_vectorcall(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *keywords)
{
    SinkCall *call = (SinkCall *)self;
    SpansCell *spans = NULL;
    if (PyVectorcall_NARGS(nargsf) == 3 && keywords == NULL && PyObject_TypeCheck(args[0], call->state->timed_type)) {
        spans = spans_of(call);
    }
    PyObject *context = NULL;
    int silently = spans == NULL || !Py_IS_TYPE(args[1], spans->place) ? 0 : opens_silently(call->state, spans, args[1]);
    if (silently > 0 && open_span(spans, (TimedCell *)args[0], args[1]) == 0) {
        context = context_of(call, spans, (TimedCell *)args[0], args[1], args[2]);
    }
    Py_XDECREF(spans);
    return silently || PyErr_Occurred() ? context : PyObject_Vectorcall(call->plain, args, nargsf, keywords);
}

/* ---- closed(record, error) ---- */

/* Whether the span of a task that has ended is handed over as it is, and that is all. */
static int
closes_as_it_is(SinkCall *call, SpansCell *spans, TimedCell *record, PyObject *span)
{
    PyObject *place = SLOT(span, spans->of_span.place);
    return spans->as_is && spans->pattern != NULL && Py_IS_TYPE(spans->pattern, spans->span) && spans->new_span_id != NULL &&
           spans->takers != NULL && PyList_CheckExact(spans->takers) && is_none(record->waits) &&
           PyDict_GET_SIZE(call->kept) == 0 && SLOT(span, spans->of_span.yielded) == Py_False &&
           SLOT(span, spans->of_span.dropped) == Py_False && SLOT(span, spans->of_span.touched) == Py_False &&
           SLOT(span, spans->of_span.extra) == SLOT(spans->pattern, spans->of_span.extra) &&
           SLOT(span, spans->of_span.decision) == SLOT(spans->pattern, spans->of_span.decision) && place != NULL &&
           Py_IS_TYPE(place, spans->place) && SLOT(place, spans->of_place.spawner) == Py_None;
}

/* New: the ids of the span, which it has or, as the child of one that has them, gets; NULL, without an exception perhaps:
   they are not as easily had. */
static PyObject *
ids_of(State *state, SpansCell *spans, PyObject *span)
{
    PyObject *ids = SLOT(span, spans->of_span.context), *above = SLOT(span, spans->of_span.above), *parent = NULL;
    if (!is_none(ids)) {
        return Py_NewRef(ids);
    }
    if (above != NULL && spans->children_are_sampled && Py_IS_TYPE(above, spans->span)) {
        parent = Py_XNewRef(SLOT(above, spans->of_span.context));
    }
    else if (above != NULL && spans->children_are_sampled && Py_IS_TYPE(above, spans->sdk_span)) {
        parent = PyObject_GetAttr(above, state->s_of_context);
    }
    ids = parent != NULL && Py_IS_TYPE(parent, spans->ids) && are_ids(parent)
              ? make_child_ids(spans->ids, parent, spans->new_span_id)
              : NULL;
    if (ids == Py_None) {
        Py_CLEAR(ids);
    }
    if (ids != NULL) {
        Py_XSETREF(SLOT(span, spans->of_span.parent_ids), Py_NewRef(parent));
        Py_XSETREF(SLOT(span, spans->of_span.context), Py_NewRef(ids));
    }
    Py_XDECREF(parent);
    return ids;
}

/* The last of the span: what was kept to find its parent is needed no more, and the record keeps only the ids, or the two
   would be a cycle. Takes the reference to the ids. */
static int
close_span(SpansCell *spans, TimedCell *record, PyObject *span, PyObject *ids)
{
    Py_XSETREF(SLOT(span, spans->of_span.above), Py_NewRef(Py_None));
    Py_XSETREF(SLOT(span, spans->of_span.place), Py_NewRef(Py_None));
    PyObject *takers = Py_NewRef(spans->takers);
    int status = hand_over(takers, span);
    Py_DECREF(takers);
    if (status < 0) {
        Py_DECREF(ids);
        return -1;
    }
    Py_XSETREF(record->span, ids);
    return 0;
}

/* Whether it is the span of a task that has left its facts to a request, and that is all: then there is none. */
static int
has_yielded(SinkCall *call, SpansCell *spans, TimedCell *record, PyObject *span)
{
    PyObject *above = SLOT(span, spans->of_span.above);
    int below_dropped = above != NULL && Py_IS_TYPE(above, spans->span) && SLOT(above, spans->of_span.dropped) != Py_False;
    return SLOT(span, spans->of_span.yielded) == Py_True && is_none(SLOT(span, spans->of_span.context)) &&
           record->outcome == call->success && is_none(record->problem) && is_none(record->waits) &&
           PyDict_GET_SIZE(call->kept) == 0 && above != NULL && !below_dropped;
}

/* SdkSpans.close and Lineage.drop, of a span that is not wanted. */
static void
drop_span(SpansCell *spans, TimedCell *record, PyObject *span)
{
    Py_XSETREF(SLOT(span, spans->of_span.dropped), Py_NewRef(Py_True));
    Py_XSETREF(SLOT(span, spans->of_span.place), Py_NewRef(Py_None));
    Py_XSETREF(record->span, Py_NewRef(Py_None));
}

static PyObject *
closed_vectorcall(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *keywords)
{
    SinkCall *call = (SinkCall *)self;
    PyObject *span = NULL, *ids = NULL;
    SpansCell *spans = NULL;
    if (PyVectorcall_NARGS(nargsf) == 2 && keywords == NULL && args[1] == Py_None &&
        PyObject_TypeCheck(args[0], call->state->timed_type)) {
        spans = spans_of(call);
        span = spans == NULL ? NULL : Py_XNewRef(((TimedCell *)args[0])->span);
    }
    int known = span != NULL && Py_IS_TYPE(span, spans->span), dropped = 0, status = 0;
    if (known && closes_as_it_is(call, spans, (TimedCell *)args[0], span)) {
        ids = ids_of(call->state, spans, span);
    }
    else if (known && has_yielded(call, spans, (TimedCell *)args[0], span)) {
        drop_span(spans, (TimedCell *)args[0], span);
        dropped = 1;
    }
    if (ids != NULL) {
        status = close_span(spans, (TimedCell *)args[0], span, ids);
    }
    Py_XDECREF(span);
    Py_XDECREF(spans);
    if (status < 0 || PyErr_Occurred()) {
        return NULL;
    }
    return ids != NULL || dropped ? Py_NewRef(Py_None) : PyObject_Vectorcall(call->plain, args, nargsf, keywords);
}

/* ---- the type ---- */

#define EACH_OF_CALL(DO) DO(plain) DO(tracing) DO(kept) DO(root) DO(success) DO(variable) DO(key) DO(telemetry)

/* Which of the sink's methods it stands for. */
static vectorcallfunc
call_named(const char *name)
{
    static const struct {
        const char *name;
        vectorcallfunc function;
    } calls[] = {{"place", place_vectorcall}, {"opened", opened_vectorcall}, {"closed", closed_vectorcall}};
    for (size_t i = 0; i < Py_ARRAY_LENGTH(calls); i++) {
        if (strcmp(name, calls[i].name) == 0) {
            return calls[i].function;
        }
    }
    PyErr_Format(PyExc_ValueError, "SinkCall: %s is none of place, opened, closed", name);
    return NULL;
}

static int
call_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
#define VISIT_OF_CALL(field) Py_VISIT(((SinkCall *)self)->field);
    EACH_OF_CALL(VISIT_OF_CALL)
    return 0;
}

static void
call_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
#define CLEAR_OF_CALL(field) Py_CLEAR(((SinkCall *)self)->field);
    EACH_OF_CALL(CLEAR_OF_CALL)
    type->tp_free(self);
    Py_DECREF(type);
}

/* Takes all parts by name. */
static PyObject *
call_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
#define NAME_OF_CALL(field) #field,
    static char *names[] = {"name", EACH_OF_CALL(NAME_OF_CALL) NULL};
    const char *name;
    PyObject *plain, *tracing, *kept, *root, *success, *variable, *key;
    PyTypeObject *telemetry;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "s$OOO!OOOOO!:SinkCall", names, &name, &plain, &tracing, &PyDict_Type,
                                     &kept, &root, &success, &variable, &key, &PyType_Type, &telemetry)) {
        return NULL;
    }
    vectorcallfunc function = call_named(name);
    if (function != NULL && (!PyContextVar_CheckExact(variable) || !PyType_IsSubtype(telemetry, &PyDict_Type))) {
        PyErr_SetString(PyExc_TypeError, "SinkCall takes a context variable and a class of dicts");
        function = NULL;
    }
    SinkCall *call = function == NULL ? NULL : (SinkCall *)type->tp_alloc(type, 0);
    if (call != NULL) {
        call->vectorcall = function;
        call->state = state_of(type);
#define KEEP_OF_CALL(field) call->field = (void *)Py_NewRef(field);
        EACH_OF_CALL(KEEP_OF_CALL)
    }
    return (PyObject *)call;
}

CALLABLE_SPEC(call, "SinkCall", SinkCall);

int
sink_add(PyObject *module, State *state)
{
    return add_type(module, &state->sink_call_type, &call_spec, NULL);
}
