/* supported_arm.c - whether the processor multiplies bytes in one instruction: the system knows. Compiled for any
 * 64-bit ARM, unlike the kernels. */
#if defined(__aarch64__)
#include "ops/cpu/neon.h"

#if defined(__APPLE__)
#include <sys/sysctl.h>

static bool has(const char *name)
{
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, NULL, 0) == 0 && value != 0;
}
static bool has_dotprod(void) { return has("hw.optional.arm.FEAT_DotProd"); }
static bool has_i8mm(void) { return has("hw.optional.arm.FEAT_I8MM"); }
#elif defined(__linux__)
#include <sys/auxv.h>

/* Bits of the kernel's interface (arch/arm64, uapi hwcap.h): older headers lack the second. */
#define CAP_ASIMDDP (1ul << 20)
#define CAP2_I8MM (1ul << 13)

static bool has_dotprod(void) { return (getauxval(AT_HWCAP) & CAP_ASIMDDP) != 0; }
static bool has_i8mm(void) { return (getauxval(AT_HWCAP2) & CAP2_I8MM) != 0; }
#else
static bool has_dotprod(void) { return false; }
static bool has_i8mm(void) { return false; }
#endif

bool neon_supported(void) { return true; } /* part of every 64-bit ARM */
bool neondot_supported(void) { return has_dotprod(); }
bool neoni8mm_supported(void) { return has_dotprod() && has_i8mm(); }

#endif
