// A test double of NVIDIA's driver: the entry points that oc calls, over host memory.
//
// Work on the stream is queued and done only when somebody waits, as late as the real driver may: a host buffer that is
// reused too early, or a free that does not keep its place, shows in the results. Every call is logged, handles and
// addresses are checked, and any entry point can be told to fail.
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int Status;
typedef uint64_t Ptr;
enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101,
       INVALID_PTX = 218, INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500, NOT_READY = 600,
       ILLEGAL_ADDRESS = 700, CAPTURE_UNSUPPORTED = 900 };

// ---- what the tests set and read

static int version, devices, has_pools, peers_reach, capturing, initialized;
static size_t total, used;
static Status sticky;
static char log_text[1 << 20];
static size_t log_len;
static struct { char name[64]; int code, after; } failures[8];
static int num_failures, retained, live_events, live_modules, live_pinned, live_streams, live_execs, live_graphs;

static void say(const char *format, ...) {
    va_list args;
    va_start(args, format);
    if (log_len + 512 < sizeof log_text) log_len += vsnprintf(log_text + log_len, 512, format, args);
    va_end(args);
}

// The status of a call of `name`: what was ordered, or what is left of a fault.
static Status enter(const char *name, int needs_context);
// Threads call at the same time, and wait outside the locks of whoever calls: one is in here until it returns.
static atomic_flag busy = ATOMIC_FLAG_INIT;
static int lock(void) { while (atomic_flag_test_and_set(&busy)) {} return 0; }
static void unlock(int *guard) { (void)guard; atomic_flag_clear(&busy); }
#define ENTER_AS(name, needs) \
    __attribute__((cleanup(unlock))) int guard_ = lock(); \
    do { Status s_ = enter(name, needs); if (s_) return s_; } while (0)
#define ENTER(name) ENTER_AS(name, 1)
#define ENTER_FREE(name) ENTER_AS(name, 0)

typedef struct Block { Ptr at; size_t bytes; struct Block *next; } Block;
static Block *blocks;

typedef struct { char name[64]; int allowed, fixed; } Function;
typedef struct { char *text; Function functions[16]; int num; } Module;
typedef enum { H2D, D2H, D2D, LAUNCH, EVENT, FREE, GRAPH } Kind;
typedef struct Op {
    Kind kind;
    Ptr to, from;
    size_t bytes;
    void *handle;
    uint64_t params[8];
    struct Op *next;
} Op;
typedef struct { Op *first; } Graph;
typedef struct { int pending; } Event;

static Op *queue, *recorded;
static char stream_object, context_object, pool_objects[8]; // a pool for each device
static _Thread_local void *current;

// Also when it is loaded, for a process that cannot call it.
__attribute__((constructor)) void fake_reset(void) {
    version = 12040; devices = 2; has_pools = peers_reach = 1; capturing = 0; initialized = 0; total = 64 << 20; used = 0;
    sticky = OK; log_len = 0; log_text[0] = 0; num_failures = 0; queue = recorded = NULL; blocks = NULL;
    retained = live_events = live_modules = live_pinned = live_streams = live_execs = live_graphs = 0;
}
void fake_set(const char *key, int value) {
    if (!strcmp(key, "version")) version = value;
    if (!strcmp(key, "devices")) devices = value;
    if (!strcmp(key, "pools")) has_pools = value;
    if (!strcmp(key, "peers")) peers_reach = value;
}
// The next call of `name`, after `after` more, returns `code`.
void fake_fail(const char *name, int code, int after) {
    snprintf(failures[num_failures].name, 64, "%s", name);
    failures[num_failures].code = code;
    failures[num_failures++].after = after;
}
const char *fake_log(void) { return log_text; }
// Ends a capture whose end was told to fail.
void fake_end(void) { capturing = 0; }
void fake_clear_log(void) { log_len = 0; log_text[0] = 0; }
// Everything that was taken and not given back.
int fake_leaks(void) {
    int n = retained + live_events + live_modules + live_pinned + live_streams + live_execs + live_graphs;
    for (Block *b = blocks; b; b = b->next) n++;
    return n;
}

static Status enter(const char *name, int needs_context) {
    for (int i = 0; i < num_failures; i++)
        if (!strcmp(failures[i].name, name) && failures[i].after-- == 0) return failures[i].code;
    if (needs_context && current != &context_object) return INVALID_CONTEXT;
    return needs_context ? sticky : OK;
}

static Block *find(Ptr at, size_t bytes) {
    for (Block *b = blocks; b; b = b->next)
        if (at >= b->at && at + bytes <= b->at + b->bytes) return b;
    return NULL;
}

static Status new_block(Ptr *at, size_t bytes) {
    if (bytes == 0) return INVALID_VALUE;
    if (used + bytes > total) return OUT_OF_MEMORY;
    Block *b = malloc(sizeof *b);
    b->at = (Ptr)(uintptr_t)aligned_alloc(256, (bytes + 255) / 256 * 256);
    memset((void *)(uintptr_t)b->at, 0xAB, bytes);
    b->bytes = bytes; b->next = blocks; blocks = b; used += bytes;
    *at = b->at;
    return OK;
}

static Status drop_block(Ptr at) {
    for (Block **b = &blocks; *b; b = &(*b)->next)
        if ((*b)->at == at) {
            Block *gone = *b;
            *b = gone->next; used -= gone->bytes;
            free((void *)(uintptr_t)gone->at); free(gone);
            return OK;
        }
    return INVALID_VALUE;
}

// ---- the queue

static void append(Op **list, Op op) {
    Op *copy = malloc(sizeof op);
    *copy = op; copy->next = NULL;
    while (*list) list = &(*list)->next;
    *list = copy;
}
static void push(Op op) { append(capturing ? &recorded : &queue, op); }

static void perform(Op *op) {
    if (sticky) return;
    void *to = (void *)(uintptr_t)op->to, *from = (void *)(uintptr_t)op->from;
    switch (op->kind) {
    case H2D: case D2H: case D2D: memcpy(to, from, op->bytes); break;
    case EVENT: ((Event *)op->handle)->pending = 0; break;
    case FREE: drop_block(op->to); break;
    case GRAPH: for (Op *o = ((Graph *)op->handle)->first; o; o = o->next) perform(o); break;
    case LAUNCH: {
        const char *name = ((Function *)op->handle)->name;
        uint32_t n = (uint32_t)op->params[2];
        Ptr at = op->params[0];
        if (!strcmp(name, "fault") || !find(at, 4 * (size_t)n)) { sticky = ILLEGAL_ADDRESS; return; }
        for (uint32_t i = 0; i < n; i++) {
            if (!strcmp(name, "fill")) ((uint32_t *)(uintptr_t)at)[i] = (uint32_t)op->params[1];
            if (!strcmp(name, "scale")) {
                float f; uint32_t bits = (uint32_t)op->params[1];
                memcpy(&f, &bits, 4);
                ((float *)(uintptr_t)at)[i] *= f;
            }
        }
    } }
}

// Does what is queued, up to `event` or all.
static void work(Event *event) {
    while (queue && !(event && !event->pending)) {
        Op *op = queue;
        queue = op->next;
        perform(op);
        free(op);
    }
}

// ---- entry points

Status cuInit(unsigned flags) { ENTER_FREE("cuInit"); initialized = flags == 0; return devices ? OK : NO_DEVICE; }
Status cuDriverGetVersion(int *out) { ENTER_FREE("cuDriverGetVersion"); *out = version; return OK; }
Status cuGetErrorName(int code, const char **out) {
    *out = code == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : code == 1 ? "CUDA_ERROR_INVALID_VALUE" : code == 100
        ? "CUDA_ERROR_NO_DEVICE" : code == 218 ? "CUDA_ERROR_INVALID_PTX" : code == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS"
        : code == 803 ? "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH" : NULL;
    return *out ? OK : INVALID_VALUE;
}
Status cuGetErrorString(int code, const char **out) {
    *out = code == 700 ? "an illegal memory access was encountered" : NULL;
    return *out ? OK : INVALID_VALUE;
}
Status cuDeviceGetCount(int *out) { ENTER_FREE("cuDeviceGetCount"); *out = devices; return initialized ? OK : NOT_INITIALIZED; }
Status cuDeviceGet(int *out, int ordinal) { ENTER_FREE("cuDeviceGet"); *out = ordinal + 10; return ordinal < devices ? OK : INVALID_DEVICE; }
Status cuDeviceGetName(char *out, int len, int device) { ENTER_FREE("cuDeviceGetName"); snprintf(out, len, "Fake GPU %d", device - 10); return OK; }
Status cuDeviceGetAttribute(int *out, int which, int device) {
    ENTER_FREE("cuDeviceGetAttribute");
    switch (which) {
    case 16: *out = 108; return OK;
    case 75: *out = 8; return OK;
    case 76: *out = device - 10; return OK;
    case 97: *out = 166912; return OK;
    case 115: *out = has_pools; return OK;
    default: return INVALID_VALUE;
    }
}
Status cuDeviceTotalMem_v2(size_t *out, int device) { ENTER_FREE("cuDeviceTotalMem_v2"); (void)device; *out = total; return OK; }
Status cuDeviceGetDefaultMemPool(void **out, int device) { ENTER_FREE("cuDeviceGetDefaultMemPool"); *out = &pool_objects[device - 10]; return has_pools ? OK : INVALID_VALUE; }
static int is_pool(const void *pool) { return (const char *)pool >= pool_objects && (const char *)pool < pool_objects + 8; }
Status cuDeviceCanAccessPeer(int *out, int device, int peer) { ENTER_FREE("cuDeviceCanAccessPeer"); *out = peers_reach && device != peer; return OK; }
Status cuMemPoolSetAccess(void *pool, const struct { int type, id, flags; } *access, size_t count) {
    ENTER("cuMemPoolSetAccess");
    if (!is_pool(pool) || count != 1 || access->type != 1 || access->flags != 3) return INVALID_VALUE;
    say("pool of GPU %d: access by GPU %d\n", (int)((char *)pool - pool_objects), access->id - 10);
    return OK;
}
Status cuDevicePrimaryCtxRetain(void **out, int device) { ENTER_FREE("cuDevicePrimaryCtxRetain"); (void)device; *out = &context_object; retained++; return OK; }
Status cuDevicePrimaryCtxRelease_v2(int device) { ENTER_FREE("cuDevicePrimaryCtxRelease_v2"); (void)device; retained--; return OK; }
Status cuCtxSetCurrent(void *context) { ENTER_FREE("cuCtxSetCurrent"); current = context; return OK; }
Status cuMemPoolSetAttribute(void *pool, int which, void *value) {
    ENTER("cuMemPoolSetAttribute");
    say("pool attribute %d = %llx\n", which, (unsigned long long)*(uint64_t *)value);
    return is_pool(pool) ? OK : INVALID_VALUE;
}
Status cuMemPoolTrimTo(void *pool, size_t keep) { ENTER("cuMemPoolTrimTo"); say("trim to %zu\n", keep); return is_pool(pool) ? OK : INVALID_VALUE; }
Status cuMemGetInfo_v2(size_t *unused, size_t *all) { ENTER("cuMemGetInfo_v2"); *unused = total - used; *all = total; return OK; }
Status cuMemAlloc_v2(Ptr *out, size_t bytes) { ENTER("cuMemAlloc_v2"); say("alloc %zu\n", bytes); return new_block(out, bytes); }
Status cuMemFree_v2(Ptr at) { ENTER("cuMemFree_v2"); say("free\n"); work(NULL); return drop_block(at); }
Status cuMemAllocAsync(Ptr *out, size_t bytes, void *stream) {
    ENTER("cuMemAllocAsync");
    say("alloc async %zu\n", bytes);
    if (capturing) return CAPTURE_UNSUPPORTED;
    return stream == &stream_object ? new_block(out, bytes) : INVALID_HANDLE;
}
Status cuMemFreeAsync(Ptr at, void *stream) {
    ENTER("cuMemFreeAsync");
    say("free async\n");
    if (capturing) return CAPTURE_UNSUPPORTED;
    if (stream != &stream_object || !find(at, 1)) return INVALID_VALUE;
    push((Op){.kind = FREE, .to = at});
    return OK;
}
Status cuMemHostAlloc(void **out, size_t bytes, unsigned flags) { ENTER("cuMemHostAlloc"); (void)flags; live_pinned++; *out = malloc(bytes); return OK; }
Status cuMemFreeHost(void *at) { ENTER("cuMemFreeHost"); live_pinned--; free(at); return OK; }
Status cuMemcpyHtoDAsync_v2(Ptr to, const void *from, size_t bytes, void *stream) {
    ENTER("cuMemcpyHtoDAsync_v2");
    say("to device %zu\n", bytes);
    if (stream != &stream_object || !find(to, bytes)) return INVALID_VALUE;
    push((Op){.kind = H2D, .to = to, .from = (Ptr)(uintptr_t)from, .bytes = bytes});
    return OK;
}
Status cuMemcpyDtoHAsync_v2(void *to, Ptr from, size_t bytes, void *stream) {
    ENTER("cuMemcpyDtoHAsync_v2");
    say("to host %zu\n", bytes);
    if (stream != &stream_object || !find(from, bytes)) return INVALID_VALUE;
    push((Op){.kind = D2H, .to = (Ptr)(uintptr_t)to, .from = from, .bytes = bytes});
    return OK;
}
Status cuMemcpyDtoDAsync_v2(Ptr to, Ptr from, size_t bytes, void *stream) {
    ENTER("cuMemcpyDtoDAsync_v2");
    say("on device %zu\n", bytes);
    if (stream != &stream_object || !find(to, bytes) || !find(from, bytes)) return INVALID_VALUE;
    push((Op){.kind = D2D, .to = to, .from = from, .bytes = bytes});
    return OK;
}
Status cuStreamCreate(void **out, unsigned flags) { ENTER("cuStreamCreate"); say("stream, flags %u\n", flags); live_streams++; *out = &stream_object; return OK; }
Status cuStreamDestroy_v2(void *stream) { ENTER("cuStreamDestroy_v2"); (void)stream; live_streams--; return OK; }
Status cuStreamSynchronize(void *stream) {
    ENTER("cuStreamSynchronize");
    say("synchronize\n");
    if (stream != &stream_object) return INVALID_HANDLE;
    if (capturing) return CAPTURE_UNSUPPORTED;
    work(NULL);
    return sticky;
}
Status cuStreamBeginCapture_v2(void *stream, int mode) {
    ENTER("cuStreamBeginCapture_v2");
    say("begin capture, mode %d\n", mode);
    if (stream != &stream_object || capturing) return INVALID_VALUE;
    capturing = 1; recorded = NULL;
    return OK;
}
Status cuStreamEndCapture(void *stream, Graph **out) {
    ENTER("cuStreamEndCapture");
    say("end capture\n");
    if (stream != &stream_object || !capturing) return INVALID_VALUE;
    capturing = 0; live_graphs++;
    *out = malloc(sizeof **out);
    (*out)->first = recorded;
    return OK;
}
Status cuGraphInstantiateWithFlags(Graph **out, Graph *graph, unsigned long long flags) {
    ENTER("cuGraphInstantiateWithFlags");
    int n = 0;
    *out = malloc(sizeof **out);
    (*out)->first = NULL;
    for (Op *o = graph->first; o; o = o->next, n++) append(&(*out)->first, *o);
    say("instantiate %d nodes, flags %llu\n", n, flags);
    live_execs++;
    return OK;
}
Status cuGraphLaunch(Graph *exec, void *stream) {
    ENTER("cuGraphLaunch");
    say("launch graph\n");
    if (stream != &stream_object) return INVALID_HANDLE;
    push((Op){.kind = GRAPH, .handle = exec});
    return OK;
}
Status cuGraphDestroy(Graph *graph) { ENTER("cuGraphDestroy"); graph->first = NULL; live_graphs--; return OK; }
Status cuGraphExecDestroy(Graph *exec) { ENTER("cuGraphExecDestroy"); (void)exec; live_execs--; return OK; }
Status cuEventCreate(Event **out, unsigned flags) { ENTER("cuEventCreate"); (void)flags; live_events++; *out = calloc(1, sizeof **out); return OK; }
Status cuEventDestroy_v2(Event *event) { ENTER("cuEventDestroy_v2"); (void)event; live_events--; return OK; }
Status cuEventRecord(Event *event, void *stream) {
    ENTER("cuEventRecord");
    say("record\n");
    if (stream != &stream_object) return INVALID_HANDLE;
    event->pending = 1;
    push((Op){.kind = EVENT, .handle = event});
    return OK;
}
Status cuEventSynchronize(Event *event) { ENTER("cuEventSynchronize"); say("wait for event\n"); work(event); return sticky; }
Status cuEventElapsedTime(float *out, Event *start, Event *end) {
    ENTER("cuEventElapsedTime");
    *out = 2.5f;
    return start->pending || end->pending ? NOT_READY : OK;
}
Status cuModuleLoadDataEx(Module **out, const void *image, unsigned count, int *options, void **values) {
    ENTER("cuModuleLoadDataEx");
    const char *text = image;
    say("load %zu bytes\n", strlen(text));
    if (strstr(text, "BROKEN")) {
        for (unsigned i = 0; i < count; i++)
            if (options[i] == 5) snprintf(values[i], 64, "ptxas application ptx input, line 3; fatal : BROKEN");
        return INVALID_PTX;
    }
    *out = calloc(1, sizeof **out);
    (*out)->text = strdup(text);
    live_modules++;
    return OK;
}
Status cuModuleUnload(Module *module) { ENTER("cuModuleUnload"); (void)module; live_modules--; return OK; }
Status cuModuleGetFunction(Function **out, Module *module, const char *name) {
    ENTER("cuModuleGetFunction");
    char entry[80];
    snprintf(entry, sizeof entry, ".entry %s(", name);
    say("function %s\n", name);
    if (!strstr(module->text, entry)) return NOT_FOUND;
    *out = &module->functions[module->num++];
    snprintf((*out)->name, 64, "%s", name);
    (*out)->fixed = strcmp(name, "scale") ? 0 : 1024;
    (*out)->allowed = 49152 - (*out)->fixed;
    return OK;
}
Status cuFuncGetAttribute(int *out, int which, Function *function) {
    ENTER("cuFuncGetAttribute");
    if (which != 1) return INVALID_VALUE;
    *out = function->fixed;
    return OK;
}
Status cuFuncSetAttribute(Function *function, int which, int value) {
    ENTER("cuFuncSetAttribute");
    say("allow %s %d\n", function->name, value);
    if (which != 8 || value + function->fixed > 166912) return INVALID_VALUE;
    function->allowed = value;
    return OK;
}
Status cuLaunchKernel(Function *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                      unsigned shared, void *stream, void **params, void **extra) {
    ENTER("cuLaunchKernel");
    say("launch %s <%u %u %u> <%u %u %u> %u", function->name, gx, gy, gz, bx, by, bz, shared);
    if (stream != &stream_object || extra || (int)shared > function->allowed || !(gx && gy && gz && bx && by && bz)) {
        say(": refused\n");
        return INVALID_VALUE;
    }
    Op op = {.kind = LAUNCH, .handle = function};
    memcpy(&op.params[0], params[0], 8);
    memcpy(&op.params[1], params[1], 4);
    memcpy(&op.params[2], params[2], 4);
    say(" %llx %u\n", (unsigned long long)(uint32_t)op.params[1], (unsigned)op.params[2]);
    push(op);
    return OK;
}
