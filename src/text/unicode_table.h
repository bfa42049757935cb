/* unicode_table.h - the general category of a code point, as coarse as the pre-tokeniser needs it (Unicode 16).
 *
 * A class is four bits. The low three say letter, mark, punctuation, symbol, white space, number or anything else; the
 * high bit says that the code point lies in one of the CJK runs (U+3040-309F, U+30A0-30FF, U+4E00-9FA5), which the
 * second stage of the pre-tokeniser isolates whatever the category. The table is generated. */
#ifndef DS4_TEXT_UNICODE_TABLE_H
#define DS4_TEXT_UNICODE_TABLE_H

#include <stdint.h>

enum unicode_class {
    UNICODE_OTHER, /* controls other than white space, format characters, private use, unassigned */
    UNICODE_LETTER,
    UNICODE_MARK,
    UNICODE_PUNCTUATION,
    UNICODE_SYMBOL,
    UNICODE_SPACE, /* exactly U+0009-000D 0020 0085 00A0 1680 2000-200A 2028 2029 202F 205F 3000 */
    UNICODE_NUMBER
};
#define UNICODE_CJK_RUN 8u

#define UNICODE_BLOCKS_INDEXED 7172u /* blocks of 128 code points; those behind hold nothing but UNICODE_OTHER */
extern const uint8_t unicode_block_of[UNICODE_BLOCKS_INDEXED];
extern const uint8_t unicode_classes[]; /* 64 bytes a block */

/* enum unicode_class, with UNICODE_CJK_RUN added; any number may be asked for. */
static inline unsigned unicode_class(uint32_t scalar)
{
    uint32_t block = scalar >> 7;
    if (block >= UNICODE_BLOCKS_INDEXED) return UNICODE_OTHER;
    uint32_t i = scalar & 127;
    return unicode_classes[unicode_block_of[block] * 64u + i / 2] >> (i & 1) * 4 & 15u;
}

#endif
