/* SpansCell: what is asked for every span of SdkSpans, and how one is handed over that is over when it is made. */

#include "compiled.h"

#define EACH_OF_SPANS(DO) \
    DO(tracer) DO(pattern) DO(configured) DO(listed) DO(processors) DO(takers) DO(new_span_id) \
    DO(is_recording)
#define EACH_CLASS(DO) DO(span) DO(sdk_span) DO(place) DO(ids) DO(given)

static int
spans_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
#define VISIT_OF_SPANS(field) Py_VISIT(((SpansCell *)self)->field);
    EACH_OF_SPANS(VISIT_OF_SPANS)
    EACH_CLASS(VISIT_OF_SPANS)
    return 0;
}

static int
spans_clear(PyObject *self)
{
#define CLEAR_OF_SPANS(field) Py_CLEAR(((SpansCell *)self)->field);
    EACH_OF_SPANS(CLEAR_OF_SPANS)
    EACH_CLASS(CLEAR_OF_SPANS)
    return 0;
}

DEALLOC(spans)

static PyMemberDef spans_members[] = {
#define MEMBER_OF_SPANS(field) {#field, T_OBJECT, offsetof(SpansCell, field), 0, NULL},
    EACH_OF_SPANS(MEMBER_OF_SPANS)
    {"silent", T_BOOL, offsetof(SpansCell, silent), 0, NULL},
    {"children_are_sampled", T_BOOL, offsetof(SpansCell, children_are_sampled), 0, NULL},
    {"as_is", T_BOOL, offsetof(SpansCell, as_is), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

/* Where objects of its classes have what. */
static int
find_slots(SpansCell *spans)
{
    struct {
        PyTypeObject *type;
        const char *name;
        Py_ssize_t *at;
    } slots[] = {
        {spans->span, "_context", &spans->of_span.context},
        {spans->span, "above", &spans->of_span.above},
        {spans->span, "decision", &spans->of_span.decision},
        {spans->span, "dropped", &spans->of_span.dropped},
        {spans->span, "extra", &spans->of_span.extra},
        {spans->span, "nested", &spans->of_span.nested},
        {spans->span, "parent_ids", &spans->of_span.parent_ids},
        {spans->span, "place", &spans->of_span.place},
        {spans->span, "record", &spans->of_span.record},
        {spans->span, "spans", &spans->of_span.spans},
        {spans->span, "touched", &spans->of_span.touched},
        {spans->span, "yielded", &spans->of_span.yielded},
        {spans->place, "parent", &spans->of_place.parent},
        {spans->place, "around", &spans->of_place.around},
        {spans->place, "rooted", &spans->of_place.rooted},
        {spans->place, "telemetry", &spans->of_place.telemetry},
        {spans->place, "spawner", &spans->of_place.spawner},
        {spans->given, "_context", &spans->of_given.context},
        {spans->given, "facts", &spans->of_given.facts},
    };
    for (size_t i = 0; i < Py_ARRAY_LENGTH(slots); i++) {
        if (!offset_of(slots[i].type, slots[i].name, slots[i].at)) {
            PyErr_Format(PyExc_TypeError, "%.100s has no slot %s", slots[i].type->tp_name, slots[i].name);
            return -1;
        }
    }
    return 0;
}

/* spans.use(span, sdk_span, place, ids, given): its classes; until it has them, Python does all. */
static PyObject *
spans_use(PyObject *self, PyObject *args)
{
    SpansCell *spans = (SpansCell *)self;
    PyTypeObject *span, *sdk_span, *place, *ids, *given;
    if (!PyArg_ParseTuple(args, "O!O!O!O!O!:use", &PyType_Type, &span, &PyType_Type, &sdk_span, &PyType_Type, &place,
                          &PyType_Type, &ids, &PyType_Type, &given)) {
        return NULL;
    }
    if (!PyType_IsSubtype(ids, &PyTuple_Type)) {
        PyErr_SetString(PyExc_TypeError, "use takes a class of tuples for the ids");
        return NULL;
    }
#define USE_CLASS(field) Py_XSETREF(spans->field, (PyTypeObject *)Py_NewRef(field));
    EACH_CLASS(USE_CLASS)
    if (find_slots(spans) < 0) {
        EACH_CLASS(CLEAR_OF_SPANS)
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef spans_methods[] = {{"use", spans_use, METH_VARARGS, NULL}, {NULL, NULL, 0, NULL}};

static PyType_Slot spans_slots[] = {
    {Py_tp_traverse, spans_traverse}, {Py_tp_clear, spans_clear}, {Py_tp_dealloc, spans_dealloc},
    {Py_tp_members, spans_members},   {Py_tp_methods, spans_methods}, {0, NULL},
};

static PyType_Spec spans_spec = {"otel_asyncio.observe._compiled.SpansCell", sizeof(SpansCell), 0,
                                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, spans_slots};

/* Whether an attribute of an attribute is this. Negative on error. */
static int
leads_to(PyObject *object, PyObject *first, PyObject *second, PyObject *expected)
{
    PyObject *between = PyObject_GetAttr(object, first);
    int leads = between == NULL ? -1 : is_answer(PyObject_GetAttr(between, second), expected);
    Py_XDECREF(between);
    return leads;
}

/* Whether nobody wants to be asked or told of the start of a span. Negative on error. */
int
starts_silently(State *state, SpansCell *spans)
{
    if (spans->configured == NULL || spans->listed == NULL || is_none(spans->processors) || !spans->silent) {
        return 0;
    }
    int silently = leads_to(spans->configured, state->s_tracer_config, state->s_is_enabled, Py_True);
    if (silently > 0) {
        silently = is_answer(PyObject_GetAttr(spans->listed, state->s_span_processors), spans->processors);
    }
    return silently;
}

/* Hand a span over that has ended. */
int
hand_over(PyObject *takers, PyObject *span)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(takers); i++) {
        PyObject *take = Py_NewRef(PyList_GET_ITEM(takers, i));
        PyObject *answer = PyObject_CallOneArg(take, span);
        Py_DECREF(take);
        Py_XDECREF(answer);
        if (answer == NULL) {
            return -1;
        }
    }
    return 0;
}

/* New: a span that is over, with these ids and made of these facts. */
static PyObject *
new_given(SpansCell *spans, PyObject *ids, PyObject *facts)
{
    PyObject *span = spans->given->tp_alloc(spans->given, 0);
    if (span != NULL) {
        SLOT(span, spans->of_given.context) = Py_NewRef(ids);
        SLOT(span, spans->of_given.facts) = Py_NewRef(facts);
    }
    return span;
}

/* SdkSpans.give: hand over a span that is over, below ids of this process. Whether that was done; else it is for Python.
   Negative on error. */
int
give(State *state, SpansCell *spans, PyObject *parent, PyObject *name, PyObject *start, PyObject *end, PyObject *attributes)
{
    int usual = spans->as_is && spans->children_are_sampled && spans->new_span_id != NULL && spans->tracer != NULL &&
                spans->takers != NULL && PyList_CheckExact(spans->takers) && Py_IS_TYPE(parent, spans->ids) && are_ids(parent);
    if (usual > 0) {
        usual = starts_silently(state, spans);
    }
    PyObject *ids = usual > 0 ? make_child_ids(spans->ids, parent, spans->new_span_id) : NULL;
    if (ids == NULL || ids == Py_None) {
        Py_XDECREF(ids);
        return PyErr_Occurred() ? -1 : 0;
    }
    PyObject *facts = PyTuple_Pack(8, spans->tracer, name, parent, start, end, attributes, state->nothing, Py_None);
    PyObject *span = facts == NULL ? NULL : new_given(spans, ids, facts), *takers = Py_NewRef(spans->takers);
    int status = span == NULL ? -1 : hand_over(takers, span);
    Py_DECREF(takers);
    Py_XDECREF(span);
    Py_XDECREF(facts);
    Py_DECREF(ids);
    return status < 0 ? -1 : 1;
}

int
spanscell_add(PyObject *module, State *state)
{
    return add_type(module, &state->spans_type, &spans_spec, NULL);
}
