/* The module: one state for each interpreter, and what is looked up once. */

#include "compiled.h"

State *
state_of(PyTypeObject *type)
{
    return (State *)PyType_GetModuleState(type);
}

/* New: the method `name` of a class of a module, and the C function behind it if it is one that takes `flags`. */
static PyObject *
find_method(const char *module, const char *class, const char *name, int flags, PyCFunction *function)
{
    PyObject *found = NULL, *imported = PyImport_ImportModule(module);
    PyObject *owner = imported == NULL ? NULL : PyObject_GetAttrString(imported, class);
    if (owner != NULL) {
        found = PyObject_GetAttrString(owner, name);
    }
    if (found != NULL && Py_IS_TYPE(found, &PyMethodDescr_Type) &&
        ((PyMethodDescrObject *)found)->d_method->ml_flags == flags) {
        *function = ((PyMethodDescrObject *)found)->d_method->ml_meth;
    }
    Py_XDECREF(owner);
    Py_XDECREF(imported);
    return found;
}

/* What answers an attribute of a class, if that is a C function; else NULL. */
static getter
find_getter(PyTypeObject *owner, const char *name)
{
    getter answer = NULL;
    PyObject *found = PyObject_GetAttrString((PyObject *)owner, name);
    if (found == NULL) {
        PyErr_Clear();
    }
    else if (Py_IS_TYPE(found, &PyGetSetDescr_Type)) {
        answer = ((PyGetSetDescrObject *)found)->d_getset->get;
    }
    Py_XDECREF(found);
    return answer;
}

static int
find_methods(State *state)
{
    PyObject *time = PyImport_ImportModule("time");
    if (time == NULL) {
        return -1;
    }
    state->perf_counter_ns = PyObject_GetAttrString(time, "perf_counter_ns");
    state->time_ns = PyObject_GetAttrString(time, "time_ns");
    Py_DECREF(time);
    state->native_clock = -1; /* not known yet */
    state->append = find_method("collections", "deque", "append", METH_O, &state->call_append);
    Py_XDECREF(find_method("collections", "deque", "appendleft", METH_O, &state->call_append_left));
    /* Without asyncio's C code there is no C task, and `done` is asked for by its name. */
    state->done = find_method("_asyncio", "Future", "done", METH_NOARGS, &state->call_done);
    if (state->done == NULL) {
        PyErr_Clear();
    }
    else if (state->call_done != NULL) {
        state->get_state = find_getter(PyDescr_TYPE(state->done), "_state");
        state->get_exception = find_getter(PyDescr_TYPE(state->done), "_exception");
        state->get_traceback = find_getter(PyDescr_TYPE(state->done), "_source_traceback");
    }
    state->getframe = Py_XNewRef(PySys_GetObject("_getframe"));
    state->one = PyLong_FromLong(1);
    state->nothing = PyTuple_New(0);
    if (state->nothing == NULL) {
        return -1;
    }
    if (state->getframe == NULL || state->one == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "sys._getframe is not there");
        return -1;
    }
    if (state->perf_counter_ns == NULL || state->time_ns == NULL || state->append == NULL) {
        return -1;
    }
    if (state->call_append != NULL) {
        state->deque_type = (PyTypeObject *)Py_NewRef(PyDescr_TYPE(state->append));
    }
    return 0;
}

static int
intern_names(State *state)
{
    struct {
        PyObject **place;
        const char *name;
    } names[] = {
        {&state->s_otel_asyncio, "_otel_asyncio"},
        {&state->s_done, "done"},
        {&state->s_self, "__self__"},
        {&state->s_ready, "_ready"},
        {&state->s_debug, "_debug"},
        {&state->s_closed, "_closed"},
        {&state->s_context, "context"},
        {&state->s_delays, "delays"},
        {&state->s_offer, "offer"},
        {&state->s_append, "append"},
        {&state->s_source_traceback, "_source_traceback"},
        {&state->s_finished, "FINISHED"},
        {&state->s_name, "name"},
        {&state->s_loop, "loop"},
        {&state->s_task, "Task"},
        {&state->s_place, "place"},
        {&state->s_unwanted, "unwanted"},
        {&state->s_switch_off_creation, "switch_off_creation"},
        {&state->s_task_factory, "_task_factory"},
        {&state->s_get_task_factory, "get_task_factory"},
        {&state->s_is_closed, "is_closed"},
        {&state->s_cr_code, "cr_code"},
        {&state->s_qualname, "__qualname__"},
        {&state->s_parent, "parent"},
        {&state->s_make_sure_of_running, "make_sure_of_running"},
        {&state->s_stir, "stir"},
        {&state->s_abandon, "abandon"},
        {&state->s_failed, "failed"},
        {&state->s_fail, "fail"},
        {&state->s_get_name, "get_name"},
        {&state->s_durations, "durations"},
        {&state->s_eager_start, "eager_start"},
        {&state->s_cancelled, "CANCELLED"},
        {&state->s_ended, "ended"},
        {&state->s_cancellations, "cancellations"},
        {&state->s_fut_waiter, "_fut_waiter"},
        {&state->s_get_loop, "get_loop"},
        {&state->s_stand_in, "stand_in"},
        {&state->s_shut_down, "shut_down"},
        {&state->s_tell, "tell"},
        {&state->s_spans, "spans"},
        {&state->s_is_recording, "is_recording"},
        {&state->s_tracer_config, "_tracer_config"},
        {&state->s_is_enabled, "is_enabled"},
        {&state->s_span_processors, "_span_processors"},
        {&state->s_of_context, "_context"},
        {&state->s_end_time, "_end_time"},
        {&state->s_locked, "_locked"},
        {&state->s_waiters, "_waiters"},
        {&state->s_cr_frame, "cr_frame"},
        {&state->s_cr_running, "cr_running"},
        {&state->s_get_coro, "get_coro"},
        {&state->s_cancel, "cancel"},
        {&state->s_uncancel, "uncancel"},
        {&state->s_cancelling, "cancelling"},
        {&state->s_asked, "asked"},
        {&state->s_of_parent, "_parent"},
        {&state->s_of_scope, "_instrumentation_scope"},
        {&state->s_of_start, "_start_time"},
        {&state->s_give_up, "_give_up"},
        {&state->s_shutdown, "_shutdown"},
        {&state->s_queue, "_queue"},
    };
    for (size_t i = 0; i < Py_ARRAY_LENGTH(names); i++) {
        if ((*names[i].place = PyUnicode_InternFromString(names[i].name)) == NULL) {
            return -1;
        }
    }
    state->context_keyword = PyTuple_Pack(1, state->s_context);
    return state->context_keyword == NULL ? -1 : 0;
}

static int
module_exec(PyObject *module)
{
    State *state = PyModule_GetState(module);
    state->spare_bound.limit = state->spare_handles.limit = SPARE;
    if (intern_names(state) < 0 || find_methods(state) < 0 || cells_add(module, state) < 0 ||
        steps_add(module, state) < 0 || bursts_add(module, state) < 0 || announce_add(module, state) < 0 || records_add(module, state) < 0 ||
        create_add(module, state) < 0 || running_add(module, state) < 0 || spanscell_add(module, state) < 0 || requests_add(module, state) < 0 || queue_add(module, state) < 0 ||
        notices_add(module, state) < 0 || register_add(module, state) < 0 || sink_add(module, state) < 0 || vigil_add(module, state) < 0) {
        return -1;
    }
    return PyModule_AddIntConstant(module, "INTERFACE", INTERFACE);
}

/* What may be part of a cycle. The rest stays until the module is freed: hooks may still be called meanwhile. */
#define EACH_IN_CYCLES(DO)                                                                                  \
    DO(handle_type) DO(handle_base) DO(base_run) DO(cell_type) DO(timed_type) DO(loop_type) DO(shard_type)  \
    DO(step_type) DO(bound_type) DO(announcer_type) DO(maker_type) DO(register_type) DO(vigil_type)       \
    DO(counted_type) DO(shutdown_type) DO(burst_type) DO(canceller_type) DO(spans_type) DO(sink_call_type)   \
    DO(notice_type) DO(set_attribute_type) DO(recorder_type) DO(running_type) DO(request_call_type) DO(stretch_type) DO(taker_type)                                                                  \
    DO(done) DO(append) DO(deque_type) DO(perf_counter_ns) DO(time_ns) DO(slotted) DO(unslotted) DO(handle_traceback.type) \
    DO(coro_code.type)

#define EACH_NAME(DO)                                                                                \
    DO(s_otel_asyncio) DO(s_done) DO(s_self) DO(s_ready) DO(s_debug) DO(s_closed) DO(s_context)      \
    DO(s_delays) DO(s_offer) DO(s_append) DO(s_source_traceback) DO(s_finished)          \
    DO(s_name) DO(s_loop) DO(s_task) DO(s_place) DO(s_unwanted) DO(s_switch_off_creation)            \
    DO(s_task_factory) DO(s_get_task_factory) DO(s_is_closed) DO(s_cr_code) DO(s_qualname)            \
    DO(s_parent) DO(s_make_sure_of_running) DO(s_stir) DO(s_abandon) DO(s_failed) DO(s_fail)          \
    DO(s_get_name) DO(s_durations) DO(s_eager_start) DO(s_cancelled) DO(s_ended) DO(s_cancellations)     \
    DO(s_fut_waiter) DO(s_get_loop) DO(s_stand_in) DO(s_shut_down) DO(s_tell) DO(getframe) DO(one)       \
    DO(s_spans) DO(s_is_recording) DO(s_tracer_config) DO(s_is_enabled) DO(s_span_processors) DO(s_of_context) DO(s_end_time) \
    DO(s_locked) DO(s_waiters) DO(s_cr_frame) DO(s_cr_running) DO(s_get_coro) DO(s_cancel) DO(s_uncancel) \
    DO(s_cancelling) DO(s_asked) DO(s_of_parent) DO(s_of_scope) DO(s_of_start) DO(s_give_up) DO(s_shutdown) DO(s_queue)                                                                  \
    DO(nothing) DO(seen_loop) DO(context_keyword)

#define VISIT(field) Py_VISIT(state->field);
#define CLEAR(field) Py_CLEAR(state->field);

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(module);
    EACH_IN_CYCLES(VISIT)
    return 0;
}

static int
module_clear(PyObject *module)
{
    State *state = PyModule_GetState(module);
    state->call_done = state->call_append = state->call_append_left = NULL;
    state->get_state = state->get_exception = state->get_traceback = NULL;
    state->call_get_name = NULL;
    state->seen_cell = NULL;
    spare_drop(&state->spare_bound);
    spare_drop(&state->spare_handles);
    EACH_IN_CYCLES(CLEAR)
    return 0;
}

static void
module_free(void *module)
{
    State *state = PyModule_GetState(module);
    module_clear(module);
    EACH_NAME(CLEAR)
}

static PyMethodDef module_methods[] = {
    {"use_handles", use_handles, METH_O, NULL},
    {"copy_slots", copy_slots, METH_O, NULL},
    {"context_with", (PyCFunction)(void (*)(void))context_with, METH_FASTCALL, NULL},
    {"child_ids", (PyCFunction)(void (*)(void))child_ids, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#if PY_VERSION_HEX >= 0x030C0000
    /* All state is the module's; the objects that are met belong to the interpreter that runs. */
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
    {0, NULL},
};

struct PyModuleDef compiled_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "otel_asyncio.observe._compiled",
    .m_doc = "The compiled hot path, the twin of otel_asyncio.observe.steps, create, tasks, finishing and bursts.",
    .m_size = sizeof(State),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC
PyInit__compiled(void)
{
    return PyModuleDef_Init(&compiled_module);
}
