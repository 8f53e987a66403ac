/* SPDX-License-Identifier: Apache-2.0 */
/* test_opae_faults.c: reconfiguration and injected faults. */
#include "opae_rig.h"

/* ---- reconfiguration -------------------------------------------------------------------------------------- */

void reconfigure_good(void)
{
    char id[64];
    uint8_t gbs[1024];
    fpga_handle fme, afu;
    uint64_t before = status().programmed;
    OK(program_afu(NLB3));
    CHECK(status().programmed == before + 1 && status().state == 0);
    identity(id);
    CHECK(strcmp(id, "f7df405cbd7acf7222f144b0b93acd18\n") == 0);
    afu = open_afu();
    CHECK(rd64(afu, 8) == 0x22f144b0b93acd18);
    CHECK(program_afu(NLB0) == FPGA_BUSY);
    OK(try_open(FPGA_DEVICE, 0x3b, 0, &fme));
    size_t size = make_gbs(gbs, INTERFACE, NLB0, true);
    OK(opae.fpgaReconfigureSlot(fme, 0, gbs, size, FPGA_RECONF_FORCE));
    CHECK(rd64(afu, 8) == 0xf89e433683f9040b); /* the old handle sees the new AFU */
    OK(opae.fpgaClose(afu));
    size = make_gbs(gbs, INTERFACE, HELLO, false); /* somebody's real bitstream */
    OK(opae.fpgaReconfigureSlot(fme, 0, gbs, size, 0));
    size = make_gbs(gbs, INTERFACE, NLB0, true);
    OK(opae.fpgaReconfigureSlot(fme, 0, gbs, size, 0));
    OK(opae.fpgaClose(fme));
}

void reconfigure_bad(void)
{
    char id[64];
    uint8_t gbs[1024], broken[1024];
    fpga_handle fme;
    OK(try_open(FPGA_DEVICE, 0x3b, 0, &fme));
    size_t size = make_gbs(gbs, INTERFACE, NLB3, true);
    uint64_t before = status().programmed;
    CHECK(opae.fpgaReconfigureSlot(fme, 1, gbs, size, 0) == FPGA_INVALID_PARAM);
    CHECK(opae.fpgaReconfigureSlot(fme, 0, NULL, size, 0) == FPGA_INVALID_PARAM);
    for (size_t cut = 0; cut <= size - 64; cut++) { /* each in memory of its exact size, for the sanitizer */
        uint8_t *exact = malloc(cut ? cut : 1);
        memcpy(exact, gbs, cut);
        CHECK(opae.fpgaReconfigureSlot(fme, 0, exact, cut, 0) == FPGA_INVALID_PARAM);
        free(exact);
    }
    memcpy(broken, gbs, size);
    memset(broken + 16, 0xff, 4);
    CHECK(opae.fpgaReconfigureSlot(fme, 0, broken, size, 0) == FPGA_INVALID_PARAM);
    size_t other = make_gbs(broken, "11111111-2222-3333-4444-555555555555", NLB3, true);
    CHECK(opae.fpgaReconfigureSlot(fme, 0, broken, other, 0) == FPGA_INVALID_PARAM);
    CHECK(strstr(emu_error(), INTERFACE) != NULL);
    other = make_gbs(broken, INTERFACE, "11111111-2222-3333-4444-555555555555", true);
    CHECK(opae.fpgaReconfigureSlot(fme, 0, broken, other, 0) == FPGA_RECONF_ERROR);
    CHECK(status().programmed == before && status().state == 0);
    srand(1);
    for (int i = 0; i < 3000; i++) { /* damaged text: any answer, but an answer */
        memcpy(broken, gbs, size);
        for (int k = 0; k < 3; k++)
            broken[20 + rand() % (int)(size - 84)] = (uint8_t)rand();
        memset(broken + size - 64, 0, 64); /* not an emulated image; the id below is unknown then */
        memcpy(broken + 16, gbs + 16, 4);
        fpga_result r = opae.fpgaReconfigureSlot(fme, 0, broken, size - 64, 0);
        CHECK(r == FPGA_INVALID_PARAM);
    }
    gbs[size - 64 + 33] ^= 1; /* CRC error */
    CHECK(opae.fpgaReconfigureSlot(fme, 0, gbs, size, 0) == FPGA_RECONF_ERROR);
    CHECK(status().state == 2);
    identity(id);
    CHECK(id[0] == 0);
    CHECK(find_token(FPGA_ACCELERATOR, 0x3b) == NULL);
    fpga_token t = find_token(FPGA_DEVICE, 0x3b);
    CHECK(t != NULL);
    OK(opae.fpgaDestroyToken(&t));
    size = make_gbs(gbs, INTERFACE, NLB0, true);
    for (size_t left = 1; left < 52; left++) /* an image that is cut short */
        CHECK(opae.fpgaReconfigureSlot(fme, 0, gbs, size - 64 + left, 0) == FPGA_RECONF_ERROR);
    OK(opae.fpgaReconfigureSlot(fme, 0, gbs, size, 0));
    identity(id);
    CHECK(id[0] == 'd' && status().state == 0);
    OK(opae.fpgaClose(fme));
}

/* ---- faults ----------------------------------------------------------------------------------------------- */

void faults(void)
{
    struct nlb n;
    uint64_t v;
    CHECK(emu_fault(rack, BDF, "nonsense", NULL, 0, 1) != 0);
    CHECK(emu_fault(rack, "0000:99:00.0", "flip", NULL, 0, 1) != 0);
    CHECK(emu_fault(rack, BDF, "program", NULL, 0, 1) == 0);
    CHECK(program_afu(NLB0) == FPGA_RECONF_ERROR && status().state == 2);
    OK(program_afu(NLB0));
    CHECK(emu_fault(rack, BDF, "wrong-afu", NULL, 0, 1) == 0);
    OK(program_afu(NLB0));
    CHECK(status().afu_id[15] == (0x0b ^ 0xff));
    fpga_handle h = open_afu();
    CHECK(rd64(h, 8) == (0xf89e433683f9040b ^ 0xff));
    CHECK(opae.fpgaReadMMIO64(h, 0, 0x100, &v) == FPGA_EXCEPTION);
    OK(opae.fpgaClose(h));
    OK(program_afu(NLB0));
    h = open_afu();
    nlb_buffers(&n, h, 4096);
    fill(&n);
    CHECK(emu_fault(rack, BDF, "flip", NULL, 0, 1) == 0);
    nlb_run(&n, 64, 0, 0);
    int differ = 0;
    for (int i = 0; i < 4096; i++)
        differ += n.src[i] != n.dst[i];
    CHECK(differ == 4);
    CHECK(emu_fault(rack, BDF, "run-error", NULL, 0, 1) == 0);
    nlb_run(&n, 64, 0, 0);
    CHECK(dsm32(&n, 0x44) == 1);
    CHECK(emu_fault(rack, BDF, "call", "fpgaReadMMIO64", FPGA_BUSY, 2) == 0);
    CHECK(opae.fpgaReadMMIO64(h, 0, 0, &v) == FPGA_BUSY && opae.fpgaReadMMIO64(h, 0, 0, &v) == FPGA_BUSY);
    OK(opae.fpgaReadMMIO64(h, 0, 0, &v));
    CHECK(emu_fault(rack, BDF, "call", "fpgaReset", FPGA_NO_ACCESS, -1) == 0);
    for (int i = 0; i < 5; i++)
        CHECK(opae.fpgaReset(h) == FPGA_NO_ACCESS);
    CHECK(emu_clear(rack, BDF) == 0);
    OK(opae.fpgaReset(h));
    OK(opae.fpgaClose(h));
}

void vanish(void)
{
    struct nlb n;
    uint64_t v;
    void *at;
    OK(program_afu(NLB3));
    fpga_handle h = open_afu(), other;
    fpga_token t = find_token(FPGA_ACCELERATOR, 0x3b);
    nlb_buffers(&n, h, 1 << 20);
    nlb_start(&n, 16384, NLB_READ | NLB_CONTINUOUS, 0);
    CHECK(emu_fault(rack, BDF, "vanish", NULL, 0, -1) == 0);
    CHECK(opae.fpgaReadMMIO64(h, 0, 0, &v) == FPGA_NO_DRIVER && opae.fpgaWriteMMIO64(h, 0, 0x108, 0) == FPGA_NO_DRIVER);
    CHECK(opae.fpgaReset(h) == FPGA_NO_DRIVER && opae.fpgaPrepareBuffer(h, 64, &at, &v, 0) == FPGA_NO_DRIVER);
    CHECK(opae.fpgaOpen(t, &other, 0) == FPGA_NO_DRIVER);
    CHECK(find_token(FPGA_DEVICE, 0x3b) == NULL && status().vanished);
    nlb_free(&n);
    OK(opae.fpgaClose(h));
    OK(opae.fpgaDestroyToken(&t));
    CHECK(emu_clear(rack, NULL) == 0);
    h = open_afu();
    CHECK(rd64(h, 0x10) == 0xd8424dc4a4a3c413); /* what it held at the start */
    OK(opae.fpgaClose(h));
}
