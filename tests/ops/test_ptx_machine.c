/* test_ptx_machine.c - the interpreter of PTX (tests/gpu/ptx) as a machine: memory and its limits, lanes that part and
 * meet, what threads do together, products of matrices by the layouts that NVIDIA's manual draws, and text that is
 * refused. */
#include <math.h>
#include <stdio.h>

#include "base/rng.h"
#include "gpu/ptx/snippet.h"

static uint32_t in[128][SNIPPET_IN], out[128][SNIPPET_OUT];

static void number_lanes(void)
{
    for (uint32_t i = 0; i < 128; i++)
        for (uint32_t k = 0; k < SNIPPET_IN; k++) in[i][k] = i * 1000 + k;
}

static void run(const char *lines) { snippet_run(lines, in, out); }

TEST(memory_gives_each_width_and_sign_as_it_was_stored)
{
    for (uint32_t i = 0; i < 32; i++) {
        in[i][0] = 0x80ff7f01u + i;
        in[i][1] = 0xfedcba98u - i;
    }
    run(".local .align 8 .b8 own[24];\n.shared .align 16 .b8 all[640];\n"
        "mul.lo.s32 %r20, %r0, 16;\nmov.u32 %r21, all;\nadd.s32 %r22, %r21, %r20;\n"
        "st.shared.v4.u32 [%r22], {%r1, %r2, %r3, %r4};\nld.shared.v2.u32 {%r11, %r12}, [%r22];\n"
        "mov.u64 %rd20, own;\nst.local.u64 [%rd20+8], %rd1;\nld.local.s16 %r13, [%rd20+10];\n"
        "ld.local.s8 %rs1, [%rd20+11];\nmov.b32 %r14, {%rs1, %rs1};\nld.local.u8 %r15, [%rd20+11];\n"
        "add.s64 %rd21, %rd20, 20;\nld.local.s32 %rd22, [%rd21+-8];\nmov.b64 {%r16, %r17}, %rd22;\n"
        "st.shared.u16 [%r22+2], %rs1;\nld.shared.u32 %r18, [%r22];");
    for (uint32_t i = 0; i < 32; i++) {
        uint32_t a = in[i][0], b = in[i][1];
        assert_int_equal(out[i][0], a);
        assert_int_equal(out[i][1], b);
        assert_int_equal((int32_t)out[i][2], (int16_t)(a >> 16));
        assert_int_equal(out[i][3], (uint32_t)(uint16_t)(int8_t)(a >> 24) * 0x10001u);
        assert_int_equal(out[i][4], a >> 24);
        assert_int_equal(out[i][5], b);
        assert_int_equal(out[i][6], b >> 31 ? 0xffffffffu : 0);
        assert_int_equal(out[i][7], (a & 0xffff) | (uint32_t)(uint16_t)(int8_t)(a >> 24) << 16);
    }
}

TEST(tables_and_parameters_are_read_where_they_lie)
{
    char error[512];
    number_lanes();
    if (!snippet_try(".global .align 4 .b8 table[40] = {1, 0, 0, 0, 2, 0, 0, 255, 7};\n",
                     "mov.u64 %rd3, table;\nmul.wide.u32 %rd4, %r0, 4;\nsetp.gt.u32 %p1, %r0, 9;\n"
                     "@%p1 mov.u64 %rd4, 0;\nadd.s64 %rd5, %rd3, %rd4;\nld.global.nc.u32 %r11, [%rd5];\n"
                     "mov.b64 %rd6, k_in;\nld.param.u64 %rd7, [%rd6+8];\nsetp.eq.s64 %p2, %rd7, %rd11;\n"
                     "selp.u32 %r12, 1, 0, %p2;", 1, 32, in, out, error, sizeof error))
        fail_msg("%s", error);
    for (uint32_t i = 0; i < 32; i++) {
        static const uint32_t words[3] = {1, 0xff000002u, 7};
        assert_int_equal(out[i][0], i > 9 ? 1 : i < 3 ? words[i] : 0);
        assert_int_equal(out[i][1], 1);
    }
}

/* Each lane takes another number of turns, some leave in the middle, and all meet behind the loop. */
TEST(lanes_that_part_go_their_own_ways_and_meet_again)
{
    for (uint32_t i = 0; i < 32; i++) in[i][0] = i + 1;
    run("again:\nsetp.eq.s32 %p1, %r1, 1;\n@%p1 bra done;\nand.b32 %r20, %r1, 1;\nsetp.eq.s32 %p2, %r20, 0;\n"
        "add.s32 %r11, %r11, 1;\n@%p2 bra even;\nmad.lo.s32 %r1, %r1, 3, 1;\nbra again;\neven:\n"
        "shr.u32 %r1, %r1, 1;\nbra.uni again;\ndone:\nsetp.gt.u32 %p3, %r11, 20;\n"
        "vote.sync.ballot.b32 %r12, %p3, -1;\nvote.sync.any.pred %p4, %p3, -1;\nselp.u32 %r13, 1, 0, %p4;\n"
        "vote.sync.all.pred %p5, %p3, -1;\nselp.u32 %r14, 1, 0, %p5;");
    uint32_t ballot = 0;
    for (uint32_t i = 0; i < 32; i++) {
        uint32_t n = 0;
        for (uint32_t x = i + 1; x != 1; x = x % 2 ? 3 * x + 1 : x / 2) n++;
        assert_int_equal(out[i][0], n);
        ballot |= (uint32_t)(n > 20) << i;
    }
    for (uint32_t i = 0; i < 32; i++) {
        assert_int_equal(out[i][1], ballot);
        assert_int_equal(out[i][2], 1);
        assert_int_equal(out[i][3], 0);
    }
}

/* The way of the odd lanes lies behind the place where all meet, so those at the lower place must wait. */
TEST(lanes_wait_where_others_come_back_from_below)
{
    number_lanes();
    run("and.b32 %r20, %r0, 1;\nsetp.eq.s32 %p1, %r20, 1;\nmov.u32 %r21, 5;\n@%p1 bra far;\nmeet:\n"
        "shfl.sync.bfly.b32 %r11|%p2, %r21, 1, 31, -1;\nbar.warp.sync -1;\nbra end;\nfar:\nmov.u32 %r21, 7;\n"
        "bra meet;\nend:");
    for (uint32_t i = 0; i < 32; i++) assert_int_equal(out[i][0], i % 2 ? 5 : 7);
}

/* As the CUDA guide has it: segments of `width` lanes, outside of which a lane keeps its own. */
TEST(shuffles_reach_the_lane_that_is_meant)
{
    static const char *const modes[] = {"up", "down", "bfly", "idx"};
    for (int mode = 0; mode < 4; mode++)
        for (uint32_t width = 32; width >= 4; width /= 2)
            for (uint32_t by = 0; by < 32; by += 3) {
                char lines[256];
                uint32_t c = (32 - width) << 8 | (mode == 0 ? 0 : 31);
                number_lanes();
                (void)snprintf(lines, sizeof lines, "shfl.sync.%s.b32 %%r11|%%p1, %%r1, %u, %u, -1;\n"
                               "selp.u32 %%r12, 1, 0, %%p1;", modes[mode], by, c);
                run(lines);
                for (uint32_t lane = 0; lane < 32; lane++) {
                    uint32_t segment = lane / width * width, place = lane % width, from = lane;
                    bool good = true;
                    if (mode == 0) good = place >= by, from = lane - by;
                    if (mode == 1) good = place + by < width, from = lane + by;
                    if (mode == 2) from = lane ^ by, good = from < segment + width;
                    if (mode == 3) from = segment + by % width;
                    assert_int_equal(out[lane][0], in[good ? from : lane][0]);
                    assert_int_equal(out[lane][1], good);
                }
            }
}

TEST(warps_see_behind_a_barrier_what_others_wrote_before_it)
{
    char error[512];
    for (int order = 0; order < 3; order++) {
        ptx_set_options(&(struct ptx_options){.order = (enum ptx_order)order, .seed = 7});
        number_lanes();
        if (!snippet_try("", ".shared .align 4 .b8 all[512];\nmov.u32 %r20, all;\nmad.lo.s32 %r21, %r0, 4, %r20;\n"
                         "st.shared.u32 [%r21], %r1;\nbar.sync 0;\nsub.s32 %r22, 127, %r0;\n"
                         "mad.lo.s32 %r23, %r22, 4, %r20;\nld.shared.u32 %r11, [%r23];\nbar.sync 0;\n"
                         "st.shared.u32 [%r21], %r11;\nbar.sync 0;\nld.shared.u32 %r12, [%r23];", 1, 128, in, out,
                         error, sizeof error))
            fail_msg("%s", error);
        for (uint32_t i = 0; i < 128; i++) {
            assert_int_equal(out[i][0], in[127 - i][0]);
            assert_int_equal(out[i][1], in[i][0]);
        }
    }
    ptx_set_options(&(struct ptx_options){.order = PTX_FORWARD});
}

/* The last group leaves its number; each adds one, so that none was left out. */
TEST(groups_run_in_the_order_that_was_chosen)
{
    char error[512];
    uint32_t last[3];
    for (int order = 0; order < 3; order++) {
        ptx_set_options(&(struct ptx_options){.order = (enum ptx_order)order, .seed = 12345});
        memset(out, 0, sizeof out);
        if (!snippet_try("", "ld.global.u32 %r12, [%rd14+4];\nadd.s32 %r12, %r12, 1;\nmov.u32 %r11, %ctaid.x;\n"
                         "mov.u32 %r13, %nctaid.x;", 60, 32, in, out, error, sizeof error))
            fail_msg("%s", error);
        assert_int_equal(out[0][1], 60);
        assert_int_equal(out[0][2], 60);
        last[order] = out[0][0];
    }
    ptx_set_options(&(struct ptx_options){.order = PTX_FORWARD});
    assert_int_equal(last[PTX_FORWARD], 59);
    assert_int_equal(last[PTX_REVERSE], 0);
    assert_true(last[PTX_RANDOM] != 59 && last[PTX_RANDOM] != 0);
}

static uint32_t half_of_small(int32_t value) /* -31 to 31 */
{
    uint32_t sign = value < 0 ? 0x8000u : 0, size = (uint32_t)(value < 0 ? -value : value), exponent = 0;
    if (!size) return 0;
    while (size >> (exponent + 1)) exponent++;
    return sign | (exponent + 15) << 10 | ((size << (10 - exponent)) & 1023);
}

/* Fragments by the manual's figures: of A registers 0 to 3 are rows g, g + 8, g, g + 8 and columns 2 t, 2 t,
 * 2 t + 8, 2 t + 8; of B rows 2 t and 2 t + 8 of column g; of C and D rows g, g, g + 8, g + 8 and columns 2 t and
 * 2 t + 1; where g is lane / 4 and t lane % 4. The lower half of C is twice the upper one. */
static void fill_matrices(struct rng *rng, int32_t a[16][16], int32_t b[16][8], int32_t c[16][8])
{
    for (int i = 0; i < 256; i++) a[i / 16][i % 16] = (int32_t)rng_below(rng, 63) - 31;
    for (int i = 0; i < 128; i++) b[i / 8][i % 8] = (int32_t)rng_below(rng, 63) - 31;
    for (int i = 0; i < 128; i++) c[i / 8][i % 8] = i < 64 ? (int32_t)rng_below(rng, 1 << 20) : 2 * c[i / 8 - 8][i % 8];
    for (uint32_t lane = 0; lane < 32; lane++) {
        uint32_t g = lane >> 2, t = lane & 3;
        for (uint32_t i = 0; i < 4; i++) {
            uint32_t row = i == 1 || i == 3 ? g + 8 : g, col = i < 2 ? 2 * t : 2 * t + 8;
            in[lane][i] = half_of_small(a[row][col]) | half_of_small(a[row][col + 1]) << 16;
        }
        in[lane][4] = half_of_small(b[2 * t][g]) | half_of_small(b[2 * t + 1][g]) << 16;
        in[lane][5] = half_of_small(b[2 * t + 8][g]) | half_of_small(b[2 * t + 9][g]) << 16;
        in[lane][6] = (uint32_t)c[g][2 * t];
        in[lane][7] = (uint32_t)c[g][2 * t + 1];
    }
}

TEST(a_product_of_matrices_has_its_elements_where_the_manual_draws_them)
{
    struct rng rng = {test_seed()};
    int32_t a[16][16], b[16][8], c[16][8];
    for (int turn = 0; turn < 20; turn++) {
        ptx_set_options(&(struct ptx_options){.sums = (enum ptx_sums)(turn % 2)});
        fill_matrices(&rng, a, b, c);
        run("cvt.rn.f32.s32 %f11, %r7;\ncvt.rn.f32.s32 %f12, %r8;\nadd.f32 %f13, %f11, %f11;\n"
            "add.f32 %f14, %f12, %f12;\nmma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
            "{%f21, %f22, %f23, %f24}, {%r1, %r2, %r3, %r4}, {%r5, %r6}, {%f11, %f12, %f13, %f14};\n"
            "mov.b32 %r11, %f21;\nmov.b32 %r12, %f22;\nmov.b32 %r13, %f23;\nmov.b32 %r14, %f24;");
        for (uint32_t lane = 0; lane < 32; lane++)
            for (uint32_t i = 0; i < 4; i++) {
                uint32_t row = (lane >> 2) + (i > 1 ? 8 : 0), col = 2 * (lane & 3) + (i & 1);
                int32_t wanted = c[row][col];
                float got;
                for (int k = 0; k < 16; k++) wanted += a[row][k] * b[k][col];
                memcpy(&got, &out[lane][i], 4);
                assert_true(got == (float)wanted);
            }
    }
    ptx_set_options(&(struct ptx_options){.order = PTX_FORWARD});
}

/* 2^24 and sixteen ones: exactly their sum, or in 24 bits none of the ones. */
TEST(both_ways_of_adding_in_a_matrix_unit_are_what_their_names_say)
{
    static const float wanted[2] = {0x1p24f + 16, 0x1p24f};
    for (int sums = 0; sums < 2; sums++) {
        ptx_set_options(&(struct ptx_options){.sums = (enum ptx_sums)sums});
        run("mov.u32 %r20, 1006648320;\nmov.f32 %f11, 0f4B800000;\n"
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f12, %f13, %f14, %f15}, {%r20, %r20, %r20, %r20}, "
            "{%r20, %r20}, {%f11, %f11, %f11, %f11};\nmov.b32 %r11, %f12;\nmov.b32 %r12, %f15;");
        for (uint32_t lane = 0; lane < 32; lane++) {
            float got[2];
            memcpy(got, out[lane], 8);
            assert_true(got[0] == wanted[sums] && got[1] == wanted[sums]);
        }
    }
    ptx_set_options(&(struct ptx_options){.order = PTX_FORWARD});
}

/* 16 rows of 24 halves: the element at row r, column c is 32 r + c. Lane l names row l % 16, from column 8 (l / 16) on:
 * matrices of rows 0, 8, 0, 8 and columns 0, 0, 8, 8. */
TEST(matrices_come_from_shared_memory_as_they_lie_or_on_their_side)
{
    for (int side = 0; side < 2; side++) {
        char lines[1024];
        for (uint32_t i = 0; i < 32; i++) in[i][0] = i;
        (void)snprintf(lines, sizeof lines,
                       ".shared .align 16 .b8 tile[768];\nmov.u32 %%r30, tile;\nmov.u32 %%r20, %%r0;\nfill:\n"
                       "div.u32 %%r21, %%r20, 24;\nrem.u32 %%r22, %%r20, 24;\nmad.lo.s32 %%r23, %%r21, 32, %%r22;\n"
                       "mad.lo.s32 %%r24, %%r20, 2, %%r30;\nst.shared.u16 [%%r24], %%r23;\n"
                       "add.s32 %%r20, %%r20, 32;\nsetp.lt.u32 %%p1, %%r20, 384;\n@%%p1 bra fill;\nbar.sync 0;\n"
                       "and.b32 %%r25, %%r0, 15;\nshr.u32 %%r26, %%r0, 4;\nmad.lo.s32 %%r27, %%r25, 48, %%r30;\n"
                       "mad.lo.s32 %%r28, %%r26, 16, %%r27;\n"
                       "ldmatrix.sync.aligned.m8n8.x4%s.shared.b16 {%%r11, %%r12, %%r13, %%r14}, [%%r28];",
                       side ? ".trans" : "");
        run(lines);
        for (uint32_t lane = 0; lane < 32; lane++)
            for (uint32_t m = 0; m < 4; m++)
                for (uint32_t k = 0; k < 2; k++) {
                    uint32_t row = lane / 4, col = lane % 4 * 2 + k, got = out[lane][m] >> (16 * k) & 0xffff;
                    if (side) { /* the element that would be there of the matrix on its side */
                        uint32_t swap = row;
                        row = col;
                        col = swap;
                    }
                    assert_int_equal(got, 32 * (row + (m & 1) * 8) + col + (m >> 1) * 8);
                }
    }
}

TEST(shared_memory_that_nobody_wrote_is_not_a_number)
{
    run(".shared .align 4 .b8 all[128];\nmov.u32 %r20, all;\nmad.lo.s32 %r21, %r0, 4, %r20;\n"
        "ld.shared.f32 %f11, [%r21];\nadd.f32 %f12, %f11, 0f3F800000;\nmov.b32 %r11, %f12;\n"
        "ld.shared.u16 %rs1, [%r21];\ncvt.f32.f16 %f13, %rs1;\nmov.b32 %r12, %f13;");
    for (uint32_t lane = 0; lane < 32; lane++)
        for (int i = 0; i < 2; i++) {
            float got;
            memcpy(&got, &out[lane][i], 4);
            assert_true(isnan(got));
        }
}

#define SHARED_32 ".shared .align 16 .b8 one[32];\n.shared .align 16 .b8 two[32];\nmov.u32 %r20, one;\n"
static const struct {
    const char *lines, *report, *who;
} faults[] = {
    {"setp.eq.u32 %p1, %r0, 9;\n@%p1 ld.global.u32 %r11, [%rd10+8192];", "outside of the memory", "thread 9"},
    {"ld.global.u32 %r11, [%rd13+993];", "misaligned", "thread 0"},
    {"ld.global.v4.u32 {%r11, %r12, %r13, %r14}, [%rd13+8];", "misaligned", "thread 0"},
    {"ld.global.u32 %r11, [%rd13+32];", "outside of the memory", "thread 31"},
    {"st.global.u32 [%rd13], %r1;", "read-only", "thread 0"},
    {"st.global.u8 [%rd11+-1], %r1;", "", "thread 0"},
    {SHARED_32 "ld.shared.u32 %r11, [%r20+32];", "outside of the arrays", "thread 0"},
    {SHARED_32 "mad.lo.s32 %r21, %r0, 4, %r20;\nst.shared.u32 [%r21], %r0;", "outside of the arrays", "thread 8"},
    {SHARED_32 "ld.shared.v4.u32 {%r11, %r12, %r13, %r14}, [%r20+24];", "misaligned", "thread 0"},
    {"mov.u32 %r20, 0;\nld.shared.u32 %r11, [%r20];", "outside of the arrays", "thread 0"},
    {SHARED_32 "sub.s32 %r21, %r20, 4;\nld.shared.u32 %r11, [%r21];", "outside of the arrays", "thread 0"},
    {".local .align 4 .b8 own[8];\nmov.u64 %rd20, own;\nld.local.u32 %r11, [%rd20+8];", "outside of local", "thread 0"},
    {"ld.param.u32 %r11, [k_out+8];", "outside of the parameters", "thread 0"},
    {"setp.gt.u32 %p1, %r0, 3;\n@%p1 bra there;\nbar.sync 0;\nthere:", "does not reach", "thread 4"},
    {"setp.gt.u32 %p1, %r0, 3;\n@%p1 bra there;\nshfl.sync.idx.b32 %r11, %r1, 0, 31, -1;\nthere:", "does not reach",
     "thread 4"},
    {"setp.eq.u32 %p1, %r0, 5;\n@%p1 ret;\nshfl.sync.idx.b32 %r11, %r1, 0, 31, -1;", "does not reach", "thread 5"},
    {"setp.eq.u32 %p1, %r0, 5;\n@%p1 ret;\nbar.sync 0;", "does not reach", "thread 5"},
    {"setp.eq.u32 %p1, %r0, 7;\n@!%p1 bar.warp.sync -1;", "does not reach", "thread 7"},
    {"setp.gt.u32 %p1, %r0, 15;\n@%p1 bra there;\nshfl.sync.idx.b32 %r11, %r1, 16, 31, 65535;\nthere:",
     "from a lane that does not take part", "thread 0"},
    {"setp.gt.u32 %p1, %r0, 15;\n@%p1 bra there;\n"
     "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f1, %f2, %f3, %f4}, {%r1, %r2, %r3, %r4}, {%r5, %r6}, "
     "{%f1, %f2, %f3, %f4};\nthere:", "does not reach", "thread 16"},
    {SHARED_32 "setp.eq.u32 %p1, %r0, 0;\n@%p1 bra there;\n"
     "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r11}, [%r20];\nthere:", "does not reach", "thread 0"},
    {SHARED_32 "mad.lo.s32 %r21, %r0, 8, %r20;\nldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r11}, [%r21];",
     "misaligned", "thread 1"},
    {SHARED_32 "mad.lo.s32 %r21, %r0, 16, %r20;\nldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r11}, [%r21];",
     "outside of the arrays", "thread 2"},
    {"again:\nbra again;", "no end", "thread 0"},
};

TEST(what_breaks_a_rule_stops_with_the_kernel_the_instruction_and_the_thread)
{
    char error[512];
    ptx_set_options(&(struct ptx_options){.steps_max = 10000});
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        number_lanes();
        if (snippet_try("", faults[i].lines, 1, 32, in, out, error, sizeof error))
            fail_msg("%s: nothing was reported", faults[i].lines);
        if (strncmp(error, "k, line ", 8) != 0 || !strstr(error, faults[i].report) || !strstr(error, faults[i].who))
            fail_msg("%s: %s", faults[i].lines, error);
    }
    /* One warp of two is missing, and one stands at another barrier. */
    assert_false(snippet_try("", "setp.gt.u32 %p1, %r0, 31;\n@%p1 bra there;\nbar.sync 0;\nthere:", 1, 64, in, out,
                             error, sizeof error));
    assert_non_null(strstr(error, "thread 32"));
    assert_false(snippet_try("", "setp.gt.u32 %p1, %r0, 31;\n@%p1 bra there;\nbar.sync 0;\nbra end;\nthere:\n"
                             "bar.sync 0;\nend:", 1, 64, in, out, error, sizeof error));
    assert_non_null(strstr(error, "or another one"));
    assert_false(snippet_try("", "", 1, 160, in, out, error, sizeof error));
    assert_non_null(strstr(error, "groups of 160 threads"));
    ptx_set_options(&(struct ptx_options){.order = PTX_FORWARD});
}

/* Each is refused with its line and word. */
static const struct {
    const char *lines, *report;
} refused[] = {
    {"frobnicate.u32 %r1, %r2;", "not known here"},
    {"add.s33 %r1, %r2, %r3;", "not known here"},
    {"add.s32 %r1, %r2;", "number of operands"},
    {"add.s32 %r1, %r2, %r3, %r4;", "number of operands"},
    {"add.s32 %r1, %r2, %rd3;", "another type"},
    {"add.s32 %rd1, %r2, %r3;", "another type"},
    {"add.f32 %f1, %f2, %p1;", "another type"},
    {"add.s32 %r1, %r2, %r64;", "not declared"},
    {"add.s32 %r1, %r2, %q3;", "not declared"},
    {"add.s32 %r1, %r2, %r3", "is missing"},
    {"@%r1 add.s32 %r1, %r2, %r3;", "no predicate"},
    {"bra nowhere;", "not there"},
    {"here:\nhere:", "there already"},
    {"ld.u32 %r1, [%rd1];", "not known here"},
    {"ld.global.v2.u32 %r1, [%rd1];", "length of a vector"},
    {"ld.global.u64 %r1, [%rd1];", "too narrow"},
    {"ld.global.u32 %r1, %rd1;", "address is missing"},
    {"st.global.u32 [%rd1], %p1;", "too narrow"},
    {"ld.global.frob.u32 %r1, [%rd1];", "not known here"},
    {"ld.global.v4.u32 {%r1, %r2, %r3}, [%rd1];", "length of a vector"},
    {"mov.b32 %r1, {%r2, %r3};", "another type"},
    {"bar.sync 1;", "only barrier 0"},
    {"shfl.sync.round.b32 %r1, %r2, 1, 31, -1;", "not known here"},
    {"ldmatrix.sync.aligned.m8n8.x3.shared.b16 {%r1, %r2, %r3}, [%r4];", "not known here"},
    {"ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r1}, [%r4];", "another length"},
    {"mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f1}, {%r1}, {%r2}, {%f1};", "not known here"},
    {".reg .f80 %x<3>;", "not known here"},
    {".shared .align 16 .b8 huge[50000];", "more shared memory"},
    {".frob 3;", "not known here"},
    {"mov.u32 %r1, 99999999999999999999999;", "not a number"},
    {"}", ""},
    {"{", ""},
};

/* A kernel that may begin while the one before it runs: each lane of 32 reads its word of `p`, and writes it there. */
static const struct {
    const char *lines, *report, *who;
} early[] = {
    {"griddepcontrol.launch_dependents;\nst.shared.u32 [all], %r0;\nmov.u64 %rd3, table;\n"
     "ld.global.nc.u32 %r3, [%rd3];\ngriddepcontrol.wait;\nld.global.u32 %r1, [%rd2];\n"
     "add.u32 %r1, %r1, %r3;\nst.global.u32 [%rd2], %r1;", NULL, NULL},
    {"ld.global.u32 %r1, [%rd2];\ngriddepcontrol.wait;\nst.global.u32 [%rd2], %r1;", "ahead of the wait", "thread 0"},
    {"st.global.u32 [%rd2], %r0;\ngriddepcontrol.wait;", "ahead of the wait", "thread 0"},
    {"setp.eq.u32 %p1, %r0, 9;\n@%p1 bra over;\ngriddepcontrol.wait;\nover:\nld.global.u32 %r1, [%rd2];",
     "ahead of the wait", "thread 9"},
    {"setp.eq.u32 %p1, %r0, 3;\n@%p1 ret;\ngriddepcontrol.wait;\nld.global.u32 %r1, [%rd2];", "has not waited",
     "thread 3"},
    {"setp.ne.u32 %p1, %r0, 4;\n@%p1 griddepcontrol.wait;", "has not waited", "thread 4"},
    {"griddepcontrol.wait;\nld.global.nc.u32 %r1, [%rd2];", "may still write", "thread 0"},
};

static bool run_early(const char *lines, uint32_t words[32], char *error, size_t error_size)
{
    static char text[4096];
    int n = snprintf(text, sizeof text, ".version 8.0\n.target sm_90\n.address_size 64\n"
                     ".global .align 4 .b8 table[4] = {5, 0, 0, 0};\n.visible .entry k(.param .u64 k_p)\n"
                     ".maxntid 32, 1, 1\n{\n.reg .pred %%p<4>;\n.reg .b32 %%r<8>;\n.reg .b64 %%rd<8>;\n"
                     ".shared .align 4 .b8 all[4];\nld.param.u64 %%rd1, [k_p];\nmov.u32 %%r0, %%tid.x;\n"
                     "mul.wide.u32 %%rd2, %%r0, 4;\nadd.s64 %%rd2, %%rd2, %%rd1;\n%s\nret;\n}\n", lines);
    struct ptx_module *module = ptx_load(text, (size_t)n, error, error_size);
    if (!module) fail_msg("%s", error);
    assert_true(ptx_waits(ptx_kernel(module, "k")));
    uint64_t address = (uint64_t)(uintptr_t)words;
    void *params[1] = {&address};
    const struct ptx_region region = {words, 128, true};
    const struct ptx_memory memory = {&region, 1};
    bool good = ptx_launch(ptx_kernel(module, "k"), (const unsigned[3]){2, 1, 1}, 32, params, &memory, error,
                           error_size);
    ptx_free(module);
    return good;
}

TEST(a_kernel_that_may_begin_early_touches_no_memory_ahead_of_its_wait_and_each_thread_waits)
{
    for (size_t i = 0; i < sizeof early / sizeof *early; i++) {
        uint32_t words[32];
        char error[512] = "";
        for (uint32_t k = 0; k < 32; k++) words[k] = k;
        bool good = run_early(early[i].lines, words, error, sizeof error);
        if (good != !early[i].report) fail_msg("case %zu: %s", i, error);
        if (good) assert_int_equal(words[31], 31 + 2 * 5);
        else if (!strstr(error, early[i].report) || !strstr(error, early[i].who)) fail_msg("case %zu: %s", i, error);
    }
    struct ptx_module *plain = snippet_module("", "", (char[512]){0}, 512);
    assert_false(ptx_waits(ptx_kernel(plain, "k")));
    ptx_free(plain);
}

TEST(text_that_is_no_module_or_unknown_is_refused_with_its_line)
{
    char error[512];
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct ptx_module *module = snippet_module("", refused[i].lines, error, sizeof error);
        if (module) fail_msg("%s was taken", refused[i].lines);
        if (strncmp(error, "line ", 5) != 0 || !strstr(error, refused[i].report))
            fail_msg("%s: %s", refused[i].lines, error);
    }
    assert_null(ptx_load("hello", 5, error, sizeof error));
    assert_null(ptx_load("", 0, error, sizeof error));
    assert_null(ptx_load(".version 8.0\n.entry k()\n", 24, error, sizeof error));
}

/* Every beginning of a text, and the text with a byte changed, is taken or refused, and never read past its end. */
TEST(text_that_was_cut_or_changed_is_taken_or_refused_and_nothing_else)
{
    static char text[8192];
    char error[512];
    struct rng rng = {test_seed()};
    int n = snprintf(text, sizeof text, SNIPPET_TEXT, ".global .align 4 .b8 t[4] = {1, 2, 3, 4};",
                     ".shared .align 16 .b8 s[64];\nshfl.sync.idx.b32 %r1|%p1, %r2, 1, 31, -1;\n@!%p1 bra over;\n"
                     "add.f32 %f1, %f2, 0f3F800000;\n{ cvt.rn.f16.f32 %rs1, %f1;}\nover: // there\n"
                     "ld.shared.v2.f32 {%f1, _}, [s+16];\n.pragma \"nounroll\";");
    struct ptx_module *whole = ptx_load(text, (size_t)n, error, sizeof error);
    assert_non_null(whole);
    assert_non_null(ptx_kernel(whole, "k"));
    assert_null(ptx_kernel(whole, "l"));
    assert_int_equal(ptx_n_params(ptx_kernel(whole, "k")), 2);
    assert_int_equal(ptx_param_bytes(ptx_kernel(whole, "k"), 1), 8);
    assert_int_equal(ptx_threads_max(ptx_kernel(whole, "k")), 128);
    ptx_free(whole);
    for (int cut = 0; cut < n; cut++) ptx_free(ptx_load(text, (size_t)cut, error, sizeof error));
    for (int turn = 0; turn < 2000; turn++) {
        size_t at = (size_t)rng_below(&rng, (uint64_t)n);
        char was = text[at];
        text[at] = (char)(rng_below(&rng, 2) ? text[rng_below(&rng, (uint64_t)n)] : (char)rng_below(&rng, 256));
        ptx_free(ptx_load(text, (size_t)n, error, sizeof error));
        text[at] = was;
    }
}

int main(void)
{
    return RUN_TESTS(T(memory_gives_each_width_and_sign_as_it_was_stored),
                     T(tables_and_parameters_are_read_where_they_lie),
                     T(lanes_that_part_go_their_own_ways_and_meet_again),
                     T(lanes_wait_where_others_come_back_from_below), T(shuffles_reach_the_lane_that_is_meant),
                     T(warps_see_behind_a_barrier_what_others_wrote_before_it),
                     T(groups_run_in_the_order_that_was_chosen),
                     T(a_product_of_matrices_has_its_elements_where_the_manual_draws_them),
                     T(both_ways_of_adding_in_a_matrix_unit_are_what_their_names_say),
                     T(matrices_come_from_shared_memory_as_they_lie_or_on_their_side),
                     T(shared_memory_that_nobody_wrote_is_not_a_number),
                     T(what_breaks_a_rule_stops_with_the_kernel_the_instruction_and_the_thread),
                     T(a_kernel_that_may_begin_early_touches_no_memory_ahead_of_its_wait_and_each_thread_waits),
                     T(text_that_is_no_module_or_unknown_is_refused_with_its_line),
                     T(text_that_was_cut_or_changed_is_taken_or_refused_and_nothing_else));
}
