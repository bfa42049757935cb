/* byte_alphabet.h - the printable alphabet in which vocabulary files spell bytes: the 188 bytes 33-126, 161-172 and
 * 174-255 stand for themselves as code points, the other 68 in ascending order for U+0100, U+0101, ... (so a space is
 * U+0120). Source: the byte encoder of GPT-2. */
#ifndef DS4_TEXT_BYTE_ALPHABET_H
#define DS4_TEXT_BYTE_ALPHABET_H

#include <stdint.h>

#include "base/utf8.h"

#define BYTE_ALPHABET_SIZE 0x144u /* code points from here on spell no byte */

static inline bool byte_is_printable(unsigned byte)
{
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

/* spelled[b] = code point of byte b; spells[code point] = byte, or -1. */
static inline void byte_alphabet_fill(uint16_t spelled[256], int16_t spells[BYTE_ALPHABET_SIZE])
{
    unsigned next = 256;
    for (unsigned i = 0; i < BYTE_ALPHABET_SIZE; i++) spells[i] = -1;
    for (unsigned b = 0; b < 256; b++) {
        unsigned scalar = byte_is_printable(b) ? b : next++;
        spelled[b] = (uint16_t)scalar;
        spells[scalar] = (int16_t)b;
    }
}

#endif
