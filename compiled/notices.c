/* A lock is taken, or set free: the twin of otel_asyncio/observe/notices.py, which is the reference. */

#include "compiled.h"

/* ---- Notice: `notice(lock, locked)` ---- */

#define LINES 64 /* a power of two */

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    State *state;
    PyObject *guard;
    PyObject *holds, *past;               /* by the identity of the lock: who holds it; who held it while others waited */
    PyObject *released, *forget_oldest;   /* methods of Locks */
    Py_ssize_t most;                      /* so many holds are kept */
    PyTypeObject *record_type;            /* TaskRecord */
    PyObject *current_task;
    PyObject *enter;                      /* the code of `async with lock` */
    PyObject *infos, *find_point;         /* code.infos, code.creation_point */
    Clock clock;
    int failed;                           /* then nothing is noted any more */
    PyObject *lines[LINES];               /* points of the program that took a lock, by where they are; or NULL */
} Notice;

/* New, or NULL: the record of the task that runs now; a weak reference to it where it has none; neither without a task.
   Negative on error. */
static int
read_holder(Notice *notice, PyObject **record, PyObject **unrecorded)
{
    PyObject *task = PyObject_CallNoArgs(notice->current_task);
    if (is_none(task)) {
        Py_XDECREF(task);
        if (task == NULL && !PyErr_ExceptionMatches(PyExc_RuntimeError)) {
            return -1;
        }
        PyErr_Clear(); /* no loop runs here */
        return 0;
    }
    int status = 0;
    PyObject *found = record_of(notice->state, task);
    if (found == NULL && PyErr_Occurred()) {
        status = -1;
    }
    else if (found != NULL && Py_IS_TYPE(found, notice->record_type)) {
        *record = Py_NewRef(found);
    }
    else {
        *unrecorded = PyWeakref_NewRef(task, NULL);
        status = *unrecorded == NULL ? -1 : 0;
    }
    Py_XDECREF(found);
    Py_DECREF(task);
    return status;
}

/* Whether this is known to be code of the program. Negative on error. */
static int
is_program(Notice *notice, PyCodeObject *code)
{
    PyObject *key = PyLong_FromVoidPtr(code);
    PyObject *info = key == NULL ? NULL : known_info(notice->infos, key);
    Py_XDECREF(key);
    return info != NULL ? PyTuple_GET_ITEM(info, INFO_INTERNAL) == Py_False : PyErr_Occurred() ? -1 : 0;
}

/* New: where a frame stands, if that is known to be code of the program; else what a search finds from there outwards. */
static PyObject *
find_point(Notice *notice, PyCodeObject *code, PyObject *frame)
{
    int known = is_program(notice, code);
    if (known > 0) {
        return point_of(code, (PyFrameObject *)frame);
    }
    PyObject *args[2] = {notice->state->one, frame};
    return known < 0 ? NULL : PyObject_Vectorcall(notice->find_point, args, 2, NULL);
}

/* New: the same, remembered: the lines that take locks are few. */
static PyObject *
remember_point(Notice *notice, PyCodeObject *code, PyObject *frame)
{
    int instruction = PyFrame_GetLasti((PyFrameObject *)frame);
    PyObject **line = &notice->lines[((uintptr_t)code / 64 + (uintptr_t)instruction / 2) % LINES];
    if (*line != NULL && PyTuple_GET_ITEM(*line, 0) == (PyObject *)code &&
        PyLong_AsLong(PyTuple_GET_ITEM(*line, 1)) == instruction) {
        return Py_NewRef(*line);
    }
    PyObject *point = find_point(notice, code, frame);
    if (point != NULL && PyTuple_CheckExact(point) && PyTuple_GET_ITEM(point, 0) == (PyObject *)code) {
        Py_XSETREF(*line, Py_NewRef(point));
    }
    return point;
}

/* New: the line that takes the lock, as code and instruction; None where no line of the program does. */
static PyObject *
read_point(Notice *notice)
{
    State *state = notice->state;
    PyObject *frame = PyObject_CallOneArg(state->getframe, state->one); /* below `acquire` */
    if (frame == NULL) {
        return NULL;
    }
    PyCodeObject *code = PyFrame_GetCode((PyFrameObject *)frame);
    PyObject *back = (PyObject *)code == notice->enter ? (PyObject *)PyFrame_GetBack((PyFrameObject *)frame) : NULL;
    if (back != NULL) {
        Py_SETREF(frame, back);
        Py_SETREF(code, PyFrame_GetCode((PyFrameObject *)frame));
    }
    PyObject *point = remember_point(notice, code, frame);
    Py_DECREF(code);
    Py_DECREF(frame);
    return point;
}

static int
note_taken(Notice *notice, PyObject *key)
{
    int status = -1;
    long long now;
    PyObject *record = NULL, *unrecorded = NULL, *since = NULL, *point = NULL, *taken = NULL;
    if (read_holder(notice, &record, &unrecorded) == 0 && (point = read_point(notice)) != NULL &&
        clock_now(&notice->clock, &now) == 0 && (since = PyLong_FromLongLong(now)) != NULL) {
        taken = PyTuple_Pack(4, record == NULL ? Py_None : record, unrecorded == NULL ? Py_None : unrecorded, since, point);
    }
    if (taken != NULL && (status = PyDict_SetItem(notice->holds, key, taken)) == 0 &&
        PyDict_GET_SIZE(notice->holds) > notice->most) {
        status = tell(notice->forget_oldest, NULL, 0);
    }
    Py_XDECREF(record);
    Py_XDECREF(unrecorded);
    Py_XDECREF(since);
    Py_XDECREF(point);
    Py_XDECREF(taken);
    return status;
}

/* Whether somebody waits for this lock. Negative on error. */
static int
is_awaited(State *state, PyObject *lock)
{
    PyObject *waiters = PyObject_GetAttr(lock, state->s_waiters);
    int awaited = waiters == NULL ? -1 : PyObject_IsTrue(waiters);
    Py_XDECREF(waiters);
    return awaited;
}

/* Take an entry out of a dictionary: new, or NULL where there is none. Negative on error. */
static int
take_out(PyObject *table, PyObject *key, PyObject **taken)
{
#if PY_VERSION_HEX >= 0x030D0000
    return PyDict_Pop(table, key, taken);
#else
    *taken = Py_XNewRef(PyDict_GetItemWithError(table, key));
    return *taken != NULL ? PyDict_DelItem(table, key) : PyErr_Occurred() ? -1 : 0;
#endif
}

static int
note_released(Notice *notice, PyObject *lock, PyObject *key)
{
    PyObject *taken = NULL;
    int status = take_out(notice->holds, key, &taken);
    if (status >= 0) {
        int matters = PyDict_GET_SIZE(notice->past) > 0 ? 1 : taken != NULL ? is_awaited(notice->state, lock) : 0;
        PyObject *args[2] = {lock, taken == NULL ? Py_None : taken};
        status = matters > 0 ? tell(notice->released, args, 2) : matters;
    }
    Py_XDECREF(taken);
    return status;
}

/* Negative: with an exception that is the program's. */
static int
note(Notice *notice, PyObject *lock, PyObject *locked)
{
    if (notice->failed) {
        return 0;
    }
    int taken = PyObject_IsTrue(locked);
    PyObject *key = taken < 0 ? NULL : PyLong_FromVoidPtr(lock);
    int status = key == NULL ? -1 : taken ? note_taken(notice, key) : note_released(notice, lock, key);
    Py_XDECREF(key);
    if (status == 0) {
        return 0;
    }
    notice->failed = 1; /* a lock goes on locking */
    return tell_failure(notice->guard, notice->state->s_fail);
}

static PyObject *
notice_vectorcall(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *keywords)
{
    if (PyVectorcall_NARGS(nargsf) != 2 || keywords != NULL) {
        PyErr_SetString(PyExc_TypeError, "a notice is of a lock, and whether it is locked now");
        return NULL;
    }
    return note((Notice *)self, args[0], args[1]) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
notice_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"guard", "holds", "past", "released", "forget_oldest", "most", "record_type", "clock",
                            "current_task", "enter", "infos", "find_point", NULL};
    PyObject *guard, *holds, *past, *released, *forget_oldest, *clock, *current_task, *enter, *infos, *find_point;
    PyTypeObject *record_type;
    Py_ssize_t most;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "$OO!O!OOnO!OOO!O!O:Notice", names, &guard, &PyDict_Type, &holds,
                                     &PyDict_Type, &past, &released, &forget_oldest, &most, &PyType_Type, &record_type,
                                     &clock, &current_task, &PyCode_Type, &enter, &PyDict_Type, &infos, &find_point)) {
        return NULL;
    }
    Notice *notice = (Notice *)type->tp_alloc(type, 0);
    if (notice == NULL) {
        return NULL;
    }
    notice->vectorcall = notice_vectorcall;
    notice->state = state_of(type);
    notice->guard = Py_NewRef(guard);
    notice->holds = Py_NewRef(holds);
    notice->past = Py_NewRef(past);
    notice->released = Py_NewRef(released);
    notice->forget_oldest = Py_NewRef(forget_oldest);
    notice->most = most;
    notice->record_type = (PyTypeObject *)Py_NewRef(record_type);
    notice->current_task = Py_NewRef(current_task);
    notice->enter = Py_NewRef(enter);
    notice->infos = Py_NewRef(infos);
    notice->find_point = Py_NewRef(find_point);
    if (clock_set(notice->state, &notice->clock, clock) < 0) {
        Py_DECREF(notice);
        return NULL;
    }
    return (PyObject *)notice;
}

#define VISIT(field) Py_VISIT(field);
#define CLEAR(field) Py_CLEAR(field);
#define EACH_OF_NOTICE(DO)                                                                                    \
    DO(notice->guard) DO(notice->holds) DO(notice->past) DO(notice->released) DO(notice->forget_oldest)       \
    DO(notice->record_type) DO(notice->current_task) DO(notice->enter) DO(notice->infos) DO(notice->find_point) \
    DO(notice->clock.ask)

static int
notice_traverse(PyObject *self, visitproc visit, void *arg)
{
    Notice *notice = (Notice *)self;
    Py_VISIT(Py_TYPE(self));
    EACH_OF_NOTICE(VISIT)
    for (int i = 0; i < LINES; i++) {
        Py_VISIT(notice->lines[i]);
    }
    return 0;
}

static void
notice_dealloc(PyObject *self)
{
    Notice *notice = (Notice *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    EACH_OF_NOTICE(CLEAR)
    for (int i = 0; i < LINES; i++) {
        Py_CLEAR(notice->lines[i]);
    }
    type->tp_free(self);
    Py_DECREF(type);
}

/* ---- SetAttribute: the `__setattr__` of asyncio.Lock ---- */

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    State *state;
    PyObject *before; /* the one that was there; NULL: the one that every object has */
    PyObject *told;   /* a list of notices */
} SetAttribute;

static int
tell_all(SetAttribute *hook, PyObject *lock, PyObject *locked)
{
    int status = 0;
    for (Py_ssize_t i = 0; status == 0 && i < PyList_GET_SIZE(hook->told); i++) {
        PyObject *notice = Py_NewRef(PyList_GET_ITEM(hook->told, i)), *args[2] = {lock, locked};
        status = tell(notice, args, 2);
        Py_DECREF(notice);
    }
    return status;
}

static int
set_before(SetAttribute *hook, PyObject *const *args)
{
    if (hook->before == NULL) {
        return PyObject_GenericSetAttr(args[0], args[1], args[2]);
    }
    return tell(hook->before, args, 3);
}

static PyObject *
set_attribute_vectorcall(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *keywords)
{
    SetAttribute *hook = (SetAttribute *)self;
    if (PyVectorcall_NARGS(nargsf) != 3 || keywords != NULL || !PyUnicode_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "__setattr__ takes an object, the name of an attribute and a value");
        return NULL;
    }
    if (set_before(hook, args) < 0) {
        return NULL;
    }
    State *state = hook->state;
    if ((args[1] == state->s_locked || PyUnicode_Compare(args[1], state->s_locked) == 0) &&
        tell_all(hook, args[0], args[2]) < 0) {
        return NULL;
    }
    return Py_NewRef(Py_None);
}

static PyObject *
set_attribute_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"before", "told", NULL};
    PyObject *before, *told;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "OO!:SetAttribute", names, &before, &PyList_Type, &told)) {
        return NULL;
    }
    PyObject *stock = PyObject_GetAttrString((PyObject *)&PyBaseObject_Type, "__setattr__");
    SetAttribute *hook = stock == NULL ? NULL : (SetAttribute *)type->tp_alloc(type, 0);
    if (hook != NULL) {
        hook->vectorcall = set_attribute_vectorcall;
        hook->state = state_of(type);
        hook->before = before == stock ? NULL : Py_NewRef(before);
        hook->told = Py_NewRef(told);
    }
    Py_XDECREF(stock);
    return (PyObject *)hook;
}

static int
set_attribute_traverse(PyObject *self, visitproc visit, void *arg)
{
    SetAttribute *hook = (SetAttribute *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(hook->before);
    Py_VISIT(hook->told);
    return 0;
}

static void
set_attribute_dealloc(PyObject *self)
{
    SetAttribute *hook = (SetAttribute *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_CLEAR(hook->before);
    Py_CLEAR(hook->told);
    type->tp_free(self);
    Py_DECREF(type);
}

CALLABLE_SPEC(notice, "Notice", Notice);

static PyMemberDef set_attribute_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(SetAttribute, vectorcall), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

/* No tp_clear, as above. */
static PyType_Slot set_attribute_slots[] = {
    {Py_tp_new, set_attribute_new},           {Py_tp_call, PyVectorcall_Call},
    {Py_tp_descr_get, bind},                  {Py_tp_traverse, set_attribute_traverse},
    {Py_tp_dealloc, set_attribute_dealloc},   {Py_tp_members, set_attribute_members},
    {0, NULL},
};

static PyType_Spec set_attribute_spec = {"otel_asyncio.observe._compiled.SetAttribute", sizeof(SetAttribute), 0, METHOD,
                                         set_attribute_slots};

int
notices_add(PyObject *module, State *state)
{
    return add_type(module, &state->notice_type, &notice_spec, NULL) < 0 ||
                   add_type(module, &state->set_attribute_type, &set_attribute_spec, NULL) < 0
               ? -1
               : 0;
}
