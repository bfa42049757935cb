# Tests: every C file under tests/unit, tests/ops and tests/fault is one cmocka program; tests/e2e is pytest.
# tests/lib holds helpers that all of them link. A test program runs from the root of the project.
TEST_SRCS := $(wildcard tests/unit/*.c tests/ops/*.c tests/fault/*.c)
TEST_LIB := $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/lib/*.c))
TEST_BINS := $(TEST_SRCS:%.c=$(BUILD)/%)
TEST_LIBS := -lcmocka -lpcre2-8 -llzma

$(BUILD)/tests/%.o: CPPFLAGS += -Itests
$(TEST_BINS): %: %.o $(TEST_LIB) $(LIB)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(TEST_LIBS) $(LDLIBS)

tests: ds4 $(TEST_BINS)

# CHECK=text runs only the test programs with that text in their path. What the tests need is installed first.
check:
	@scripts/setup --tests
	@$(MAKE) --no-print-directory run-tests

run-tests: tests
	@DS4=$(BUILD)/ds4 scripts/run-tests '$(BUILD)' '$(CHECK)' $(TEST_BINS)

.PHONY: tests check run-tests
