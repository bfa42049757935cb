/* notes.h - what is learned about the experts of a model and about the machine, kept on disk from run to run. Only
 * speed depends on it: a file that is damaged, of another model or not there is as good as an empty one.
 *
 *   0  "ds4notes"   8  u32 version, layers, experts, 0   24  digest of the experts' places, 16 bytes
 *  40  f64 tokens seen, disk bytes/s, seconds a token outside routed experts, seconds an expert,
 *      seconds until a read begins to come; of the last decoding: share of the experts not in memory that
 *      were read ahead, reads in vain for each that was not, hits over hits expected, computing over computing expected
 * 112  f32 probability [layers][experts] that a token chooses the expert, then XXH3-64 of all before. Little-endian. */
#ifndef DS4_STREAM_NOTES_H
#define DS4_STREAM_NOTES_H

#include "base/err.h"

struct notes {
    uint32_t n_layers, n_experts;
    uint8_t digest[16];
    double tokens;
    double disk_bytes_per_s, dense_seconds, expert_seconds, wait_seconds; /* 0: not measured */
    double ahead_share, vain_share, hit_ratio, compute_ratio;                /* the same */
    float *rates; /* [n_layers][n_experts]; the caller's */
};

/* n_layers, n_experts, digest and room for rates are given; the rest is filled. FORMAT: not such a file or of another
 * model; then rates are as they were. */
enum ds4_status notes_read(const char *path, struct notes *notes, struct ds4_error *error) DS4_MUST_CHECK;
/* Under a temporary name first; the old file stays when this fails. */
enum ds4_status notes_write(const char *path, const struct notes *notes, struct ds4_error *error) DS4_MUST_CHECK;

#endif
