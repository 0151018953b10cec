/* What the record of a task is made of, the twin of LoopState.admit, records.TaskRecord and code.creation_point. */

#include "compiled.h"

/* New: what is known of the code of a coroutine; NULL, without an exception perhaps: it is for Python to look at. */
static PyObject *
usual_code(Recorder *recorder, PyObject *coro)
{
    PyObject *code = answer_of(&recorder->state->coro_code, coro, recorder->state->s_cr_code);
    PyObject *key = code == NULL ? NULL : PyLong_FromVoidPtr(code);
    PyObject *info = key == NULL ? NULL : Py_XNewRef(known_info(recorder->infos, key));
    if (info != NULL && (PyTuple_GET_ITEM(info, INFO_WRAPPED) != Py_None || PyTuple_GET_ITEM(info, INFO_HOUSEKEEPING) != Py_False)) {
        Py_CLEAR(info);
    }
    Py_XDECREF(key);
    Py_XDECREF(code);
    return info;
}

/* The line where a frame stands is the one that makes the task. */
static void
found_at(Birth *birth, PyCodeObject *code, PyFrameObject *frame)
{
    birth->made_code = Py_NewRef(code);
    birth->made_instruction = PyFrame_GetLasti(frame);
}

/* The same, of what Python has found: a pair, or None. */
static void
found_by_python(Birth *birth, PyObject *point)
{
    if (point != NULL && PyTuple_Check(point) && PyTuple_GET_SIZE(point) == 2) {
        birth->made_code = Py_NewRef(PyTuple_GET_ITEM(point, 0));
        birth->made_instruction = PyLong_AsLongLong(PyTuple_GET_ITEM(point, 1));
    }
    else if (point == Py_None) {
        birth->made_code = Py_NewRef(Py_None);
    }
    Py_XDECREF(point);
}

/* Look at one frame for the line that makes a task. Whether no task makes it, and what calls may tell of what kind it is
   (LoopState._kind_from_outside). */
static int
look_at(Recorder *recorder, Birth *birth, PyCodeObject *code, PyObject *key, PyObject *frame, int made_by_task)
{
    PyObject *info = known_info(recorder->infos, key);
    if (info != NULL && PyTuple_GET_ITEM(info, INFO_INTERNAL) == Py_False) {
        found_at(birth, code, (PyFrameObject *)frame);
    }
    else if (!made_by_task) {
        return info == NULL || PyTuple_GET_ITEM(info, INFO_ENTRY_POINT) != Py_False;
    }
    else if (info == NULL && !PyErr_Occurred()) {
        PyObject *args[] = {Py_None, frame};
        found_by_python(birth, PyObject_Vectorcall(recorder->find_point, args, 2, NULL));
    }
    else if (info != NULL && PyTuple_GET_ITEM(info, INFO_ENTRY_POINT) != Py_False &&
             is_answer(PyObject_CallNoArgs(recorder->get_running_loop), Py_None) == 0) {
        birth->made_code = Py_NewRef(Py_None);
    }
    return 0;
}

/* Find the line that makes a task, as code.creation_point does from this frame outwards. Where that is unclear nothing is
   noted. Only where the loop does not run yet, or what it calls is asyncio's. Takes the reference to the frame. */
static void
find_creation_point(Recorder *recorder, Birth *birth, PyObject *frame, int made_by_task)
{
    int unclear = 0;
    while (frame != NULL) {
        PyCodeObject *code = PyFrame_GetCode((PyFrameObject *)frame);
        PyObject *key = PyLong_FromVoidPtr(code);
        int passed = key == NULL ? -1 : PySet_Contains(recorder->passed, key);
        if (passed == 0) {
            unclear = look_at(recorder, birth, code, key, frame, made_by_task);
        }
        Py_XDECREF(key);
        Py_DECREF(code);
        int found = birth->made_code != NULL || unclear || PyErr_Occurred();
        PyObject *back = found ? NULL : (PyObject *)PyFrame_GetBack((PyFrameObject *)frame);
        Py_SETREF(frame, back);
    }
    if (birth->made_code == NULL && !unclear && !PyErr_Occurred()) {
        birth->made_code = Py_NewRef(Py_None);
    }
}

/* Whether all is known of it. Negative on error. */
static int
is_known(const Birth *birth)
{
    return PyErr_Occurred() ? -1 : birth->made_code != NULL;
}

/* Whether what is known of the loop lets a record be made here. */
static int
is_ready(Recorder *recorder, LoopCell *cell)
{
    return (is_none(cell->running) || PyObject_TypeCheck(cell->running, recorder->state->timed_type)) &&
           cell->alive != NULL && PySet_CheckExact(cell->alive);
}

/* Whether the record of a task of this coroutine, made where we are now, is made as usual, and of what; else that is for
   Python. Negative on error. */
int
read_birth(Recorder *recorder, LoopCell *cell, PyObject *coro, Birth *birth)
{
    int made_by_task = !is_none(cell->running);
    birth->code = is_ready(recorder, cell) ? usual_code(recorder, coro) : NULL;
    int unclear = birth->code == NULL ? -1
                  : made_by_task      ? 0
                                      : is_answer(PyObject_CallNoArgs(recorder->get_running_loop), Py_None);
    PyObject *frame = unclear == 0 ? PyObject_CallNoArgs(recorder->state->getframe) : NULL;
    if (frame != NULL) {
        find_creation_point(recorder, birth, frame, made_by_task);
    }
    return is_known(birth);
}

/* The same of a coroutine that runs: its own frames are the innermost, and whoever made it lies below them. */
int
read_birth_of_running(Recorder *recorder, LoopCell *cell, PyObject *coro, Birth *birth)
{
    birth->code = is_ready(recorder, cell) ? usual_code(recorder, coro) : NULL;
    PyObject *frame = birth->code == NULL ? NULL : PyObject_GetAttr(coro, recorder->state->s_cr_frame);
    PyObject *below = frame != NULL && PyFrame_Check(frame) ? (PyObject *)PyFrame_GetBack((PyFrameObject *)frame) : NULL;
    if (below != NULL) {
        find_creation_point(recorder, birth, below, 1);
    }
    Py_XDECREF(frame);
    return is_known(birth);
}

void
forget_birth(Birth *birth)
{
    Py_CLEAR(birth->code);
    Py_CLEAR(birth->made_code);
}

/* New: what TaskRecord(…) makes. */
static TimedCell *
new_record(Recorder *recorder, LoopCell *cell, const Birth *birth, PyObject *coro, PyObject *kind)
{
    State *state = recorder->state;
    TimedCell *record = (TimedCell *)recorder->record_type->tp_alloc(recorder->record_type, 0);
    if (record == NULL) {
        return NULL;
    }
    record->cell.step = Py_XNewRef(cell->step);
    record->loop = Py_NewRef(cell);
    record->kind = Py_NewRef(kind);
    record->code = Py_NewRef(birth->code);
    record->made_code = Py_NewRef(birth->made_code);
    record->made_instruction = birth->made_instruction;
    if ((record->qualname = PyObject_GetAttr(coro, state->s_qualname)) == NULL ||
        clock_now(&recorder->clock, &record->created) < 0 || clock_now(&recorder->wall, &record->wall) < 0 ||
        (record->id = PyObject_CallNoArgs(recorder->next_id)) == NULL) {
        Py_CLEAR(record);
    }
    else {
        record->ready = record->suspended = record->created;
    }
    return record;
}

/* New: the record of a task of this coroutine at this place; `*context` becomes the one to make it in, which is
   the given one unless that is None. */
TimedCell *
open_record(Recorder *recorder, LoopCell *cell, const Birth *birth, PyObject *place, PyObject *coro, PyObject *kind,
            PyObject *given, PyObject **context)
{
    TimedCell *record = new_record(recorder, cell, birth, coro, kind);
    if (record == NULL) {
        return NULL;
    }
    PyObject *args[] = {(PyObject *)record, place, given};
    *context = PyObject_Vectorcall(recorder->opened, args, 3, NULL);
    if (*context != NULL && cell->dozes) {
        PyObject *answer = PyObject_CallMethodNoArgs((PyObject *)cell, recorder->state->s_stir);
        if (answer == NULL) {
            Py_CLEAR(*context);
        }
        Py_XDECREF(answer);
    }
    if (*context == NULL) {
        Py_CLEAR(record);
    }
    return record;
}

/* New: where a task would stand that is made in the task of `running`, as the observation says. */
PyObject *
ask_for_place(Recorder *recorder, PyObject *context, PyObject *running)
{
    PyObject *held = Py_NewRef(running == NULL ? Py_None : running);
    PyObject *args[] = {recorder->observation, context, held};
    PyObject *place = PyObject_VectorcallMethod(recorder->state->s_place, args, 3, NULL);
    Py_DECREF(held);
    return place;
}

/* New: the record of the task that really runs, or None: an eager one may have been started past us, which is taken in. */
PyObject *
make_sure_of_running(Recorder *recorder, LoopCell *cell, PyObject *loop)
{
    State *state = recorder->state;
    PyObject *task = PyObject_CallOneArg(recorder->current_task, loop);
    PyObject *record = task == NULL || task == Py_None ? NULL : record_of(state, task);
    Py_XDECREF(task);
    if (record != NULL && Py_IS_TYPE(record, recorder->record_type)) {
        return record;
    }
    Py_XDECREF(record);
    PyErr_Clear();
    PyObject *args[] = {recorder->observation, (PyObject *)cell};
    return PyObject_VectorcallMethod(state->s_make_sure_of_running, args, 2, NULL);
}

/* New: the id of the record of whoever makes the task of `record`; 0: no task that is recorded. */
static PyObject *
creator_of(Recorder *recorder, LoopCell *cell, TimedCell *record, PyObject *loop)
{
    if (is_none(cell->running)) {
        return PyLong_FromLong(0);
    }
    Py_ssize_t eager = PyObject_Size(recorder->eager_tasks);
    if (eager < 0) {
        return NULL;
    }
    /* One that was started past us, and is in its first step, may be the one that really runs, or the one that is made. */
    PyObject *maker = eager == 0 ? Py_NewRef(cell->running) : make_sure_of_running(recorder, cell, loop);
    if (maker == (PyObject *)record) {
        Py_SETREF(maker, Py_NewRef(cell->running));
    }
    PyObject *id = maker == NULL      ? NULL
                   : maker == Py_None ? PyLong_FromLong(0)
                                      : Py_XNewRef(((TimedCell *)maker)->id);
    Py_XDECREF(maker);
    return id;
}

/* record.begin(task): it takes its place among the loop's live records. */
int
begin_record(Recorder *recorder, LoopCell *cell, TimedCell *record, PyObject *task, PyObject *loop)
{
    PyObject *lost = PyMethod_New(recorder->lost, (PyObject *)record);
    Py_XSETREF(record->task, lost == NULL ? NULL : PyWeakref_NewRef(task, lost));
    Py_XDECREF(lost);
    if (record->task == NULL) {
        return -1;
    }
    Py_XSETREF(record->creator, creator_of(recorder, cell, record, loop));
    return record->creator == NULL ? -1 : PySet_Add(cell->alive, (PyObject *)record);
}

/* ---- the type: it only keeps what these need ---- */

#define EACH_OF_RECORDER(DO)                                                                                    \
    DO(observation) DO(record_type) DO(lost) DO(next_id) DO(opened) DO(infos) DO(passed) DO(find_point) \
    DO(get_running_loop) DO(current_task) DO(eager_tasks)

static int
recorder_traverse(PyObject *self, visitproc visit, void *arg)
{
    Recorder *recorder = (Recorder *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(recorder->clock.ask);
    Py_VISIT(recorder->wall.ask);
#define VISIT_OF_RECORDER(field) Py_VISIT(recorder->field);
    EACH_OF_RECORDER(VISIT_OF_RECORDER)
    return 0;
}

static void
recorder_dealloc(PyObject *self)
{
    Recorder *recorder = (Recorder *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_CLEAR(recorder->clock.ask);
    Py_CLEAR(recorder->wall.ask);
#define CLEAR_OF_RECORDER(field) Py_CLEAR(recorder->field);
    EACH_OF_RECORDER(CLEAR_OF_RECORDER)
    type->tp_free(self);
    Py_DECREF(type);
}

/* Takes all parts by name. */
static PyObject *
recorder_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    State *state = state_of(type);
    PyObject *clock = NULL, *wall = NULL;
    Recorder *recorder = (Recorder *)type->tp_alloc(type, 0);
    if (recorder == NULL) {
        return NULL;
    }
    recorder->state = state;
#define NAME_OF_RECORDER(field) #field,
    static char *names[] = {"clock", "wall", EACH_OF_RECORDER(NAME_OF_RECORDER) NULL};
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "$OOOO!OOOO!O!OOOO:Recorder", names, &clock, &wall, &recorder->observation,
                                     &PyType_Type, &recorder->record_type, &recorder->lost, &recorder->next_id,
                                     &recorder->opened, &PyDict_Type, &recorder->infos, &PySet_Type, &recorder->passed,
                                     &recorder->find_point, &recorder->get_running_loop, &recorder->current_task,
                                     &recorder->eager_tasks)) {
        memset(&recorder->observation, 0, sizeof(Recorder) - offsetof(Recorder, observation)); /* only borrowed */
        Py_DECREF(recorder);
        return NULL;
    }
#define KEEP_OF_RECORDER(field) Py_INCREF(recorder->field);
    EACH_OF_RECORDER(KEEP_OF_RECORDER)
    if (!PyType_IsSubtype(recorder->record_type, state->timed_type)) {
        PyErr_SetString(PyExc_TypeError, "a record is a TimedCell");
        Py_CLEAR(recorder);
    }
    else if (clock_set(state, &recorder->clock, clock) < 0 || clock_set(state, &recorder->wall, wall) < 0) {
        Py_CLEAR(recorder);
    }
    return (PyObject *)recorder;
}

/* No tp_clear: whatever cycle it is part of goes through Python's objects, and it may be asked until it is freed. */
static PyType_Slot recorder_slots[] = {
    {Py_tp_new, recorder_new},
    {Py_tp_traverse, recorder_traverse},
    {Py_tp_dealloc, recorder_dealloc},
    {0, NULL},
};

static PyType_Spec recorder_spec = {"otel_asyncio.observe._compiled.Recorder", sizeof(Recorder), 0,
                                    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE, recorder_slots};

int
records_add(PyObject *module, State *state)
{
    return add_type(module, &state->recorder_type, &recorder_spec, NULL);
}
