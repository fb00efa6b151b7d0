// A test double of NCCL over the double of NVIDIA's driver: an exchange is done when the last member of the group has asked for
// it, after what was queued before. Handles are checked, and any entry point can be told to fail.
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, UNHANDLED_CUDA = 1, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, UINT8 = 1, MOST = 8 };

typedef struct Comm {
    struct Comm **group; // of all members
    int rank, count, is_waiting;
    const void *from;
    void *to, *stream;
    size_t bytes;
} Comm;

static char failing[64];
static int failure, after, live, aborted, last_ordinal, grouped;
static atomic_flag busy = ATOMIC_FLAG_INIT; // while a thread is in an exchange

void fake_reset(void) { failing[0] = 0; failure = after = live = aborted = grouped = 0; last_ordinal = -1; }
// The call of `name` after `skip` more returns `code`.
void fake_fail(const char *name, int code, int skip) { strncpy(failing, name, 63); failure = code; after = skip; }
int fake_live(void) { return live; }
int fake_aborted(void) { return aborted; }
int fake_last_ordinal(void) { return last_ordinal; }

static int ordered(const char *name) {
    if (strcmp(failing, name) || after-- > 0) return OK;
    failing[0] = 0;
    return failure;
}

int ncclCommInitAll(Comm **comms, int count, const int *ordinals) {
    int code = ordered("ncclCommInitAll");
    if (code) return code;
    if (count < 1 || count > MOST) return INVALID_ARGUMENT;
    Comm **group = malloc(count * sizeof *group);
    for (int i = 0; i < count; i++) {
        comms[i] = group[i] = calloc(1, sizeof(Comm));
        *comms[i] = (Comm){.group = group, .rank = i, .count = count};
        last_ordinal = ordinals[i];
        live++;
    }
    return OK;
}

int ncclGroupStart(void) { grouped++; return ordered("ncclGroupStart"); }
int ncclGroupEnd(void) { return grouped-- > 0 ? ordered("ncclGroupEnd") : INVALID_USAGE; }

static int all_gather(const void *from, void *to, size_t bytes, int type, Comm *comm, void *stream) {
    int code = ordered("ncclAllGather");
    if (code) return code;
    if (!comm || comm->is_waiting || type != UINT8 || !stream || !bytes) return INVALID_ARGUMENT;
    Comm now = *comm;
    now.from = from; now.to = to; now.bytes = bytes; now.stream = stream; now.is_waiting = 1;
    *comm = now;
    for (int i = 0; i < comm->count; i++)
        if (!comm->group[i]->is_waiting) return OK;
    int (*synchronize)(void *) = (int (*)(void *))dlsym(dlopen("libcuda.so", RTLD_LAZY), "cuStreamSynchronize");
    for (int i = 0; i < comm->count; i++)
        if (synchronize(comm->group[i]->stream)) return UNHANDLED_CUDA;
    for (int i = 0; i < comm->count; i++) {
        Comm *member = comm->group[i];
        if (member->bytes != bytes) return INVALID_ARGUMENT;
        for (int part = 0; part < comm->count; part++)
            memcpy((char *)member->to + part * bytes, comm->group[part]->from, bytes);
        member->is_waiting = 0;
    }
    return OK;
}

// Members' threads come at the same time.
int ncclAllGather(const void *from, void *to, size_t bytes, int type, Comm *comm, void *stream) {
    while (atomic_flag_test_and_set(&busy)) {}
    int code = all_gather(from, to, bytes, type, comm, stream);
    atomic_flag_clear(&busy);
    return code;
}

int ncclCommDestroy(Comm *comm) { live--; return comm ? OK : INVALID_ARGUMENT; }
int ncclCommAbort(Comm *comm) { live--; aborted++; return comm ? OK : INVALID_ARGUMENT; }
const char *ncclGetErrorString(int code) { return code == INVALID_USAGE ? "invalid usage" : "unhandled cuda error"; }
int ncclGetVersion(int *version) { *version = 22105; return OK; }
