/* Makes this machine stand for an older one: LD_PRELOADed, it answers CPUID as an x86-64 CPU with AVX2 and FMA but without
 * AVX-512, VNNI (AVX-VNNI too), BF16, FP16 and AMX would. Every library that asks the CPU is covered, also those without a
 * switch of their own (ONNX Runtime's MLAS). Linux lets a process trap CPUID (arch_prctl ARCH_SET_CPUID, the flag
 * cpuid_fault in /proc/cpuinfo): the instruction then raises SIGSEGV, the handler here executes it, masks the answer and
 * steps over it. Threads and forks inherit the trap; exec resets it, and the library sets it again as it is loaded again.
 *
 * /proc/cpuinfo still shows the real CPU, and so does XGETBV, which nobody believes without CPUID.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012
#define BIT(n) (UINT32_C(1) << (n))

static struct sigaction chained; /* what the program itself asked SIGSEGV to do */
static int (*real_sigaction)(int, const struct sigaction *, struct sigaction *);
static int trapped;

static long trap_cpuid(int on) { return syscall(SYS_arch_prctl, ARCH_SET_CPUID, !on); }

static void older(uint32_t leaf, uint32_t subleaf, uint32_t r[4]) {
    enum { A, B, C, D };
    if (leaf == 7 && subleaf == 0) {
        /* AVX512 F DQ IFMA PF ER CD BW VL */
        r[B] &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31));
        /* AVX512 VBMI VBMI2, GFNI, AVX512 VNNI BITALG VPOPCNTDQ */
        r[C] &= ~(BIT(1) | BIT(6) | BIT(8) | BIT(11) | BIT(12) | BIT(14));
        /* AVX512 4VNNIW 4FMAPS VP2INTERSECT, AMX BF16, AVX512 FP16, AMX TILE INT8 */
        r[D] &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25));
    } else if (leaf == 7 && subleaf == 1) {
        r[A] &= ~(BIT(4) | BIT(5) | BIT(21) | BIT(23));        /* AVX-VNNI, AVX512 BF16, AMX FP16, AVX-IFMA */
        r[D] &= ~(BIT(4) | BIT(5) | BIT(8) | BIT(10) | BIT(19)); /* AVX-VNNI-INT8, NE-CONVERT, AMX COMPLEX, VNNI-INT16, AVX10 */
    } else if (leaf == 0xd && subleaf == 0) {
        r[A] &= ~(BIT(5) | BIT(6) | BIT(7) | BIT(17) | BIT(18)); /* state of opmask, ZMM and tiles */
    } else if ((leaf == 0xd && ((subleaf >= 5 && subleaf <= 7) || subleaf == 17 || subleaf == 18)) || leaf == 0x1d ||
               leaf == 0x1e || leaf == 0x24) {
        memset(r, 0, 4 * sizeof *r); /* their sizes; the shape of tiles; AVX10 */
    }
}

static void pass_on(int number, siginfo_t *info, void *context) {
    if (chained.sa_flags & SA_SIGINFO) {
        chained.sa_sigaction(number, info, context);
    } else if (chained.sa_handler == SIG_DFL || chained.sa_handler == SIG_IGN) {
        struct sigaction usual = {.sa_handler = SIG_DFL};
        real_sigaction(SIGSEGV, &usual, NULL); /* the instruction runs again, and ends the process */
    } else {
        chained.sa_handler(number);
    }
}

static void on_segv(int number, siginfo_t *info, void *context) {
    greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *code = (const unsigned char *)regs[REG_RIP];
    if (info->si_code != SI_KERNEL || code[0] != 0x0f || code[1] != 0xa2) {
        pass_on(number, info, context);
        return;
    }
    int kept = errno;
    uint32_t r[4], leaf = (uint32_t)regs[REG_RAX], subleaf = (uint32_t)regs[REG_RCX];
    trap_cpuid(0);
    __cpuid_count(leaf, subleaf, r[0], r[1], r[2], r[3]);
    trap_cpuid(1);
    older(leaf, subleaf, r);
    regs[REG_RAX] = r[0], regs[REG_RBX] = r[1], regs[REG_RCX] = r[2], regs[REG_RDX] = r[3];
    regs[REG_RIP] += 2;
    errno = kept;
}

/* A program that handles SIGSEGV itself (Python's faulthandler) is called after us, not instead of us. */
int sigaction(int number, const struct sigaction *wanted, struct sigaction *before) {
    if (!real_sigaction) real_sigaction = dlsym(RTLD_NEXT, "sigaction");
    if (number != SIGSEGV || !trapped) return real_sigaction(number, wanted, before);
    struct sigaction last = chained;
    if (wanted) chained = *wanted;
    if (before) *before = last;
    return 0;
}

__attribute__((constructor)) static void start(void) {
    real_sigaction = dlsym(RTLD_NEXT, "sigaction");
    struct sigaction mine = {.sa_sigaction = on_segv, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    if (real_sigaction(SIGSEGV, &mine, &chained) || trap_cpuid(1)) {
        fprintf(stderr, "older_cpu: this kernel or CPU cannot trap CPUID: %s\n", strerror(errno));
        _exit(4);
    }
    trapped = 1;
}
