/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Registers through a pointer, with every form of MOV that a compiler may choose: what the interposer has to
 * decode.  Run with libfpgahal-emu-dfl.so in LD_PRELOAD: test_dfl NODE, where the board holds NLB0.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#define SCRATCH0 0x100 /* 32 bits */
#define SCRATCH2 0x108 /* 64 bits */

static int failures;

static void check(const char *what, uint64_t got, uint64_t expected)
{
    if (got != expected) {
        printf("%s: %#llx, expected %#llx\n", what, (unsigned long long)got, (unsigned long long)expected);
        failures++;
    }
}

static uint64_t scratch(const char *base) { return *(const volatile uint64_t *)(base + SCRATCH2); }

#define STORE64(text, ...)                                                                                             \
    do {                                                                                                               \
        *(volatile uint64_t *)(base + SCRATCH2) = 0;                                                                   \
        __asm__ volatile(__VA_ARGS__);                                                                                 \
        check(text, scratch(base), value);                                                                             \
    } while (0)

static void stores(char *base)
{
    uint64_t value = 0x0123456789abcdef, index = SCRATCH2 / 8, far = (uint64_t)base - 0x12345;
    STORE64("mov r64, (r)", "mov %1, (%0)" : : "r"(base + SCRATCH2), "r"(value) : "memory");
    STORE64("mov r64, disp32(r)", "mov %1, 0x108(%0)" : : "r"(base), "r"(value) : "memory");
    STORE64("mov r64, disp8(r)", "mov %1, 8(%0)" : : "r"(base + 0x100), "r"(value) : "memory");
    STORE64("mov r64, (r,r,8)", "mov %2, (%0,%1,8)" : : "r"(base), "r"(index), "r"(value) : "memory");
    STORE64("mov r64, disp32(r,r,8)", "mov %2, 0x12345(%0,%1,8)" : : "r"(far), "r"(index), "r"(value) : "memory");
    STORE64("mov r15, (r13)", "mov %0, %%r13\n mov %1, %%r15\n mov %%r15, 0(%%r13)"
            : : "r"(base + SCRATCH2), "r"(value) : "memory", "r13", "r15");
    STORE64("mov r8, (r12)", "mov %0, %%r12\n mov %1, %%r8\n mov %%r8, (%%r12)"
            : : "r"(base + SCRATCH2), "r"(value) : "memory", "r12", "r8");
    value = 0xffffffff80000001; /* sign-extended to 64 bits */
    STORE64("movq $imm, (r)", "movq $-0x7fffffff, (%0)" : : "r"(base + SCRATCH2) : "memory");
    STORE64("movq $imm, disp32(r14)", "mov %0, %%r14\n movq $-0x7fffffff, 0x108(%%r14)" : : "r"(base) : "memory", "r14");
    value = 0x80000001;
    STORE64("movl $imm, (r)", "movl $0x80000001, (%0)" : : "r"(base + SCRATCH2) : "memory");
    value = 0x80000001ull << 32;
    STORE64("mov r32, upper half", "movl %1, 4(%0)" : : "r"(base + SCRATCH2), "r"(0x80000001) : "memory");
}

static void loads(char *base)
{
    uint64_t value = 0xfedcba9876543210, got = 0;
    *(volatile uint64_t *)(base + SCRATCH2) = value;
    __asm__ volatile("mov 0x108(%1), %0" : "=r"(got) : "r"(base));
    check("mov disp32(r), r64", got, value);
    __asm__ volatile("mov %1, %%r9\n mov 0x108(%%r9), %%r11\n mov %%r11, %0" : "=r"(got) : "r"(base) : "r9", "r11");
    check("mov disp32(r9), r11", got, value);
    got = ~0ull;
    __asm__ volatile("mov 0x108(%1), %k0" : "+r"(got) : "r"(base));
    check("mov disp32(r), r32 clears the upper half", got, 0x76543210);
    __asm__ volatile("mov %1, %%r10\n mov 0x10c(%%r10), %%r10d\n mov %%r10, %0" : "=r"(got) : "r"(base) : "r10");
    check("mov disp32(r10), r10d", got, 0xfedcba98);
    check("the id, low half", *(volatile uint64_t *)(base + 8), 0xf89e433683f9040b);
    check("the id, high half", *(volatile uint64_t *)(base + 16), 0xd8424dc4a4a3c413);
    check("no register", *(volatile uint64_t *)(base + 0x3f000), ~0ull);
}

int main(int argc, char **argv)
{
    int fd = argc == 2 ? open(argv[1], O_RDWR | O_EXCL) : -1;
    char *base = fd < 0 ? MAP_FAILED : mmap(NULL, 0x40000, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) {
        perror("open or mmap");
        return 2;
    }
    close(fd); /* the mapping keeps the port open */
    check("a second open", (uint64_t)open(argv[1], O_RDWR), ~0ull);
    stores(base);
    loads(base);
    check("munmap", (uint64_t)munmap(base, 0x40000), 0);
    fd = open(argv[1], O_RDWR);
    check("open again", fd >= 0, 1);
    base = mmap(NULL, 0x40000, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    check("the last close has reset the port", scratch(base), 0);
    if (!failures)
        puts("all forms are served");
    return failures != 0;
}
