/* The CUDA runtime symbols that an exported host function calls, answered without a GPU.
 *
 * Loaded RTLD_GLOBAL before the real runtime library, so that these definitions are found first. Launches and what is
 * set up before them go to the listener; everything else succeeds. Names and parameters as in the DSL's runtime, which
 * puts an underscore before the CUDA call's name.
 */
#include <stddef.h>
#include <string.h>

typedef void (*on_launch_t)(const void *config, const void *kernel, void **arguments);
typedef void (*on_setup_t)(const char *what, const void *kernel, const void *image, int key, int value);

static on_launch_t on_launch;
static on_setup_t on_setup;
static int fail_launch;

enum { MAX_DYNAMIC_SMEM_OPT_IN = 97, KERNELS = 256, NAME = 512 };
static const int smem_opt_in = 232448; /* Hopper and Blackwell: 227 KB */
static char names[KERNELS][NAME]; /* a kernel's handle is where its name is; equal names occur in several images */
static int kernels;

void mock_listen(on_launch_t launch, on_setup_t setup) { on_launch = launch; on_setup = setup; }
void mock_fail_launch(int code) { fail_launch = code; }

int _cudaLaunchKernelEx(const void *config, const void *kernel, void **arguments) {
    on_launch(config, kernel, arguments);
    return fail_launch;
}

int _cudaLibraryLoadData(void **library, const void *image, void *o, void **v, unsigned n, void *p, void **w, unsigned m) {
    (void)o, (void)v, (void)n, (void)p, (void)w, (void)m;
    *library = (void *)image;
    return 0;
}

int _cudaLibraryGetKernel(void **kernel, void *library, const char *name) {
    if (kernels == KERNELS || strlen(name) >= NAME) return 2; /* cudaErrorMemoryAllocation */
    *kernel = strcpy(names[kernels++], name); /* the caller's copy lives on its stack */
    on_setup("kernel", *kernel, library, 0, 0);
    return 0;
}

int _cudaKernelSetAttributeForDevice(void *kernel, int key, int value, int device) {
    (void)device;
    on_setup("attribute", kernel, NULL, key, value);
    return 0;
}

int _cudaFuncSetAttribute(void *kernel, int key, int value) {
    on_setup("attribute", kernel, NULL, key, value);
    return 0;
}

int _cuKernelGetAttribute(int *value, int key, void *kernel, int device) {
    (void)key, (void)kernel, (void)device;
    *value = 0; /* static shared memory: the kernels take all of theirs dynamically */
    return 0;
}

int _cudaDeviceGetAttribute(int *value, int key, int device) {
    (void)device;
    if (key != MAX_DYNAMIC_SMEM_OPT_IN) return 1; /* cudaErrorInvalidValue: nobody asked for anything else so far */
    *value = smem_opt_in;
    return 0;
}

int _cudaGetDevice(int *device) { *device = 0; return 0; }

int _cudaSetDevice(int device) { on_setup("device", NULL, NULL, 0, device); return 0; }

int cuda_dialect_init_library_once(void **library, int (*init)(void **), int (*load)(void **, int), void *why) {
    (void)why;
    if (*library) return 0;
    int code = init(library);
    return code ? code : load(library, 0);
}
