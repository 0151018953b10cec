/* The clocks behind time.perf_counter_ns and time.time_ns, read without the call and the integer object. */

#include "compiled.h"

#if PY_VERSION_HEX < 0x030D0000
#include <time.h>
#endif

/* Nanoseconds of the clock that perf_counter_ns reads; on success 0. */
int
clock_read(long long *now)
{
#if PY_VERSION_HEX >= 0x030D0000
    PyTime_t read;
    if (PyTime_PerfCounterRaw(&read) < 0) {
        return -1;
    }
    *now = read;
    return 0;
#elif defined(__linux__)
    struct timespec read;
    clock_gettime(CLOCK_MONOTONIC, &read);
    *now = (long long)read.tv_sec * 1000000000 + read.tv_nsec;
    return 0;
#else
    *now = -1;
    return 0;
#endif
}

/* Nanoseconds of the clock that time_ns reads. */
#if PY_VERSION_HEX >= 0x030D0000
static int
wall_read(long long *now)
{
    PyTime_t read;
    if (PyTime_TimeRaw(&read) < 0) {
        return -1;
    }
    *now = read;
    return 0;
}
#elif defined(__linux__)
static int
wall_read(long long *now)
{
    struct timespec read;
    clock_gettime(CLOCK_REALTIME, &read);
    *now = (long long)read.tv_sec * 1000000000 + read.tv_nsec;
    return 0;
}
#else
#define wall_read NULL
#endif

int
clock_ask(Clock *clock, long long *now)
{
    PyObject *read = PyObject_CallNoArgs(clock->ask);
    if (read == NULL) {
        return -1;
    }
    *now = PyLong_AsLongLong(read);
    Py_DECREF(read);
    return *now == -1 && PyErr_Occurred() ? -1 : 0;
}

/* Whether our reading falls between two of Python's. Negative on error. */
static int
reads_the_same(State *state)
{
    Clock python = {state->perf_counter_ns, NULL};
    long long before, ours, after;
    if (clock_ask(&python, &before) < 0 || clock_read(&ours) < 0 || clock_ask(&python, &after) < 0) {
        return -1;
    }
    return before <= ours && ours <= after;
}

/* Whether what is read natively is time.perf_counter_ns. Negative on error. */
int
clock_is_native(State *state)
{
    if (state->native_clock < 0) {
        state->native_clock = reads_the_same(state);
    }
    return state->native_clock;
}

/* How the clock is read that `ask` asks; NULL: by asking it. Negative on error. */
int
clock_find(State *state, PyObject *ask, ClockRead *read)
{
    int native = clock_is_native(state);
    *read = ask == state->time_ns ? wall_read : ask == state->perf_counter_ns && native > 0 ? clock_read : NULL;
    return native < 0 ? -1 : 0;
}

int
clock_set(State *state, Clock *clock, PyObject *ask)
{
    if (clock_find(state, ask, &clock->read) < 0) {
        return -1;
    }
    clock->ask = Py_NewRef(ask);
    return 0;
}
