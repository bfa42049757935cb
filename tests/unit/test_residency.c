/* test_residency.c - where weights are put for a device with memory of its own: by hand-made sizes, and by the plan of
 * a model for an emulated device that is said to have little memory. */
#include "base/rng.h"
#include "gpu/residency.h"
#include "lib/model.h"
#include "lib/test.h"

#define GB ((uint64_t)1 << 30)

/* The address space of a made-up file; nothing is read from it. */
static const uint8_t *at(uint64_t offset) { return (const uint8_t *)(uintptr_t)(((uint64_t)1 << 40) + offset); }

/* A layer in the order of a file: dense 1 GB, three stacks of experts of 4 GB; and an embedding in front. */
enum { LAYERS = 4, PIECES = 1 + 4 * LAYERS };
static void lay_out(struct residency_piece pieces[PIECES])
{
    uint64_t offset = 0;
    for (int i = 0; i < PIECES; i++) {
        bool dense = i % 4 == 1;
        uint64_t bytes = i == 0 ? 2 * GB : dense ? GB : 4 * GB;
        pieces[i] = (struct residency_piece){at(offset), bytes, i == 0 ? 1e-5 : dense ? 1 : 0.025, RESIDENCY_DISK, 0};
        offset += bytes;
    }
}

TEST(everything_lies_on_the_device_when_there_is_room)
{
    struct residency_piece pieces[PIECES];
    struct residency sums;
    lay_out(pieces);
    residency_decide(pieces, PIECES, 54 * GB, 0, &sums);
    assert_int_equal(sums.bytes[RESIDENCY_DEVICE], 54 * GB);
    assert_int_equal(sums.bytes[RESIDENCY_HOST] + sums.bytes[RESIDENCY_DISK], 0);
    struct residency_run run;
    size_t next = 0;
    assert_true(residency_next_run(pieces, PIECES, &next, &run));
    assert_ptr_equal(run.first, at(0));
    assert_int_equal(run.bytes, 54 * GB);
    assert_false(residency_next_run(pieces, PIECES, &next, &run));
}

TEST(what_every_token_reads_goes_to_the_device_before_experts_and_the_embedding_last)
{
    struct residency_piece pieces[PIECES];
    struct residency sums;
    lay_out(pieces);
    residency_decide(pieces, PIECES, 13 * GB, 30 * GB, &sums);
    for (int i = 1; i < PIECES; i += 4) assert_int_equal(pieces[i].place, RESIDENCY_DEVICE);
    assert_int_equal(pieces[2].place, RESIDENCY_DEVICE); /* 9 GB are left: two stacks of the first layer */
    assert_int_equal(pieces[3].place, RESIDENCY_DEVICE);
    assert_int_equal(pieces[4].place, RESIDENCY_HOST);
    assert_int_equal(pieces[0].place, RESIDENCY_HOST); /* seven stacks of 4 GB leave 2 GB of 30 */
    assert_int_equal(sums.bytes[RESIDENCY_DEVICE], 12 * GB);
    assert_int_equal(sums.bytes[RESIDENCY_HOST], 30 * GB);
    assert_int_equal(sums.bytes[RESIDENCY_DISK], 12 * GB);
    assert_int_equal(sums.per_token[RESIDENCY_DEVICE], 4 * GB + 2 * (uint64_t)(0.025 * 4 * (double)GB));
}

TEST(nothing_is_put_where_it_does_not_fit_whatever_the_budgets)
{
    struct residency_piece pieces[PIECES];
    struct residency sums;
    for (uint64_t device = 0; device <= 56; device += 3) {
        for (uint64_t host = 0; host <= 56; host += 5) {
            uint64_t used[RESIDENCY_PLACES] = {0}, total = 0;
            lay_out(pieces);
            residency_decide(pieces, PIECES, device * GB, host * GB, &sums);
            for (int i = 0; i < PIECES; i++) used[pieces[i].place] += pieces[i].bytes;
            for (int p = 0; p < RESIDENCY_PLACES; p++) {
                assert_int_equal(used[p], sums.bytes[p]);
                total += used[p];
            }
            assert_true(used[RESIDENCY_DEVICE] <= device * GB && used[RESIDENCY_HOST] <= host * GB);
            assert_int_equal(total, 54 * GB);
        }
    }
}

/* Each piece lies in a run of its place, or, smaller than a page, in one of the host. */
static void check_runs(const struct residency_piece *pieces, size_t n)
{
    struct residency_run run;
    const uint8_t *pinned = NULL;
    size_t next = 0, from = 0;
    while (residency_next_run(pieces, n, &next, &run)) {
        assert_true(next > from);
        for (; from < next; from++) {
            assert_true(pieces[from].first >= run.first);
            assert_true(pieces[from].first + pieces[from].bytes <= run.first + run.bytes);
            if (pieces[from].place != run.place) assert_true(run.place == RESIDENCY_HOST && pieces[from].bytes < 4096);
        }
        if (run.place != RESIDENCY_HOST) continue;
        assert_int_equal((uintptr_t)run.first % 4096, 0);
        assert_int_equal(run.bytes % 4096, 0);
        assert_true(run.first >= pinned); /* pages are pinned once */
        pinned = run.first + run.bytes;
    }
    assert_int_equal(from, n);
}

TEST(runs_hold_every_piece_and_pinned_pages_belong_to_one_run)
{
    struct residency_piece pieces[40];
    for (uint32_t seed = 1; seed < 400; seed++) {
        struct rng rng = {seed};
        uint64_t offset = rng_below(&rng, 5000);
        for (size_t i = 0; i < 40; i++) {
            uint64_t bytes = 1 + rng_below(&rng, i % 3 ? 300 : 20000);
            pieces[i] = (struct residency_piece){at(offset), bytes, 1, (enum residency_place)rng_below(&rng, 3),
                                                  0};
            offset += bytes + rng_below(&rng, 2) * 32;
        }
        check_runs(pieces, 40);
    }
}

int main(void)
{
    return RUN_TESTS(T(everything_lies_on_the_device_when_there_is_room),
                     T(what_every_token_reads_goes_to_the_device_before_experts_and_the_embedding_last),
                     T(nothing_is_put_where_it_does_not_fit_whatever_the_budgets),
                     T(runs_hold_every_piece_and_pinned_pages_belong_to_one_run));
}
