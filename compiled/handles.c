/* asyncio's handles, made without calling their constructor; the handle of a step runs the step itself. */

#include "compiled.h"

/* What the handle of a step has behind the slots of asyncio.Handle. `_callback` and `_args` are answered from here. */
typedef struct {
    State *state;
    PyObject *step, *record, *task, *callback;
    PyObject *arg; /* of the callback; NULL: none */
    int changed;   /* somebody has set `_callback` or `_args`: it is run as any handle is */
} Inside;

static inline Inside *
inside(State *state, PyObject *handle)
{
    return (Inside *)((char *)handle + state->handle_base->tp_basicsize);
}

/* The state of any handle: its type cannot be subclassed. */
static inline Inside *
inside_of(PyObject *handle)
{
    return (Inside *)((char *)handle + Py_TYPE(handle)->tp_basicsize - sizeof(Inside));
}

static PyObject *
context_for(PyObject *context)
{
    return context == NULL || context == Py_None ? PyContext_CopyCurrent() : Py_NewRef(context);
}

static void
fill(State *state, PyObject *handle, PyObject *loop, PyObject *context)
{
    const HandleSlots *slots = &state->slots;
    SLOT(handle, slots->loop) = Py_NewRef(loop);
    SLOT(handle, slots->context) = context;
    SLOT(handle, slots->cancelled) = Py_NewRef(Py_False);
    SLOT(handle, slots->repr) = Py_NewRef(Py_None);
    SLOT(handle, slots->source_traceback) = Py_NewRef(Py_None);
}

/* What `Handle(callback, args, loop, context)` makes outside debug mode. */
PyObject *
handle_plain(State *state, PyObject *callback, PyObject *const *args, Py_ssize_t nargs, PyObject *loop,
             PyObject *context)
{
    PyObject *packed = PyTuple_New(nargs);
    if (packed == NULL) {
        return NULL;
    }
    for (Py_ssize_t i = 0; i < nargs; i++) {
        PyTuple_SET_ITEM(packed, i, Py_NewRef(args[i]));
    }
    PyObject *own = context_for(context);
    PyObject *handle = own == NULL ? NULL : state->handle_base->tp_alloc(state->handle_base, 0);
    if (handle == NULL) {
        Py_DECREF(packed);
        Py_XDECREF(own);
        return NULL;
    }
    fill(state, handle, loop, own);
    SLOT(handle, state->slots.callback) = Py_NewRef(callback);
    SLOT(handle, state->slots.args) = packed;
    return handle;
}

/* The handle of a step. */
PyObject *
handle_for_step(State *state, Step *step, PyObject *record, PyObject *task, PyObject *callback, PyObject *arg,
                PyObject *loop, PyObject *context)
{
    PyObject *own = context_for(context);
    if (own == NULL) {
        return NULL;
    }
    PyObject *handle = spare_take(&state->spare_handles, state->handle_type);
    int tracked = handle == NULL; /* by the allocation */
    if (handle == NULL && (handle = state->handle_type->tp_alloc(state->handle_type, 0)) == NULL) {
        Py_DECREF(own);
        return NULL;
    }
    fill(state, handle, loop, own);
    Inside *in = inside(state, handle);
    in->state = state;
    in->step = Py_NewRef(step);
    in->record = Py_NewRef(record);
    in->task = Py_NewRef(task);
    in->callback = Py_NewRef(callback);
    in->arg = Py_XNewRef(arg);
    if (!tracked) {
        PyObject_GC_Track(handle);
    }
    return handle;
}

/* ---- running ---- */

static int make_ordinary(PyObject *handle, PyObject *raised);

/* Something left the step: let Handle._run itself meet it, so that it is reported, or leaves the loop, as ever. */
static PyObject *
fail(State *state, PyObject *handle)
{
    PyObject *raised = take_raised();
    int status = state->base_run == NULL ? -1 : make_ordinary(handle, raised);
    Py_DECREF(raised);
    return status < 0 ? NULL : PyObject_CallOneArg(state->base_run, handle);
}

/* What Handle._run does, with the step in the place of asyncio's callback. */
static PyObject *
handle_run(PyObject *self, PyObject *unused)
{
    Inside *in = inside_of(self);
    State *state = in->state;
    PyObject *context = SLOT(self, state->slots.context);
    if (in->changed || context == NULL || !PyContext_CheckExact(context)) {
        return state->base_run == NULL ? Py_NewRef(Py_None) : PyObject_CallOneArg(state->base_run, self);
    }
    /* Whoever cancels the handle in the middle of the step takes the callback and its argument away. */
    PyObject *callback = Py_NewRef(in->callback), *arg = Py_XNewRef(in->arg);
    PyObject *step = Py_NewRef(in->step), *record = Py_NewRef(in->record), *task = Py_NewRef(in->task);
    PyObject *loop = Py_XNewRef(SLOT(self, state->slots.loop));
    int status = -1;
    Py_INCREF(context);
    if (PyContext_Enter(context) == 0) {
        status = step_run(state, (Step *)step, record, task, callback, &arg, arg != NULL, loop);
        if (PyContext_Exit(context) < 0) {
            status = -1;
        }
    }
    Py_DECREF(context);
    Py_XDECREF(loop);
    Py_DECREF(task);
    Py_DECREF(record);
    Py_DECREF(step);
    Py_DECREF(callback);
    Py_XDECREF(arg);
    return status < 0 ? fail(state, self) : Py_NewRef(Py_None);
}

/* ---- what a handle shows ---- */

static PyObject *
get_callback(PyObject *self, void *unused)
{
    Inside *in = inside_of(self);
    PyObject *callback = in->changed ? SLOT(self, in->state->slots.callback) : in->callback;
    if (callback == NULL) {
        PyErr_SetString(PyExc_AttributeError, "_callback");
    }
    return Py_XNewRef(callback);
}

static PyObject *
get_args(PyObject *self, void *unused)
{
    Inside *in = inside_of(self);
    if (!in->changed) {
        return in->arg == NULL ? PyTuple_New(0) : PyTuple_Pack(1, in->arg);
    }
    PyObject *args = SLOT(self, in->state->slots.args);
    if (args == NULL) {
        PyErr_SetString(PyExc_AttributeError, "_args");
    }
    return Py_XNewRef(args);
}

/* From now on callback and arguments are kept in the slots of asyncio.Handle, and it is run as any handle is. */
static int
make_ordinary(PyObject *self, PyObject *raised)
{
    Inside *in = inside_of(self);
    const HandleSlots *slots = &in->state->slots;
    if (in->changed) {
        return 0;
    }
    PyObject *args = get_args(self, NULL);
    PyObject *bound = args == NULL ? NULL
                                   : step_bind(in->state, (Step *)Py_NewRef(in->step), Py_NewRef(in->record), in->task,
                                             in->callback, SLOT(self, slots->loop), raised);
    if (bound == NULL) {
        Py_XDECREF(args);
        return -1;
    }
    in->changed = 1;
    SLOT(self, slots->callback) = bound;
    SLOT(self, slots->args) = args;
    Py_CLEAR(in->step);
    Py_CLEAR(in->record);
    Py_CLEAR(in->task);
    Py_CLEAR(in->callback);
    Py_CLEAR(in->arg);
    return 0;
}

/* Somebody, as a rule `cancel()`, sets them. */
static int
change(PyObject *self, Py_ssize_t offset, PyObject *value)
{
    if (make_ordinary(self, NULL) < 0) {
        return -1;
    }
    PyObject *before = SLOT(self, offset);
    SLOT(self, offset) = Py_XNewRef(value);
    Py_XDECREF(before);
    return 0;
}

static int
set_callback(PyObject *self, PyObject *value, void *unused)
{
    return change(self, inside_of(self)->state->slots.callback, value);
}

static int
set_args(PyObject *self, PyObject *value, void *unused)
{
    return change(self, inside_of(self)->state->slots.args, value);
}

static int
handle_traverse(PyObject *self, visitproc visit, void *arg)
{
    Inside *in = inside_of(self);
    Py_VISIT(Py_TYPE(self));
    if (in->state == NULL) {
        return 0;
    }
    const HandleSlots *slots = &in->state->slots;
    Py_VISIT(SLOT(self, slots->callback));
    Py_VISIT(SLOT(self, slots->args));
    Py_VISIT(SLOT(self, slots->loop));
    Py_VISIT(SLOT(self, slots->context));
    Py_VISIT(SLOT(self, slots->repr));
    Py_VISIT(SLOT(self, slots->source_traceback));
    Py_VISIT(SLOT(self, slots->cancelled));
    Py_VISIT(in->step);
    Py_VISIT(in->record);
    Py_VISIT(in->task);
    Py_VISIT(in->callback);
    Py_VISIT(in->arg);
    return 0;
}

static int
handle_clear(PyObject *self)
{
    Inside *in = inside_of(self);
    if (in->state == NULL) {
        return 0;
    }
    const HandleSlots *slots = &in->state->slots;
    in->changed = 1; /* nothing is left to be run */
    Py_CLEAR(SLOT(self, slots->callback));
    Py_CLEAR(SLOT(self, slots->args));
    Py_CLEAR(SLOT(self, slots->loop));
    Py_CLEAR(SLOT(self, slots->context));
    Py_CLEAR(SLOT(self, slots->repr));
    Py_CLEAR(SLOT(self, slots->source_traceback));
    Py_CLEAR(SLOT(self, slots->cancelled));
    Py_CLEAR(in->step);
    Py_CLEAR(in->record);
    Py_CLEAR(in->task);
    Py_CLEAR(in->callback);
    Py_CLEAR(in->arg);
    return 0;
}

static void
handle_dealloc(PyObject *self)
{
    Inside *in = inside_of(self);
    State *state = in->state;
    PyObject_GC_UnTrack(self);
    PyObject_ClearWeakRefs(self);
    if (state == NULL) { /* never filled */
        PyTypeObject *type = Py_TYPE(self);
        type->tp_free(self);
        Py_DECREF(type);
        return;
    }
    handle_clear(self);
    in->changed = 0;
    spare_keep(&state->spare_handles, self);
}

static PyMethodDef handle_methods[] = {
    {"_run", handle_run, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef handle_getset[] = {
    {"_callback", get_callback, set_callback, NULL, NULL},
    {"_args", get_args, set_args, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot handle_slots[] = {
    {Py_tp_methods, handle_methods}, {Py_tp_getset, handle_getset}, {Py_tp_traverse, handle_traverse},
    {Py_tp_clear, handle_clear},     {Py_tp_dealloc, handle_dealloc}, {0, NULL},
};

/* ---- whether asyncio.Handle is the one we know ---- */

int
offset_of(PyTypeObject *type, const char *name, Py_ssize_t *offset)
{
    PyObject *found = PyObject_GetAttrString((PyObject *)type, name);
    if (found == NULL) {
        PyErr_Clear();
        return 0;
    }
    int known = Py_IS_TYPE(found, &PyMemberDescr_Type) && PyDescr_TYPE(found) == type &&
                ((PyMemberDescrObject *)found)->d_member->type == T_OBJECT_EX;
    if (known) {
        *offset = ((PyMemberDescrObject *)found)->d_member->offset;
    }
    Py_DECREF(found);
    return known;
}

static int
is_known(State *state, PyTypeObject *handle)
{
    HandleSlots *slots = &state->slots;
    return handle->tp_base == &PyBaseObject_Type && handle->tp_dictoffset == 0 && handle->tp_itemsize == 0 &&
           offset_of(handle, "_callback", &slots->callback) && offset_of(handle, "_args", &slots->args) &&
           offset_of(handle, "_cancelled", &slots->cancelled) && offset_of(handle, "_loop", &slots->loop) &&
           offset_of(handle, "_source_traceback", &slots->source_traceback) &&
           offset_of(handle, "_repr", &slots->repr) && offset_of(handle, "_context", &slots->context);
}

/* use_handles(Handle): make handles of this class natively, if it is built as those that were read. */
PyObject *
use_handles(PyObject *module, PyObject *handle)
{
    State *state = PyModule_GetState(module);
    PyTypeObject *base = (PyTypeObject *)handle;
    if (!PyType_Check(handle)) {
        PyErr_SetString(PyExc_TypeError, "use_handles takes the class of handles");
        return NULL;
    }
    if (state->handle_type != NULL || !is_known(state, base)) {
        Py_RETURN_FALSE;
    }
    PyType_Spec spec = {"asyncio.events.Handle", (int)(base->tp_basicsize + sizeof(Inside)), 0,
                        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, handle_slots};
    PyObject *run = PyObject_GetAttrString((PyObject *)base, "_run");
    PyTypeObject *made = run == NULL ? NULL : (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, (PyObject *)base);
    if (made == NULL) {
        Py_XDECREF(run);
        return NULL;
    }
    state->handle_base = (PyTypeObject *)Py_NewRef(base);
    state->handle_type = made;
    state->base_run = run;
    Py_RETURN_TRUE;
}
